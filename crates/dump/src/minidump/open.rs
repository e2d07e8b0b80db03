//! Opening a minidump: every size is checked against the file before
//! anything of that size is allocated.

use std::sync::Arc;

use vmcask_rank::{AvailRanges, OwnedRankIndex, PageBitmap};
use zerocopy::IntoBytes;

use super::header::{Header, MAX_HEADER_LEN};
use super::pages::{BuildLookup, MapShape, PageMap, Pages, Table};
use super::{Minidump, Parts, avail};
use crate::error::{Error, Result, Warning};
use crate::source::ReadAt;

/// A bitmap of 32 TiB of memory in pages of 4 KiB: twice what any machine
/// FreeBSD runs on has. A file with holes can promise more, at no cost.
const MOST_BITMAP: u32 = 1 << 30;
/// Kernels write some dozens of pairs.
const MOST_DUMP_AVAIL: u32 = 16 << 20;

impl Minidump {
    /// Opens the minidump that `src` holds.
    ///
    /// The header's parts up to the first page must be in the file; pages
    /// past its end are absent, with a [`Warning`] that counts them. Memory:
    /// the bitmap (one bit a page of physical memory) and 6.4 % for counts.
    pub fn open(src: Arc<dyn ReadAt>) -> Result<Self> {
        Self::open_with(src, How::Count)
    }

    /// [`Minidump::open`], but with the table that `build` makes of the
    /// bitmap in the place of the rank index: for comparing lookups.
    pub fn open_with_lookup(src: Arc<dyn ReadAt>, build: BuildLookup<'_>) -> Result<Self> {
        Self::open_with(src, How::Build(build))
    }

    /// [`Minidump::open`], but where `map` fits the dump's headers, it is
    /// asked where pages lie, and the bitmap is neither read nor counted:
    /// that takes the same time whatever the machine's memory.
    pub fn open_mapped(src: Arc<dyn ReadAt>, map: Arc<dyn PageMap>) -> Result<Self> {
        Self::open_with(src, How::Ask(map))
    }

    fn open_with(src: Arc<dyn ReadAt>, how: How<'_>) -> Result<Self> {
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

        for (field, size, most) in [
            ("dumpavailsize", header.dumpavailsize, MOST_DUMP_AVAIL),
            ("bitmapsize", header.bitmapsize, MOST_BITMAP),
        ] {
            if size > most {
                return Err(Error::Unsupported(format!(
                    "the header's {field} is {size} bytes; {most} are read at most"
                )));
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

        let shift = header.page_shift();
        let fits = |map: &Arc<dyn PageMap>| {
            let s = map.shape();
            s.first_page == parts.pages.start
                && s.page_shift == shift
                && s.pages == ranges.total_pages()
                && s.dumped <= s.pages
        };
        let (pages, promised, spare) = match how {
            How::Ask(map) if fits(&map) => {
                let spare = spare_bits(&*src, &header, ranges.total_pages())?;
                let dumped = map.shape().dumped;
                (Pages::mapped(map, ranges), dumped, spare)
            }
            How::Build(build) => {
                let bitmap = read_bitmap(&*src, &header, ranges.total_pages())?;
                let (dumped, spare) = (bitmap.count_ones(), bitmap.spare_bits());
                let shape = MapShape {
                    first_page: parts.pages.start,
                    page_shift: shift,
                    pages: ranges.total_pages(),
                    dumped,
                };
                let lookup = build(bitmap, ranges.clone())?;
                (Pages::mapped(Arc::new(Table { lookup, shape }), ranges), dumped, spare)
            }
            How::Ask(_) | How::Count => {
                let (index, spare) = read_index(&*src, &header, ranges)?;
                let dumped = index.total();
                (Pages::Counted(index), dumped, spare)
            }
        };
        if spare > 0 {
            warnings.push(Warning::SpareBits { count: spare });
        }

        // At most 2^35 bits of pages of at most 2^14 bytes: no overflow.
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
            pages,
            pages_promised: promised,
            pages_present: present,
            warnings,
        })
    }
}

/// Who is to answer where pages lie.
enum How<'a> {
    /// The bitmap, counted.
    Count,
    /// This map, if it fits.
    Ask(Arc<dyn PageMap>),
    /// What this makes of the bitmap.
    Build(BuildLookup<'a>),
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

/// The bitmap, counted, and how many bits are set behind its last page.
pub(super) fn read_index(
    src: &dyn ReadAt,
    header: &Header,
    ranges: AvailRanges,
) -> Result<(OwnedRankIndex, u64)> {
    let bitmap = read_bitmap(src, header, ranges.total_pages())?;
    let spare = bitmap.spare_bits();
    Ok((OwnedRankIndex::build(bitmap, ranges), spare))
}

fn read_bitmap(src: &dyn ReadAt, header: &Header, pages: u64) -> Result<PageBitmap> {
    let off = Parts::of(header).bitmap.start;
    let mut words = vec![0u64; (header.bitmapsize as usize).div_ceil(8)];
    // Read where they stay: a bitmap may take a large part of the memory.
    let bytes = &mut words.as_mut_bytes()[..header.bitmapsize as usize];
    read_into(src, off, bytes)?;
    for word in &mut words {
        *word = if header.arch.is_big_endian() { word.to_be() } else { word.to_le() };
    }
    Ok(PageBitmap::from_words(words, pages))
}

/// How many bits are set behind the last page, from the bitmap's end alone.
fn spare_bits(src: &dyn ReadAt, header: &Header, pages: u64) -> Result<u64> {
    let whole_words = (pages / 64 * 8).min(header.bitmapsize.into());
    let off = Parts::of(header).bitmap.start + whole_words;
    let bytes = read_part(src, off, header.bitmapsize - whole_words as u32)?;
    Ok(bitmap(header, &bytes, pages.saturating_sub(whole_words * 8)).spare_bits())
}

fn bitmap(header: &Header, bytes: &[u8], pages: u64) -> PageBitmap {
    if header.arch.is_big_endian() {
        PageBitmap::from_be_words(bytes, pages)
    } else {
        PageBitmap::from_le_bytes(bytes, pages)
    }
}

/// The caller has checked that the part lies inside the source.
fn read_part(src: &dyn ReadAt, off: u64, size: u32) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size as usize];
    read_into(src, off, &mut bytes)?;
    Ok(bytes)
}

fn read_into(src: &dyn ReadAt, off: u64, buf: &mut [u8]) -> Result<()> {
    let len = buf.len();
    src.read_exact_at(off, buf).map_err(|source| Error::Io { off, len, source })
}

fn read_some(src: &dyn ReadAt, off: u64, buf: &mut [u8]) -> Result<usize> {
    let len = buf.len();
    src.read_at(off, buf).map_err(|source| Error::Io { off, len, source })
}
