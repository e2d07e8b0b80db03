//! A section of the index, each chunk checked when it is first used.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use vmcask_dump::ReadAt;

use super::sections::{field, name, read};
use crate::digest::checksum;
use crate::error::{Error, Result};
use crate::layout::{CHECKSUM_LEN, CHUNK_LEN};

const CHUNK: u64 = CHUNK_LEN as u64;

/// The bytes of a chunk, once it is known to be right.
type Copy = OnceLock<Box<[u8]>>;

/// A section. Opening one reads nothing: 8 bytes of memory for every 4 MiB of
/// it say which chunks have been checked.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) kind: u32,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    checksum: [u8; CHECKSUM_LEN],
    /// Offset of its first chunk checksum.
    checksums: u64,
    /// The chunk checksums, once they are known to be right.
    sums: OnceLock<Box<[u8]>>,
    /// Bit n: chunk n is right.
    checked: Box<[AtomicU64]>,
    /// Chunks of sources that aren't memory.
    copies: OnceLock<Box<[Copy]>>,
}

impl Section {
    /// The caller has checked that section and checksums lie inside the file.
    pub(crate) fn new(
        kind: u32,
        offset: u64,
        length: u64,
        checksum: [u8; CHECKSUM_LEN],
        checksums: u64,
    ) -> Self {
        let words = chunks(length).div_ceil(64);
        Self {
            kind,
            offset,
            length,
            checksum,
            checksums,
            sums: OnceLock::new(),
            checked: (0..words).map(|_| AtomicU64::new(0)).collect(),
            copies: OnceLock::new(),
        }
    }

    /// `len` bytes from `at` on, which must lie in one chunk.
    #[inline]
    pub(crate) fn bytes<'a>(
        &'a self,
        src: &'a dyn ReadAt,
        at: u64,
        len: usize,
    ) -> Result<&'a [u8]> {
        let chunk = at / CHUNK;
        let end = at.saturating_add(len as u64);
        if len == 0 || end > self.length || (end - 1) / CHUNK != chunk {
            return Err(self.outside(at, len));
        }
        if !self.is_checked(chunk) {
            self.check(src, chunk)?;
        }
        // Asking the source is a call, or several.
        let copy = self.copies.get().and_then(|c| c.get(chunk as usize)?.get());
        let bytes = match copy {
            Some(copy) => copy.get((at % CHUNK) as usize..).and_then(|c| c.get(..len)),
            None => src.slice(self.offset + at, len),
        };
        bytes.ok_or_else(|| self.outside(at, len))
    }

    pub(crate) fn checksums(&self) -> u64 {
        self.checksums
    }

    pub(crate) fn u16(&self, src: &dyn ReadAt, index: u64) -> Result<u16> {
        self.array(src, index).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&self, src: &dyn ReadAt, index: u64) -> Result<u32> {
        self.array(src, index).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&self, src: &dyn ReadAt, index: u64) -> Result<u64> {
        self.array(src, index).map(u64::from_le_bytes)
    }

    /// The integer at `index`; none crosses a chunk's end.
    #[inline]
    fn array<const N: usize>(&self, src: &dyn ReadAt, index: u64) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(src, index.saturating_mul(N as u64), N)?);
        Ok(array)
    }

    /// All bytes of a section of at most `most`.
    pub(crate) fn whole(&self, src: &dyn ReadAt, most: u64) -> Result<Vec<u8>> {
        if self.length > most {
            let expected = format!("at most {most} bytes");
            return Err(field(self.offset, name(self.kind), self.length, expected));
        }
        let mut bytes = Vec::with_capacity(self.length as usize);
        self.for_each_chunk(src, |chunk| bytes.extend_from_slice(chunk))?;
        Ok(bytes)
    }

    /// Checks every chunk and shows it to `f`.
    pub(crate) fn for_each_chunk(&self, src: &dyn ReadAt, mut f: impl FnMut(&[u8])) -> Result<()> {
        for chunk in 0..chunks(self.length) {
            let at = chunk * CHUNK;
            f(self.bytes(src, at, CHUNK.min(self.length - at) as usize)?);
        }
        Ok(())
    }

    /// Fails unless the section has this many bytes.
    pub(crate) fn expect_len(&self, expected: u64) -> Result<()> {
        if self.length == expected {
            return Ok(());
        }
        Err(field(self.offset, name(self.kind), self.length, format!("{expected} bytes")))
    }

    fn is_checked(&self, chunk: u64) -> bool {
        let word = self.checked.get((chunk / 64) as usize);
        word.is_some_and(|w| w.load(Ordering::Acquire) >> (chunk % 64) & 1 != 0)
    }

    #[cold]
    fn outside(&self, at: u64, len: usize) -> Error {
        let found = format!("{} bytes", self.length);
        field(self.offset, name(self.kind), found, format!("{len} bytes at {at} inside it"))
    }

    /// Checks a chunk, and keeps a copy where the source isn't memory.
    #[cold]
    fn check(&self, src: &dyn ReadAt, chunk: u64) -> Result<()> {
        let at = chunk * CHUNK;
        let (off, len) = (self.offset + at, CHUNK.min(self.length - at) as usize);
        let sums = self.sums(src)?;
        let from = chunk as usize * CHECKSUM_LEN;
        let mut copy = None;
        let bytes = match src.slice(off, len) {
            Some(bytes) => bytes,
            None => &**copy.insert(read(src, off, len, name(self.kind))?.into_boxed_slice()),
        };
        if sums.get(from..from + CHECKSUM_LEN) != Some(&checksum(bytes)[..]) {
            return Err(Error::Checksum { part: name(self.kind), off, len: len as u64 });
        }
        if let Some(copy) = copy {
            let new = || (0..chunks(self.length)).map(|_| OnceLock::new()).collect();
            if let Some(place) = self.copies.get_or_init(new).get(chunk as usize) {
                // Another thread may have been faster; its copy is as good.
                let _ = place.set(copy);
            }
        }
        if let Some(word) = self.checked.get((chunk / 64) as usize) {
            word.fetch_or(1 << (chunk % 64), Ordering::Release);
        }
        Ok(())
    }

    fn sums(&self, src: &dyn ReadAt) -> Result<&[u8]> {
        if let Some(sums) = self.sums.get() {
            return Ok(sums);
        }
        let len = chunks(self.length) as usize * CHECKSUM_LEN;
        let sums = read(src, self.checksums, len, "checksums")?;
        if checksum(&sums) != self.checksum {
            let (part, off) = ("checksums", self.checksums);
            return Err(Error::Checksum { part, off, len: len as u64 });
        }
        Ok(self.sums.get_or_init(|| sums.into()))
    }
}

/// Chunks of a section of `length` bytes.
pub(crate) fn chunks(length: u64) -> u64 {
    length.div_ceil(CHUNK)
}
