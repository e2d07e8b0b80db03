//! Writing a dump to a file, on several threads, zero pages as holes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::content::{FRAME_SIZE, Page};
use crate::dump::SynthDump;
use crate::error::Error;
use crate::runs::Cursor;

/// How to write.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// Leave holes where pages are zero.
    pub sparse: bool,
    /// Threads, at least 1; more than 64 are not used.
    pub threads: usize,
}

/// Bytes of the file that a thread takes at a time, at most: with few data
/// in them, taking turns would cost more than the work.
const MOST_CHUNK: u64 = 64 << 20;
/// Bytes gathered for a write.
const BUFFER: usize = 1 << 20;
/// Each has a buffer.
const MOST_THREADS: usize = 64;

/// What the threads share.
struct Shared<'a> {
    dump: &'a SynthDump,
    file: &'a File,
    /// Offset of the dump in the file.
    base: u64,
    sparse: bool,
    chunk: u64,
    next: AtomicU64,
    done: AtomicU64,
    failure: Mutex<Option<Error>>,
    progress: &'a (dyn Fn(u64) + Sync),
    cancelled: &'a AtomicBool,
}

impl SynthDump {
    /// Writes the dump to `file`, which must be empty. `progress` is told the
    /// bytes of the dump done so far. Needs 1 MiB a thread.
    pub fn write_to(
        &self,
        file: &File,
        options: WriteOptions,
        progress: &(dyn Fn(u64) + Sync),
        cancelled: &AtomicBool,
    ) -> Result<(), Error> {
        file.set_len(self.len()).map_err(|source| Error::Resize { len: self.len(), source })?;
        self.write_at(file, 0, options, progress, cancelled)
    }

    /// The same at an offset of the file, whose length is left alone.
    pub(crate) fn write_at(
        &self,
        file: &File,
        base: u64,
        options: WriteOptions,
        progress: &(dyn Fn(u64) + Sync),
        cancelled: &AtomicBool,
    ) -> Result<(), Error> {
        let threads = options.threads.clamp(1, MOST_THREADS);
        let shares = self.units() / (threads as u64 * 8);
        let shared = Shared {
            dump: self,
            file,
            base,
            sparse: options.sparse,
            chunk: shares.clamp(BUFFER as u64 / FRAME_SIZE, MOST_CHUNK / FRAME_SIZE),
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failure: Mutex::new(None),
            progress,
            cancelled,
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Where no thread is to be had, those there are do the work.
                if std::thread::Builder::new().spawn_scoped(scope, || shared.work()).is_err() {
                    break;
                }
            }
            shared.work();
        });
        match shared.failure.into_inner() {
            Ok(Some(e)) => Err(e),
            _ => Ok(()),
        }
    }
}

impl Shared<'_> {
    fn work(&self) {
        let units = self.dump.units();
        let mut buf = Vec::with_capacity(BUFFER);
        let mut cursor = Cursor::default();
        loop {
            let first = self.next.fetch_add(self.chunk, Ordering::Relaxed);
            if first >= units {
                return;
            }
            let end = (first + self.chunk).min(units);
            if let Err(e) = self.write(first, end, &mut buf, &mut cursor) {
                self.next.store(units, Ordering::Relaxed);
                if let Ok(mut failure) = self.failure.lock() {
                    failure.get_or_insert(e);
                }
                return;
            }
        }
    }

    fn write(
        &self,
        first: u64,
        end: u64,
        buf: &mut Vec<u8>,
        cursor: &mut Cursor,
    ) -> Result<(), Error> {
        let mut page: Page = [0; FRAME_SIZE as usize];
        let mut number = first;
        let mut start = first;
        let mut told = first;
        while number < end {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            if self.sparse {
                let next = self.dump.next_nonzero(number, end, cursor).unwrap_or(end);
                if next > number {
                    self.flush(start, buf)?;
                    (start, number) = (next, next);
                }
            }
            if number < end {
                self.dump.file_page(number, &mut page, cursor);
                buf.extend_from_slice(&page);
                number += 1;
            }
            if buf.len() == BUFFER || number == end {
                self.flush(start, buf)?;
                start = number;
                let bytes = (number - told) * FRAME_SIZE;
                told = number;
                (self.progress)(self.done.fetch_add(bytes, Ordering::Relaxed) + bytes);
            }
        }
        Ok(())
    }

    fn flush(&self, first: u64, buf: &mut Vec<u8>) -> Result<(), Error> {
        let off = self.base + first * FRAME_SIZE;
        // A truncated dump may end inside a unit.
        buf.truncate(self.dump.len().saturating_sub(first * FRAME_SIZE) as usize);
        self.file.write_all_at(buf, off).map_err(|source| Error::Write {
            off,
            len: buf.len(),
            source,
        })?;
        buf.clear();
        Ok(())
    }
}
