//! What the worker threads do: hash cells, compress frames.

use std::ops::Range;

use zstd_safe::{CCtx, CParameter};

use super::WriteOptions;
use super::similar::{Lists, Sampling, features};
use crate::cell_hash::{CellHash, cell_hashes};
use crate::error::{Error, Result};
use crate::layout::{CELL_SIZE, LARGE_CELLS_PER_FRAME};
use vmcask_dump::ReadAt;
use vmcask_dump::source::Piece;

/// Consecutive cells of one extent: the first look at them.
pub(super) struct Hashed {
    /// Where they begin in the original.
    pub(super) start: u64,
    /// How many bytes they should have.
    pub(super) asked: usize,
    /// How many they have: fewer where a stream has ended.
    pub(super) len: usize,
    /// The bytes, unless they will be read again or are in frames already.
    pub(super) bytes: Vec<u8>,
    /// Of a plain archive: all of them, compressed.
    pub(super) frames: Frames,
    /// The hash of each cell, `None` for zero cells.
    pub(super) hashes: Vec<Option<CellHash>>,
    /// What is known of those that will be read again.
    pub(super) sketches: Sketches,
}

/// Of each cell its check and its features.
#[derive(Default)]
pub(super) struct Sketches {
    checks: Vec<u32>,
    features: Vec<u32>,
    /// Where those of each cell end.
    ends: Vec<u32>,
}

impl Sketches {
    fn push(&mut self, cell: &[u8], is_zero: bool, sampling: Sampling) {
        self.checks.push(if is_zero { 0 } else { crc32fast::hash(cell) });
        if !is_zero {
            features(cell, sampling, &mut self.features);
        }
        self.ends.push(self.features.len() as u32);
    }

    /// CRC-32 and features of the `n`-th cell.
    pub(super) fn get(&self, n: usize) -> (u32, &[u32]) {
        let end = |n: usize| self.ends[n] as usize;
        (self.checks[n], &self.features[n.checked_sub(1).map_or(0, end)..end(n)])
    }
}

/// A cell to be read a second time.
#[derive(Clone, Copy)]
pub(super) struct CellAt {
    pub(super) off: u64,
    pub(super) len: u32,
    /// CRC-32 of what was read the first time.
    pub(super) check: u32,
}

/// Compressed frames, one after the other.
#[derive(Default)]
pub(super) struct Frames {
    pub(super) bytes: Vec<u8>,
    /// Compressed and decompressed size of each.
    pub(super) sizes: Vec<(u32, u32)>,
}

pub(super) enum Job {
    /// Read a range of the original and hash its cells; where nothing else is to
    /// be decided about them, as in a plain archive, compress them too.
    Hash { seq: u64, range: Range<u64> },
    /// Cut slots into frames and compress them.
    Compress { seq: u64, slots: Vec<u8> },
    /// The same for cells that stand here and there.
    Gather { seq: u64, cells: Vec<CellAt> },
    /// Sort a part of the features.
    Sort { part: usize, noted: Vec<u64> },
}

pub(super) enum Done {
    Hashed { seq: u64, result: Result<Hashed> },
    Compressed { seq: u64, result: Result<Frames> },
    Sorted { part: usize, lists: Lists },
}

/// Bytes looked at a time where they needn't be kept: they stay in a core's
/// cache.
const PIECE_LEN: usize = 128 << 10;
/// The same where they are compressed, too: zstd's tables take most of the cache.
const PACKED_LEN: usize = 96 << 10;

/// A zstd block has 128 KiB at most.
const MOST_CELLS_A_BLOCK: u32 = 32;

/// What a worker keeps from job to job.
pub(super) struct Worker<'a> {
    src: &'a dyn ReadAt,
    frame_len: usize,
    plain: bool,
    /// Bytes of a plain archive's content read at a time.
    piece_len: usize,
    open_end: bool,
    sketch: Option<Sampling>,
    /// What goes no farther than this thread: its memory is used again, as
    /// pages that the kernel has to clear take longer than reading.
    buffer: Vec<u8>,
    /// A compressed frame.
    frame: Vec<u8>,
    context: CCtx<'a>,
}

impl<'a> Worker<'a> {
    /// `sketch`: note the cells' features.
    pub(super) fn new(
        src: &'a dyn ReadAt,
        opts: &WriteOptions,
        open_end: bool,
        sketch: bool,
    ) -> Result<Self> {
        let frame_len = opts.cells_per_frame as usize * CELL_SIZE;
        let mut context = CCtx::create();
        for parameter in [
            CParameter::CompressionLevel(opts.level),
            CParameter::ChecksumFlag(true),
            CParameter::ContentSizeFlag(true),
        ] {
            context.set_parameter(parameter).map_err(compress_error)?;
        }
        let block = opts.cells_of_blocks();
        if (1..=MOST_CELLS_A_BLOCK).contains(&block) {
            let block = CParameter::MaxBlockSize(block * CELL_SIZE as u32);
            context.set_parameter(block).map_err(compress_error)?;
        }
        if opts.level == 3 {
            // Matches from 5 bytes on instead of 4: 0.2 to 1.2 % larger, 4 to 9 % faster
            // to write and 6 % to read. On small dumps, whose archives are hardly
            // smaller than `zstd -3`'s, it would show. Plain archives are measured beside
            // libzstd at this level, and have its choice.
            if !opts.plain {
                let least = if opts.cells_per_frame <= LARGE_CELLS_PER_FRAME { 5 } else { 4 };
                context.set_parameter(CParameter::MinMatch(least)).map_err(compress_error)?;
            }
            // Its hash table for 20 to 32 KiB is the one for up to 128 KiB, of 256 KiB:
            // 64 KiB leave some of a core's cache to other things, 3 to 5 % faster and
            // less than 0.02 % larger.
            if (5..=8).contains(&opts.cells_per_frame) {
                context.set_parameter(CParameter::HashLog(14)).map_err(compress_error)?;
            }
        }
        // What decompresses, and not in this order, is asked for much at a time.
        let much = src.scatter(&[], 1, &|_: &[Piece<'_>]| Ok(()));
        let much = much.map_err(|source| Error::Read { off: 0, len: 0, source })?;
        Ok(Self {
            src,
            frame_len,
            plain: opts.plain,
            piece_len: if much { usize::MAX } else { PACKED_LEN.next_multiple_of(frame_len) },
            open_end,
            sketch: sketch.then(|| Sampling::suited_to(opts.cells_per_frame)),
            buffer: Vec::new(),
            frame: Vec::new(),
            context,
        })
    }

    pub(super) fn run(&mut self, job: Job) -> Done {
        match job {
            Job::Hash { seq, range } => Done::Hashed { seq, result: self.hash(&range) },
            Job::Compress { seq, slots } => {
                let mut frames = Frames::default();
                let result = self.compress(&slots, &mut frames).map(|()| frames);
                Done::Compressed { seq, result }
            }
            Job::Gather { seq, cells } => {
                let mut slots = std::mem::take(&mut self.buffer);
                slots.resize(cells.len() * CELL_SIZE, 0);
                let mut frames = Frames::default();
                let result = self.gather(&cells, &mut slots);
                let result = result.and_then(|()| self.compress(&slots, &mut frames));
                self.buffer = slots;
                Done::Compressed { seq, result: result.map(|()| frames) }
            }
            Job::Sort { part, noted } => Done::Sorted { part, lists: Lists::new(noted) },
        }
    }

    fn hash(&mut self, range: &Range<u64>) -> Result<Hashed> {
        let asked = (range.end - range.start) as usize;
        let mut hashed = Hashed {
            start: range.start,
            asked,
            len: 0,
            bytes: Vec::new(),
            frames: Frames::default(),
            hashes: Vec::with_capacity(asked.div_ceil(CELL_SIZE)),
            sketches: Sketches::default(),
        };
        if self.sketch.is_none() && !self.plain {
            hashed.bytes.resize(asked, 0);
            let (hashes, sketches) = (&mut hashed.hashes, &mut hashed.sketches);
            hashed.len = self.look(hashes, sketches, range.start, &mut hashed.bytes)?;
            hashed.bytes.truncate(hashed.len);
            return Ok(hashed);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let piece_len = if self.plain { self.piece_len } else { PIECE_LEN };
        for start in range.clone().step_by(piece_len) {
            let len = piece_len.min((range.end - start) as usize);
            buffer.resize(len.max(buffer.len()), 0);
            let (hashes, sketches) = (&mut hashed.hashes, &mut hashed.sketches);
            let n = self.look(hashes, sketches, start, &mut buffer[..len])?;
            hashed.len += n;
            if self.plain {
                self.compress(&buffer[..n], &mut hashed.frames)?;
            }
        }
        self.buffer = buffer;
        Ok(hashed)
    }

    /// Reads and hashes; how many bytes.
    fn look(
        &self,
        hashes: &mut Vec<Option<CellHash>>,
        sketches: &mut Sketches,
        start: u64,
        bytes: &mut [u8],
    ) -> Result<usize> {
        let len = bytes.len();
        let failed = |source| Error::Read { off: start, len, source };
        let n = if self.open_end {
            self.src.read_at(start, bytes).map_err(failed)?
        } else {
            self.src.read_exact_at(start, bytes).map_err(failed)?;
            len
        };
        let first = hashes.len();
        let mut kept = Vec::with_capacity(n.div_ceil(CELL_SIZE));
        for cell in bytes[..n].chunks(CELL_SIZE) {
            let is_zero = !self.plain && is_zero(cell);
            hashes.push((!is_zero).then_some(CellHash::default()));
            if !is_zero {
                kept.push(cell);
            }
            if let Some(sampling) = self.sketch {
                sketches.push(cell, is_zero, sampling);
            }
        }
        for (place, hash) in hashes[first..].iter_mut().flatten().zip(cell_hashes(&kept)) {
            *place = hash;
        }
        Ok(n)
    }

    /// Reads cells again; each takes a whole slot.
    fn gather(&self, cells: &[CellAt], mut rest: &mut [u8]) -> Result<()> {
        for run in
            cells.chunk_by(|a, b| a.len as usize == CELL_SIZE && a.off + u64::from(a.len) == b.off)
        {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(run.len() * CELL_SIZE);
            rest = later;
            let (start, len) = (run[0].off, run.iter().map(|c| c.len as usize).sum());
            let failed = |source| Error::Read { off: start, len, source };
            self.src.read_exact_at(start, &mut now[..len]).map_err(failed)?;
            for (cell, slot) in run.iter().zip(now.chunks_mut(CELL_SIZE)) {
                let (bytes, behind) = slot.split_at_mut(cell.len as usize);
                if crc32fast::hash(bytes) != cell.check {
                    return Err(Error::Changed { off: cell.off });
                }
                behind.fill(0);
            }
        }
        Ok(())
    }

    fn compress(&mut self, slots: &[u8], to: &mut Frames) -> Result<()> {
        for content in slots.chunks(self.frame_len) {
            let most = zstd_safe::compress_bound(content.len());
            self.frame.resize(most.max(self.frame.len()), 0);
            let n = self.context.compress2(&mut self.frame[..], content);
            let n = n.map_err(compress_error)?;
            to.bytes.extend_from_slice(&self.frame[..n]);
            to.sizes.push((n as u32, content.len() as u32));
        }
        Ok(())
    }
}

pub(super) fn compress_error(code: usize) -> Error {
    Error::Compress(zstd_safe::get_error_name(code).to_owned())
}

/// 16 bytes at a time, which the compiler turns into vectors.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|c| c.iter().fold(0, |a, b| a | b) == 0) && rest.iter().all(|&b| b == 0)
}

/// Threads that work on jobs until the sender is gone.
pub(super) fn spawn<'scope, 'env>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    mut worker: Worker<'env>,
    jobs: crossbeam_channel::Receiver<Job>,
    done: crossbeam_channel::Sender<Done>,
) where
    'env: 'scope,
{
    scope.spawn(move || {
        for job in jobs {
            // Nobody listens any more: the writer has failed.
            if done.send(worker.run(job)).is_err() {
                return;
            }
        }
    });
}
