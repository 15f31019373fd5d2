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
