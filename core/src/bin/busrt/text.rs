//! Formats numbers for people.

use std::fmt::Display;

/// Formats a number with a comma between groups of three digits.
pub(crate) fn grouped(n: impl Display) -> String {
    let text = n.to_string();
    let (sign, digits) = text.strip_prefix('-').map_or(("", &*text), |digits| ("-", digits));
    let whole = digits.find('.').unwrap_or(digits.len());
    let mut shown = sign.to_owned();
    for (i, digit) in digits.char_indices() {
        if i > 0 && i < whole && (whole - i) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (n, shown) in [
            ("0", "0"),
            ("999", "999"),
            ("1000", "1,000"),
            ("-1234567", "-1,234,567"),
            ("1234.5678", "1,234.5678"),
        ] {
            assert_eq!(grouped(n), shown);
        }
    }
}
