//! Running foreign code: wakers, callbacks, loggers, and the drops of what a program owns. A panic goes no further.

use crate::frame::Frame;
use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// Runs foreign code. A panic is logged and goes no further. Returns whether there was none.
pub(crate) fn contain(what: impl Display, code: impl FnOnce()) -> bool {
    let Err(panic) = catch_unwind(AssertUnwindSafe(code)) else { return true };
    log::error!("{what} panicked: {}", panic_text(&*panic));
    // The payload of a panic is foreign too, and so is its drop.
    if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
        std::mem::forget(again);
    }
    false
}

/// The message of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no text",
    }
}

/// Wakes every task, also when the waker of one of them panics.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        contain("a waker", || waker.wake());
    }
}

/// Frees a frame. The owner of its payload may panic.
pub(crate) fn discard(frame: Frame) {
    discard_value("a payload", frame);
}

/// Frees a value that the program owns a part of, such as a waker: its drop may panic.
pub(crate) fn discard_value<T>(what: &str, value: T) {
    contain(format_args!("the drop of {what}"), || drop(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_whose_value_panics_when_dropped_is_contained() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        assert!(!contain("a test", || std::panic::panic_any(Bomb)));
        assert!(contain("a test", || {}));
    }
}
