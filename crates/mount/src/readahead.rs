//! Whoever reads from front to back is served from memory: windows of the
//! file that other threads have decompressed before they are asked for, in
//! the order in which the archive has them at least cost.
//!
//! The kernel reads ahead too, but 128 KiB at a time. A frame of an archive
//! holds pages that resemble each other, from anywhere: taken so little at a
//! time it would be decompressed for each of them again.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use vmcask_dump::ReadAt;
use vmcask_dump::source::{Piece, Wanted};

/// Bytes read in order before windows begin.
const START: u64 = 1 << 20;
/// The kernel's requests come in some order, from several threads: within
/// this distance of the last they are still one reading.
const SLACK: u64 = 1 << 20;
/// Windows grow to this; each reader has two of them.
const MOST: u64 = 64 << 20;
/// All windows together. Readers that get none are served all the same.
const BUDGET: u64 = 256 << 20;
/// What no source has an order for is read in pieces of this.
const PIECE: u64 = 1 << 20;

/// What is behind these locks is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fills windows, one after the other, with several threads each.
pub(crate) struct Ahead {
    jobs: Sender<(Arc<dyn ReadAt>, Weak<Window>)>,
    /// Bytes of all windows.
    used: Arc<AtomicU64>,
}

impl Ahead {
    pub(crate) fn new(threads: usize) -> Self {
        let (jobs, queue) = channel::<(Arc<dyn ReadAt>, Weak<Window>)>();
        // Ends when the sender is dropped. Without it windows fail, and
        // readers read for themselves.
        let _ = std::thread::Builder::new().name("readahead".into()).spawn(move || {
            for (source, window) in queue {
                // Whoever wanted it may be gone.
                if let Some(window) = window.upgrade() {
                    window.fill(&*source, threads.max(1));
                }
            }
        });
        Self { jobs, used: Arc::default() }
    }

    /// Orders a window; `None` where memory doesn't allow it.
    fn order(&self, source: &Arc<dyn ReadAt>, start: u64, len: u64) -> Option<Arc<Window>> {
        if self.used.fetch_add(len, Ordering::Relaxed) + len > BUDGET {
            self.used.fetch_sub(len, Ordering::Relaxed);
            return None;
        }
        let state = Mutex::new(State::Awaited);
        let used = self.used.clone();
        let window = Arc::new(Window { start, len, state, filled: Condvar::new(), used });
        if self.jobs.send((source.clone(), Arc::downgrade(&window))).is_err() {
            *lock(&window.state) = State::Failed;
        }
        Some(window)
    }
}

/// A part of a file in memory, or on its way there.
struct Window {
    start: u64,
    len: u64,
    state: Mutex<State>,
    filled: Condvar,
    used: Arc<AtomicU64>,
}

impl Drop for Window {
    fn drop(&mut self) {
        self.used.fetch_sub(self.len, Ordering::Relaxed);
    }
}

enum State {
    Awaited,
    Filled(Arc<Vec<u8>>),
    Failed,
}

impl Window {
    fn end(&self) -> u64 {
        self.start + self.len
    }

    fn fill(&self, source: &dyn ReadAt, threads: usize) {
        let state = read_all(source, self.start, self.len, threads)
            .map_or(State::Failed, |bytes| State::Filled(Arc::new(bytes)));
        *lock(&self.state) = state;
        self.filled.notify_all();
    }

    /// Its bytes, once they are there; `None` where they can't be had at once.
    fn bytes(&self) -> Option<Arc<Vec<u8>>> {
        let mut state = lock(&self.state);
        loop {
            match &*state {
                State::Awaited => {
                    state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                State::Filled(bytes) => return Some(bytes.clone()),
                State::Failed => return None,
            }
        }
    }
}

/// Reads `[start, start + len)` with several threads.
fn read_all(source: &dyn ReadAt, start: u64, len: u64, threads: usize) -> io::Result<Vec<u8>> {
    let bytes = Mutex::new(vec![0; len as usize]);
    let wanted = [Wanted { off: start, len, to: 0 }];
    let put = |pieces: &[Piece<'_>]| {
        let mut bytes = lock(&bytes);
        for &(to, part) in pieces {
            let to = to as usize;
            let place = bytes.get_mut(to..to + part.len()).ok_or(io::ErrorKind::InvalidData)?;
            place.copy_from_slice(part);
        }
        Ok(())
    };
    if source.scatter(&wanted, threads, &put)? {
        return Ok(bytes.into_inner().unwrap_or_else(PoisonError::into_inner));
    }
    let mut bytes = bytes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let pieces = Mutex::new(bytes.chunks_mut(PIECE as usize).zip(0u64..));
    let work = || -> io::Result<()> {
        loop {
            let Some((piece, n)) = lock(&pieces).next() else { return Ok(()) };
            source.read_exact_at(start + n * PIECE, piece)?;
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let joined = others.into_iter().map(|t| t.join().unwrap_or(Ok(())));
        joined.fold(own, Result::and)
    })?;
    Ok(bytes)
}

/// An open file.
pub(crate) struct Reader {
    source: Arc<dyn ReadAt>,
    course: Mutex<Course>,
}

/// How it has been read so far.
#[derive(Default)]
struct Course {
    /// Where reading in order began, and how far it has come.
    since: u64,
    next: u64,
    /// Adjacent, in order.
    windows: VecDeque<Arc<Window>>,
}

impl Reader {
    pub(crate) fn new(source: Arc<dyn ReadAt>) -> Self {
        Self { source, course: Mutex::default() }
    }

    /// Fills `buf`, which ends with the source at the latest.
    pub(crate) fn read(&self, ahead: &Ahead, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let rest = &mut buf[done..];
            let window = self.window(ahead, at, rest.len() as u64);
            let end = window.as_ref().map_or(u64::MAX, |w| w.end());
            let n = (end - at).min(rest.len() as u64) as usize;
            let bytes = window.as_ref().and_then(|w| Some((w.bytes()?, (at - w.start) as usize)));
            match bytes.as_ref().and_then(|(bytes, from)| bytes.get(*from..from + n)) {
                Some(bytes) => rest[..n].copy_from_slice(bytes),
                // Read alone, an unreadable byte fails those that want it, and
                // no others.
                None => self.source.read_exact_at(at, &mut rest[..n])?,
            }
            done += n;
        }
        Ok(())
    }

    /// Notes a read, orders windows ahead of it, and gives the one that it
    /// begins in, if there is one.
    fn window(&self, ahead: &Ahead, at: u64, len: u64) -> Option<Arc<Window>> {
        let mut course = lock(&self.course);
        let course = &mut *course;
        if at + SLACK < course.next || at > course.next + SLACK {
            *course = Course { since: at, next: at, ..Course::default() };
        }
        course.next = course.next.max(at + len);
        let read = course.next - course.since;
        // The kernel has read a plain file ahead before we know it.
        if read >= START && self.source.in_file(at).is_none() {
            while course.windows.front().is_some_and(|w| w.end() + SLACK < course.next) {
                course.windows.pop_front();
            }
            let mut from = course.windows.back().map_or(course.next, |w| w.end());
            // One is being read, the next is being filled.
            while course.windows.len() < 2 || from < course.next {
                let len = read.min(MOST).min(self.source.len().saturating_sub(from));
                if len == 0 {
                    break;
                }
                let Some(window) = ahead.order(&self.source, from, len) else { break };
                course.windows.push_back(window);
                from += len;
            }
        }
        course.windows.iter().find(|w| (w.start..w.end()).contains(&at)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts how its bytes are asked for; bytes at `bad` can't be read.
    struct Counted {
        bytes: Vec<u8>,
        in_order: bool,
        bad: Option<u64>,
        direct: AtomicU64,
        scattered: AtomicU64,
    }

    impl Counted {
        fn check(&self, off: u64, len: u64) -> io::Result<()> {
            match self.bad {
                Some(bad) if (off..off + len).contains(&bad) => {
                    Err(io::ErrorKind::InvalidData.into())
                }
                _ => Ok(()),
            }
        }
    }

    impl ReadAt for Counted {
        fn len(&self) -> u64 {
            self.bytes.len() as u64
        }
        fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
            self.check(off, buf.len() as u64)?;
            self.direct.fetch_add(buf.len() as u64, Ordering::Relaxed);
            self.bytes.read_at(off, buf)
        }
        fn scatter(
            &self,
            wanted: &[Wanted],
            _: usize,
            to: &dyn vmcask_dump::source::Sink,
        ) -> io::Result<bool> {
            if self.in_order {
                return Ok(false);
            }
            for w in wanted {
                self.check(w.off, w.len)?;
                self.scattered.fetch_add(w.len, Ordering::Relaxed);
                let range = w.off as usize..(w.off + w.len) as usize;
                for (i, part) in self.bytes[range].chunks(1000).enumerate().rev() {
                    to.take(&[(w.to + i as u64 * 1000, part)])?;
                }
            }
            Ok(true)
        }
    }

    const LEN: usize = 40 << 20;
    const REQUEST: usize = 128 << 10;

    fn source(in_order: bool, bad: Option<u64>) -> Arc<Counted> {
        let bytes = (0..LEN).map(|i| (i / 7) as u8 ^ (i >> 16) as u8).collect();
        let (direct, scattered) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Counted { bytes, in_order, bad, direct, scattered })
    }

    /// Reads at each of `offsets`; the errors' offsets.
    fn read(source: &Arc<Counted>, offsets: impl Iterator<Item = usize>) -> Vec<usize> {
        let (reader, ahead) = (Reader::new(source.clone()), Ahead::new(2));
        let mut buf = vec![0; REQUEST];
        let mut failed = Vec::new();
        for at in offsets {
            let n = REQUEST.min(LEN - at);
            match reader.read(&ahead, at as u64, &mut buf[..n]) {
                Ok(()) => assert_eq!(buf[..n], source.bytes[at..at + n], "at {at}"),
                Err(_) => failed.push(at),
            }
        }
        failed
    }

    #[test]
    fn from_front_to_back_each_byte_is_read_once() {
        for in_order in [false, true] {
            let source = source(in_order, None);
            // Pairs swapped, as the kernel's requests come.
            let requests = (0..LEN).step_by(2 * REQUEST);
            let swapped = requests.flat_map(|at| [at + REQUEST, at]);
            assert_eq!(read(&source, swapped), [0; 0]);
            let direct = source.direct.load(Ordering::Relaxed) as usize;
            let scattered = source.scattered.load(Ordering::Relaxed) as usize;
            assert_eq!(direct + scattered, LEN, "{direct} + {scattered}");
            assert!(in_order || direct <= 2 << 20, "{direct}");
        }
    }

    #[test]
    fn here_and_there_nothing_is_read_ahead() {
        let source = source(false, None);
        let scattered = (0..200).map(|i| (i * 7919 * 4096) % (LEN - REQUEST));
        assert_eq!(read(&source, scattered), [0; 0]);
        assert_eq!(source.scattered.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_unreadable_byte_fails_who_wants_it() {
        let bad = 17 << 20;
        let source = source(false, Some(bad + 5));
        assert_eq!(read(&source, (0..LEN).step_by(REQUEST)), [bad as usize]);
    }
}
