//! Checks whether a set of permissions allows a topic, a name, or everything that a mask could match.

use super::{Flavour, NAMES, TOPICS};

/// A permission with wildcards, or a mask that is checked against them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern<T> {
    /// `None` matches any one level.
    levels: Vec<Option<T>>,
    /// True if one or more levels follow.
    tail: bool,
}

impl<'a> Pattern<&'a str> {
    fn of_mask(flavour: Flavour, mask: &'a str) -> Self {
        let mut levels = Vec::new();
        for level in flavour.levels(mask) {
            if level == flavour.tail {
                return Pattern { levels, tail: true };
            }
            levels.push((level != flavour.one).then_some(level));
        }
        Pattern { levels, tail: false }
    }

    fn of_text(flavour: Flavour, text: &'a str) -> Self {
        Pattern { levels: flavour.levels(text).map(Some).collect(), tail: false }
    }

    fn to_owned(&self) -> Pattern<Box<str>> {
        Pattern { levels: self.levels.iter().map(|level| level.map(Box::from)).collect(), tail: self.tail }
    }
}

impl Pattern<Box<str>> {
    /// Returns true if the first levels of both agree, up to the length of the shorter one. Only a wildcard covers a
    /// wildcard, because it may stand for a text that is in no permission.
    fn agrees(&self, levels: &[Option<&str>]) -> bool {
        self.levels.iter().zip(levels).all(|(mine, level)| mine.is_none() || mine.as_deref() == *level)
    }

    fn covers(&self, levels: &[Option<&str>]) -> bool {
        let long_enough =
            if self.tail { self.levels.len() < levels.len() } else { self.levels.len() == levels.len() };
        long_enough && self.agrees(levels)
    }
}

/// A set of permissions: topic masks or name masks. An empty set allows nothing.
///
/// A permission for a name covers its secondaries: a permission for `a.b` includes `a.b%%1`.
///
/// ```
/// use busrt::matching::acl::AllowSet;
///
/// let set = AllowSet::topics(["plant/#", "status/+"]);
/// assert!(set.allows("plant/pump") && set.covers("plant/+/state") && set.covers("status/+"));
/// assert!(!set.allows("plant") && !set.covers("status/#"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowSet {
    flavour: Flavour,
    everything: bool,
    /// Permissions without wildcards, sorted.
    exact: Vec<Box<str>>,
    patterns: Vec<Pattern<Box<str>>>,
    /// The number of levels of the longest permission with wildcards.
    longest: usize,
}

impl AllowSet {
    /// Creates permissions for topics: masks with `+` and `#`.
    pub fn topics<M: AsRef<str>>(masks: impl IntoIterator<Item = M>) -> Self {
        Self::new(TOPICS, masks)
    }

    /// Creates permissions for names: masks with `?` and `*`.
    pub fn names<M: AsRef<str>>(masks: impl IntoIterator<Item = M>) -> Self {
        Self::new(NAMES, masks)
    }

    /// Creates a set that allows everything, for topics and for names.
    pub fn allow_all() -> Self {
        AllowSet { everything: true, ..Self::topics::<&str>([]) }
    }

    fn new<M: AsRef<str>>(flavour: Flavour, masks: impl IntoIterator<Item = M>) -> Self {
        let (mut exact, mut patterns) = (Vec::new(), Vec::new());
        let mut everything = false;
        for mask in masks {
            let mask = mask.as_ref();
            if flavour.has_wildcards(mask) {
                let pattern = Pattern::of_mask(flavour, mask).to_owned();
                everything |= pattern.tail && pattern.levels.is_empty();
                patterns.push(pattern);
            } else {
                exact.push(Box::from(mask));
            }
        }
        exact.sort_unstable();
        exact.dedup();
        let longest = patterns.iter().map(|pattern| pattern.levels.len()).max().unwrap_or(0);
        AllowSet { flavour, everything, exact, patterns, longest }
    }

    /// Returns true if there is no permission, so that nothing is allowed.
    pub fn is_empty(&self) -> bool {
        !self.everything && self.exact.is_empty() && self.patterns.is_empty()
    }

    /// Returns true if everything is allowed.
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    /// Returns true if a published topic, or the name of a receiver, is allowed. The text has no wildcards: `+`, `#`,
    /// `?` and `*` are plain characters in it.
    pub fn allows(&self, text: &str) -> bool {
        if self.everything || self.allows_exact(text) {
            return true;
        }
        let primary = self.primary(text);
        if primary.is_some_and(|primary| self.allows_exact(primary)) {
            return true;
        }
        if self.patterns.is_empty() {
            return false;
        }
        self.allows_levels(text) || primary.is_some_and(|primary| self.allows_levels(primary))
    }

    /// Returns true if everything that a mask could match is allowed, by one permission or by several together.
    ///
    /// The time is proportional to the length of the mask plus the permissions.
    pub fn covers(&self, mask: &str) -> bool {
        if self.everything {
            return true;
        }
        if !self.flavour.has_wildcards(mask) {
            return self.allows(mask);
        }
        let pattern = Pattern::of_mask(self.flavour, mask);
        self.covers_pattern(&pattern) || self.covers_primaries(mask)
    }

    /// Returns the name of the primary, if this is a secondary's name.
    fn primary<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.split_once(self.flavour.secondary?).map(|(primary, _)| primary)
    }

    fn allows_exact(&self, text: &str) -> bool {
        self.exact.binary_search_by(|allowed| (**allowed).cmp(text)).is_ok()
    }

    /// Checks the permissions with wildcards. It allocates nothing for a text of usual length, because it is called
    /// for every message.
    fn allows_levels(&self, text: &str) -> bool {
        if text.len() > 1024 {
            // The text is split only once: splitting it for each permission could be made to take long.
            let text = Pattern::of_text(self.flavour, text);
            return self.patterns.iter().any(|pattern| pattern.covers(&text.levels));
        }
        self.patterns.iter().any(|pattern| {
            let mut levels = self.flavour.levels(text);
            pattern.levels.iter().all(|wanted| {
                levels.next().is_some_and(|level| wanted.as_deref().is_none_or(|wanted| wanted == level))
            }) && levels.next().is_some() == pattern.tail
        })
    }

    fn covers_pattern(&self, mask: &Pattern<&str>) -> bool {
        if !mask.tail {
            return self.patterns.iter().any(|pattern| pattern.covers(&mask.levels));
        }
        // The mask's own levels may be followed by any number of levels whose texts are in no permission. Each
        // permission matches some numbers of such levels: from this point all numbers, or just one.
        let own = mask.levels.len();
        let (mut from, mut single) = (usize::MAX, Vec::new());
        for pattern in self.patterns.iter().filter(|pattern| pattern.agrees(&mask.levels)) {
            let more = pattern.levels.get(own..).unwrap_or_default();
            if more.iter().any(Option::is_some) {
                continue;
            } else if pattern.tail {
                from = from.min(more.len() + 1);
            } else {
                single.push(more.len());
            }
        }
        if from == usize::MAX {
            return false;
        }
        single.sort_unstable();
        let mut next = 1;
        for count in single {
            if count == next {
                next += 1;
            }
        }
        next >= from
    }

    /// Returns true if everything that a mask could match are secondaries of allowed names.
    ///
    /// This is possible if the mask itself contains `%%`. But a wildcard before that may stand for a part that
    /// contains `%%`, and the primary's name ends at the first `%%`: all these primaries must be allowed.
    fn covers_primaries(&self, mask: &str) -> bool {
        let Some(primary) = self.primary(mask) else { return false };
        let (head, last) = match primary.rsplit_once(self.flavour.separator) {
            Some((head, last)) => (Some(head), last),
            None => (None, primary),
        };
        let mut levels = Vec::new();
        if let Some(head) = head {
            let head = Pattern::of_mask(self.flavour, head);
            if head.tail {
                return false;
            }
            levels = head.levels;
        }
        // A part of a level with `%%`, so that its text is arbitrary.
        levels.push(Some(last));
        if levels.iter().all(Option::is_some) {
            return self.allows(primary);
        }
        // Beyond the longest permission only `*` matches, and it matches all lengths alike.
        let shorter = levels.iter().take(self.longest + 1).enumerate();
        let mut primaries = shorter.filter(|(_, level)| level.is_none()).map(|(at, _)| &levels[..=at]);
        let covered = |name: &[Option<&str>]| self.patterns.iter().any(|pattern| pattern.covers(name));
        primaries.all(covered) && covered(&levels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::{name_mask_matches, topic_mask_matches};
    use proptest::prelude::*;

    #[test]
    fn permissions_of_the_protocol() {
        let set = AllowSet::topics(["a/+", "x", "b/#", "+/c/d"]);
        for topic in ["a/b", "a/", "a/+", "a/#", "x", "b/c", "b/c/d", "/c/d", "b/"] {
            assert!(set.allows(topic), "{topic}");
        }
        for topic in ["a", "a/b/c", "x/", "b", "", "X", "c/d", "a/c/d/e"] {
            assert!(!set.allows(topic), "{topic}");
        }
        for mask in ["a/+", "a/b", "x", "b/#", "b/+", "b/+/c/#", "b/#/ignored", "+/c/d", "z/c/d", "a/+x"] {
            assert!(set.covers(mask), "{mask}");
        }
        // The mask that existing implementations admit, which compare texts.
        for mask in ["a/#", "#", "+", "+/c/#", "+/+/d", "x/#", "a/+/+", "", "+/+"] {
            assert!(!set.covers(mask), "{mask}");
        }
    }

    #[test]
    fn several_permissions_together() {
        let set = AllowSet::topics(["a/+", "a/+/+", "a/+/+/#", "b/+", "b/+/+/#", "a/x/#"]);
        assert!(set.covers("a/#") && set.covers("a/b/#"));
        assert!(!set.covers("b/#"), "nothing takes b/x/y");
        assert!(set.covers("b/x/y/#") && !set.covers("b/x/#"));
        assert!(!AllowSet::topics(["+"]).covers("#"));
        assert!(AllowSet::topics(["+", "+/#"]).covers("#"));
    }

    #[test]
    fn secondaries_have_the_permission_of_their_primary() {
        let set = AllowSet::names(["a.b", "c.?", "s%%1"]);
        for name in ["a.b", "a.b%%", "a.b%%x", "a.b%%x%%y", "a.b%%x.y", "c.d", "c.d%%1", "c.d%%1.2", "s%%1"] {
            assert!(set.allows(name) && set.covers(name), "{name}");
        }
        for name in ["a", "a%%b", "a.b%", "a.c", "a.bc%%1", "s", "s%%2", "c%%d", "%%", "", "a.b.c%%1"] {
            assert!(!set.allows(name) && !set.covers(name), "{name}");
        }
        for mask in ["c.?", "a.b%%1.*", "a.b%%?.?", "c.x%%y.?", "c.*%%1"] {
            assert!(set.covers(mask), "{mask}");
        }
        for mask in ["c.*", "?.b", "*.b%%1", "a.?", "a.?.b%%1"] {
            assert!(!set.covers(mask), "{mask}");
        }
        // `q%%.y%%1` is matched by the mask, and is a secondary of `q`.
        assert!(!AllowSet::names(["?.y"]).covers("?.y%%1"));
        assert!(AllowSet::names(["?.y", "?"]).covers("?.y%%1.*"));
        assert!(!AllowSet::topics(["a"]).allows("a%%1"));
    }

    #[test]
    fn nothing_and_everything() {
        let (none, all) = (AllowSet::topics::<&str>([]), AllowSet::allow_all());
        assert!(none.is_empty() && !all.is_empty() && all.is_everything());
        for text in ["", "a", "#", "a/#", "*", "a.b%%1"] {
            assert!(!none.allows(text) && !none.covers(text));
            assert!(all.allows(text) && all.covers(text));
        }
        assert!(AllowSet::names(["*"]).is_everything() && !AllowSet::names(["?.*"]).is_everything());
        assert!(AllowSet::topics([""]).allows(""));
    }

    #[test]
    fn hostile_masks_take_no_longer_than_they_are() {
        let masks = (0..200).map(|i| format!("{}{i}", "+/".repeat(i)));
        let set = AllowSet::topics(masks);
        for mask in ["+/".repeat(30_000), "/".repeat(60_000), "x".repeat(60_000), "+/".repeat(30_000) + "#"] {
            assert!(!set.covers(&mask) && !set.allows(&mask));
        }
        let set = AllowSet::names((0..200).map(|i| format!("{}*", "?.".repeat(i + 1))));
        assert!(set.covers(&("?.".repeat(30_000) + "x%%1")));
        assert!(set.allows(&(".".repeat(30_000) + "x%%1")));
    }

    /// All texts of one to `most` levels.
    fn texts(levels: &[&str], separator: &str, most: usize) -> Vec<String> {
        let mut all: Vec<String> = levels.iter().map(ToString::to_string).collect();
        let mut from = 0;
        for _ in 1..most {
            let to = all.len();
            for at in from..to {
                let more: Vec<_> =
                    levels.iter().map(|level| format!("{}{separator}{level}", all[at])).collect();
                all.extend(more);
            }
            from = to;
        }
        all
    }

    fn masks(levels: &'static [&'static str], separator: &'static str) -> impl Strategy<Value = String> {
        let level = prop::sample::select(levels);
        prop::collection::vec(level, 1..4).prop_map(move |levels| levels.join(separator))
    }

    proptest! {
        #[test]
        fn topics_agree_with_trying_everything(
            allowed in prop::collection::vec(masks(&["a", "", "+", "+", "#"], "/"), 0..5),
            mask in masks(&["a", "b", "+", "+", "#"], "/"),
        ) {
            let set = AllowSet::topics(&allowed);
            let allows = |topic: &str| allowed.iter().any(|mask| topic_mask_matches(mask, topic));
            let universe = texts(&["a", "b", "", "+"], "/", 5);
            for topic in &universe {
                prop_assert_eq!(set.allows(topic), allows(topic), "{}", topic);
            }
            let mut matching = universe.iter().filter(|topic| topic_mask_matches(&mask, topic));
            prop_assert_eq!(set.covers(&mask), matching.all(|topic| allows(topic)));
        }

        #[test]
        fn names_agree_with_trying_everything(
            allowed in prop::collection::vec(masks(&["a", "a%%x", "?", "?", "*"], "."), 0..5),
            mask in masks(&["a", "b%%x", "a%%", "?%%x", "?", "?", "*"], "."),
        ) {
            let set = AllowSet::names(&allowed);
            let allows = |name: &str| {
                let primary = name.split("%%").next().unwrap();
                allowed.iter().any(|mask| name_mask_matches(mask, name) || name_mask_matches(mask, primary))
            };
            let universe = texts(&["a", "b", "b%%x", "a%%", "?%%x"], ".", 5);
            for name in &universe {
                prop_assert_eq!(set.allows(name), allows(name), "{}", name);
            }
            let mut matching = universe.iter().filter(|name| name_mask_matches(&mask, name));
            prop_assert_eq!(set.covers(&mask), matching.all(|name| allows(name)));
        }
    }
}
