//! Parsing `dump_avail`: pairs of physical addresses ended by a pair whose
//! end is 0.

use vmcask_rank::AvailRanges;

use super::header::{Arch, Header};
use crate::error::{Error, Result, Warning};

/// More pairs than any kernel has by far (PHYS_AVAIL_ENTRIES is at most a few
/// hundred), few enough to scan for every lookup without a hostile file
/// turning reads into a crawl.
const MAX_PAIRS: usize = 4096;

pub(super) struct DumpAvail {
    pub(super) pairs: Vec<(u64, u64)>,
    pub(super) ranges: AvailRanges,
    pub(super) warning: Option<Warning>,
}

/// Parses the `bytes` of the part at file offset `off`.
///
/// Entries are the kernel's `vm_paddr_t`: 64 bits everywhere, except on arm,
/// where the kernel's type has 32 and libkvm reads 64 all the same; and i386
/// before PAE became the rule. There the width is the one that makes sense
/// of the bytes.
pub(super) fn parse(header: &Header, bytes: &[u8], off: u64) -> Result<DumpAvail> {
    let wide = parse_width(header, bytes, off, 8);
    let narrow_first = match header.arch {
        Arch::Arm => Some(true),
        Arch::I386 => Some(false),
        _ => None,
    };
    let Some(narrow_first) = narrow_first else {
        return wide.map(|(pairs, ranges)| DumpAvail { pairs, ranges, warning: None });
    };
    let narrow = parse_width(header, bytes, off, 4);
    let (first, second) = if narrow_first { (narrow, wide) } else { (wide, narrow) };
    let usual = if narrow_first { 32 } else { 64 };
    let other = |(pairs, ranges)| DumpAvail {
        pairs,
        ranges,
        warning: Some(Warning::DumpAvailWidth { bits: 96 - usual }),
    };
    match (first, second) {
        // 64-bit entries read as 32-bit ones begin with a pair whose end is
        // 0: a list without ranges is no list.
        (Ok((pairs, _)), Ok(second)) if pairs.is_empty() && !second.0.is_empty() => {
            Ok(other(second))
        }
        // Nor is it what makes sense of a list that is wrong in the other width.
        (Ok((pairs, _)), Err(e)) | (Err(e), Ok((pairs, _))) if pairs.is_empty() => Err(e),
        (Ok((pairs, ranges)), _) => Ok(DumpAvail { pairs, ranges, warning: None }),
        (Err(_), Ok(second)) => Ok(other(second)),
        (Err(e), Err(_)) => Err(e),
    }
}

fn parse_width(
    header: &Header,
    bytes: &[u8],
    off: u64,
    width: usize,
) -> Result<(Vec<(u64, u64)>, AvailRanges)> {
    let word = |b: &[u8]| {
        let mut le = [0; 8];
        if header.arch.is_big_endian() {
            le[8 - b.len()..].copy_from_slice(b);
            u64::from_be_bytes(le)
        } else {
            le[..b.len()].copy_from_slice(b);
            u64::from_le_bytes(le)
        }
    };
    let field = |index: usize, found: String, expected: &str| Error::Field {
        off: off + (index * 2 * width) as u64,
        field: "dump_avail",
        found,
        expected: expected.into(),
    };
    let mut pairs = Vec::new();
    let mut ended = false;
    for pair in bytes.chunks_exact(2 * width) {
        let (start, end) = (word(&pair[..width]), word(&pair[width..]));
        if end == 0 {
            ended = true;
            break;
        }
        if pairs.len() == MAX_PAIRS {
            return Err(field(pairs.len(), "one more pair".into(), "at most 4096 pairs"));
        }
        pairs.push((start, end));
    }
    if !ended {
        return Err(field(
            pairs.len(),
            "the end of the part".into(),
            "a pair whose end is 0, as the last",
        ));
    }
    let shift = header.page_shift();
    let ranges = AvailRanges::new(&pairs, shift)
        .map_err(|e| field(0, e.to_string(), "ascending ranges that don't overlap"))?;
    let bits = u64::from(header.bitmapsize) * 8;
    if ranges.total_pages() > bits {
        return Err(field(
            0,
            format!("{} pages", ranges.total_pages()),
            &format!("at most {bits}, one for each bit of the bitmap"),
        ));
    }
    Ok((pairs, ranges))
}
