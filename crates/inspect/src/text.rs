//! Text out of a dump, for a terminal: whoever wrote to the message buffer or
//! named a process doesn't get to move the cursor.

use std::fmt::Write as _;

/// Printable text: ASCII but control characters, tabs, letters and digits of
/// any script. Everything else is written as `\x1b` or `\u{202e}`.
pub fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' | ' '..='~' => out.push(c),
                c if c.is_ascii() => {
                    let _ = write!(out, "\\x{:02x}", u32::from(c));
                }
                c if c.is_alphanumeric() => out.push(c),
                c => {
                    let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
                }
            }
        }
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn nothing_moves_the_cursor() {
        let hostile = b"a\tb\x1b[2J\r\x07\x7f\xff\xc2\x9b1m \xe2\x80\xae \xc3\xa9";
        let safe = printable(hostile);
        assert_eq!(safe, "a\tb\\x1b[2J\\x0d\\x07\\x7f\\xff\\u{9b}1m \\u{202e} é");
        assert!(!safe.chars().any(|c| c.is_control() && c != '\t'));
    }
}
