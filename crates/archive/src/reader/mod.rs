//! Reading archives: any byte of the original at the cost of one small
//! frame.

mod bits;
mod bytes;
mod cache;
mod extents;
pub(crate) mod frames;
mod pages;
pub(crate) mod scatter;
mod section;
pub(crate) mod sections;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use vmcask_dump::minidump::{MapShape, PageMap as FindPages};
use vmcask_dump::{Pfn, PhysAddr, ReadAt};
use zerocopy::FromBytes;

use crate::checkpoint::Window;
use crate::digest::{Digest, Digester};
use crate::error::Result;
use crate::layout::{
    CELL_SIZE, COMPATIBLE_PLAIN, FRAMES_PER_BASE, Head, MAX_HOLE_FRAME, MAX_ORIGINAL_LEN,
    MAX_SMALL_SECTION, Summary, kind,
};
use crate::plan::{Metadata, PageMap};
use bits::Bits;
use cache::FrameCache;
use extents::ExtentTable;
use pages::LazyPages;
use section::Section;
use sections::{Layout, field, name, read};

/// Errors of one sort that verification keeps.
const LISTED_ERRORS: usize = 100;

/// An open archive: the original's bytes through [`ReadAt`], from any number
/// of threads, and where physical addresses lie in it.
///
/// Opening takes some page faults, whatever the archive's size. 8 MiB of
/// decompressed frames are kept.
///
/// ```
/// use std::sync::{Arc, atomic::AtomicBool};
/// use vmcask_archive::{ArchiveReader, PageMap, Plan, PtLoad, WriteOptions, write};
/// use vmcask_dump::{PhysAddr, ReadAt};
///
/// // 64 pages of memory from 1 MiB on, behind a header.
/// let original: Vec<u8> = (0..65 * 1024u32).flat_map(u32::to_le_bytes).collect();
/// let memory = 4096..original.len() as u64;
/// let segment = PtLoad {
///     p_paddr: 1 << 20,
///     p_vaddr: 0,
///     p_offset: memory.start,
///     p_filesz: memory.end - memory.start,
///     p_memsz: memory.end - memory.start,
/// };
/// let mut plan = Plan::whole(original.len() as u64);
/// plan.page_map = Some(PageMap::Segments(vec![segment]));
/// let mut archive = Vec::new();
/// let go = AtomicBool::new(false);
/// write(&original, &plan, &WriteOptions::default(), &mut archive, &|_| {}, &go)?;
///
/// let reader = ArchiveReader::open(Arc::new(archive))?;
/// let (off, _bytes) = reader.locate(PhysAddr((1 << 20) + 8192))?.expect("a page of the dump");
/// std::thread::scope(|threads| {
///     for _ in 0..2 {
///         threads.spawn(|| {
///             let mut page = [0; 4096];
///             reader.read_exact_at(off, &mut page).unwrap();
///             assert_eq!(page, original[3 * 4096..4 * 4096]);
///         });
///     }
/// });
/// # Ok::<(), vmcask_archive::Error>(())
/// ```
pub struct ArchiveReader {
    src: Arc<dyn ReadAt>,
    layout: Layout,
    summary: Summary,
    extents: ExtentTable,
    /// Which cells are not zero, and how many of them come before each.
    cells: Bits,
    /// Slots of the non-zero cells; `None` where they are in order.
    slots: Option<Arc<Section>>,
    bases: Arc<Section>,
    offsets: Arc<Section>,
    checks: Arc<Section>,
    cells_per_frame: u64,
    /// 0: frames may be one block each.
    cells_per_block: u64,
    /// Bytes of all frames' contents.
    stored_len: u64,
    metadata: Metadata,
    digest: Digest,
    pages: LazyPages,
    cache: FrameCache,
    /// Frames that lie elsewhere than the index says, or nowhere.
    moved: HashMap<u64, Option<(u64, u64)>>,
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
    /// Opens the archive that `src` holds.
    ///
    /// Takes the same time whatever the archive's size: the directory and a
    /// few small sections are read; every other part of the index is checked
    /// against its checksum when it is first used. With a memory map it is
    /// used where it lies.
    pub fn open(src: Arc<dyn ReadAt>) -> Result<Self> {
        Self::open_index(src, false)
    }

    /// An index put together by recovery may lack cells whose slots exist.
    pub(crate) fn open_index(src: Arc<dyn ReadAt>, rebuilt: bool) -> Result<Self> {
        let layout = Layout::find(&*src)?;
        let section = layout.section(kind::SUMMARY)?;
        section.expect_len(size_of::<Summary>() as u64)?;
        let at = section.offset;
        let summary = Summary::read_from_bytes(&section.whole(&*src, MAX_SMALL_SECTION)?)
            .map_err(|_| field(at, name(kind::SUMMARY), "another size", "48 bytes"))?;
        let k = layout.head.cells_per_frame.get();
        let plain = layout.head.compatible.get() & COMPATIBLE_PLAIN != 0;
        check(&summary, at, k, plain, rebuilt)?;
        let (cells, non_zero) = (summary.cells.get(), summary.non_zero_cells.get());
        let (slots, frames) = (summary.slots.get(), summary.frames.get());
        let original_len = summary.original_length.get();
        let frame_len = u64::from(k) * CELL_SIZE as u64;
        let align = if plain { frame_len } else { 1 };
        let extents = ExtentTable::open(&layout, &*src, original_len, cells, align)?;
        let index = Bits::of_cells(&layout, &*src, cells)?;
        if index.total() != non_zero {
            let expected = format!("{}, the bits set", index.total());
            return Err(field(at, "non_zero_cells", non_zero, expected));
        }
        let bits = summary.slot_bits.get();
        let slot_table = match (bits, layout.optional(kind::SLOT_TABLE)) {
            (0, None) if slots == non_zero => None,
            (1..=48, Some(table)) => {
                // Below 2^48 cells and 2^6 bits.
                table.expect_len(((non_zero * u64::from(bits)).div_ceil(64) + 1) * 8)?;
                Some(table)
            }
            _ => {
                let expected = "1 to 48 with a slot table, or 0 and slots in order";
                return Err(field(at, "slot_bits", bits, expected));
            }
        };
        let bases = layout.section(kind::FRAME_BASES)?;
        bases.expect_len((frames + 1).div_ceil(FRAMES_PER_BASE as u64) * 8)?;
        let offsets = layout.section(kind::FRAME_OFFSETS)?;
        offsets.expect_len((frames + 1) * 4)?;
        let checks = layout.section(kind::FRAME_CHECKS)?;
        checks.expect_len(frames * 4)?;
        // A plain archive's frames hold whole cells but at the original's end.
        let cut = cells * CELL_SIZE as u64;
        let stored_len = if plain {
            plain_len(&extents, &*src, original_len, cut)?
        } else {
            slots * CELL_SIZE as u64
        };
        let digest = layout.section(kind::DIGEST)?;
        let digest_at = digest.offset;
        Ok(Self {
            cells: index,
            slots: slot_table,
            bases,
            offsets,
            checks,
            cells_per_frame: k.into(),
            cells_per_block: layout.head.cells_per_block.get().into(),
            stored_len,
            metadata: metadata(&layout, &*src)?,
            digest: digest
                .whole(&*src, MAX_SMALL_SECTION)?
                .try_into()
                .map(Digest)
                .map_err(|_| field(digest_at, name(kind::DIGEST), "another size", "32 bytes"))?,
            pages: LazyPages::default(),
            // A rebuilt index has its checks from the frames as they are.
            cache: FrameCache::new(frame_len as usize, !rebuilt),
            moved: HashMap::new(),
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
            duplicate_cells: s.non_zero_cells.get().saturating_sub(s.slots.get()),
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
    pub fn extents(&self) -> Result<Vec<Range<u64>>> {
        let mut ranges = Vec::new();
        self.extents.for_each(&*self.src, |e| ranges.push(e.range.clone()))?;
        Ok(ranges)
    }

    /// Whether `zstd -d` gives back the original.
    pub fn is_plain(&self) -> bool {
        self.layout.head.compatible.get() & COMPATIBLE_PLAIN != 0
    }

    /// Where physical pages lie in the original, as far as the archive says:
    /// a copy of all of it. [`ArchiveReader::locate`] answers for one address
    /// at once.
    pub fn page_map(&self) -> Result<Option<PageMap>> {
        self.pages.get(&self.layout, &*self.src)?.to_plan(&self.layout, &*self.src)
    }

    /// Offset in the original of the byte of memory at `pa`, and how many
    /// bytes of memory go on from there; `None` where it wasn't dumped or the
    /// archive doesn't say. Nothing is decompressed. The original may have
    /// been cut off before that offset.
    pub fn locate(&self, pa: PhysAddr) -> Result<Option<(u64, u64)>> {
        self.pages.get(&self.layout, &*self.src)?.locate(&*self.src, pa)
    }

    /// The page map of the minidump that the archive holds, for
    /// [`vmcask_dump::Minidump::open_mapped`]; `None` for everything else.
    pub fn minidump_pages(self: &Arc<Self>) -> Result<Option<Arc<dyn FindPages>>> {
        let shape = self.pages.get(&self.layout, &*self.src)?.shape();
        let archive = self.clone();
        Ok(shape.map(|shape| Arc::new(ArchivedPages { archive, shape }) as Arc<dyn FindPages>))
    }

    /// Where the bytes of all data frames lie: before the index.
    pub(crate) fn data_end(&self) -> u64 {
        self.layout.index_offset
    }

    pub(crate) fn src(&self) -> &dyn ReadAt {
        &*self.src
    }

    /// Tells that `frame` lies at another offset and has that many bytes, or
    /// that it is lost. Recovery alone does this, before anything is read.
    pub(crate) fn set_moved(&mut self, frame: u64, place: Option<(u64, u64)>) {
        self.moved.insert(frame, place);
    }

    pub(crate) fn set_stored_len(&mut self, len: u64) {
        self.stored_len = len;
    }

    /// What the end of `frame` must be.
    pub(crate) fn frame_check(&self, frame: u64) -> Result<u32> {
        self.checks.u32(&*self.src, frame)
    }

    pub(crate) fn frame_of_slot(&self, slot: u64) -> u64 {
        slot / self.cells_per_frame
    }

    /// Every extent, in order: its range and the number of its first cell.
    pub(crate) fn for_each_extent(&self, mut f: impl FnMut(&Range<u64>, u64)) -> Result<()> {
        self.extents.for_each(&*self.src, |e| f(&e.range, e.first_cell))
    }

    /// The slot of a cell; `None` for a zero cell.
    #[inline]
    pub(crate) fn slot_of(&self, cell: u64) -> Result<Option<u64>> {
        let ordinal = self.cells.find(&*self.src, cell)?;
        ordinal.map(|ordinal| self.slot_at(ordinal)).transpose()
    }

    /// The slot of a cell with so many non-zero ones before it.
    #[inline]
    fn slot_at(&self, ordinal: u64) -> Result<u64> {
        let src = &*self.src;
        let slot = match &self.slots {
            None => ordinal,
            Some(table) => {
                let bits = u64::from(self.summary.slot_bits.get());
                let (word, shift) = (ordinal * bits / 64, ordinal * bits % 64);
                let low = table.u64(src, word)?;
                let high = if shift + bits > 64 { table.u64(src, word + 1)? } else { 0 };
                let two = u128::from(low) | u128::from(high) << 64;
                (two >> shift) as u64 & ((1 << bits) - 1)
            }
        };
        if slot >= self.summary.slots.get() {
            let expected = format!("below {}, the slots", self.summary.slots);
            return Err(field(self.layout.index_offset, name(kind::SLOT_TABLE), slot, expected));
        }
        Ok(slot)
    }

    /// The original's bytes that a cell covers; `None` for a zero cell.
    pub(crate) fn non_zero_range(&self, cell: u64) -> Result<Option<Range<u64>>> {
        match self.cells.find(&*self.src, cell)? {
            Some(_) => self.extents.range_of(&*self.src, cell),
            None => Ok(None),
        }
    }

    /// Checks the seek table against the frames themselves, and the frames
    /// that the index doesn't name: checkpoints and, in plain archives, those
    /// of zeros.
    pub(crate) fn verify_other_frames(&self) -> Vec<crate::Error> {
        let src = &*self.src;
        let mut errors = Vec::new();
        let mut zeros = frames::Zeros::default();
        let mut frame = 0;
        let mut each = |off: u64, len: u32, content: u32| {
            let is_data = frame < self.summary.frames.get()
                && self.frame_range(frame).is_ok_and(|(start, _)| start == off);
            if is_data {
                frame += 1;
                if content as usize == self.frame_len(frame - 1) {
                    return;
                }
            } else if off >= self.layout.index_offset || off < size_of::<Head>() as u64 {
                // Head, index and locator have been looked at; their sizes
                // are in the sum.
                return;
            } else if content == 0 {
                let bytes = read(src, off, len as usize, "checkpoint");
                if bytes.is_ok_and(|b| Window::decode(&b).is_some()) {
                    return;
                }
                errors.push(crate::Error::Checksum { part: "checkpoint", off, len: len.into() });
                return;
            } else if self.is_plain() && content <= MAX_HOLE_FRAME {
                let bytes = read(src, off, len as usize, "frame of zeros").unwrap_or_default();
                if zeros.are_in(bytes, content as usize) {
                    return;
                }
            }
            errors.push(field(
                off,
                "seek table",
                format!("{len} bytes, content {content}"),
                "a frame",
            ));
        };
        // Holes of a plain archive are in frames too.
        let content = if self.is_plain() { self.len() } else { self.stored_len };
        let sums = self.layout.verify_seek_table(src, content, &mut each);
        errors.truncate(LISTED_ERRORS);
        errors.extend(sums.err());
        errors
    }

    /// Checks every section of the index, and what they say of each other.
    pub(crate) fn verify_index(&self) -> Vec<crate::Error> {
        let src = &*self.src;
        let sections = self.layout.sections();
        let mut errors: Vec<_> =
            sections.filter_map(|s| s.for_each_chunk(src, |_| ()).err()).collect();
        if errors.is_empty() {
            errors.extend(self.extents.for_each(src, |_| ()).err());
            errors.extend(self.cells.verify(src).err());
            errors.extend(self.layout.verify_gaps(src).err());
        }
        errors
    }

    /// The digest that these cells make with this index.
    pub(crate) fn digest_of(&self, mut cells: Digester) -> Result<Digest> {
        self.cells.for_each_chunk(&*self.src, |words| cells.words(words))?;
        self.extents.for_each(&*self.src, |e| cells.extent(&e.range))?;
        Ok(cells.finish(self.len()))
    }
}

struct ArchivedPages {
    archive: Arc<ArchiveReader>,
    shape: MapShape,
}

impl FindPages for ArchivedPages {
    fn shape(&self) -> MapShape {
        self.shape
    }

    fn ordinal(&self, pfn: Pfn) -> io::Result<Option<u64>> {
        let a = &*self.archive;
        let pages = a.pages.get(&a.layout, &*a.src).map_err(io::Error::other)?;
        pages.ordinal(&*a.src, pfn).map_err(io::Error::other)
    }
}

/// What the counts say of each other. Behind this, sums and products of them
/// stay below 2^63.
fn check(
    summary: &Summary,
    at: u64,
    cells_per_frame: u32,
    plain: bool,
    rebuilt: bool,
) -> Result<()> {
    let bad =
        |what: &'static str, found: u64, expected: String| Err(field(at, what, found, expected));
    let (cells, non_zero) = (summary.cells.get(), summary.non_zero_cells.get());
    let (slots, frames) = (summary.slots.get(), summary.frames.get());
    let original_len = summary.original_length.get();
    if original_len > MAX_ORIGINAL_LEN {
        return bad("original_length", original_len, "at most 2^60".into());
    }
    if cells > original_len {
        return bad("cells", cells, format!("at most {original_len}, the original's bytes"));
    }
    // An index of 4 GiB has room for 2^35 bits.
    if cells > 1 << 35 {
        return bad("cells", cells, "at most 2^35".into());
    }
    if summary.cells_per_frame.get() != cells_per_frame {
        let expected = format!("{cells_per_frame}, as the head says");
        return bad("cells_per_frame", summary.cells_per_frame.get().into(), expected);
    }
    if non_zero > cells || (plain && non_zero < cells) {
        return bad("non_zero_cells", non_zero, format!("as fits {cells} cells"));
    }
    if (slots > non_zero && !(rebuilt && slots <= 1 << 36))
        || (slots == 0) != (non_zero == 0)
        || (plain && slots < cells)
    {
        return bad("slots", slots, format!("as fits {non_zero} non-zero cells"));
    }
    if frames != slots.div_ceil(cells_per_frame.into()) {
        return bad("frames", frames, format!("as many as {slots} slots need"));
    }
    Ok(())
}

/// Bytes that a plain archive's data frames hold: whole cells, but where the
/// last extent ends with the original.
fn plain_len(extents: &ExtentTable, src: &dyn ReadAt, len: u64, whole: u64) -> Result<u64> {
    let last = extents.last(src)?;
    let short = last
        .filter(|e| e.range.end == len)
        .map_or(0, |e| e.cells() * CELL_SIZE as u64 - (e.range.end - e.range.start));
    Ok(whole - short)
}

fn metadata(layout: &Layout, src: &dyn ReadAt) -> Result<Metadata> {
    let section = layout.section(kind::METADATA)?;
    serde_json::from_slice(&section.whole(src, MAX_SMALL_SECTION)?)
        .map_err(|e| field(section.offset, name(kind::METADATA), e, "a JSON object"))
}
