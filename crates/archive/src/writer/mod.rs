//! Writing archives: one pass over the source, memory bounded whatever its
//! length.

mod dedup;
pub(crate) mod index;
mod ordered;
pub(crate) mod pipeline;
mod sample;
mod similar;
pub(crate) mod spill;
mod workers;

use std::io::Write;
use std::sync::atomic::AtomicBool;

use zerocopy::IntoBytes;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::extents::Extents;
use crate::layout::{
    CELL_SIZE, COMPATIBLE_PLAIN, DEFAULT_CELLS_PER_BLOCK, DEFAULT_CELLS_PER_FRAME, FORMAT_VERSION,
    HEAD_FRAME, HEAD_MAGIC, Head, LARGE, LARGE_CELLS_PER_BLOCK, LARGE_CELLS_PER_FRAME,
    MAX_CELLS_PER_FRAME, MAX_FRAMES, MAX_ORIGINAL_LEN, MIDDLE_CELLS_PER_BLOCK,
    MIDDLE_CELLS_PER_FRAME, SEEK_ENTRY_LEN, SEEK_FOOTER_LEN, SEEK_TABLE_FRAME, SEEKABLE_MAGIC,
    SKIPPABLE_HEADER_LEN, SeekEntry, WINDOW_CELLS,
};
use crate::plan::Plan;
use vmcask_dump::ReadAt;

/// How to write.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// zstd level, 1 to 22.
    pub level: i32,
    /// Cells in a frame, 1 to 4096: what has to be decompressed to get at one.
    pub cells_per_frame: u32,
    /// Cells in a block of a frame: a reader that wants one of the first needn't
    /// decompress the rest. 0, or as many as a frame has, or in a plain archive:
    /// frames are as zstd makes them.
    pub cells_per_block: u32,
    /// Threads that hash and compress, at least 1.
    pub threads: usize,
    /// No zero and no duplicate cells: `zstd -d` gives back the original.
    pub plain: bool,
    /// Cells that a checkpoint describes, 1 to 4096: of an archive that is cut
    /// off, no more of them are lost beyond the frames that are missing.
    pub cells_per_checkpoint: u32,
    /// Bytes for the table that finds duplicates.
    pub dedup_memory: usize,
    /// Cells that are put in order of resemblance together, some 500 bytes of
    /// memory each; the source is read twice then. 0 leaves them in the file's
    /// order, as in plain archives, those of streams, and with more than 64
    /// cells a frame.
    pub cells_in_order: u32,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            level: 3,
            cells_per_frame: DEFAULT_CELLS_PER_FRAME,
            cells_per_block: DEFAULT_CELLS_PER_BLOCK,
            threads: 1,
            plain: false,
            cells_per_checkpoint: WINDOW_CELLS as u32,
            dedup_memory: 96 << 20,
            cells_in_order: 3 << 16,
        }
    }
}

impl WriteOptions {
    /// The default for what is to be archived: frames of 24 KiB, as large as gives
    /// a page in 16 microseconds where much of them is copied, or smaller ones.
    ///
    /// From a GiB on they are: there pages find others that resemble them all the
    /// same, and each costs more, as little of the archive is in a processor's
    /// cache. Of a smaller source a MiB at most is looked at, in 64 places: what
    /// compresses less takes longer to decompress. `None`, as for a source that is
    /// costly to read twice, takes the default there; so does a stream.
    pub fn suited_to(plan: &Plan, src: Option<&dyn ReadAt>) -> Self {
        let bytes: u64 = plan.extents.iter().map(|e| e.end.saturating_sub(e.start)).sum();
        let of_frames = |cells_per_frame, cells_per_block| Self {
            cells_per_frame,
            cells_per_block,
            ..Self::default()
        };
        let large = of_frames(LARGE_CELLS_PER_FRAME, LARGE_CELLS_PER_BLOCK);
        if plan.open_end {
            return Self::default();
        }
        if bytes >= LARGE {
            return large;
        }
        // Measured: FORMAT.md 17.
        match src.and_then(|src| sample::ratio(src, &plan.extents)) {
            Some(ratio) if ratio < 2.7 => large,
            Some(ratio) if ratio < 4.2 => of_frames(MIDDLE_CELLS_PER_FRAME, MIDDLE_CELLS_PER_BLOCK),
            _ => Self::default(),
        }
    }

    /// The same for a writer that is to take about `bytes` of memory in all, from
    /// 64 MiB on; the defaults take about 256 MiB. With less, fewer cells that
    /// are alike find each other.
    #[must_use]
    pub fn within(self, bytes: u64) -> Self {
        Self {
            dedup_memory: usize::try_from(bytes / 8 * 3).unwrap_or(usize::MAX),
            cells_in_order: u64::from(self.cells_in_order).min(bytes / 4096 * 3) as u32,
            ..self
        }
    }

    /// What the head says: 0 where frames aren't cut into blocks.
    pub(crate) fn cells_of_blocks(&self) -> u32 {
        let cut = self.cells_per_block < self.cells_per_frame && !self.plain;
        if cut { self.cells_per_block } else { 0 }
    }

    /// Cells to be put in order of resemblance together, unless 0.
    fn order(&self, open_end: bool) -> u32 {
        // zstd finds what lies close in larger frames by itself.
        let never = self.plain || open_end || self.cells_per_frame > 64;
        if never { 0 } else { self.cells_in_order }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the archive.
    pub bytes: u64,
    /// Cells of the original.
    pub cells: u64,
    /// Those that are zero.
    pub zero_cells: u64,
    /// Those that share a slot with an earlier one.
    pub duplicate_cells: u64,
    /// Slots.
    pub stored_cells: u64,
    /// Names the content.
    pub digest: Digest,
}

/// Writes an archive of `src` to `out`.
///
/// `progress` is told the bytes of the extents done so far; once `cancelled`
/// is set the call ends with [`Error::Cancelled`]. The output is worthless
/// unless the call succeeds.
///
/// ```
/// use std::sync::{Arc, atomic::AtomicBool};
/// use vmcask_archive::{ArchiveReader, Plan, WriteOptions, write};
/// use vmcask_dump::ReadAt;
///
/// let original = b"panic: page fault".repeat(1000);
/// let mut archive = Vec::new();
/// let plan = Plan::whole(original.len() as u64);
/// write(&original, &plan, &WriteOptions::default(), &mut archive, &|_| {}, &AtomicBool::new(false))?;
///
/// let reader = ArchiveReader::open(Arc::new(archive))?;
/// let mut word = [0; 5];
/// reader.read_exact_at(17 * 500, &mut word).unwrap();
/// assert_eq!(&word, b"panic");
/// # Ok::<(), vmcask_archive::Error>(())
/// ```
pub fn write(
    src: &dyn ReadAt,
    plan: &Plan,
    opts: &WriteOptions,
    out: &mut dyn Write,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<Written> {
    if opts.cells_per_frame == 0 || opts.cells_per_frame > MAX_CELLS_PER_FRAME {
        return Err(Error::Plan(format!(
            "{} cells a frame; 1 to {MAX_CELLS_PER_FRAME} are possible",
            opts.cells_per_frame
        )));
    }
    if !(1..=WINDOW_CELLS).contains(&opts.cells_per_checkpoint.into()) {
        return Err(Error::Plan(format!(
            "{} cells a checkpoint; 1 to {WINDOW_CELLS} are possible",
            opts.cells_per_checkpoint
        )));
    }
    if src.len() > MAX_ORIGINAL_LEN {
        return Err(Error::Plan(format!("{} bytes; 2^60 are possible", src.len())));
    }
    let checked = |ranges| {
        Extents::new(ranges, src.len())
            .map_err(|bad| Error::Plan(format!("extent {} is {}", bad.index, bad.found)))
    };
    let mut extents = checked(plan.extents.clone())?;
    if opts.plain && plan.open_end {
        extents = checked(Plan::whole(src.len()).extents)?;
    } else if opts.plain {
        let k = opts.cells_per_frame;
        extents = checked(pipeline::whole_frames(extents.ranges(), src.len(), k))?;
    }

    let mut out = Output::new(out);
    let head = head(opts.cells_per_frame, opts.cells_of_blocks(), opts.plain);
    out.frame(head.as_bytes(), 0)?;
    let mut data =
        pipeline::run(src, &extents, opts, plan.open_end, &mut out, progress, cancelled)?;
    let (extents, len) = match data.end {
        None => (extents, src.len()),
        Some(end) => (ended_at(&extents, end)?, end),
    };
    data.words.resize((extents.cells().div_ceil(64) as usize).next_multiple_of(4), 0);
    let written = index::write(data, &extents, plan, len, &head, &mut out)?;
    out.seek_table()?;
    out.inner.flush().map_err(Error::Write)?;
    Ok(Written { bytes: out.at, ..written })
}

/// The extents of a stream that has ended at `end`.
fn ended_at(extents: &Extents, end: u64) -> Result<Extents> {
    let mut ranges: Vec<_> = extents
        .ranges()
        .iter()
        .filter(|e| e.start < end)
        .map(|e| e.start..e.end.min(end))
        .collect();
    match ranges.last_mut() {
        Some(last) => last.end = end,
        None => ranges = Plan::whole(end).extents,
    }
    Extents::new(ranges, end)
        .map_err(|bad| Error::Plan(format!("extent {} is {}", bad.index, bad.found)))
}

/// `cells_per_block` of 0: frames may be one block each.
pub(crate) fn head(cells_per_frame: u32, cells_per_block: u32, plain: bool) -> Head {
    Head {
        frame_magic: HEAD_FRAME.into(),
        frame_size: ((size_of::<Head>() - SKIPPABLE_HEADER_LEN) as u32).into(),
        magic: HEAD_MAGIC,
        format_version: FORMAT_VERSION.into(),
        cell_size: (CELL_SIZE as u32).into(),
        cells_per_frame: cells_per_frame.into(),
        cells_per_block: cells_per_block.into(),
        incompatible: 0.into(),
        compatible: if plain { COMPATIBLE_PLAIN } else { 0 }.into(),
    }
}

/// The output with its position and the sizes of its frames.
pub(crate) struct Output<'a> {
    inner: &'a mut dyn Write,
    pub(crate) at: u64,
    /// Seek table entries of every frame.
    frames: spill::Spill,
}

impl<'a> Output<'a> {
    pub(crate) fn new(inner: &'a mut dyn Write) -> Self {
        Self { inner, at: 0, frames: spill::Spill::default() }
    }

    /// Writes a whole frame.
    fn frame(&mut self, bytes: &[u8], decompressed: u32) -> Result<()> {
        self.bytes(bytes)?;
        self.named(bytes.len() as u64, decompressed)
    }

    /// Notes a frame of `len` bytes that has been written.
    fn named(&mut self, len: u64, decompressed: u32) -> Result<()> {
        let len = u32::try_from(len).map_err(|_| {
            Error::Plan("its index would be larger than 4 GiB; use larger frames".into())
        })?;
        if self.frames.len() / SEEK_ENTRY_LEN as u64 == MAX_FRAMES {
            return Err(Error::Plan(
                "it would take more than 2^27 frames; use larger frames".into(),
            ));
        }
        let entry = SeekEntry { compressed: len.into(), decompressed: decompressed.into() };
        self.frames.push(entry.as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write_all(bytes).map_err(Error::Write)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn pad_to(&mut self, align: u64) -> Result<()> {
        let zeros = [0; 64];
        let n = self.at.next_multiple_of(align) - self.at;
        self.bytes(&zeros[..n as usize])
    }

    pub(crate) fn seek_table(&mut self) -> Result<()> {
        let frames = std::mem::take(&mut self.frames);
        // At most 2^27 entries.
        let size = frames.len() as usize + SEEK_FOOTER_LEN;
        self.bytes(&SEEK_TABLE_FRAME.to_le_bytes())?;
        self.bytes(&(size as u32).to_le_bytes())?;
        frames.read(SEEK_ENTRY_LEN, |entries| self.bytes(entries))?;
        let number = frames.len() / SEEK_ENTRY_LEN as u64;
        self.bytes(&(number as u32).to_le_bytes())?;
        self.bytes(&[0])?;
        self.bytes(&SEEKABLE_MAGIC.to_le_bytes())
    }
}
