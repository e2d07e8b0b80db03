//! Opening a minidump: every size is checked against the file before
//! anything of that size is allocated.

use std::sync::Arc;

use vmcask_rank::{AvailRanges, OwnedRankIndex, PageBitmap};

use super::header::{Header, MAX_HEADER_LEN};
use super::{Minidump, Parts, avail};
use crate::error::{Error, Result, Warning};
use crate::source::ReadAt;

impl Minidump {
    /// Opens the minidump that `src` holds.
    ///
    /// The header's parts up to the first page must be in the file; pages
    /// past its end are absent, with a [`Warning`] that counts them. Memory:
    /// the bitmap (one bit a page of physical memory) and 6.4 % for counts.
    pub fn open(src: Arc<dyn ReadAt>) -> Result<Self> {
        let mut prefix = [0; MAX_HEADER_LEN];
        let n = read_some(&*src, 0, &mut prefix)?;
        let header = Header::parse(&prefix[..n])?;
        let mut parts = Parts::of(&header);
        let len = src.len();
        for (part, range) in [
            ("header page", &parts.header),
            ("msgbuf", &parts.msgbuf),
            ("dump_avail", &parts.dump_avail),
            ("bitmap", &parts.bitmap),
            ("pmap", &parts.pmap),
        ] {
            if range.end > len {
                return Err(Error::TooShort { part, end: range.end, len });
            }
        }

        let mut warnings = Vec::new();
        let bits = u64::from(header.bitmapsize) * 8;
        let (avail_pairs, ranges) = if header.dumpavailsize == 0 {
            (Vec::new(), AvailRanges::identity(bits))
        } else {
            let off = parts.dump_avail.start;
            let bytes = read_part(&*src, off, header.dumpavailsize)?;
            let parsed = avail::parse(&header, &bytes, off)?;
            warnings.extend(parsed.warning);
            (parsed.pairs, parsed.ranges)
        };

        let bytes = read_part(&*src, parts.bitmap.start, header.bitmapsize)?;
        let pages = ranges.total_pages();
        let bitmap = if header.arch.is_big_endian() {
            PageBitmap::from_be_words(&bytes, pages)
        } else {
            PageBitmap::from_le_bytes(&bytes, pages)
        };
        drop(bytes);
        if bitmap.spare_bits() > 0 {
            warnings.push(Warning::SpareBits { count: bitmap.spare_bits() });
        }
        let index = OwnedRankIndex::build(bitmap, ranges);

        // At most 2^35 bits of pages of at most 2^14 bytes: no overflow.
        let shift = header.page_shift();
        let promised = index.total();
        parts.pages.end = parts.pages.start + (promised << shift);
        let present = promised.min((len - parts.pages.start) >> shift);
        if present < promised {
            warnings.push(Warning::Truncated { present, promised, len, end: parts.pages.end });
        } else if len > parts.pages.end {
            warnings.push(Warning::Trailing { bytes: len - parts.pages.end });
        }
        Ok(Self {
            src,
            header,
            parts,
            avail_pairs,
            index,
            pages_promised: promised,
            pages_present: present,
            warnings,
        })
    }
}

impl Parts {
    /// The parts that a header promises; `pages` is empty until the bitmap has
    /// been counted.
    ///
    /// Six 32-bit sizes, each rounded up to a page: no overflow in 64 bits.
    pub fn of(header: &Header) -> Self {
        let page = 1u64 << header.page_shift();
        let mut end = 0;
        let mut next = |size: u64| {
            let start = end;
            end += size.next_multiple_of(page);
            start..end
        };
        let header_page = next(page);
        let msgbuf = next(header.msgbufsize.into());
        let dump_avail = next(header.dumpavailsize.into());
        let bitmap = next(header.bitmapsize.into());
        let pmap = next(header.pmapsize.into());
        let pages = next(0);
        Self { header: header_page, msgbuf, dump_avail, bitmap, pmap, pages }
    }
}

/// The caller has checked that the part lies inside the source.
fn read_part(src: &dyn ReadAt, off: u64, size: u32) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size as usize];
    src.read_exact_at(off, &mut bytes).map_err(|source| Error::Io {
        off,
        len: bytes.len(),
        source,
    })?;
    Ok(bytes)
}

fn read_some(src: &dyn ReadAt, off: u64, buf: &mut [u8]) -> Result<usize> {
    let len = buf.len();
    src.read_at(off, buf).map_err(|source| Error::Io { off, len, source })
}
