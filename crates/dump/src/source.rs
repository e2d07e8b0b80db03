//! Where bytes come from: the trait [`ReadAt`] and its implementations for
//! files, memory maps and memory.
//!
//! This is the one module of the crate with `unsafe` code (the memory map).
#![allow(unsafe_code)]

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Positional reads of an immutable run of bytes.
///
/// Implementations are shared between threads and must not keep a cursor.
pub trait ReadAt: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether the source holds no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads up to `buf.len()` bytes at `off` and returns how many.
    ///
    /// Fewer than asked for means that the source ends there, and nothing
    /// else: an implementation loops over short reads itself. At or past the
    /// end it returns 0.
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Fills `buf` from `off`, or fails with [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.read_at(off, buf)? == buf.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// The bytes themselves, where the source has all of them in memory.
    /// `None` says nothing about whether they exist: fall back to
    /// [`ReadAt::read_at`].
    fn slice(&self, off: u64, len: usize) -> Option<&[u8]> {
        let _ = (off, len);
        None
    }

    /// The file that has the bytes from `off` on as they are, where there in
    /// it they begin, and how many of them (at least 1): for copies inside
    /// the kernel. `None` where there is no such file.
    fn in_file(&self, off: u64) -> Option<(&File, u64, u64)> {
        let _ = off;
        None
    }

    /// Hands all bytes of `wanted` but zeros to `to`, from up to `threads`
    /// threads, in the order in which the source has them at least cost. Fails
    /// with what reading, or `to`, fails with.
    ///
    /// `false`, and nothing is done, where no order costs less than another:
    /// then [`ReadAt::read_at`] is as good.
    fn scatter(&self, wanted: &[Wanted], threads: usize, to: &dyn Sink) -> io::Result<bool> {
        let _ = (wanted, threads, to);
        Ok(false)
    }

    /// The first range at or after `off` that may hold anything but zeros,
    /// cut at the end of the source; `None` when only holes follow.
    ///
    /// Bytes outside such ranges read as zeros. A source that doesn't know
    /// answers `off..len`. The start of the answer is never below `off`.
    fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
        let len = self.len();
        Ok((off < len).then_some(off..len))
    }

    /// Fails with [`io::ErrorKind::Other`] where the bytes may not be what
    /// they were when the source was opened: reads may then have given some of
    /// each. A source that can't change, or can't tell, succeeds.
    fn check_unchanged(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A range of a source, and where its bytes are to go.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Where it begins in the source.
    pub off: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Where its first byte goes.
    pub to: u64,
}

/// Bytes, and the offset that they belong at.
pub type Piece<'a> = (u64, &'a [u8]);

/// Where pieces go, from several threads at a time. Every function of pieces is
/// one.
pub trait Sink: Sync {
    /// Takes pieces that are at hand together, by ascending offsets.
    fn take(&self, pieces: &[Piece<'_>]) -> io::Result<()>;

    /// The same, or `false`, and nothing is taken, where the caller would wait for
    /// another thread: it may have something better to do meanwhile.
    fn try_take(&self, pieces: &[Piece<'_>]) -> io::Result<bool> {
        self.take(pieces).map(|()| true)
    }
}

impl<F: Fn(&[Piece<'_>]) -> io::Result<()> + Sync> Sink for F {
    fn take(&self, pieces: &[Piece<'_>]) -> io::Result<()> {
        self(pieces)
    }
}

impl std::fmt::Debug for dyn ReadAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn len(&self) -> u64 {
        (**self).len()
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        (**self).read_at(off, buf)
    }
    fn slice(&self, off: u64, len: usize) -> Option<&[u8]> {
        (**self).slice(off, len)
    }
    fn in_file(&self, off: u64) -> Option<(&File, u64, u64)> {
        (**self).in_file(off)
    }
    fn scatter(&self, wanted: &[Wanted], threads: usize, to: &dyn Sink) -> io::Result<bool> {
        (**self).scatter(wanted, threads, to)
    }
    fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
        (**self).next_data(off)
    }
    fn check_unchanged(&self) -> io::Result<()> {
        (**self).check_unchanged()
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn len(&self) -> u64 {
        (**self).len()
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        (**self).read_at(off, buf)
    }
    fn slice(&self, off: u64, len: usize) -> Option<&[u8]> {
        (**self).slice(off, len)
    }
    fn in_file(&self, off: u64) -> Option<(&File, u64, u64)> {
        (**self).in_file(off)
    }
    fn scatter(&self, wanted: &[Wanted], threads: usize, to: &dyn Sink) -> io::Result<bool> {
        (**self).scatter(wanted, threads, to)
    }
    fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
        (**self).next_data(off)
    }
    fn check_unchanged(&self) -> io::Result<()> {
        (**self).check_unchanged()
    }
}

/// Bytes in memory: tests, small parts, decompressed containers.
impl ReadAt for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(off).ok().and_then(|off| self.get(off..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
    fn slice(&self, off: u64, len: usize) -> Option<&[u8]> {
        let off = usize::try_from(off).ok()?;
        self.get(off..off.checked_add(len)?)
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        ReadAt::len(self.as_slice())
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.as_slice().read_at(off, buf)
    }
    fn slice(&self, off: u64, len: usize) -> Option<&[u8]> {
        ReadAt::slice(self.as_slice(), off, len)
    }
}

/// A part of another source: the dump inside a dump device, the minidump
/// header inside a note.
pub struct SubSource {
    inner: Arc<dyn ReadAt>,
    start: u64,
    len: u64,
}

impl SubSource {
    /// The bytes `range` of `inner`, cut where that ends.
    pub fn new(inner: Arc<dyn ReadAt>, range: Range<u64>) -> Self {
        let end = range.end.min(inner.len());
        let start = range.start.min(end);
        Self { inner, start, len: end - start }
    }
}

impl ReadAt for SubSource {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        if off >= self.len {
            return Ok(0);
        }
        let n = usize::try_from(self.len - off).map_or(buf.len(), |n| n.min(buf.len()));
        self.inner.read_at(self.start + off, &mut buf[..n])
    }
    fn slice(&self, off: u64, len: usize) -> Option<&[u8]> {
        (off.checked_add(len as u64)? <= self.len)
            .then(|| self.inner.slice(self.start + off, len))
            .flatten()
    }
    fn in_file(&self, off: u64) -> Option<(&File, u64, u64)> {
        let left = self.len.checked_sub(off).filter(|&n| n > 0)?;
        let (file, at, n) = self.inner.in_file(self.start + off)?;
        Some((file, at, n.min(left)))
    }
    fn scatter(&self, wanted: &[Wanted], threads: usize, to: &dyn Sink) -> io::Result<bool> {
        if wanted.iter().any(|w| w.off.checked_add(w.len).is_none_or(|end| end > self.len)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let inner = wanted.iter().map(|w| Wanted { off: self.start + w.off, ..*w });
        self.inner.scatter(&inner.collect::<Vec<_>>(), threads, to)
    }
    fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
        if off >= self.len {
            return Ok(None);
        }
        let data = self.inner.next_data(self.start + off)?;
        Ok(data
            .map(|d| d.start - self.start..(d.end - self.start).min(self.len))
            .filter(|d| d.start < d.end))
    }
    fn check_unchanged(&self) -> io::Result<()> {
        self.inner.check_unchanged()
    }
}

/// A regular file, read with `pread`. Safe against files that shrink while
/// they are read: the read comes back short, and what was there isn't taken
/// for a hole.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    len: u64,
    /// When it was last written, as far as the file system tells; of devices
    /// it doesn't.
    modified: Option<SystemTime>,
}

impl FileSource {
    /// Opens `path` for reading. Fails with
    /// [`io::ErrorKind::InvalidInput`] where it is not a regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(File::open(path)?)
    }

    /// Takes a regular file or a block device, and gives back what has no
    /// length: pipes, sockets, terminals. (A pipe mustn't be closed and opened
    /// again: its writer would be told that nobody reads.)
    pub fn new_if_seekable(file: File) -> io::Result<Result<Self, File>> {
        use std::os::unix::fs::FileTypeExt;
        let meta = file.metadata()?;
        if meta.is_file() {
            return Ok(Ok(Self::of(file, &meta)));
        }
        if meta.file_type().is_block_device() {
            let len = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
            return Ok(Ok(Self { file, len, modified: None }));
        }
        Ok(Err(file))
    }

    /// Takes an open file; its length is fixed here.
    pub fn new(file: File) -> io::Result<Self> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            let what = if meta.is_dir() { "a directory" } else { "not a regular file" };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(Self::of(file, &meta))
    }

    fn of(file: File, meta: &Metadata) -> Self {
        Self { file, len: meta.len(), modified: meta.modified().ok() }
    }
}

impl ReadAt for FileSource {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let want =
            usize::try_from(self.len.saturating_sub(off)).map_or(buf.len(), |n| n.min(buf.len()));
        let mut done = 0;
        while done < want {
            match self.file.read_at(&mut buf[done..want], off + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
    fn in_file(&self, off: u64) -> Option<(&File, u64, u64)> {
        let left = self.len.checked_sub(off).filter(|&n| n > 0)?;
        Some((&self.file, off, left))
    }
    fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
        let data = next_data_of(&self.file, off, self.len)?;
        // Behind the end of a file that was cut there is no data either; to
        // whoever takes that for a hole, the rest of the dump would be zeros.
        if data.as_ref().is_none_or(|d| d.end < self.len)
            && self.modified.is_some()
            && self.file.metadata()?.len() < self.len
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(data)
    }
    fn check_unchanged(&self) -> io::Result<()> {
        let Some(modified) = self.modified else { return Ok(()) };
        let meta = self.file.metadata()?;
        if meta.len() == self.len && meta.modified().ok() == Some(modified) {
            return Ok(());
        }
        Err(io::Error::other(
            "the file has changed while it was read; try again when it is complete",
        ))
    }
}

/// A regular file as a read-only memory map. The fastest source; a file that
/// another program truncates meanwhile ends this process with SIGBUS, which
/// is why conversions read through [`FileSource`].
#[derive(Debug)]
pub struct MapSource {
    map: memmap2::Mmap,
    file: File,
}

impl MapSource {
    /// Maps `path` whole. Fails with [`io::ErrorKind::InvalidInput`] where it
    /// is not a regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = FileSource::open(path)?.file;
        // SAFETY: the map is private to this struct and read-only. Rust asks
        // that nobody changes the bytes behind it; like every reader of
        // mapped files we can't enforce that, and treat each byte as
        // untrusted whenever it is read: a change can yield a wrong answer,
        // not a wild access, because no length or offset is kept unchecked
        // inside the map.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self { map, file })
    }
}

impl ReadAt for MapSource {
    fn len(&self) -> u64 {
        self.map.len() as u64
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.map[..].read_at(off, buf)
    }
    fn slice(&self, off: u64, len: usize) -> Option<&[u8]> {
        ReadAt::slice(&self.map[..], off, len)
    }
    fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
        next_data_of(&self.file, off, self.len())
    }
}

/// SEEK_DATA and SEEK_HOLE; the cursor they move is never used for reading.
/// Where the file system doesn't know holes, everything is data.
fn next_data_of(file: &File, off: u64, len: u64) -> io::Result<Option<Range<u64>>> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    if off >= len {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(off)) {
        Ok(start) => start.max(off),
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(off..len)),
        Err(e) => return Err(e.into()),
    };
    if start >= len {
        return Ok(None);
    }
    let end = match seek(file, SeekFrom::Hole(start)) {
        Ok(end) if end > start => end.min(len),
        _ => len,
    };
    Ok(Some(start..end))
}
