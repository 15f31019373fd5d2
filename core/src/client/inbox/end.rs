//! The reason why a client receives nothing more.

use crate::error::{Error, ErrorKind};
use std::borrow::Cow;

/// The reason why there will be no more frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    kind: ErrorKind,
    context: Cow<'static, str>,
}

impl End {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> End {
        End { kind, context: context.into() }
    }

    pub(crate) fn error(&self) -> Error {
        Error::new(self.kind, self.context.clone())
    }
}
