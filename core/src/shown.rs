//! Makes untrusted text (names, topics, FIFO lines) safe to display.
//!
//! A terminal or a log viewer interprets control characters, and a bidirectional override changes the apparent
//! meaning of a line. Both are escaped here, and long text is cut.

use std::fmt::{self, Display, Write};

/// Maximum number of characters of a text that are shown; an escape sequence counts as one.
const MAX_CHARS: usize = 100;

/// Shows `text` on one line: control, format and bidirectional characters as `\u{…}`, bytes that are not UTF-8 as
/// `\xNN`, and `…` in place of the text after the first 100 characters.
pub(crate) fn shown(text: &(impl AsRef<[u8]> + ?Sized)) -> impl Display + '_ {
    Shown(text.as_ref())
}

/// Maximum number of characters of an error's context that are shown.
const MAX_CONTEXT_CHARS: usize = 400;

/// Shows a sentence of this crate that may contain untrusted text: on one line, cut after 400 characters, with
/// control, format and bidirectional characters escaped. Backslashes are not escaped.
pub(crate) fn sentence(text: &str) -> impl Display + '_ {
    Sentence(text)
}

struct Sentence<'a>(&'a str);

impl Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, c) in self.0.chars().enumerate() {
            match c {
                _ if at == MAX_CONTEXT_CHARS => return f.write_char('…'),
                '\\' => f.write_char(c)?,
                c => write_char(f, c)?,
            }
        }
        Ok(())
    }
}

struct Shown<'a>(&'a [u8]);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = MAX_CHARS;
        // A character has at most four bytes. The cut keeps the work bounded for a text of any length.
        let prefix = &self.0[..self.0.len().min((MAX_CHARS + 1) * 4)];
        for chunk in prefix.utf8_chunks() {
            for c in chunk.valid().chars() {
                if !take_one(&mut left) {
                    return f.write_char('…');
                }
                write_char(f, c)?;
            }
            for byte in chunk.invalid() {
                if !take_one(&mut left) {
                    return f.write_char('…');
                }
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

fn take_one(left: &mut usize) -> bool {
    let more = *left > 0;
    *left = left.saturating_sub(1);
    more
}

fn write_char(f: &mut fmt::Formatter<'_>, c: char) -> fmt::Result {
    match c {
        '\\' => f.write_str("\\\\"),
        '\n' => f.write_str("\\n"),
        '\r' => f.write_str("\\r"),
        '\t' => f.write_str("\\t"),
        c if must_be_escaped(c) => write!(f, "\\u{{{:x}}}", u32::from(c)),
        c => f.write_char(c),
    }
}

/// Characters that are invisible, end a line, or change how the text around them is shown.
fn must_be_escaped(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, Arabic and Syriac format characters, Mongolian and Hangul invisible ones.
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
            | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            // Zero-width characters, line and paragraph separators, bidirectional controls, word joiners.
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            // Variation selectors, byte order mark, interlinear annotation, noncharacters, private use.
            | '\u{e000}'..='\u{f8ff}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{fffe}'..='\u{ffff}'
            // Egyptian, shorthand and musical format controls; tags; the planes of private use.
            | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        shown(bytes).to_string()
    }

    #[test]
    fn ordinary_text_is_shown_as_it_is() {
        for ordinary in ["", "plant/pump.1", "Ünï cödé", "日本語", "a b", "\"quoted\""] {
            assert_eq!(shown(ordinary).to_string(), ordinary);
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(text(b"a\nb\rc\td"), "a\\nb\\rc\\td");
        assert_eq!(text(b"\x1b[2J\0\x7f"), "\\u{1b}[2J\\u{0}\\u{7f}");
        assert_eq!(shown("\u{9b}31m").to_string(), "\\u{9b}31m");
        // Otherwise a text could imitate an escape sequence.
        assert_eq!(text(b"\\n"), "\\\\n");
    }

    #[test]
    fn characters_that_change_other_text_are_escaped() {
        for c in [
            '\u{200e}',
            '\u{202a}',
            '\u{202e}',
            '\u{2066}',
            '\u{2069}',
            '\u{feff}',
            '\u{2028}',
            '\u{2029}',
            '\u{61c}',
            '\u{e0041}',
            '\u{ad}',
            '\u{200b}',
        ] {
            assert_eq!(shown(&c.to_string()).to_string(), format!("\\u{{{:x}}}", u32::from(c)));
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_escaped() {
        assert_eq!(text(b"a\xff\xfeb\xc3"), "a\\xff\\xfeb\\xc3");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(text(&[b'x'; 100]), "x".repeat(100));
        assert_eq!(text(&[b'x'; 101]), "x".repeat(100) + "…");
        assert_eq!(shown(&"\u{1f600}".repeat(5000)).to_string(), "\u{1f600}".repeat(100) + "…");
        assert_eq!(text(&[0xff; 1000]), "\\xff".repeat(100) + "…");
        // The byte limit falls within a character that is not shown any more.
        assert!(!shown(&("a".to_owned() + &"日".repeat(5000))).to_string().contains("\\x"));
    }

    #[test]
    fn sentences_are_one_line_and_cut() {
        assert_eq!(
            sentence("the topic \"a\\b\" \n\u{202e}x").to_string(),
            "the topic \"a\\b\" \\n\\u{202e}x"
        );
        assert_eq!(sentence(&"x".repeat(60_000)).to_string().chars().count(), MAX_CONTEXT_CHARS + 1);
    }
}
