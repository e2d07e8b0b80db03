//! A stream that can be read like a file, as long as nobody goes back far:
//! its beginning and a window of what came last are kept.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vmcask_dump::ReadAt;

/// Bytes of a chunk of the window.
const CHUNK: usize = 1 << 20;
/// Chunks kept: more than the jobs an archive's writer has under way.
const WINDOW: usize = 64;

/// A stream with a window.
pub struct StreamSource {
    /// The first bytes, kept for good.
    head: Arc<Vec<u8>>,
    /// What its length is taken for; the real one once the stream has ended.
    len: AtomicU64,
    state: Mutex<State>,
}

struct State {
    reader: Box<dyn Read + Send>,
    chunks: VecDeque<Vec<u8>>,
    /// Offset of the first byte in `chunks`.
    start: u64,
    /// Offset of the byte that the reader gives next.
    end: u64,
    ended: bool,
    /// It ended before its container did.
    cut: bool,
    /// Why it can't be read on.
    failed: Option<(io::ErrorKind, String)>,
}

impl StreamSource {
    /// A stream whose first bytes, `head`, have been read from `reader`
    /// already. `len` is what its length should be.
    pub fn new(head: Arc<Vec<u8>>, reader: Box<dyn Read + Send>, len: u64) -> Self {
        let at = head.len();
        Self {
            head,
            len: len.into(),
            state: Mutex::new(State {
                reader,
                chunks: VecDeque::new(),
                start: at,
                end: at,
                ended: false,
                cut: false,
                failed: None,
            }),
        }
    }

    /// Reads to the end and says how long the stream really is.
    pub fn finish(&self) -> io::Result<u64> {
        let mut state = self.lock();
        while !state.ended {
            self.advance(&mut state)?;
        }
        Ok(state.end)
    }

    /// Whether what it comes out of, as far as it was read, ended too early.
    pub fn is_cut(&self) -> bool {
        self.lock().cut
    }

    /// The bytes read so far.
    pub fn position(&self) -> u64 {
        self.lock().end
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        crate::lock(&self.state)
    }

    /// Reads one more chunk.
    fn advance(&self, state: &mut State) -> io::Result<()> {
        if let Some((kind, what)) = &state.failed {
            return Err(io::Error::new(*kind, what.clone()));
        }
        let mut chunk = if state.chunks.len() >= WINDOW {
            let oldest = state.chunks.pop_front().unwrap_or_default();
            state.start += oldest.len() as u64;
            oldest
        } else {
            Vec::with_capacity(CHUNK)
        };
        chunk.clear();
        match state.reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(_) => {}
            // What came before is right, and all there is.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => state.cut = true,
            Err(e) => {
                state.failed = Some((e.kind(), e.to_string()));
                return Err(e);
            }
        }
        state.end += chunk.len() as u64;
        if chunk.is_empty() || state.cut {
            state.ended = true;
            self.len.store(state.end, Ordering::Relaxed);
        }
        if !chunk.is_empty() {
            state.chunks.push_back(chunk);
        }
        Ok(())
    }
}

impl ReadAt for StreamSource {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        if let Some(rest) = usize::try_from(off).ok().and_then(|o| self.head.get(o..)) {
            done = rest.len().min(buf.len());
            buf[..done].copy_from_slice(&rest[..done]);
        }
        if done == buf.len() {
            return Ok(done);
        }
        let mut state = self.lock();
        let end = off.saturating_add(buf.len() as u64);
        while state.end < end && !state.ended {
            self.advance(&mut state)?;
        }
        if off + (done as u64) < state.start {
            return Err(io::Error::other(format!(
                "offset {off:#x} of the stream has gone by; unpack it to a file first"
            )));
        }
        while done < buf.len() {
            let at = off + done as u64;
            if at >= state.end {
                break;
            }
            // All chunks but the last are full.
            let within = at - state.start;
            let Some(chunk) = state.chunks.get((within / CHUNK as u64) as usize) else { break };
            let rest = &chunk[((within % CHUNK as u64) as usize).min(chunk.len())..];
            let n = rest.len().min(buf.len() - done);
            if n == 0 {
                break;
            }
            buf[done..done + n].copy_from_slice(&rest[..n]);
            done += n;
        }
        Ok(done)
    }

    fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
        let len = self.len();
        Ok((off < len).then_some(off..len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives few bytes at a time, as pipes do.
    struct Trickle(Vec<u8>, usize);

    impl Read for Trickle {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = buf.len().min(70_001).min(self.0.len() - self.1);
            buf[..n].copy_from_slice(&self.0[self.1..self.1 + n]);
            self.1 += n;
            Ok(n)
        }
    }

    #[test]
    fn reads_as_the_file_would() {
        let bytes: Vec<u8> = (0..5_000_011u32).map(|i| (i % 253) as u8).collect();
        let reader = Box::new(Trickle(bytes.clone(), 4096));
        let s = StreamSource::new(Arc::new(bytes[..4096].to_vec()), reader, u64::MAX);
        let mut buf = vec![0; 2_000_000];
        for off in [0, 4000, 1_000_000, 100, 3_500_000, 2_999_999] {
            let n = s.read_at(off, &mut buf).unwrap();
            assert_eq!(buf[..n], bytes[off as usize..][..n]);
            assert_eq!(n, buf.len().min(bytes.len() - off as usize));
        }
        assert_eq!(s.finish().unwrap(), bytes.len() as u64);
        assert_eq!(s.len(), bytes.len() as u64);
        assert_eq!(s.read_at(5_000_011, &mut buf).unwrap(), 0);
    }

    #[test]
    fn what_has_gone_by_is_an_error() {
        let long = ((WINDOW + 10) * CHUNK) as u64;
        let s = StreamSource::new(Arc::new(vec![7; 10]), Box::new(io::repeat(1).take(long)), long);
        let mut buf = [0; 4];
        s.read_exact_at(long - 4, &mut buf).unwrap();
        assert!(s.read_at(4096, &mut buf).is_err());
        assert_eq!(s.read_at(2, &mut buf).unwrap(), 4);
        assert_eq!(buf, [7; 4]);
    }
}
