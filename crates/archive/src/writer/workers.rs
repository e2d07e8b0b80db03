//! What the worker threads do: hash cells, compress frames.

use std::ops::Range;

use zstd_safe::{CCtx, CParameter};

use crate::digest::{CellHash, cell_hash};
use crate::error::{Error, Result};
use crate::layout::CELL_SIZE;
use vmcask_dump::ReadAt;

/// Consecutive cells of one extent.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// Offset of the first in the original.
    pub(super) start: u64,
}

impl Batch {
    /// The cells; the last may be short.
    pub(super) fn cells(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(CELL_SIZE)
    }
}

/// A batch with the hash of each cell, `None` for zero cells.
pub(super) struct Hashed {
    pub(super) batch: Batch,
    pub(super) hashes: Vec<Option<CellHash>>,
}

/// Compressed frames, one after the other.
pub(super) struct Frames {
    pub(super) bytes: Vec<u8>,
    /// Compressed and decompressed size of each.
    pub(super) sizes: Vec<(u32, u32)>,
}

pub(super) enum Job {
    /// Read a range of the original and hash its cells.
    Hash { seq: u64, range: Range<u64> },
    /// Cut slots into frames and compress them.
    Compress { seq: u64, slots: Vec<u8> },
}

pub(super) enum Done {
    Hashed { seq: u64, result: Result<Hashed> },
    Compressed { seq: u64, result: Result<Frames> },
}

/// What a worker keeps from job to job.
pub(super) struct Worker<'a> {
    src: &'a dyn ReadAt,
    frame_len: usize,
    keep_zeros: bool,
    context: CCtx<'a>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        src: &'a dyn ReadAt,
        level: i32,
        frame_len: usize,
        keep_zeros: bool,
    ) -> Result<Self> {
        let mut context = CCtx::create();
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::ChecksumFlag(true),
            CParameter::ContentSizeFlag(true),
        ] {
            context.set_parameter(parameter).map_err(compress_error)?;
        }
        Ok(Self { src, frame_len, keep_zeros, context })
    }

    pub(super) fn run(&mut self, job: Job) -> Done {
        match job {
            Job::Hash { seq, range } => Done::Hashed { seq, result: self.hash(&range) },
            Job::Compress { seq, slots } => Done::Compressed { seq, result: self.compress(&slots) },
        }
    }

    fn hash(&self, range: &Range<u64>) -> Result<Hashed> {
        let len = (range.end - range.start) as usize;
        let mut bytes = vec![0; len];
        self.src.read_exact_at(range.start, &mut bytes).map_err(|source| Error::Read {
            off: range.start,
            len,
            source,
        })?;
        let batch = Batch { bytes, start: range.start };
        let hashes =
            batch.cells().map(|c| (self.keep_zeros || !is_zero(c)).then(|| cell_hash(c))).collect();
        Ok(Hashed { batch, hashes })
    }

    fn compress(&mut self, slots: &[u8]) -> Result<Frames> {
        let mut bytes = Vec::with_capacity(slots.len() / 2);
        let mut sizes = Vec::with_capacity(slots.len().div_ceil(self.frame_len));
        let mut frame = vec![0; zstd_safe::compress_bound(self.frame_len.min(slots.len()))];
        for content in slots.chunks(self.frame_len) {
            let n = self.context.compress2(&mut frame[..], content).map_err(compress_error)?;
            bytes.extend_from_slice(&frame[..n]);
            sizes.push((n as u32, content.len() as u32));
        }
        Ok(Frames { bytes, sizes })
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
