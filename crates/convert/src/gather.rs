//! Pages that come in no order, many at a time: those that follow each other are
//! written in one call, by one thread at a time.
//!
//! Written one by one as they come, half a million pages of 2 GiB made two
//! threads wait for each other on the file's lock in the kernel, a fifth of
//! their time.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, TryLockError};

use vmcask_dump::source::Piece;

use crate::behind::Behind;
use crate::lock;

/// Most pieces in one call: Linux and FreeBSD take 1024.
const MOST_SLICES: usize = 1024;

/// Writes pieces from any thread, and in any order, to their offsets.
pub(crate) struct Gather<'a> {
    file: &'a File,
    /// Whoever holds it writes.
    writing: Mutex<()>,
    behind: Behind<'a>,
}

impl<'a> Gather<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        Self { file, writing: Mutex::default(), behind: Behind::new(file) }
    }

    /// Writes pieces, best in ascending order.
    pub(crate) fn write(&self, pieces: &[Piece<'_>]) -> io::Result<()> {
        self.write_alone(lock(&self.writing), pieces)
    }

    /// The same, or `false` while another thread writes.
    pub(crate) fn try_write(&self, pieces: &[Piece<'_>]) -> io::Result<bool> {
        match self.writing.try_lock() {
            Ok(alone) => self.write_alone(alone, pieces).map(|()| true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Poisoned(_)) => self.write(pieces).map(|()| true),
        }
    }

    fn write_alone(&self, alone: MutexGuard<'_, ()>, pieces: &[Piece<'_>]) -> io::Result<()> {
        let follows = |a: &Piece<'_>, b: &Piece<'_>| a.0.checked_add(a.1.len() as u64) == Some(b.0);
        for run in pieces.chunk_by(follows) {
            for run in run.chunks(MOST_SLICES) {
                self.write_run(run)?;
            }
        }
        drop(alone);
        for run in pieces.chunk_by(follows) {
            self.behind.wrote(run[0].0, run.iter().map(|p| p.1.len() as u64).sum());
        }
        Ok(())
    }

    /// Writes pieces that follow each other in the file.
    fn write_run(&self, run: &[Piece<'_>]) -> io::Result<()> {
        let Some(first) = run.first() else { return Ok(()) };
        let mut written = 0;
        if run.len() > 1 {
            let slices: Vec<_> = run.iter().map(|p| IoSlice::new(p.1)).collect();
            // Whatever stops it stops a plain write too, and is told there.
            written = rustix::io::pwritev(self.file, &slices, first.0).unwrap_or(0);
        }
        for (at, bytes) in run {
            let done = written.min(bytes.len());
            written -= done;
            self.file.write_all_at(&bytes[done..], at + done as u64)?;
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
        let pages: Vec<_> = (0u64..).step_by(4096).zip(expected.chunks(4096)).collect();
        let of = |thread: usize| {
            // A prime: every page once, in no order; then in batches, some of
            // them of more pages than a call takes.
            let mixed: Vec<_> =
                (thread..pages.len()).step_by(2).map(|i| pages[i * 7919 % pages.len()]).collect();
            for batch in mixed.chunks(300) {
                let mut batch = batch.to_vec();
                batch.sort_unstable();
                gather.write(&batch).unwrap();
            }
            // Backwards, and in pieces of odd lengths: no harm in writing twice.
            for (at, bytes) in pages.iter().skip(thread).step_by(5).rev() {
                gather.write(&[(at + 13, &bytes[13.min(bytes.len())..])]).unwrap();
            }
            gather.write(&pages[thread * 1000..thread * 1000 + 3000]).unwrap();
        };
        std::thread::scope(|s| {
            s.spawn(|| of(0));
            s.spawn(|| of(1));
        });
        let mut written = vec![0; expected.len()];
        file.read_exact_at(&mut written, 0).unwrap();
        assert!(written == expected);
        assert_eq!(file.metadata().unwrap().len(), expected.len() as u64);
    }

    #[test]
    fn whoever_tries_does_not_wait() {
        let file = tempfile::tempfile().unwrap();
        let gather = Gather::new(&file);
        let other = lock(&gather.writing);
        assert!(!gather.try_write(&[(0, b"nothing")]).unwrap());
        drop(other);
        assert!(gather.try_write(&[(3, b"this"), (7, b"too")]).unwrap());
        let mut written = [1; 10];
        file.read_exact_at(&mut written, 0).unwrap();
        assert_eq!(&written, b"\0\0\0thistoo");
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let gather = Gather::new(&full);
        assert!(gather.write(&[(0, b"never"), (5, b"arrives")]).is_err());
    }
}
