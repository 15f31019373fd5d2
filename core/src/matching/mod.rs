//! Matching topics and names against masks (docs/protocol.md section 7): plain data structures, no locks.
//!
//! | module | content |
//! | --- | --- |
//! | [`topics`] | the subscribers to a topic |
//! | [`names`] | the clients whose name matches a mask |
//! | [`walk`], [`name_walk`] | the same searches in steps, for searches that are too long for one call |
//! | [`search`] | the results of a search or of one of its steps |
//! | [`acl`] | checks a topic, name or mask against a set of permissions |
//! | [`cache`] | recent results |
//!
//! In both flavours a wildcard counts only as a whole level, everything else is exact text, and empty
//! levels are levels:
//!
//! | | levels are split at | any one level | one or more levels, at the end |
//! | --- | --- | --- | --- |
//! | topics | `/` | `+` | `#` |
//! | names | `.` | `?` | `*` |

pub mod acl;
mod arena;
mod bitmap;
pub mod cache;
mod chunk;
mod hash;
mod ids;
mod index;
mod memory;
pub mod name_walk;
pub mod names;
pub mod search;
mod slab;
mod spots;
#[cfg(test)]
mod tests;
pub mod topics;
pub mod walk;
#[cfg(test)]
mod walk_tests;
mod wild;
mod work;

/// The separator of levels, and the wildcards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flavour {
    separator: char,
    one: &'static str,
    tail: &'static str,
    /// The separator between a primary's name and the rest of a secondary's.
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

/// Returns true if a published topic matches a topic mask.
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

/// Returns true if a client's name matches a name mask.
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

/// Returns true if a name mask may match more than the client of exactly that name.
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

/// Returns the units of work for adding or removing a topic mask: one, one more for each level, one more for each 64
/// bytes.
///
/// ```
/// use busrt::matching::cost_of_mask;
///
/// assert_eq!(cost_of_mask("plant/+/#"), 4);
/// ```
pub fn cost_of_mask(mask: &str) -> usize {
    cost(TOPICS, mask)
}

/// Returns the units of work for adding or removing a name, or for looking up a name mask without wildcards: one, one
/// more for each part, one more for each 64 bytes.
pub fn cost_of_name(name: &str) -> usize {
    cost(NAMES, name)
}

fn cost(flavour: Flavour, text: &str) -> usize {
    let separators = text.bytes().filter(|byte| char::from(*byte) == flavour.separator).count();
    2 + separators + text.len() / 64
}
