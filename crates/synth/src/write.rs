//! Writing a dump to a file, on several threads, zero pages as holes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

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
/// Files from this length on are flushed while they grow,
const FLUSH_FROM: u64 = 128 << 20;
/// each time that this much is new.
const FLUSH_STEP: u64 = 32 << 20;
const FLUSH_PAUSE: Duration = Duration::from_millis(5);
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
    /// Bytes that went to the file.
    written: AtomicU64,
    finished: AtomicBool,
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
            written: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            failure: Mutex::new(None),
            progress,
            cancelled,
        };
        std::thread::scope(|scope| {
            let flusher = (self.len() >= FLUSH_FROM)
                .then(|| std::thread::Builder::new().spawn_scoped(scope, || shared.flush_early()));
            let mut workers = Vec::new();
            for _ in 1..threads {
                // Where no thread is to be had, those there are do the work.
                match std::thread::Builder::new().spawn_scoped(scope, || shared.work()) {
                    Ok(worker) => workers.push(worker),
                    Err(_) => break,
                }
            }
            shared.work();
            for worker in workers {
                // A panic goes on when the scope ends.
                let _ = worker.join();
            }
            shared.finished.store(true, Ordering::Relaxed);
            if let Some(Ok(flusher)) = flusher {
                flusher.thread().unpark();
            }
        });
        match shared.failure.into_inner() {
            Ok(Some(e)) => Err(e),
            _ => Ok(()),
        }
    }
}

impl Shared<'_> {
    /// Has the disk write while pages are made: whoever wants the file on the
    /// disk in the end waits less.
    fn flush_early(&self) {
        let mut flushed = 0;
        while !self.finished.load(Ordering::Relaxed) {
            let written = self.written.load(Ordering::Relaxed);
            if written - flushed >= FLUSH_STEP {
                flushed = written;
                // Whatever is wrong will be seen by who syncs the whole.
                let _ = self.file.sync_data();
            } else {
                std::thread::park_timeout(FLUSH_PAUSE);
            }
        }
    }

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
        self.written.fetch_add(buf.len() as u64, Ordering::Relaxed);
        buf.clear();
        Ok(())
    }
}
