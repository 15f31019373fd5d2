//! Objects of the interpreter that are made when they are first needed.

use pyo3::prelude::*;
use std::sync::OnceLock;

/// An object that is made once.
///
/// `PyOnceLock` and `intern!` release the interpreter while they are being initialized. A child that another thread forks
/// at that moment would wait forever for a thread that it does not have. Here the interpreter is held while the object
/// is stored, so that no other thread can fork; two threads may make the object, and the first one is kept.
pub(crate) struct Lazy<T>(OnceLock<Py<T>>);

impl<T> Lazy<T> {
    pub(crate) const fn new() -> Lazy<T> {
        Lazy(OnceLock::new())
    }

    /// Returns the object, which `make` makes.
    ///
    /// # Errors
    /// That of `make`, which is called again the next time.
    pub(crate) fn get_or_make<'a, 'py>(
        &'a self,
        py: Python<'py>,
        make: impl FnOnce() -> PyResult<Py<T>>,
    ) -> PyResult<&'a Bound<'py, T>> {
        if let Some(made) = self.0.get() {
            return Ok(made.bind(py));
        }
        let made = make()?;
        Ok(self.0.get_or_init(|| made).bind(py))
    }
}
