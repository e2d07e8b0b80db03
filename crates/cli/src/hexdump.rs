//! Hexdumps in the layout of `hexdump -C`, by address.

use std::io::{self, Write};

const WIDTH: usize = 16;

/// Writes `bytes`, the first of which has address `addr`. Every line starts
/// at a multiple of 16 but the first.
pub fn write(out: &mut impl Write, addr: u64, bytes: &[u8]) -> io::Result<()> {
    let mut at = addr;
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = (WIDTH - (at % WIDTH as u64) as usize).min(rest.len());
        let (line, more) = rest.split_at(n);
        write_line(out, at, line)?;
        at = at.wrapping_add(n as u64);
        rest = more;
    }
    Ok(())
}

fn write_line(out: &mut impl Write, at: u64, line: &[u8]) -> io::Result<()> {
    write!(out, "{at:016x} ")?;
    for i in 0..WIDTH {
        if i == WIDTH / 2 {
            write!(out, " ")?;
        }
        match line.get(i) {
            Some(b) => write!(out, " {b:02x}")?,
            None => write!(out, "   ")?,
        }
    }
    write!(out, "  |")?;
    for &b in line {
        // Whatever a dump holds, a terminal gets printable ASCII only.
        let c = if b.is_ascii_graphic() || b == b' ' { b } else { b'.' };
        out.write_all(&[c])?;
    }
    writeln!(out, "|")
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_follow_addresses() {
        let mut out = Vec::new();
        super::write(&mut out, 0xffff_ffff_81cd_4c0c, &[0x64, 0, 0, 0, 0x41, 0x1b]).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ffffffff81cd4c0c  64 00 00 00                                       |d...|\n\
             ffffffff81cd4c10  41 1b                                             |A.|\n"
        );
    }
}
