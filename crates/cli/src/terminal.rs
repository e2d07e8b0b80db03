//! What is printed for people fits their terminal. Into a file or a pipe
//! everything goes unbroken.

use std::io::{self, IsTerminal, Write};

/// Narrower than this, breaking lines helps nobody.
const LEAST: usize = 40;

/// Columns of the terminal that standard output is; `None` where it is none.
pub fn width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let columns = usize::from(rustix::termios::tcgetwinsize(&stdout).ok()?.ws_col);
    (columns >= LEAST).then_some(columns)
}

/// Writes `text` behind `label`, broken between words where it wouldn't fit
/// in `width` columns; what follows stands under its first word.
pub fn paragraph(
    out: &mut dyn Write,
    label: &str,
    text: &str,
    width: Option<usize>,
) -> io::Result<()> {
    let indent = label.chars().count();
    let room = width.map_or(usize::MAX, |w| w.saturating_sub(indent).max(LEAST / 2));
    let mut line = String::new();
    write!(out, "{label}")?;
    let mut broken = false;
    for word in text.split_inclusive(' ') {
        let fits = line.chars().count() + word.trim_end().chars().count() <= room;
        if !fits && !line.is_empty() {
            let gap = if broken { indent } else { 0 };
            writeln!(out, "{:gap$}{}", "", line.trim_end())?;
            line.clear();
            broken = true;
        }
        line.push_str(word);
    }
    let gap = if broken { indent } else { 0 };
    writeln!(out, "{:gap$}{line}", "")
}

#[cfg(test)]
mod tests {
    use super::paragraph;

    fn text(label: &str, text: &str, width: Option<usize>) -> String {
        let mut out = Vec::new();
        paragraph(&mut out, label, text, width).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_break_between_words() {
        let words = "the kernel image has no symbol msgbufp";
        assert_eq!(text("image ", words, None), format!("image {words}\n"));
        assert_eq!(
            text("image ", words, Some(26)),
            "image the kernel image has\n      no symbol msgbufp\n"
        );
        // What can't be broken isn't.
        let address = "0x".to_owned() + &"f".repeat(60);
        assert_eq!(text("at ", &address, Some(40)), format!("at {address}\n"));
    }
}
