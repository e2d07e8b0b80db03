//! Pages that come in no order, written in batches: sorted, those that follow
//! each other in one call, one thread at a time.
//!
//! Written one by one as they come, half a million pages of 2 GiB made two
//! threads wait for each other on the file's lock in the kernel, a fifth of
//! their time.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use crate::behind::Behind;
use crate::lock;

/// Bytes of a batch. Of each thread, one is filled and one written at most.
const BATCH: usize = 4 << 20;
/// Most pieces in one call: Linux and FreeBSD take 1024.
const MOST_SLICES: usize = 1024;

/// Writes pieces from any thread, and in any order, to their offsets.
pub(crate) struct Gather<'a> {
    file: &'a File,
    filling: Mutex<Batch>,
    /// Emptied ones, whose memory is used again.
    used: Mutex<Vec<Batch>>,
    /// Whoever holds it writes.
    writing: Mutex<()>,
    behind: Behind<'a>,
}

#[derive(Default)]
struct Batch {
    pieces: Vec<Piece>,
    bytes: Vec<u8>,
}

/// Where a piece belongs, and where it is.
#[derive(Clone, Copy)]
struct Piece {
    to: u64,
    start: usize,
    len: usize,
}

impl<'a> Gather<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        Self {
            file,
            filling: Mutex::default(),
            used: Mutex::default(),
            writing: Mutex::default(),
            behind: Behind::new(file),
        }
    }

    /// Takes a piece; writes a batch when that makes it full.
    pub(crate) fn put(&self, to: u64, bytes: &[u8]) -> io::Result<()> {
        let full = {
            let mut batch = lock(&self.filling);
            let start = batch.bytes.len();
            batch.pieces.push(Piece { to, start, len: bytes.len() });
            batch.bytes.extend_from_slice(bytes);
            if batch.bytes.len() < BATCH {
                return Ok(());
            }
            let empty = lock(&self.used).pop().unwrap_or_default();
            std::mem::replace(&mut *batch, empty)
        };
        self.write(full)
    }

    /// Writes what is left. Nothing is sure to be in the file before.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let last = std::mem::take(&mut *lock(&self.filling));
        self.write(last)
    }

    fn write(&self, mut batch: Batch) -> io::Result<()> {
        batch.pieces.sort_unstable_by_key(|p| p.to);
        let follows = |a: &Piece, b: &Piece| a.to.checked_add(a.len as u64) == Some(b.to);
        {
            let _alone = lock(&self.writing);
            for run in batch.pieces.chunk_by(follows) {
                for run in run.chunks(MOST_SLICES) {
                    self.write_run(run, &batch.bytes)?;
                }
            }
        }
        for run in batch.pieces.chunk_by(follows) {
            self.behind.wrote(run[0].to, run.iter().map(|p| p.len as u64).sum());
        }
        batch.pieces.clear();
        batch.bytes.clear();
        lock(&self.used).push(batch);
        Ok(())
    }

    /// Writes pieces that follow each other in the file.
    fn write_run(&self, run: &[Piece], bytes: &[u8]) -> io::Result<()> {
        let of = |p: &Piece| bytes.get(p.start..p.start + p.len).unwrap_or_default();
        let Some(first) = run.first() else { return Ok(()) };
        let mut written = 0;
        if run.len() > 1 {
            let slices: Vec<_> = run.iter().map(|p| IoSlice::new(of(p))).collect();
            // Whatever stops it stops a plain write too, and is told there.
            written = rustix::io::pwritev(self.file, &slices, first.to).unwrap_or(0);
        }
        for piece in run {
            let done = written.min(piece.len);
            written -= done;
            self.file.write_all_at(&of(piece)[done..], piece.to + done as u64)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_no_order_from_two_threads() {
        let file = tempfile::tempfile().unwrap();
        let expected: Vec<u8> = (0..5_000_011u32).flat_map(u32::to_le_bytes).collect();
        let gather = Gather::new(&file);
        let pieces: Vec<_> = expected.chunks(4096).enumerate().collect();
        let all = pieces.len();
        let of = |thread: usize| {
            for i in (thread..all).step_by(2) {
                // A prime: every piece once, in no order.
                let (n, bytes) = pieces[i * 7919 % all];
                gather.put(n as u64 * 4096, bytes).unwrap();
            }
            // Backwards, and in pieces of odd lengths: no harm in writing twice.
            for (n, bytes) in pieces.iter().skip(thread).step_by(5).rev() {
                gather.put(*n as u64 * 4096 + 13, &bytes[13.min(bytes.len())..]).unwrap();
            }
        };
        std::thread::scope(|s| {
            s.spawn(|| of(0));
            s.spawn(|| of(1));
        });
        gather.finish().unwrap();
        let mut written = vec![0; expected.len()];
        file.read_exact_at(&mut written, 0).unwrap();
        assert!(written == expected);
        assert_eq!(file.metadata().unwrap().len(), expected.len() as u64);
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let gather = Gather::new(&full);
        gather.put(0, b"never").unwrap();
        gather.put(5, b"arrives").unwrap();
        assert!(gather.finish().is_err());
    }
}
