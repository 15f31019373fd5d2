//! One or several topics, in the various types in which a program holds them.

use crate::error::{Error, ErrorKind, Result};

/// Topic masks for one operation: a `&str`, a slice, array or vector of them, borrowed or owned.
///
/// ```
/// fn takes(_: impl busrt::client::AsTopics) {}
/// takes("plant/#");
/// takes(["plant/#", "+/state"]);
/// takes(vec![String::from("plant/#")]);
/// takes(&[String::from("plant/#")]);
/// ```
pub trait AsTopics {
    /// Calls `f` with each topic mask in order.
    fn for_each_topic(&self, f: &mut dyn FnMut(&str));
}

impl AsTopics for str {
    fn for_each_topic(&self, f: &mut dyn FnMut(&str)) {
        f(self);
    }
}

impl AsTopics for String {
    fn for_each_topic(&self, f: &mut dyn FnMut(&str)) {
        f(self);
    }
}

impl<T: AsTopics> AsTopics for [T] {
    fn for_each_topic(&self, f: &mut dyn FnMut(&str)) {
        self.iter().for_each(|topic| topic.for_each_topic(f));
    }
}

impl<T: AsTopics, const N: usize> AsTopics for [T; N] {
    fn for_each_topic(&self, f: &mut dyn FnMut(&str)) {
        self.as_slice().for_each_topic(f);
    }
}

impl<T: AsTopics> AsTopics for Vec<T> {
    fn for_each_topic(&self, f: &mut dyn FnMut(&str)) {
        self.as_slice().for_each_topic(f);
    }
}

impl<T: AsTopics + ?Sized> AsTopics for &T {
    fn for_each_topic(&self, f: &mut dyn FnMut(&str)) {
        (**self).for_each_topic(f);
    }
}

/// Returns the masks as they appear in a body, separated by NUL; `None` if there are none.
pub(crate) fn join(topics: &(impl AsTopics + ?Sized)) -> Result<Option<String>> {
    let mut joined: Option<String> = None;
    let mut wrong = None;
    topics.for_each_topic(&mut |topic| {
        // A NUL within a mask would split it into two.
        if topic.contains('\0') {
            wrong
                .get_or_insert_with(|| Error::new(ErrorKind::Data, format!("the topic {topic:?} has a NUL")));
        }
        match &mut joined {
            None => joined = Some(topic.to_owned()),
            Some(text) => {
                text.push('\0');
                text.push_str(topic);
            }
        }
    });
    wrong.map_or(Ok(joined), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_one_and_many() {
        assert_eq!(join("a/#").unwrap().unwrap(), "a/#");
        assert_eq!(join(&["a", "", "b"]).unwrap().unwrap(), "a\0\0b");
        assert_eq!(join(&vec!["a".to_owned(), "b".to_owned()]).unwrap().unwrap(), "a\0b");
        assert_eq!(join("").unwrap().unwrap(), "");
        let none: &[&str] = &[];
        assert!(join(none).unwrap().is_none());
    }

    #[test]
    fn a_topic_with_a_nul_is_refused() {
        assert_eq!(join(&["a", "b\0#"]).unwrap_err().kind(), ErrorKind::Data);
    }
}
