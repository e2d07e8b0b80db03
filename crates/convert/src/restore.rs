//! From any source to a plain file: the same bytes, holes where the source
//! has only zeros.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vmcask_dump::ReadAt;
use vmcask_dump::source::{Piece, Sink, Wanted};

use crate::behind::Behind;
use crate::error::{Error, Result};
use crate::gather::Gather;
use crate::lock;
use crate::output::OutputFile;

/// Bytes a worker reads and writes at a time: large enough to make the
/// system calls cheap, small enough for a cache.
const CHUNK: u64 = 256 << 10;
/// Bytes that are put in the source's order at a time, where it has one: some
/// 12 MiB of memory. Archives put those cells side by side that lie within 1 GiB
/// of the dump or a few.
const SCATTERED: u64 = 2 << 30;

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
    if scattered(source, out, threads, progress, cancelled)? {
        return Ok(());
    }
    // Decompressing is worth threads; copying isn't: they would wait for each
    // other on the output's lock in the kernel (3.6 times cp's CPU time with
    // two of them on tmpfs).
    // Headers at both ends may be in memory: the middle tells.
    let middle = source.next_data(source.len() / 2).ok().flatten();
    let from_file = middle.and_then(|d| source.in_file(d.start));
    let threads = if from_file.is_some() { 1 } else { threads };
    let work = Mutex::new(Chunks { source, next: 0, data: 0..0 });
    let behind = Behind::new(file);
    let done = AtomicU64::new(0);
    let first_error = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut buf = vec![0; CHUNK as usize];
                if let Err(e) = worker(source, file, out.path(), &work, &mut buf, |range| {
                    let n = range.end - range.start;
                    behind.wrote(range.start, n);
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

/// [`restore`], for sources that have their own order; `false`, and nothing is
/// done, for others.
fn scattered(
    source: &dyn ReadAt,
    out: &OutputFile,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
    cancelled: &AtomicBool,
) -> Result<bool> {
    let writing = Writing {
        gather: Gather::new(out.file()),
        done: AtomicU64::new(0),
        failed: Mutex::new(None),
        progress,
        cancelled,
    };
    let write_failed = |source| Error::Write { path: out.path().to_owned(), source };
    let mut chunks = Chunks { source, next: 0, data: 0..0 };
    loop {
        let (mut wanted, mut left) = (Vec::new(), SCATTERED);
        let first = chunks.next;
        while left > 0 {
            let Some(range) = chunks.take(|start| start + left)? else { break };
            let len = range.end - range.start;
            left -= len;
            wanted.push(Wanted { off: range.start, len, to: range.start });
        }
        if wanted.is_empty() {
            return Ok(first > 0);
        }
        match source.scatter(&wanted, threads, &writing) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(_) if cancelled.load(Ordering::Relaxed) => return Err(Error::Cancelled),
            Err(e) => {
                return Err(match lock(&writing.failed).take() {
                    Some(source) => write_failed(source),
                    None => Error::Read { off: wanted[0].off, len: 0, source: e },
                });
            }
        }
    }
}

/// Where scattered pieces go.
struct Writing<'a> {
    gather: Gather<'a>,
    done: AtomicU64,
    failed: Mutex<Option<io::Error>>,
    progress: &'a (dyn Fn(u64) + Sync),
    cancelled: &'a AtomicBool,
}

impl Writing<'_> {
    fn write(
        &self,
        pieces: &[Piece<'_>],
        write: impl FnOnce() -> io::Result<bool>,
    ) -> io::Result<bool> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match write() {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(e) => {
                lock(&self.failed).get_or_insert(e);
                return Err(io::ErrorKind::Other.into());
            }
        }
        let n = pieces.iter().map(|p| p.1.len() as u64).sum();
        (self.progress)(self.done.fetch_add(n, Ordering::Relaxed) + n);
        Ok(true)
    }
}

impl Sink for Writing<'_> {
    fn take(&self, pieces: &[Piece<'_>]) -> io::Result<()> {
        self.write(pieces, || self.gather.write(pieces).map(|()| true)).map(|_| ())
    }

    fn try_take(&self, pieces: &[Piece<'_>]) -> io::Result<bool> {
        self.write(pieces, || self.gather.try_write(pieces))
    }
}

/// Hands out the data of a source, holes skipped, in pieces.
struct Chunks<'a> {
    source: &'a dyn ReadAt,
    next: u64,
    data: Range<u64>,
}

impl Chunks<'_> {
    /// The next piece, which ends at `end` of its start at the latest.
    fn take(&mut self, end: impl Fn(u64) -> u64) -> Result<Option<Range<u64>>> {
        if self.next >= self.data.end {
            let off = self.next;
            let data = self.source.next_data(off);
            match data.map_err(|source| Error::Read { off, len: 0, source })? {
                Some(data) => self.data = data,
                None => return Ok(None),
            }
        }
        let start = self.next.max(self.data.start);
        let end = end(start).min(self.data.end);
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
    mut done: impl FnMut(Range<u64>) -> bool,
) -> Result<()> {
    loop {
        let Some(range) = lock(work).take(|start| (start + 1).next_multiple_of(CHUNK))? else {
            return Ok(());
        };
        // In the kernel as far as that goes; what is left, by hand.
        let at = range.start + in_kernel(source, file, &range);
        let len = (range.end - at) as usize;
        let bytes = &mut buf[..len];
        source.read_exact_at(at, bytes).map_err(|source| Error::Read { off: at, len, source })?;
        file.write_all_at(bytes, at)
            .map_err(|source| Error::Write { path: path.to_owned(), source })?;
        if done(range) {
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
    use std::sync::Arc;

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

    /// Pages that resemble others far away: an archive has them in an order of
    /// its own.
    fn archived() -> (Vec<u8>, vmcask_archive::ArchiveReader) {
        let mut original = Vec::new();
        for i in 0..600u32 {
            let words = (0..1024u32).map(|w| match (i % 7, w) {
                (0, _) => 0,
                (_, 0..100) => w.wrapping_mul(i + 1).wrapping_mul(0x9E37_79B1),
                _ => (w + i % 60 * 1024).wrapping_mul(0x85EB_CA6B).rotate_left(w % 31),
            });
            original.extend(words.flat_map(u32::to_le_bytes));
        }
        original.truncate(original.len() - 77);
        let mut archive = Vec::new();
        let plan = vmcask_archive::Plan::whole(original.len() as u64);
        let options = vmcask_archive::WriteOptions::default();
        let go = AtomicBool::new(false);
        vmcask_archive::write(&original, &plan, &options, &mut archive, &|_| {}, &go).unwrap();
        (original, vmcask_archive::ArchiveReader::open(Arc::new(archive)).unwrap())
    }

    fn restored(source: &dyn ReadAt) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let out = OutputFile::create(&path, false).unwrap();
        let told = AtomicU64::new(0);
        let progress = |n| {
            told.fetch_max(n, Ordering::Relaxed);
        };
        restore(source, &out, 2, &progress, &AtomicBool::new(false)).unwrap();
        assert!((1..=source.len()).contains(&told.into_inner()));
        out.commit().unwrap();
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn archives_in_an_order_of_their_own() {
        let (original, reader) = archived();
        assert!(reader.scatter(&[], 1, &|_: &[Piece<'_>]| Ok(())).unwrap(), "it is in file order");
        assert!(restored(&reader) == original);
        // Pieces that begin and end within pages, out of order, and a header.
        let reader: Arc<dyn ReadAt> = Arc::new(reader);
        let mut view = crate::view::View::new();
        view.push_bytes(b"header".repeat(1000));
        let id = view.add_source(reader);
        let mut expected = b"header".repeat(1000);
        for (off, len) in [(1_000_000, 700_001), (5, 4096), (0, 3), (900_000, 300_000)] {
            view.push(id, off, len);
            expected.extend_from_slice(&original[off as usize..(off + len) as usize]);
        }
        assert!(restored(&view) == expected);
    }

    /// A reader that has gone.
    struct Gone;
    impl io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn archives_go_to_pipes_in_windows() {
        let (original, reader) = archived();
        let (mut piped, told) = (Vec::new(), AtomicU64::new(0));
        let progress = |n| told.store(n, Ordering::Relaxed);
        let go = AtomicBool::new(false);
        crate::forward::to_pipe(&reader, 2, &mut piped, &progress, &go).unwrap();
        assert!(piped == original);
        assert_eq!(told.into_inner(), original.len() as u64);
        // More than one window.
        let mut view = crate::view::View::new();
        let id = view.add_source(Arc::new(reader));
        for _ in 0..60 {
            view.push(id, 0, 2_000_001);
            view.push_bytes(vec![7; 12_345]);
        }
        let expected = [&original[..2_000_001], &[7; 12_345]].concat().repeat(60);
        piped.clear();
        crate::forward::to_pipe(&view, 2, &mut piped, &|_| {}, &go).unwrap();
        assert!(piped == expected);
        let stop = AtomicBool::new(true);
        let e = crate::forward::to_pipe(&view, 2, &mut io::sink(), &|_| {}, &stop);
        assert!(matches!(e, Err(Error::Cancelled)));
        let e = crate::forward::to_pipe(&view, 2, &mut Gone, &|_| {}, &go);
        assert!(matches!(e, Err(Error::Pipe(_))), "{e:?}");
    }

    #[test]
    fn interrupts_end_scattered_output() {
        let (_, reader) = archived();
        let dir = tempfile::tempdir().unwrap();
        let out = OutputFile::create(&dir.path().join("out"), false).unwrap();
        let e = restore(&reader, &out, 2, &|_| {}, &AtomicBool::new(true));
        assert!(matches!(e, Err(Error::Cancelled)));
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
