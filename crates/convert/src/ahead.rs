//! Reading ahead, a window at a time, in the source's own order: an archive's
//! frames are decompressed by several threads, and but once a window, while
//! what they gave before is written.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::{io, thread};

use vmcask_dump::ReadAt;
use vmcask_dump::source::{Piece, Wanted};

use crate::error::{Error, Result};

/// Bytes of a window. Two are in memory. An archive's frame has pages from
/// anywhere in a GiB: smaller windows decompress it more often.
const WINDOW: u64 = 48 << 20;
/// Bytes that one thread at a time copies to.
const PIECE: usize = 64 << 10;

/// A window's bytes, in pieces that threads fill at the same time.
struct Window(Vec<Mutex<Vec<u8>>>);

impl Window {
    fn new() -> Self {
        Self((0..WINDOW as usize / PIECE).map(|_| Mutex::new(Vec::new())).collect())
    }

    fn clear(&mut self, len: u64) {
        let mut left = len as usize;
        for piece in &mut self.0 {
            let piece = piece.get_mut().unwrap_or_else(PoisonError::into_inner);
            let n = left.min(PIECE);
            piece.clear();
            piece.resize(n, 0);
            left -= n;
        }
    }

    fn put(&self, at: u64, mut bytes: &[u8]) -> io::Result<()> {
        let mut at = at as usize;
        while !bytes.is_empty() {
            let piece = self.0.get(at / PIECE).ok_or(io::ErrorKind::InvalidInput)?;
            let mut piece = crate::lock(piece);
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - at % PIECE));
            let to = piece.get_mut(at % PIECE..at % PIECE + now.len());
            to.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(now);
            at += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Fills it with `range` of the source.
    fn fill(
        &mut self,
        source: &dyn ReadAt,
        range: &Range<u64>,
        threads: usize,
        cancelled: &AtomicBool,
    ) -> Result<()> {
        self.clear(range.end - range.start);
        let failed = |source| Error::Read { off: range.start, len: WINDOW as usize, source };
        let (mut wanted, mut at) = (Vec::new(), range.start);
        while at < range.end
            && let Some(data) = source.next_data(at).map_err(failed)?
            && data.start < range.end
        {
            let end = data.end.min(range.end);
            let (off, len) = (data.start, end - data.start);
            wanted.push(Wanted { off, len, to: off - range.start });
            at = end;
        }
        let put = |pieces: &[Piece<'_>]| {
            if cancelled.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            pieces.iter().try_for_each(|&(to, bytes)| self.put(to, bytes))
        };
        let filled = source.scatter(&wanted, threads, &put);
        if cancelled.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        filled.map_err(failed)?;
        Ok(())
    }
}

/// Hands all bytes of a source with an order of its own to `sink`, from front
/// to back; `false`, and nothing is done, for others.
pub(crate) fn each_window(
    source: &dyn ReadAt,
    threads: usize,
    cancelled: &AtomicBool,
    mut sink: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<bool> {
    let failed = |source| Error::Read { off: 0, len: 0, source };
    if !source.scatter(&[], threads, &|_: &[Piece<'_>]| Ok(())).map_err(failed)? {
        return Ok(false);
    }
    let len = source.len();
    let (full, filled) = mpsc::sync_channel::<Result<(u64, Window)>>(0);
    let (used, empty) = mpsc::channel();
    // Two at most: one is filled while the other is written.
    for _ in 0..2 {
        let _ = used.send(Window::new());
    }
    thread::scope(|scope| {
        scope.spawn(move || {
            for start in (0..len).step_by(WINDOW as usize) {
                let range = start..len.min(start + WINDOW);
                // Nobody listens any more where the sink has failed.
                let Ok(mut window) = empty.recv() else { return };
                let result = window.fill(source, &range, threads, cancelled);
                let done = result.is_err();
                if full.send(result.map(|()| (start, window))).is_err() || done {
                    return;
                }
            }
        });
        // Dropped when this ends, so that the thread ends, too.
        let (filled, used) = (filled, used);
        for window in &filled {
            let (mut at, window) = window?;
            for piece in &window.0 {
                let piece = crate::lock(piece);
                sink(at, &piece)?;
                at += piece.len() as u64;
            }
            let _ = used.send(window);
        }
        Ok(true)
    })
}
