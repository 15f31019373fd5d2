//! The name of a client, as tables of calls store it.

/// A name, which is stored without an allocation if it is short.
#[derive(Debug)]
pub(super) enum Name {
    Short(u8, [u8; Name::SHORT]),
    Long(Box<str>),
}

impl Name {
    const SHORT: usize = 30;

    pub(super) fn new(name: &str) -> Name {
        let mut bytes = [0; Name::SHORT];
        match bytes.get_mut(..name.len()) {
            Some(start) => {
                start.copy_from_slice(name.as_bytes());
                Name::Short(name.len() as u8, bytes)
            }
            None => Name::Long(name.into()),
        }
    }

    pub(super) fn is(&self, name: &str) -> bool {
        match self {
            Name::Short(len, bytes) => bytes[..usize::from(*len)] == *name.as_bytes(),
            Name::Long(own) => **own == *name,
        }
    }
}
