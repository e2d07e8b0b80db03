//! `--json`: printed so that a terminal can show it, whatever the dump says of
//! itself.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

/// Writes `value`. Characters that could move a terminal's cursor, or turn
/// text around, are written as `\u202e`: parsers give them back.
pub fn write(out: &mut impl Write, value: &impl Serialize) -> Result<()> {
    escaped(out, &serde_json::to_string_pretty(value)?)
}

/// [`write`], on one line.
pub fn write_line(out: &mut impl Write, value: &impl Serialize) -> Result<()> {
    escaped(out, &serde_json::to_string(value)?)
}

fn escaped(out: &mut impl Write, text: &str) -> Result<()> {
    // serde_json escapes ASCII's control characters; outside of strings there
    // is ASCII only.
    let mut rest = text;
    while let Some(at) = rest.find(is_unsafe) {
        let (before, from) = rest.split_at(at);
        let mut chars = from.chars();
        let c = chars.next().map_or(0, u32::from);
        write!(out, "{before}\\u{c:04x}")?;
        rest = chars.as_str();
    }
    writeln!(out, "{rest}")?;
    Ok(())
}

/// DEL, C1 controls, and what changes the direction of text.
fn is_unsafe(c: char) -> bool {
    matches!(c, '\x7f'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_moves_the_cursor_and_nothing_is_lost() {
        let hostile = "a\x1b[2J\x7f\u{9b}1m\u{202e}b\u{1f600}é\r\n";
        let mut out = Vec::new();
        super::write(&mut out, &[hostile]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}'), "{text}");
        let back: Vec<String> = serde_json::from_str(&text).unwrap();
        assert_eq!(back, [hostile]);
    }
}
