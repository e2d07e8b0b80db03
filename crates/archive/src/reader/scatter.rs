//! Reading much at a time: frame by frame in the archive's order, not the
//! original's, so that each is decompressed once wherever its cells belong.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use vmcask_dump::source::{Piece, Sink, Wanted};

use super::ArchiveReader;
use super::extents::Entry;
use super::frames::Near;
use crate::error::{Error, Result};
use crate::layout::CELL_SIZE;

/// Frames' contents that a thread decompresses before it hands them on: runs
/// go on from frame to frame, and all of it stays in a core's cache.
const BATCH_LEN: u64 = 512 << 10;
/// Bytes of batches, from which on a thread waits for a sink that is busy. Writing
/// to a file takes nearly as long as decompressing, and threads can't do it at a
/// time: with batches kept meanwhile, unpacking takes 5 % less time.
const MOST_KEPT: usize = 4 << 20;

/// Bytes of one slot, and where they belong.
#[derive(Clone, Copy)]
struct Part {
    slot: u64,
    to: u64,
    within: u16,
    len: u16,
}

/// Why it ended early.
pub(crate) enum Stop {
    Archive(Error),
    Sink(std::io::Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Self::Archive(e)
    }
}

impl ArchiveReader {
    /// Hands the non-zero cells of `pieces` to `to`, [`BATCH_LEN`] bytes or a frame
    /// at a time.
    pub(crate) fn by_frame(
        &self,
        pieces: &[Wanted],
        threads: usize,
        to: &dyn Sink,
    ) -> std::result::Result<(), Stop> {
        let mut places = Places::new(self);
        for piece in pieces {
            places.add(piece)?;
        }
        let mut parts = places.parts;
        parts.sort_unstable_by_key(|p| p.slot);
        let rest = Mutex::new(&parts[..]);
        let stop = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    if let Err(e) = self.work(&rest, to) {
                        *lock(&rest) = &[];
                        lock(&stop).get_or_insert(e);
                    }
                });
            }
        });
        lock(&stop).take().map_or(Ok(()), Err)
    }

    /// What each thread does: it decompresses batches and hands them on, or keeps
    /// them while the sink is busy.
    fn work(&self, rest: &Mutex<&[Part]>, to: &dyn Sink) -> std::result::Result<(), Stop> {
        let mut near = Near::default();
        let (mut kept, mut spare) = (VecDeque::new(), Vec::new());
        loop {
            let batch = self.batch(&mut lock(rest));
            let more = !batch.is_empty();
            if more {
                let mut ready = spare.pop().unwrap_or_default();
                self.decode_batch(batch, &mut near, &mut ready)?;
                kept.push_back(ready);
            }
            while let Some(ready) = kept.front() {
                let pieces = ready.pieces();
                let keeps = kept.iter().map(|r| r.buf.len()).sum::<usize>();
                if more && keeps < MOST_KEPT {
                    if !to.try_take(&pieces).map_err(Stop::Sink)? {
                        break;
                    }
                } else {
                    to.take(&pieces).map_err(Stop::Sink)?;
                }
                spare.extend(kept.pop_front());
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Takes parts of whole frames from the beginning of `rest`.
    fn batch<'a>(&self, rest: &mut &'a [Part]) -> &'a [Part] {
        let frames = (BATCH_LEN / (self.cells_per_frame * CELL_SIZE as u64)).max(1);
        let Some(first) = rest.first() else { return &[] };
        // Other frames may lie between: the distance bounds the buffer.
        let end = (self.frame_of_slot(first.slot) + frames) * self.cells_per_frame;
        let n = rest.partition_point(|p| p.slot < end);
        let (batch, later) = rest.split_at(n);
        *rest = later;
        batch
    }

    /// Decompresses the frames of a batch. Of its parts, those that follow each
    /// other in both places become one piece.
    fn decode_batch(
        &self,
        batch: &[Part],
        near: &mut Near,
        Ready { buf, pieces }: &mut Ready,
    ) -> Result<()> {
        pieces.clear();
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(()) };
        let (first, last) = (self.frame_of_slot(first.slot), self.frame_of_slot(last.slot));
        let base = first * self.cells_per_frame;
        let place = |slot: u64| (slot - base) as usize * CELL_SIZE;
        self.read_near(first, last, near);
        for parts in batch.chunk_by(|a, b| self.frame_of_slot(a.slot) == self.frame_of_slot(b.slot))
        {
            let frame = self.frame_of_slot(parts[0].slot);
            let start = place(frame * self.cells_per_frame);
            let len = self.frame_len(frame);
            if buf.len() < start + len {
                buf.resize(start + len, 0);
            }
            self.decode_near(frame, near, &mut buf[start..start + len])?;
        }
        let follows = |a: &Part, b: &Part| {
            let ends = usize::from(a.within) + usize::from(a.len) == CELL_SIZE;
            ends && b.within == 0 && (a.slot + 1, a.to + u64::from(a.len)) == (b.slot, b.to)
        };
        for run in batch.chunk_by(follows) {
            let start = place(run[0].slot) + usize::from(run[0].within);
            let end = start + run.iter().map(|p| usize::from(p.len)).sum::<usize>();
            if end > buf.len() {
                let frame = self.frame_of_slot(run[0].slot);
                return Err(self.frame_error(frame, "it is shorter than its cells"));
            }
            pieces.push((run[0].to, start..end));
        }
        pieces.sort_unstable_by_key(|p| p.0);
        Ok(())
    }
}

/// A batch that is decompressed.
#[derive(Default)]
struct Ready {
    /// Its frames, and what lay there before.
    buf: Vec<u8>,
    /// Where bytes belong, ascending, and which they are.
    pieces: Vec<(u64, Range<usize>)>,
}

impl Ready {
    fn pieces(&self) -> Vec<Piece<'_>> {
        self.pieces.iter().map(|(to, bytes)| (*to, &self.buf[bytes.clone()])).collect()
    }
}

/// Looks up what pieces are made of: little at a time where they ascend.
struct Places<'a> {
    archive: &'a ArchiveReader,
    parts: Vec<Part>,
    /// The extent looked at last.
    entry: Option<Entry>,
    /// Cells that aren't zero, and how many of those come before them.
    run: Range<u64>,
    before: u64,
}

impl<'a> Places<'a> {
    fn new(archive: &'a ArchiveReader) -> Self {
        Self { archive, parts: Vec::new(), entry: None, run: 0..0, before: 0 }
    }

    fn add(&mut self, piece: &Wanted) -> Result<()> {
        let end = piece.off.saturating_add(piece.len);
        let mut at = piece.off;
        while at < end {
            if self.entry.as_ref().is_none_or(|e| !e.range.contains(&at)) {
                let archive = self.archive;
                self.entry = archive.extents.at_or_after(&*archive.src, at)?;
            }
            let Some(current) = &self.entry else { return Ok(()) };
            let extent = &current.range;
            if !extent.contains(&at) {
                // Only a hostile index leads backwards.
                if extent.start <= at {
                    return Ok(());
                }
                at = extent.start;
                continue;
            }
            let within = ((at - extent.start) % CELL_SIZE as u64) as usize;
            let len = (CELL_SIZE - within).min((extent.end.min(end) - at) as usize);
            let cell = current.cell_of(at);
            if let Some(slot) = self.slot_of(cell)? {
                let to = piece.to + (at - piece.off);
                self.parts.push(Part { slot, to, within: within as u16, len: len as u16 });
            }
            at += len as u64;
        }
        Ok(())
    }

    /// [`ArchiveReader::slot_of`].
    fn slot_of(&mut self, cell: u64) -> Result<Option<u64>> {
        let archive = self.archive;
        if !self.run.contains(&cell) {
            let Some((before, n)) = archive.cells.find_run(&*archive.src, cell)? else {
                return Ok(None);
            };
            (self.run, self.before) = (cell..cell + n, before);
        }
        archive.slot_at(self.before + (cell - self.run.start)).map(Some)
    }
}

/// What is behind these locks is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
