//! Writing the index frame and the locator.

use vmcask_rank::{AvailRanges, OwnedRankIndex, PageBitmap};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::pipeline::Data;
use super::spill::Spill;
use super::{Output, Written};
use crate::digest::{checksum, checksum32};
use crate::error::{Error, Result};
use crate::extents::Extents;
use crate::layout::{
    CHECKSUM_LEN, CHUNK_LEN, DirectoryEntry, Extent, Head, INDEX_FRAME, LOCATOR_FRAME,
    LOCATOR_MAGIC, Locator, PageMapHeader, SECTION_ALIGN, SKIPPABLE_HEADER_LEN, Segment, Summary,
    kind,
};
use crate::plan::{MinidumpPages, PageMap, Plan};

/// The content of a section: what it is made from, so that a large one need
/// not exist as bytes.
enum Content<'a> {
    Bytes(Vec<u8>),
    U64s(&'a [u64]),
    U16s(&'a [u16]),
    Slots(SlotTable<'a>),
    Spilled(&'a Spill),
}

impl Content<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(b) => b.len() as u64,
            Self::U64s(w) => w.len() as u64 * 8,
            Self::U16s(w) => w.len() as u64 * 2,
            Self::Slots(t) => t.words() * 8,
            Self::Spilled(s) => s.len(),
        }
    }

    fn write(&self, to: &mut Chunks<'_, '_>) -> Result<()> {
        match self {
            Self::Bytes(b) => to.bytes(b),
            Self::U64s(words) => words.iter().try_for_each(|w| to.bytes(&w.to_le_bytes())),
            Self::U16s(words) => words.iter().try_for_each(|w| to.bytes(&w.to_le_bytes())),
            Self::Slots(table) => table.write(to),
            Self::Spilled(spill) => spill.read(4, |bytes| to.bytes(bytes)),
        }
    }
}

/// Slots of all non-zero cells, told by the exceptions: any other cell takes
/// the slot behind the highest so far.
struct SlotTable<'a> {
    exceptions: &'a Spill,
    non_zero: u64,
    bits: u32,
}

impl SlotTable<'_> {
    /// One word more than needed: a reader may take two words at a time.
    fn words(&self) -> u64 {
        (self.non_zero * u64::from(self.bits)).div_ceil(64) + 1
    }

    fn write(&self, to: &mut Chunks<'_, '_>) -> Result<()> {
        let (mut ordinal, mut next_slot) = (0, 0);
        let mut pending = 0u128;
        let mut filled = 0;
        let mut put = |slot: u64| {
            next_slot = next_slot.max(slot + 1);
            pending |= u128::from(slot) << filled;
            filled += self.bits;
            if filled >= 64 {
                to.bytes(&(pending as u64).to_le_bytes())?;
                pending >>= 64;
                filled -= 64;
            }
            Ok(next_slot)
        };
        let mut next = 0;
        self.exceptions.read(16, |records| {
            for [at, slot] in records.as_chunks::<8>().0.as_chunks::<2>().0 {
                let at = u64::from_le_bytes(*at);
                while ordinal < at {
                    next = put(next)?;
                    ordinal += 1;
                }
                next = put(u64::from_le_bytes(*slot))?;
                ordinal += 1;
            }
            Ok(())
        })?;
        while ordinal < self.non_zero {
            next = put(next)?;
            ordinal += 1;
        }
        if filled > 0 {
            to.bytes(&(pending as u64).to_le_bytes())?;
        }
        to.bytes(&[0; 8])
    }
}

/// Writes a section and takes the checksum of each of its chunks.
struct Chunks<'a, 'b> {
    out: &'a mut Output<'b>,
    chunk: Vec<u8>,
    checksums: &'a mut Vec<[u8; CHECKSUM_LEN]>,
}

impl Chunks<'_, '_> {
    fn bytes(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let n = (CHUNK_LEN - self.chunk.len()).min(bytes.len());
            let (now, rest) = bytes.split_at(n);
            self.chunk.extend_from_slice(now);
            bytes = rest;
            if self.chunk.len() == CHUNK_LEN {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.chunk.is_empty() {
            self.checksums.push(checksum(&self.chunk));
            self.out.bytes(&self.chunk)?;
            self.chunk.clear();
        }
        Ok(())
    }
}

/// Writes index and locator. The counts in the answer are final, its length
/// is not.
pub(crate) fn write(
    data: Data,
    extents: &Extents,
    plan: &Plan,
    original_len: u64,
    head: &Head,
    out: &mut Output<'_>,
) -> Result<Written> {
    let cells = extents.cells();
    // The end of the last one is noted too.
    let frames = data.offsets.len().saturating_sub(1);
    let stored = AvailRanges::identity(cells);
    let cell_index = OwnedRankIndex::build(PageBitmap::from_words(data.words, cells), stored);
    let mut digester = data.digester;
    for word in cell_index.words() {
        digester.words(&word.to_le_bytes());
    }
    for extent in extents.ranges() {
        digester.extent(extent);
    }
    let digest = digester.finish(original_len);

    let in_order = data.exceptions.len() == 0;
    let slot_bits =
        if in_order { 0 } else { u64::BITS - data.slots.saturating_sub(1).leading_zeros() }.max(
            // One slot and many duplicates of it: a width all the same.
            u32::from(!in_order),
        );
    let summary = Summary {
        original_length: original_len.into(),
        cells: cells.into(),
        non_zero_cells: data.non_zero.into(),
        slots: data.slots.into(),
        frames: frames.into(),
        slot_bits: slot_bits.into(),
        cells_per_frame: head.cells_per_frame,
    };
    let extent_bytes = extents
        .ranges()
        .iter()
        .enumerate()
        .flat_map(|(i, e)| {
            let first = extents.first_cell(i);
            let e = Extent { start: e.start.into(), end: e.end.into(), first_cell: first.into() };
            e.as_bytes().to_vec()
        })
        .collect();
    let metadata = serde_json::to_vec(&plan.metadata)
        .map_err(|e| Error::Plan(format!("its metadata is no JSON: {e}")))?;

    let mut sections = vec![
        (kind::SUMMARY, Content::Bytes(summary.as_bytes().to_vec())),
        (kind::EXTENTS, Content::Bytes(extent_bytes)),
        (kind::CELL_WORDS, Content::U64s(cell_index.words())),
        (kind::CELL_BLOCKS, Content::U16s(cell_index.blocks())),
        (kind::CELL_SUPERBLOCKS, Content::U64s(cell_index.supers())),
    ];
    if !in_order {
        let table =
            SlotTable { exceptions: &data.exceptions, non_zero: data.non_zero, bits: slot_bits };
        sections.push((kind::SLOT_TABLE, Content::Slots(table)));
    }
    sections.push((kind::FRAME_BASES, Content::U64s(&data.offsets.bases)));
    sections.push((kind::FRAME_OFFSETS, Content::Spilled(&data.offsets.from_base)));
    sections.push((kind::FRAME_CHECKS, Content::Spilled(&data.frame_checks)));
    match &plan.page_map {
        Some(PageMap::Minidump(pages)) => {
            sections.push((kind::PAGE_MAP, Content::Bytes(page_map(pages))));
            sections.push((kind::PAGE_WORDS, Content::U64s(&pages.words)));
            sections.push((kind::PAGE_BLOCKS, Content::U16s(&pages.blocks)));
            sections.push((kind::PAGE_SUPERBLOCKS, Content::U64s(&pages.supers)));
        }
        Some(PageMap::Segments(loads)) => {
            let bytes = loads.iter().flat_map(|l| {
                let s = Segment {
                    p_paddr: l.p_paddr.into(),
                    p_vaddr: l.p_vaddr.into(),
                    p_offset: l.p_offset.into(),
                    p_filesz: l.p_filesz.into(),
                    p_memsz: l.p_memsz.into(),
                };
                s.as_bytes().to_vec()
            });
            sections.push((kind::SEGMENTS, Content::Bytes(bytes.collect())));
        }
        None => {}
    }
    sections.push((kind::METADATA, Content::Bytes(metadata)));
    sections.push((kind::DIGEST, Content::Bytes(digest.0.to_vec())));
    write_sections(&sections, head, out)?;
    Ok(Written {
        bytes: 0,
        cells,
        zero_cells: cells - data.non_zero,
        duplicate_cells: data.non_zero - data.slots.min(data.non_zero),
        stored_cells: data.slots,
        digest,
    })
}

fn write_sections(
    sections: &[(u32, Content<'_>)],
    head: &Head,
    out: &mut Output<'_>,
) -> Result<()> {
    let frame_start = out.at;
    let mut end = frame_start + SKIPPABLE_HEADER_LEN as u64;
    let mut chunks = 0;
    for (_, content) in sections {
        end = end.next_multiple_of(SECTION_ALIGN) + content.len();
        chunks += content.len().div_ceil(CHUNK_LEN as u64);
    }
    let checksums_start = end.next_multiple_of(SECTION_ALIGN);
    let directory_offset = checksums_start + chunks * CHECKSUM_LEN as u64;
    let frame_end = directory_offset + (sections.len() * size_of::<DirectoryEntry>()) as u64;
    let size = frame_end - frame_start - SKIPPABLE_HEADER_LEN as u64;
    let size = u32::try_from(size).map_err(|_| {
        Error::Plan("its index would be larger than 4 GiB; use larger frames".into())
    })?;
    out.bytes(&INDEX_FRAME.to_le_bytes())?;
    out.bytes(&size.to_le_bytes())?;

    let mut checksums = Vec::with_capacity(chunks as usize);
    let mut directory = Vec::with_capacity(sections.len());
    for (kind, content) in sections {
        out.pad_to(SECTION_ALIGN)?;
        let (offset, first) = (out.at, checksums.len());
        let mut to = Chunks { out, chunk: Vec::new(), checksums: &mut checksums };
        content.write(&mut to)?;
        to.flush()?;
        directory.push(DirectoryEntry {
            kind: (*kind).into(),
            flags: U32::ZERO,
            offset: offset.into(),
            length: content.len().into(),
            checksum: checksum(checksums[first..].as_flattened()),
        });
        debug_assert_eq!(out.at, offset + content.len());
    }
    out.pad_to(SECTION_ALIGN)?;
    debug_assert_eq!(out.at, checksums_start);
    out.bytes(checksums.as_flattened())?;
    out.bytes(directory.as_bytes())?;
    out.named(out.at - frame_start, 0)?;

    let mut locator = Locator {
        frame_magic: LOCATOR_FRAME.into(),
        frame_size: ((size_of::<Locator>() - SKIPPABLE_HEADER_LEN) as u32).into(),
        magic: LOCATOR_MAGIC,
        index_offset: frame_start.into(),
        index_length: (frame_end - frame_start).into(),
        directory_offset: directory_offset.into(),
        sections: (sections.len() as u32).into(),
        head_checksum: checksum32(head.as_bytes()),
        directory_checksum: checksum(directory.as_bytes()),
        checksum: [0; CHECKSUM_LEN],
    };
    let covered = SKIPPABLE_HEADER_LEN..size_of::<Locator>() - CHECKSUM_LEN;
    locator.checksum = checksum(&locator.as_bytes()[covered]);
    out.frame(locator.as_bytes(), 0)
}

fn page_map(pages: &MinidumpPages) -> Vec<u8> {
    let header = PageMapHeader {
        page_shift: pages.page_shift.into(),
        reserved: U32::ZERO,
        first_page: pages.first_page.into(),
        pages: pages.pages.into(),
    };
    let mut bytes = header.as_bytes().to_vec();
    for &(start, end) in &pages.dump_avail {
        bytes.extend_from_slice(&start.to_le_bytes());
        bytes.extend_from_slice(&end.to_le_bytes());
    }
    bytes
}
