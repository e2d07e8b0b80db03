//! From any source to a plain file: the same bytes, holes where the source
//! has only zeros.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vmcask_dump::ReadAt;

use crate::error::{Error, Result};
use crate::output::OutputFile;

/// Bytes a worker reads and writes at a time: large enough to make the
/// system calls cheap, small enough for a cache.
const CHUNK: u64 = 256 << 10;

/// Writes all of `source` to `out`.
///
/// `progress` is told the bytes done so far, holes not counted.
pub fn restore(
    source: &dyn ReadAt,
    out: &OutputFile,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
    cancelled: &AtomicBool,
) -> Result<()> {
    let file = out.file();
    let written = |source| Error::Write { path: out.path().to_owned(), source };
    file.set_len(source.len()).map_err(written)?;
    // Decompressing is worth threads; copying isn't: they would wait for each
    // other on the output's lock in the kernel (3.6 times cp's CPU time with
    // two of them on tmpfs).
    // Headers at both ends may be in memory: the middle tells.
    let middle = source.next_data(source.len() / 2).ok().flatten();
    let from_file = middle.and_then(|d| source.in_file(d.start));
    let threads = if from_file.is_some() { 1 } else { threads };
    let work = Mutex::new(Chunks { source, next: 0, data: 0..0 });
    let done = AtomicU64::new(0);
    let first_error = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut buf = vec![0; CHUNK as usize];
                if let Err(e) = worker(source, file, out.path(), &work, &mut buf, |n| {
                    progress(done.fetch_add(n, Ordering::Relaxed) + n);
                    cancelled.load(Ordering::Relaxed)
                }) {
                    lock(&work).next = u64::MAX;
                    lock(&first_error).get_or_insert(e);
                }
            });
        }
    });
    match lock(&first_error).take() {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

/// A worker that panicked has left nothing half-done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Hands out the data of a source, holes skipped, in pieces.
struct Chunks<'a> {
    source: &'a dyn ReadAt,
    next: u64,
    data: Range<u64>,
}

impl Chunks<'_> {
    fn take(&mut self) -> Result<Option<Range<u64>>> {
        if self.next >= self.data.end {
            let off = self.next;
            let data = self.source.next_data(off);
            match data.map_err(|source| Error::Read { off, len: 0, source })? {
                Some(data) => self.data = data,
                None => return Ok(None),
            }
        }
        let start = self.next.max(self.data.start);
        let end = (start + 1).next_multiple_of(CHUNK).min(self.data.end);
        self.next = end;
        Ok(Some(start..end))
    }
}

fn worker(
    source: &dyn ReadAt,
    file: &File,
    path: &Path,
    work: &Mutex<Chunks<'_>>,
    buf: &mut [u8],
    mut done: impl FnMut(u64) -> bool,
) -> Result<()> {
    loop {
        let Some(range) = lock(work).take()? else {
            return Ok(());
        };
        // In the kernel as far as that goes; what is left, by hand.
        let at = range.start + in_kernel(source, file, &range);
        let len = (range.end - at) as usize;
        let bytes = &mut buf[..len];
        source.read_exact_at(at, bytes).map_err(|source| Error::Read { off: at, len, source })?;
        file.write_all_at(bytes, at)
            .map_err(|source| Error::Write { path: path.to_owned(), source })?;
        if done(range.end - range.start) {
            return Err(Error::Cancelled);
        }
    }
}

/// Copies the beginning of `range` without its bytes coming by here: one copy
/// less than reading and writing, none on file systems that share blocks.
/// Returns how many bytes. Whatever stops it will stop a read or a write too,
/// and be told there.
fn in_kernel(source: &dyn ReadAt, file: &File, range: &Range<u64>) -> u64 {
    let mut at = range.start;
    while at < range.end
        && let Some((from, off, n)) = source.in_file(at)
    {
        let (mut off_in, mut off_out) = (off, at);
        let len = n.min(range.end - at) as usize;
        match rustix::fs::copy_file_range(from, Some(&mut off_in), file, Some(&mut off_out), len) {
            Ok(n) if n > 0 => at += n as u64,
            _ => break,
        }
    }
    at - range.start
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// Data at both ends, a hole between.
    struct Holey(Vec<u8>);

    impl ReadAt for Holey {
        fn len(&self) -> u64 {
            8 << 20
        }
        fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
            assert!(
                off + buf.len() as u64 <= self.0.len() as u64 || off >= self.len() - 100,
                "the hole must not be read"
            );
            for (i, b) in buf.iter_mut().enumerate() {
                *b = self.0[(off as usize + i) % self.0.len()];
            }
            Ok(buf.len())
        }
        fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
            let first = self.0.len() as u64;
            let last = self.len() - 100;
            Ok(if off < first {
                Some(off..first)
            } else if off < self.len() {
                Some(off.max(last)..self.len())
            } else {
                None
            })
        }
    }

    #[test]
    fn holes_stay_holes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let source = Holey((0..3_000_001u32).map(|i| (i % 251) as u8 + 1).collect());
        let out = OutputFile::create(&path, false).unwrap();
        restore(&source, &out, 3, &|_| {}, &AtomicBool::new(false)).unwrap();
        out.commit().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 8 << 20);
        assert_eq!(bytes[..3_000_001], source.0);
        assert!(bytes[3_000_001..(8 << 20) - 100].iter().all(|&b| b == 0));
        assert!(bytes[(8 << 20) - 100..].iter().all(|&b| b != 0));
    }

    #[test]
    fn cancelling_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let out = OutputFile::create(&dir.path().join("out"), false).unwrap();
        let e = restore(&vec![1u8; 10 << 20], &out, 2, &|_| {}, &AtomicBool::new(true));
        assert!(matches!(e, Err(Error::Cancelled)));
        drop(out);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }
}
