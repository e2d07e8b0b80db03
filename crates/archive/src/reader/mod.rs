//! Reading archives: any byte of the original at the cost of one small
//! frame.

mod cache;
mod frames;
pub(crate) mod sections;
mod table;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use vmcask_dump::ReadAt;
use vmcask_rank::{AvailRanges, PageLookup, Pfn, RankIndex};
use zerocopy::FromBytes;

use crate::digest::{Digest, Digester};
use crate::error::{Error, Result};
use crate::extents::Extents;
use crate::layout::{
    CELL_SIZE, COMPATIBLE_PLAIN, Extent, FRAMES_PER_BASE, PageMapHeader, Segment, Summary, kind,
};
use crate::plan::{Metadata, MinidumpPages, PageMap, PtLoad};
use cache::FrameCache;
use sections::{Layout, field, name};
use table::Table;

/// An open archive: the original's bytes through [`ReadAt`], from any number
/// of threads.
pub struct ArchiveReader {
    src: Arc<dyn ReadAt>,
    layout: Layout,
    summary: Summary,
    extents: Extents,
    /// Which cells are not zero, and how many of them come before each.
    cells: RankIndex<Table<u64>, Table<u16>, Table<u64>>,
    /// Slots of the non-zero cells; `None` where they are in order.
    slots: Option<Table<u64>>,
    bases: Table<u64>,
    offsets: Table<u32>,
    cells_per_frame: u64,
    /// Bytes of all frames' contents.
    stored_len: u64,
    metadata: Metadata,
    digest: Digest,
    cache: FrameCache,
}

/// Counts of an archive's cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Cells of the original.
    pub cells: u64,
    /// Those that are zero.
    pub zero_cells: u64,
    /// Those that share a slot with another.
    pub duplicate_cells: u64,
    /// Slots.
    pub stored_cells: u64,
    /// Data frames.
    pub frames: u64,
}

impl std::fmt::Debug for ArchiveReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveReader").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl ArchiveReader {
    /// Opens the archive that `src` holds. Its index is checked against its
    /// checksums; with a memory map it is used where it is.
    pub fn open(src: Arc<dyn ReadAt>) -> Result<Self> {
        let layout = Layout::find(&*src)?;
        for section in layout.sections() {
            section.verify(&*src)?;
        }
        let summary_at = layout.section(kind::SUMMARY)?.offset;
        let summary = Summary::read_from_bytes(&layout.bytes(&*src, kind::SUMMARY)?)
            .map_err(|_| field(summary_at, name(kind::SUMMARY), "another size", "48 bytes"))?;
        let original_len = summary.original_length.get();
        let extents = extents(&layout, &*src, original_len)?;
        let (cells, slots, frames) =
            (summary.cells.get(), summary.slots.get(), summary.frames.get());
        let cells_per_frame = u64::from(layout.head.cells_per_frame.get());
        let bad = |what: &'static str, found: u64, expected: String| {
            Err(field(summary_at, what, found, expected))
        };
        if cells != extents.cells() {
            return bad("cells", cells, format!("{}, as the extents have", extents.cells()));
        }
        if frames != slots.div_ceil(cells_per_frame) {
            return bad("frames", frames, format!("as many as {slots} slots need"));
        }
        if summary.non_zero_cells.get() > cells || slots > summary.non_zero_cells.get() {
            return bad("slots", slots, format!("at most {cells}, the cells"));
        }
        let words = cells.div_ceil(64).next_multiple_of(4);
        let index = RankIndex::from_parts(
            layout.table(&src, kind::CELL_WORDS, words)?,
            layout.table(&src, kind::CELL_BLOCKS, words / 4)?,
            layout.table(&src, kind::CELL_SUPERBLOCKS, words.div_ceil(1024) + 1)?,
            AvailRanges::identity(cells),
        )
        .map_err(|e| field(summary_at, "cells", e, "counts of the right length"))?;
        if index.total() != summary.non_zero_cells.get() {
            let expected = format!("{}, the bits set", index.total());
            return bad("non_zero_cells", summary.non_zero_cells.get(), expected);
        }
        let bits = summary.slot_bits.get();
        let slots = match bits {
            0 if layout.optional(kind::SLOT_TABLE).is_none() => None,
            1..=48 => {
                let words = (summary.non_zero_cells.get() * u64::from(bits)).div_ceil(64) + 1;
                Some(layout.table(&src, kind::SLOT_TABLE, words)?)
            }
            _ => return bad("slot_bits", bits.into(), "1 to 48, or 0 and no slot table".into()),
        };
        let plain = layout.head.compatible.get() & COMPATIBLE_PLAIN != 0;
        let data: u64 = extents.ranges().iter().map(|e| e.end - e.start).sum();
        let bases = (frames + 1).div_ceil(FRAMES_PER_BASE as u64);
        let digest_at = layout.section(kind::DIGEST)?.offset;
        Ok(Self {
            cells: index,
            slots,
            bases: layout.table(&src, kind::FRAME_BASES, bases)?,
            offsets: layout.table(&src, kind::FRAME_OFFSETS, frames + 1)?,
            cells_per_frame,
            stored_len: if plain { data } else { summary.slots.get() * CELL_SIZE as u64 },
            metadata: metadata(&layout, &*src)?,
            digest: layout
                .bytes(&*src, kind::DIGEST)?
                .try_into()
                .map(Digest)
                .map_err(|_| field(digest_at, name(kind::DIGEST), "another size", "32 bytes"))?,
            cache: FrameCache::new(cells_per_frame as usize * CELL_SIZE),
            extents,
            summary,
            layout,
            src,
        })
    }

    /// Counts of the cells.
    pub fn stats(&self) -> Stats {
        let s = &self.summary;
        Stats {
            cells: s.cells.get(),
            zero_cells: s.cells.get() - s.non_zero_cells.get(),
            duplicate_cells: s.non_zero_cells.get() - s.slots.get(),
            stored_cells: s.slots.get(),
            frames: s.frames.get(),
        }
    }

    /// What the original was.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Names the original's content.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Ranges of the original that the cells cover.
    pub fn extents(&self) -> &[Range<u64>] {
        self.extents.ranges()
    }

    /// Whether `zstd -d` gives back the original.
    pub fn is_plain(&self) -> bool {
        self.layout.head.compatible.get() & COMPATIBLE_PLAIN != 0
    }

    /// Where physical pages lie in the original, as far as the archive says.
    pub fn page_map(&self) -> Result<Option<PageMap>> {
        page_map(&self.layout, &self.src)
    }

    /// The slot of a cell; `None` for a zero cell.
    fn slot_of(&self, cell: u64) -> Result<Option<u64>> {
        let Some(ordinal) = self.cells.find(Pfn(cell)) else { return Ok(None) };
        let slot = match &self.slots {
            None => ordinal,
            Some(table) => {
                let bits = u64::from(self.summary.slot_bits.get());
                let at = ordinal.saturating_mul(bits);
                let (word, shift) = ((at / 64) as usize, at % 64);
                match table.as_ref().get(word..word.saturating_add(2)) {
                    Some(two) => {
                        let two = u128::from(two[0]) | u128::from(two[1]) << 64;
                        (two >> shift) as u64 & ((1 << bits) - 1)
                    }
                    None => u64::MAX,
                }
            }
        };
        if slot >= self.summary.slots.get() {
            let expected = format!("below {}, the slots", self.summary.slots);
            return Err(field(self.layout.index_offset, name(kind::SLOT_TABLE), slot, expected));
        }
        Ok(Some(slot))
    }

    /// The original's bytes that a cell covers; `None` for a zero cell.
    pub(crate) fn non_zero_range(&self, cell: u64) -> Option<Range<u64>> {
        self.cells.find(Pfn(cell))?;
        self.extents.range_of(cell)
    }

    /// Checks what reading doesn't need.
    pub(crate) fn verify_seek_table(&self) -> Result<()> {
        // Holes of a plain archive are in frames too.
        let content = if self.is_plain() { self.len() } else { self.stored_len };
        self.layout.verify_seek_table(&*self.src, content)
    }

    /// The digest that these cells make with this index.
    pub(crate) fn digest_of(&self, cells: Digester) -> Digest {
        cells.finish(self.cells.words(), self.extents.ranges(), self.len())
    }

    /// [`ReadAt::read_at`] with this crate's errors.
    pub fn read(&self, off: u64, buf: &mut [u8]) -> Result<usize> {
        let len = self.summary.original_length.get();
        let end = len.min(off.saturating_add(buf.len() as u64));
        let total = end.saturating_sub(off) as usize;
        let mut rest = &mut buf[..total];
        let mut at = off;
        // The frame read last: cells that follow each other share frames.
        let mut last: Option<(u64, Arc<[u8]>)> = None;
        while !rest.is_empty() {
            let (index, extent) = match self.extents.at_or_after(at) {
                Some((index, extent)) if extent.start <= at => (index, extent.clone()),
                next => {
                    let until = next.map_or(end, |(_, e)| e.start.min(end));
                    let (hole, more) =
                        std::mem::take(&mut rest).split_at_mut((until - at) as usize);
                    hole.fill(0);
                    rest = more;
                    at = until;
                    continue;
                }
            };
            let cell = self.extents.cell_of(index, at);
            let within = ((at - extent.start) % CELL_SIZE as u64) as usize;
            let n = (CELL_SIZE - within).min((extent.end - at) as usize).min(rest.len());
            match self.slot_of(cell)? {
                None => rest[..n].fill(0),
                Some(slot) => {
                    if let Some(frame) = self.whole_frame(slot, cell, at, &extent, rest)? {
                        let len = self.frame_len(frame);
                        self.decode(frame, &mut rest[..len])?;
                        rest = &mut std::mem::take(&mut rest)[len..];
                        at += len as u64;
                        continue;
                    }
                    let frame = slot / self.cells_per_frame;
                    if last.as_ref().is_none_or(|l| l.0 != frame) {
                        last = Some((frame, self.frame(frame)?));
                    }
                    let start = (slot % self.cells_per_frame) as usize * CELL_SIZE + within;
                    let bytes = last.as_ref().and_then(|l| l.1.get(start..start + n));
                    let Some(bytes) = bytes else {
                        return Err(self.frame_error(frame, "it is shorter than its cells"));
                    };
                    rest[..n].copy_from_slice(bytes);
                }
            }
            rest = &mut std::mem::take(&mut rest)[n..];
            at += n as u64;
        }
        Ok(total)
    }

    /// The frame whose cells, in order, are just what is wanted next: it can
    /// be decompressed in place.
    fn whole_frame(
        &self,
        slot: u64,
        cell: u64,
        at: u64,
        extent: &Range<u64>,
        buf: &[u8],
    ) -> Result<Option<u64>> {
        let k = self.cells_per_frame;
        let len = k * CELL_SIZE as u64;
        if !slot.is_multiple_of(k)
            || !(at - extent.start).is_multiple_of(CELL_SIZE as u64)
            || (buf.len() as u64) < len
            || extent.end - at < len
            || slot + k > self.summary.slots.get()
        {
            return Ok(None);
        }
        for i in 1..k {
            if self.slot_of(cell + i)? != Some(slot + i) {
                return Ok(None);
            }
        }
        Ok(Some(slot / k))
    }
}

impl ReadAt for ArchiveReader {
    fn len(&self) -> u64 {
        self.summary.original_length.get()
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read(off, buf).map_err(io::Error::other)
    }

    fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
        let Some((index, extent)) = self.extents.at_or_after(off) else { return Ok(None) };
        let from = self.extents.cell_of(index, off.max(extent.start));
        let Some(run) = self.cells.next_run(from) else { return Ok(None) };
        let Some(first) = self.extents.range_of(run.start) else { return Ok(None) };
        let Some((_, extent)) = self.extents.at_or_after(first.start) else { return Ok(None) };
        let cells = run.end - run.start;
        let end = first.start.saturating_add(cells.saturating_mul(CELL_SIZE as u64));
        let start = first.start.max(off);
        Ok(Some(start..end.min(extent.end)))
    }
}

fn extents(layout: &Layout, src: &dyn ReadAt, len: u64) -> Result<Extents> {
    let at = layout.section(kind::EXTENTS)?.offset;
    let bytes = layout.bytes(src, kind::EXTENTS)?;
    let ranges = bytes
        .chunks_exact(size_of::<Extent>())
        .filter_map(|b| Extent::read_from_bytes(b).ok())
        .map(|e| e.start.get()..e.end.get())
        .collect();
    Extents::new(ranges, len).map_err(|bad| {
        let off = at + (bad.index * size_of::<Extent>()) as u64;
        field(off, "extents", bad.found, format!("ascending ranges that end by {len:#x}"))
    })
}

fn metadata(layout: &Layout, src: &dyn ReadAt) -> Result<Metadata> {
    let at = layout.section(kind::METADATA)?.offset;
    serde_json::from_slice(&layout.bytes(src, kind::METADATA)?)
        .map_err(|e| field(at, name(kind::METADATA), e, "a JSON object"))
}

fn page_map(layout: &Layout, src: &Arc<dyn ReadAt>) -> Result<Option<PageMap>> {
    if layout.optional(kind::SEGMENTS).is_some() {
        let loads = layout
            .bytes(&**src, kind::SEGMENTS)?
            .chunks_exact(size_of::<Segment>())
            .filter_map(|b| Segment::read_from_bytes(b).ok())
            .map(|s| PtLoad {
                p_paddr: s.p_paddr.get(),
                p_vaddr: s.p_vaddr.get(),
                p_offset: s.p_offset.get(),
                p_filesz: s.p_filesz.get(),
                p_memsz: s.p_memsz.get(),
            })
            .collect();
        return Ok(Some(PageMap::Segments(loads)));
    }
    let Some(section) = layout.optional(kind::PAGE_MAP) else { return Ok(None) };
    let bytes = layout.bytes(&**src, kind::PAGE_MAP)?;
    let (header, pairs) = PageMapHeader::read_from_prefix(&bytes).map_err(|_| {
        field(section.offset, name(kind::PAGE_MAP), bytes.len(), "24 bytes or more")
    })?;
    let pages = header.pages.get();
    let words = pages.div_ceil(64).next_multiple_of(4);
    let dump_avail = pairs
        .chunks_exact(size_of::<Extent>())
        .filter_map(|b| Extent::read_from_bytes(b).ok())
        .map(|e| (e.start.get(), e.end.get()))
        .collect();
    let words64 =
        |kind, len| Ok::<_, Error>(layout.table::<u64>(src, kind, len)?.as_ref().to_vec());
    Ok(Some(PageMap::Minidump(MinidumpPages {
        page_shift: header.page_shift.get(),
        first_page: header.first_page.get(),
        pages,
        dump_avail,
        words: words64(kind::PAGE_WORDS, words)?,
        blocks: layout.table::<u16>(src, kind::PAGE_BLOCKS, words / 4)?.as_ref().to_vec(),
        supers: words64(kind::PAGE_SUPERBLOCKS, words.div_ceil(1024) + 1)?,
    })))
}
