//! What the tests of this crate share.

#![allow(dead_code)] // each test file uses its own part of this

pub mod seal;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vmcask_archive::{ArchiveReader, Error, Plan, WriteOptions, Written, is_archive, write};
use vmcask_dump::ReadAt;

pub fn pack(src: &dyn ReadAt, plan: &Plan, opts: &WriteOptions) -> (Vec<u8>, Written) {
    let mut out = Vec::new();
    let written = write(src, plan, opts, &mut out, &|_| {}, &AtomicBool::new(false)).unwrap();
    assert_eq!(written.bytes, out.len() as u64);
    assert!(is_archive(&out));
    (out, written)
}

pub fn open(archive: &[u8]) -> Result<ArchiveReader, Error> {
    ArchiveReader::open(Arc::new(archive.to_vec()))
}

/// Like a file that isn't mapped; a byte of it may be one that can't be read.
pub struct NotMemory {
    pub bytes: Vec<u8>,
    pub bad: Option<u64>,
}

impl ReadAt for NotMemory {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.bad.is_some_and(|bad| (off..off + buf.len() as u64).contains(&bad)) {
            return Err(io::Error::other("a bad sector"));
        }
        self.bytes.read_at(off, buf)
    }
}

/// Pages like those of a dump: zero, repeated, text, noise.
pub fn memory(cells: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; cells * 4096];
    let mut state = seed | 1;
    for cell in bytes.chunks_mut(4096) {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        match (state >> 60) & 7 {
            0 | 1 => {}
            2 => cell.fill((state >> 40) as u8 & 3),
            3 => cell.iter_mut().enumerate().for_each(|(i, b)| *b = b"vmcask "[i % 7]),
            kind => {
                for (i, word) in cell.chunks_mut(8).enumerate() {
                    let value = if kind < 6 {
                        state + i as u64 * 64
                    } else {
                        state.rotate_left(i as u32 * 7).wrapping_mul(state)
                    };
                    word.copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }
    bytes
}

/// The same, and each later page mostly like one far before it: what is worth
/// putting side by side.
pub fn related(cells: usize, seed: u64) -> Vec<u8> {
    let mut bytes = memory(cells, seed);
    for cell in 30..cells {
        let (before, this) = bytes.split_at_mut(cell * 4096);
        let like = &before[(cell - 30) * 4096..][..4096];
        if this[..4096].iter().any(|&b| b != 0) && like.iter().any(|&b| b != 0) {
            this[..3000].copy_from_slice(&like[..3000]);
        }
    }
    bytes
}
