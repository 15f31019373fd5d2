//! Matching topics and names against masks (PROTOCOL.md section 7): plain data structures, no locks.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`topics`] | who has subscribed to this topic |
//! | [`names`] | whose name does this mask reach |
//! | [`acl`] | does a set of permissions allow this topic, name or mask |
//! | [`cache`] | what was the answer the last time |
//!
//! In both flavours a wildcard counts only as a whole level, everything else is exact text, and empty
//! levels are levels:
//!
//! | | levels are split at | any one level | one level or more, to the end |
//! | --- | --- | --- | --- |
//! | topics | `/` | `+` | `#` |
//! | names | `.` | `?` | `*` |

pub mod acl;
mod arena;
pub mod cache;
mod hash;
mod ids;
mod memory;
pub mod names;
#[cfg(test)]
mod tests;
pub mod topics;
mod wild;

/// What separates levels, and what stands for any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flavour {
    separator: char,
    one: &'static str,
    tail: &'static str,
    /// What a secondary client's name has behind its primary's.
    secondary: Option<&'static str>,
}

const TOPICS: Flavour = Flavour { separator: '/', one: "+", tail: "#", secondary: None };
const NAMES: Flavour = Flavour { separator: '.', one: "?", tail: "*", secondary: Some("%%") };

impl Flavour {
    fn levels(self, text: &str) -> std::str::Split<'_, char> {
        text.split(self.separator)
    }

    fn has_wildcards(self, mask: &str) -> bool {
        self.levels(mask).any(|level| level == self.one || level == self.tail)
    }

    fn matches(self, mask: &str, text: &str) -> bool {
        let mut levels = self.levels(text);
        for wanted in self.levels(mask) {
            match levels.next() {
                None => return false,
                Some(_) if wanted == self.tail => return true,
                Some(level) if wanted != self.one && wanted != level => return false,
                Some(_) => {}
            }
        }
        levels.next().is_none()
    }
}

/// Whether a published topic is in a topic mask.
///
/// ```
/// use busrt::matching::topic_mask_matches;
///
/// assert!(topic_mask_matches("plant/+/#", "plant/3/pump/state"));
/// assert!(!topic_mask_matches("plant/#", "plant"));
/// ```
pub fn topic_mask_matches(mask: &str, topic: &str) -> bool {
    TOPICS.matches(mask, topic)
}

/// Whether a client's name is reached by a name mask.
///
/// ```
/// use busrt::matching::name_mask_matches;
///
/// assert!(name_mask_matches("?.test.*", "g1.test.client1"));
/// assert!(!name_mask_matches("?.test.*", "g1.test"));
/// ```
pub fn name_mask_matches(mask: &str, name: &str) -> bool {
    NAMES.matches(mask, name)
}

/// Whether a name mask may reach more than the client of exactly that name.
///
/// ```
/// use busrt::matching::has_wildcards;
///
/// assert!(has_wildcards("plant.*"));
/// assert!(!has_wildcards("plant.?d"));
/// ```
pub fn has_wildcards(name_mask: &str) -> bool {
    NAMES.has_wildcards(name_mask)
}
