//! Writing a dump to a file, on several threads, zero pages as holes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::Error;
use crate::memory::PAGE_SIZE;
use crate::minidump::SynthDump;

/// How to write.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// Leave holes where pages are zero.
    pub sparse: bool,
    /// Threads, at least 1.
    pub threads: usize,
}

/// File pages that a thread makes at a time: 4 MiB.
const CHUNK_PAGES: u64 = 1024;

impl SynthDump {
    /// Writes the dump to `file`, which must be empty. `progress` is told the
    /// bytes of the dump done so far. Needs 4 MiB a thread.
    pub fn write_to(
        &self,
        file: &File,
        options: WriteOptions,
        progress: &(dyn Fn(u64) + Sync),
        cancelled: &AtomicBool,
    ) -> Result<(), Error> {
        file.set_len(self.len()).map_err(|source| Error::Write { off: 0, len: 0, source })?;
        let pages = self.len() / PAGE_SIZE;
        let next = AtomicU64::new(0);
        let done = AtomicU64::new(0);
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..options.threads.max(1) {
                scope.spawn(|| {
                    let mut buf = Vec::with_capacity((CHUNK_PAGES * PAGE_SIZE) as usize);
                    loop {
                        let first = next.fetch_add(CHUNK_PAGES, Ordering::Relaxed);
                        if first >= pages {
                            return;
                        }
                        let end = (first + CHUNK_PAGES).min(pages);
                        let result = if cancelled.load(Ordering::Relaxed) {
                            Err(Error::Cancelled)
                        } else {
                            self.write_pages(file, first, end, options.sparse, &mut buf)
                        };
                        if let Err(e) = result {
                            next.store(pages, Ordering::Relaxed);
                            if let Ok(mut failure) = failure.lock() {
                                failure.get_or_insert(e);
                            }
                            return;
                        }
                        let bytes = (end - first) * PAGE_SIZE;
                        progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes);
                    }
                });
            }
        });
        match failure.into_inner() {
            Ok(Some(e)) => Err(e),
            _ => Ok(()),
        }
    }

    fn write_pages(
        &self,
        file: &File,
        first: u64,
        end: u64,
        sparse: bool,
        buf: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let mut page = [0; PAGE_SIZE as usize];
        let mut start = first;
        for number in first..end {
            if sparse && self.is_zero(number) {
                flush(file, start, buf)?;
                start = number + 1;
            } else {
                self.file_page(number, &mut page);
                buf.extend_from_slice(&page);
            }
        }
        flush(file, start, buf)
    }
}

fn flush(file: &File, first: u64, buf: &mut Vec<u8>) -> Result<(), Error> {
    let off = first * PAGE_SIZE;
    file.write_all_at(buf, off).map_err(|source| Error::Write { off, len: buf.len(), source })?;
    buf.clear();
    Ok(())
}
