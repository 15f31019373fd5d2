//! Bounds of topics and masks.

use crate::broker::options::Options;
use crate::error::ErrorKind;

/// Refuses a topic or topic mask over the bounds.
///
/// # Errors
/// [`ErrorKind::Data`].
pub(super) fn check_topic(topic: &str, options: &Options) -> Result<(), ErrorKind> {
    check_length(topic, '/', options)
}

/// Refuses a mask of client names over the bounds.
///
/// # Errors
/// [`ErrorKind::Data`].
pub(super) fn check_broadcast_mask(mask: &str, options: &Options) -> Result<(), ErrorKind> {
    check_length(mask, '.', options)
}

fn check_length(text: &str, separator: char, options: &Options) -> Result<(), ErrorKind> {
    if text.len() > options.max_topic {
        return Err(ErrorKind::Data);
    }
    // A text has fewer levels than bytes, and one more than separators.
    if text.len() >= options.max_levels && text.matches(separator).count() >= options.max_levels {
        return Err(ErrorKind::Data);
    }
    Ok(())
}
