//! Runs foreign code: wakers, callbacks, loggers, and the drops of values that a program owns. A panic is contained.

use crate::frame::Frame;
use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// Runs foreign code. A panic is logged and does not propagate. Returns true if there was no panic.
pub(crate) fn contain(what: impl Display, code: impl FnOnce()) -> bool {
    let Err(panic) = catch_unwind(AssertUnwindSafe(code)) else { return true };
    log::error!("{what} panicked: {}", panic_text(&*panic));
    // The payload of a panic is foreign code too, including its drop.
    if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
        std::mem::forget(again);
    }
    false
}

/// Returns the message of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no text",
    }
}

/// Wakes every task, also after the waker of one of them panics.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        contain("a waker", || waker.wake());
    }
}

/// Drops a frame. The owner of its payload may panic.
pub(crate) fn discard(frame: Frame) {
    discard_value("a payload", frame);
}

/// Drops a value that belongs partly to the program, such as a waker. Its drop may panic.
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
