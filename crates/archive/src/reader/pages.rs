//! The page map: where physical memory lies in the original, without
//! decompressing anything.

use std::sync::Arc;
use std::sync::OnceLock;

use vmcask_dump::minidump::MapShape;
use vmcask_dump::{PhysAddr, ReadAt};
use vmcask_rank::{AvailRanges, Pfn};
use zerocopy::FromBytes;

use super::bits::Bits;
use super::section::Section;
use super::sections::{Layout, field, name};
use crate::error::Result;
use crate::layout::{CHUNK_LEN, MAX_SMALL_SECTION, PageMapHeader, Segment, Span, kind};
use crate::plan::{MinidumpPages, PageMap, PtLoad};

/// Sections 16 to 20.
pub(super) enum Pages {
    Minidump(Box<Minidump>),
    Segments(Arc<Section>),
    None,
}

pub(super) struct Minidump {
    header: PageMapHeader,
    pairs: Vec<(u64, u64)>,
    avail: AvailRanges,
    bits: Bits,
}

/// Opened when the first address is asked for.
#[derive(Default)]
pub(super) struct LazyPages(OnceLock<Pages>);

impl LazyPages {
    pub(super) fn get(&self, layout: &Layout, src: &dyn ReadAt) -> Result<&Pages> {
        if let Some(pages) = self.0.get() {
            return Ok(pages);
        }
        let pages = Pages::open(layout, src)?;
        Ok(self.0.get_or_init(|| pages))
    }
}

impl Pages {
    fn open(layout: &Layout, src: &dyn ReadAt) -> Result<Self> {
        if let Some(section) = layout.optional(kind::SEGMENTS) {
            return Ok(Self::Segments(section));
        }
        let Some(section) = layout.optional(kind::PAGE_MAP) else { return Ok(Self::None) };
        let bad = |what: String, expected: &str| {
            field(section.offset, name(kind::PAGE_MAP), what, expected)
        };
        let bytes = section.whole(src, MAX_SMALL_SECTION)?;
        let (header, pairs) = PageMapHeader::read_from_prefix(&bytes)
            .map_err(|_| bad(format!("{} bytes", bytes.len()), "24 bytes or more"))?;
        let pairs: Vec<_> = pairs
            .chunks_exact(size_of::<Span>())
            .filter_map(|b| Span::read_from_bytes(b).ok())
            .map(|e| (e.start.get(), e.end.get()))
            .collect();
        let pages = header.pages.get();
        let avail = if pairs.is_empty() {
            AvailRanges::identity(pages)
        } else {
            AvailRanges::new(&pairs, header.page_shift.get())
                .map_err(|e| bad(e.to_string(), "pairs of dump_avail"))?
        };
        if header.page_shift.get() >= u64::BITS {
            let expected = "a page shift below 64";
            return Err(bad(format!("a page shift of {}", header.page_shift), expected));
        }
        // Far more than an index has room for.
        if pages > 1 << 40 {
            return Err(bad(format!("{pages} pages"), "at most 2^40"));
        }
        let bits = Bits::open(layout, src, kind::PAGE_WORDS, pages)?;
        Ok(Self::Minidump(Box::new(Minidump { header, pairs, avail, bits })))
    }

    /// Offset in the original of the byte at `pa`, and how many bytes of
    /// memory follow it there.
    pub(super) fn locate(&self, src: &dyn ReadAt, pa: PhysAddr) -> Result<Option<(u64, u64)>> {
        match self {
            Self::None => Ok(None),
            Self::Minidump(map) => map.locate(src, pa),
            Self::Segments(section) => {
                let mut found = None;
                each_segment(section, src, |s| {
                    let within = pa.0.wrapping_sub(s.p_paddr);
                    let size = s.p_filesz.min(s.p_memsz);
                    if found.is_none() && pa.0 >= s.p_paddr && within < size {
                        found = s.p_offset.checked_add(within).map(|off| (off, size - within));
                    }
                })?;
                Ok(found)
            }
        }
    }

    /// What minidump it is the map of.
    pub(super) fn shape(&self) -> Option<MapShape> {
        let Self::Minidump(map) = self else { return None };
        Some(MapShape {
            first_page: map.header.first_page.get(),
            page_shift: map.header.page_shift.get(),
            pages: map.header.pages.get(),
            dumped: map.bits.total(),
        })
    }

    /// How many dumped pages of a minidump come before `pfn`, if it is one.
    pub(super) fn ordinal(&self, src: &dyn ReadAt, pfn: Pfn) -> Result<Option<u64>> {
        match self {
            Self::Minidump(map) => map.ordinal(src, pfn),
            Self::Segments(_) | Self::None => Ok(None),
        }
    }

    /// All of it, copied.
    pub(super) fn to_plan(&self, layout: &Layout, src: &dyn ReadAt) -> Result<Option<PageMap>> {
        let map = match self {
            Self::None => return Ok(None),
            Self::Segments(section) => {
                let mut loads = Vec::new();
                each_segment(section, src, |s| loads.push(s))?;
                return Ok(Some(PageMap::Segments(loads)));
            }
            Self::Minidump(map) => map,
        };
        let bytes = |kind| layout.section(kind)?.whole(src, u64::MAX);
        let u64s = |kind| {
            let bytes = bytes(kind)?;
            Ok::<_, crate::Error>(
                bytes.as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect(),
            )
        };
        Ok(Some(PageMap::Minidump(MinidumpPages {
            page_shift: map.header.page_shift.get(),
            first_page: map.header.first_page.get(),
            pages: map.header.pages.get(),
            dump_avail: map.pairs.clone(),
            words: u64s(kind::PAGE_WORDS)?,
            blocks: bytes(kind::PAGE_BLOCKS)?
                .as_chunks()
                .0
                .iter()
                .map(|b| u16::from_le_bytes(*b))
                .collect(),
            supers: u64s(kind::PAGE_SUPERBLOCKS)?,
        })))
    }
}

impl Minidump {
    fn ordinal(&self, src: &dyn ReadAt, pfn: Pfn) -> Result<Option<u64>> {
        self.avail.bit_of(pfn).map_or(Ok(None), |bit| self.bits.find(src, bit))
    }

    fn locate(&self, src: &dyn ReadAt, pa: PhysAddr) -> Result<Option<(u64, u64)>> {
        let shift = self.header.page_shift.get();
        let Some(ordinal) = self.ordinal(src, Pfn(pa.0 >> shift))? else { return Ok(None) };
        let within = pa.0 & ((1 << shift) - 1);
        let page = ordinal.checked_mul(1 << shift);
        let off =
            page.and_then(|p| p.checked_add(self.header.first_page.get())?.checked_add(within));
        Ok(off.map(|off| (off, (1 << shift) - within)))
    }
}

fn each_segment(section: &Section, src: &dyn ReadAt, mut f: impl FnMut(PtLoad)) -> Result<()> {
    const LEN: usize = size_of::<Segment>();
    // 40 doesn't divide a chunk: the rest of one goes before the next.
    let mut rest = Vec::with_capacity(CHUNK_LEN + LEN);
    section.for_each_chunk(src, |chunk| {
        rest.extend_from_slice(chunk);
        let whole = rest.len() / LEN * LEN;
        for bytes in rest[..whole].chunks_exact(LEN) {
            let Ok(s) = Segment::read_from_bytes(bytes) else { continue };
            f(PtLoad {
                p_paddr: s.p_paddr.get(),
                p_vaddr: s.p_vaddr.get(),
                p_offset: s.p_offset.get(),
                p_filesz: s.p_filesz.get(),
                p_memsz: s.p_memsz.get(),
            });
        }
        rest.drain(..whole);
    })
}
