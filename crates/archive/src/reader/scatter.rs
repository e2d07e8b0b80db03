//! Reading much at a time: frame by frame in the archive's order, not the
//! original's, so that each is decompressed once wherever its cells belong.

use std::sync::{Mutex, PoisonError};

use vmcask_dump::source::{Sink, Wanted};

use super::ArchiveReader;
use super::extents::Entry;
use crate::error::{Error, Result};
use crate::layout::CELL_SIZE;

/// Frames' contents that a thread decompresses before it hands them on: runs
/// go on from frame to frame, and all of it stays in a core's cache.
pub(crate) const BATCH_LEN: u64 = 512 << 10;
/// The same where so much is wanted that frames are wanted whole, for a file:
/// more of it follows each other there, and is written in fewer calls.
const LARGE_BATCH_LEN: u64 = 4 << 20;
/// Bytes wanted at least for those.
const LARGE: u64 = 128 << 20;

/// Bytes whose parts a thread finds at least: it takes longer to start one for
/// fewer.
const SHARE: u64 = 64 << 20;

/// Bytes to be decompressed before they are handed on.
pub(super) fn batch_len(pieces: &[Wanted]) -> u64 {
    if total(pieces) < LARGE { BATCH_LEN } else { LARGE_BATCH_LEN }
}

fn total(pieces: &[Wanted]) -> u64 {
    pieces.iter().fold(0, |sum, p| sum.saturating_add(p.len))
}

/// Pieces in shares of `len` bytes, cut where a share is full.
fn cut(pieces: &[Wanted], len: u64) -> Vec<Vec<Wanted>> {
    let mut shares = Vec::new();
    let (mut share, mut left) = (Vec::new(), len);
    for piece in pieces {
        let mut piece = *piece;
        while piece.len > left {
            share.push(Wanted { len: left, ..piece });
            piece = Wanted { off: piece.off + left, len: piece.len - left, to: piece.to + left };
            shares.push(std::mem::take(&mut share));
            left = len;
        }
        left -= piece.len;
        share.push(piece);
    }
    if !share.is_empty() {
        shares.push(share);
    }
    shares
}

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
    /// Hands the non-zero cells of `pieces` to `to`, `batch_len` bytes or a frame
    /// at a time.
    pub(crate) fn by_frame(
        &self,
        pieces: &[Wanted],
        threads: usize,
        batch_len: u64,
        to: Sink<'_>,
    ) -> std::result::Result<(), Stop> {
        let parts = self.parts_by_slot(pieces, threads)?;
        let rest = Mutex::new(&parts[..]);
        let stop = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    let mut buf = Vec::new();
                    loop {
                        let batch = self.batch(&mut lock(&rest), batch_len);
                        if batch.is_empty() {
                            return;
                        }
                        if let Err(e) = self.hand_on(batch, &mut buf, to) {
                            *lock(&rest) = &[];
                            lock(&stop).get_or_insert(e);
                        }
                    }
                });
            }
        });
        lock(&stop).take().map_or(Ok(()), Err)
    }

    /// The parts that pieces are made of, in the archive's order.
    fn parts_by_slot(&self, pieces: &[Wanted], threads: usize) -> Result<Vec<Part>> {
        let share = total(pieces).div_ceil(threads.max(1) as u64).max(SHARE);
        let mut shares = cut(pieces, share).into_iter().map(|pieces| {
            move || -> Result<Vec<Part>> {
                let mut parts = Vec::new();
                for piece in &pieces {
                    self.parts(piece, &mut parts)?;
                }
                parts.sort_unstable_by_key(|p| p.slot);
                Ok(parts)
            }
        });
        let Some(first) = shares.next() else { return Ok(Vec::new()) };
        let mut parts = std::thread::scope(|scope| {
            let others: Vec<_> = shares.map(|share| scope.spawn(share)).collect();
            let mut parts = first()?;
            for other in others {
                parts.extend(other.join().unwrap_or_else(|e| std::panic::resume_unwind(e))?);
            }
            Ok::<_, Error>(parts)
        })?;
        // Stable sorts find what is sorted, and merge it.
        parts.sort_by_key(|p| p.slot);
        Ok(parts)
    }

    /// The parts that a piece is made of.
    fn parts(&self, piece: &Wanted, parts: &mut Vec<Part>) -> Result<()> {
        let end = piece.off.saturating_add(piece.len);
        let mut at = piece.off;
        let mut entry: Option<Entry> = None;
        while at < end {
            if entry.as_ref().is_none_or(|e| !e.range.contains(&at)) {
                entry = self.extents.at_or_after(&*self.src, at)?;
            }
            let Some(current) = &entry else { return Ok(()) };
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
            if let Some(slot) = self.slot_of(current.cell_of(at))? {
                let to = piece.to + (at - piece.off);
                parts.push(Part { slot, to, within: within as u16, len: len as u16 });
            }
            at += len as u64;
        }
        Ok(())
    }

    /// Takes parts of whole frames from the beginning of `rest`.
    fn batch<'a>(&self, rest: &mut &'a [Part], len: u64) -> &'a [Part] {
        let frames = (len / (self.cells_per_frame * CELL_SIZE as u64)).max(1);
        let Some(first) = rest.first() else { return &[] };
        // Other frames may lie between: the distance bounds the buffer.
        let end = (self.frame_of_slot(first.slot) + frames) * self.cells_per_frame;
        let n = rest.partition_point(|p| p.slot < end);
        let (batch, later) = rest.split_at(n);
        *rest = later;
        batch
    }

    /// Decompresses the frames of a batch and hands on its parts, those that
    /// follow each other in both places as one piece.
    fn hand_on(
        &self,
        batch: &[Part],
        buf: &mut Vec<u8>,
        to: Sink<'_>,
    ) -> std::result::Result<(), Stop> {
        let Some(first) = batch.first() else { return Ok(()) };
        let base = self.frame_of_slot(first.slot) * self.cells_per_frame;
        let place = |slot: u64| (slot - base) as usize * CELL_SIZE;
        for parts in batch.chunk_by(|a, b| self.frame_of_slot(a.slot) == self.frame_of_slot(b.slot))
        {
            let frame = self.frame_of_slot(parts[0].slot);
            let start = place(frame * self.cells_per_frame);
            let len = self.frame_len(frame);
            if buf.len() < start + len {
                buf.resize(start + len, 0);
            }
            self.decode(frame, &mut buf[start..start + len])?;
        }
        let follows = |a: &Part, b: &Part| {
            let ends = usize::from(a.within) + usize::from(a.len) == CELL_SIZE;
            ends && b.within == 0 && (a.slot + 1, a.to + u64::from(a.len)) == (b.slot, b.to)
        };
        let mut pieces = Vec::new();
        for run in batch.chunk_by(follows) {
            let start = place(run[0].slot) + usize::from(run[0].within);
            let len = run.iter().map(|p| usize::from(p.len)).sum::<usize>();
            let Some(bytes) = buf.get(start..start + len) else {
                let frame = self.frame_of_slot(run[0].slot);
                return Err(self.frame_error(frame, "it is shorter than its cells").into());
            };
            pieces.push((run[0].to, bytes));
        }
        pieces.sort_unstable_by_key(|p| p.0);
        to(&pieces).map_err(Stop::Sink)
    }
}

/// What is behind these locks is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_the_pieces_cut() {
        let pieces = [(7, 10, 0), (100, 0, 50), (100, 25, 50), (200, 5, 90), (300, 40, 1000)];
        let pieces = pieces.map(|(off, len, to)| Wanted { off, len, to });
        let bytes = |pieces: &[Wanted]| -> Vec<(u64, u64)> {
            pieces.iter().flat_map(|p| (0..p.len).map(|i| (p.off + i, p.to + i))).collect()
        };
        for len in [1, 3, 10, 20, 40, 79, 80, 81, u64::MAX] {
            let shares = cut(&pieces, len);
            assert_eq!(bytes(&shares.concat()), bytes(&pieces), "shares of {len}");
            let lens: Vec<_> = shares.iter().map(|s| total(s)).collect();
            let (last, full) = lens.split_last().unwrap();
            assert!(full.iter().all(|l| *l == len) && *last <= len, "{lens:?}, not {len}");
        }
        assert!(cut(&[], 5).is_empty());
    }
}
