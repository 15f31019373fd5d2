//! Matching as docs/protocol.md section 7 describes it, written without the crate.

fn matches(mask: &str, text: &str, separator: char, one: &str, tail: &str) -> bool {
    let mask: Vec<&str> = mask.split(separator).collect();
    let text: Vec<&str> = text.split(separator).collect();
    for (at, wanted) in mask.iter().enumerate() {
        if *wanted == tail {
            return text.len() > at;
        }
        match text.get(at) {
            Some(level) if *wanted == one || wanted == level => {}
            _ => return false,
        }
    }
    mask.len() == text.len()
}

/// Returns true if a topic mask matches a topic.
pub fn topic_matches(mask: &str, topic: &str) -> bool {
    matches(mask, topic, '/', "+", "#")
}

/// Returns true if a name mask matches a name.
pub fn name_matches(mask: &str, name: &str) -> bool {
    matches(mask, name, '.', "?", "*")
}

/// A topic mask up to its `#`, because what follows it is ignored.
pub fn until_tail(mask: &str) -> String {
    let mut levels = vec![];
    for level in mask.split('/') {
        levels.push(level);
        if level == "#" {
            break;
        }
    }
    levels.join("/")
}

/// Returns true if one of these permissions, topic masks, allows a publication of that topic.
pub fn topic_is_allowed(permissions: &[&str], topic: &str) -> bool {
    permissions.iter().any(|mask| topic_matches(mask, topic))
}

/// Returns true if one of these permissions, name masks, allows that name. A permission for a name covers its
/// secondaries.
pub fn name_is_allowed(permissions: &[&str], name: &str) -> bool {
    let primary = name.find("%%").map_or(name, |at| &name[..at]);
    permissions.iter().any(|mask| name_matches(mask, name) || name_matches(mask, primary))
}

/// Returns true if the permissions cover everything that a topic mask could match.
pub fn topic_mask_is_covered(permissions: &[&str], mask: &str) -> bool {
    let examples = examples(permissions, mask, '/', ["+", "#"], &["\u{1}"]);
    examples.iter().all(|topic| topic_is_allowed(permissions, topic))
}

/// Returns true if the permissions cover everything that a name mask could match.
pub fn name_mask_is_covered(permissions: &[&str], mask: &str) -> bool {
    // A part of a name may end the name of its primary.
    let examples = examples(permissions, mask, '.', ["?", "*"], &["\u{1}", "\u{1}%%"]);
    examples.iter().all(|name| name_is_allowed(permissions, name))
}

/// Texts that the mask matches, with every combination of the levels `any` for its wildcards. No permission has these
/// levels, so that only its wildcards match them: if the permissions allow all of these texts, they allow all texts.
fn examples(
    permissions: &[&str],
    mask: &str,
    separator: char,
    [one, tail]: [&str; 2],
    any: &[&str],
) -> Vec<String> {
    let longest = permissions.iter().map(|mask| mask.split(separator).count()).max().unwrap_or(0);
    let mut open: Vec<Vec<&str>> = vec![vec![]];
    for level in mask.split(separator) {
        if level == tail {
            let mut complete = vec![];
            for _ in 0..=longest {
                open = with_each(open, any);
                complete.extend(open.iter().cloned());
            }
            open = complete;
            break;
        }
        open = with_each(open, if level == one { any } else { std::slice::from_ref(&level) });
    }
    open.into_iter().map(|levels| levels.join(&separator.to_string())).collect()
}

/// Each of the texts, followed by each of the levels.
fn with_each<'a>(texts: Vec<Vec<&'a str>>, levels: &[&'a str]) -> Vec<Vec<&'a str>> {
    let each = |text: Vec<&'a str>| {
        levels.iter().map(move |level| [&text[..], &[*level]].concat()).collect::<Vec<_>>()
    };
    texts.into_iter().flat_map(each).collect()
}
