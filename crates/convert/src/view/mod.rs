//! A dump in another format, as bytes that can be read anywhere without
//! writing them: headers in memory, pages where they are in the source.

mod elf_headers;
pub mod kernel_view;
pub mod minidump_of_elf;
pub mod minidump_version;
pub mod physical_view;
pub mod prstatus;
mod runs;
pub mod target;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use vmcask_dump::ReadAt;
use vmcask_dump::source::{Sink, Wanted};

pub use runs::{Run, Runs};

/// A file put together from pieces of others; what no piece covers is a hole
/// and reads as zeros.
pub struct View {
    sources: Vec<Arc<dyn ReadAt>>,
    /// Ascending, disjoint.
    pieces: Vec<Piece>,
    len: u64,
    /// Where the pages begin, in bytes.
    pub data_at: u64,
    /// What of the input the view lacks, each in a sentence.
    pub losses: Vec<String>,
    /// What the user should know, though nothing is lost.
    pub remarks: Vec<String>,
}

/// Bytes `[at, at + len)` of the view are those of a source from `off` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    at: u64,
    len: u64,
    source: u32,
    off: u64,
}

/// Bytes copied at a time.
const COPY: usize = 256 << 10;

/// A source of a [`View`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceId(u32);

impl View {
    pub(crate) fn new() -> Self {
        Self {
            sources: Vec::new(),
            pieces: Vec::new(),
            len: 0,
            data_at: 0,
            losses: Vec::new(),
            remarks: Vec::new(),
        }
    }

    pub(crate) fn add_source(&mut self, source: Arc<dyn ReadAt>) -> SourceId {
        self.sources.push(source);
        SourceId(self.sources.len() as u32 - 1)
    }

    /// Appends `len` bytes of a source; merged with the piece before where
    /// both go on in step.
    pub(crate) fn push(&mut self, source: SourceId, off: u64, len: u64) {
        if len == 0 {
            return;
        }
        let at = self.len;
        self.len += len;
        if let Some(last) = self.pieces.last_mut()
            && last.source == source.0
            && last.at + last.len == at
            && last.off + last.len == off
        {
            last.len += len;
            return;
        }
        self.pieces.push(Piece { at, len, source: source.0, off });
    }

    /// Appends bytes.
    pub(crate) fn push_bytes(&mut self, bytes: Vec<u8>) {
        let len = bytes.len() as u64;
        let id = self.add_source(Arc::new(bytes));
        self.push(id, 0, len);
    }

    /// Appends zeros up to `at`.
    pub(crate) fn pad_to(&mut self, at: u64) {
        self.len = self.len.max(at);
    }

    /// The piece that holds `off`, or the next one, by its index.
    fn piece_at(&self, off: u64) -> usize {
        self.pieces.partition_point(|p| p.at + p.len <= off)
    }
}

impl Default for View {
    fn default() -> Self {
        Self::new()
    }
}

impl ReadAt for View {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let n =
            usize::try_from(self.len.saturating_sub(off)).map_or(buf.len(), |n| n.min(buf.len()));
        let buf = &mut buf[..n];
        let mut done = 0;
        let mut next = self.piece_at(off);
        while done < n {
            let at = off + done as u64;
            let rest = &mut buf[done..];
            let Some(p) = self.pieces.get(next).filter(|p| p.at < at + rest.len() as u64) else {
                rest.fill(0);
                break;
            };
            if at < p.at {
                let gap = (p.at - at) as usize;
                rest[..gap].fill(0);
                done += gap;
                continue;
            }
            let len = usize::try_from(p.at + p.len - at).map_or(rest.len(), |l| l.min(rest.len()));
            self.sources[p.source as usize].read_exact_at(p.off + (at - p.at), &mut rest[..len])?;
            done += len;
            next += 1;
        }
        Ok(n)
    }

    fn in_file(&self, off: u64) -> Option<(&File, u64, u64)> {
        let p = self.pieces.get(self.piece_at(off)).filter(|p| p.at <= off)?;
        let within = off - p.at;
        let (file, at, n) = self.sources[p.source as usize].in_file(p.off + within)?;
        Some((file, at, n.min(p.len - within)))
    }

    /// As the sources do it, if any of them does.
    fn scatter(&self, wanted: &[Wanted], threads: usize, to: &dyn Sink) -> io::Result<bool> {
        let mut of_sources = vec![Vec::new(); self.sources.len()];
        for w in wanted {
            let w_end = w.off + w.len;
            let pieces = &self.pieces[self.piece_at(w.off)..];
            for p in pieces.iter().take_while(|p| p.at < w_end) {
                let (start, end) = (p.at.max(w.off), (p.at + p.len).min(w_end));
                of_sources[p.source as usize].push(Wanted {
                    off: p.off + (start - p.at),
                    len: end - start,
                    to: w.to + (start - w.off),
                });
            }
        }
        let mut left = Vec::new();
        for (source, wanted) in self.sources.iter().zip(&of_sources) {
            if !source.scatter(wanted, threads, to)? {
                left.push((source, wanted));
            }
        }
        if left.len() == self.sources.len() {
            return Ok(false);
        }
        // Headers, made in memory.
        let mut buf = vec![0; COPY];
        for (source, wanted) in left {
            for w in wanted {
                for at in (0..w.len).step_by(COPY) {
                    let bytes = &mut buf[..(w.len - at).min(COPY as u64) as usize];
                    source.read_exact_at(w.off + at, bytes)?;
                    to.take(&[(w.to + at, bytes)])?;
                }
            }
        }
        Ok(true)
    }

    fn next_data(&self, mut off: u64) -> io::Result<Option<Range<u64>>> {
        for p in &self.pieces[self.piece_at(off)..] {
            off = off.max(p.at);
            let within = p.off + (off - p.at);
            if let Some(data) = self.sources[p.source as usize].next_data(within)?
                && data.start < p.off + p.len
            {
                let end = data.end.min(p.off + p.len);
                return Ok(Some(p.at + (data.start - p.off)..p.at + (end - p.off)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A view reads like the same bytes put together by hand.
        #[test]
        fn reads_what_was_put_in(
            parts in prop::collection::vec((0u64..50, 0usize..40, 0usize..60), 0..12),
            off in 0u64..900,
            len in 0usize..900,
        ) {
            let bytes: Vec<u8> = (0..100).map(|i| i + 1).collect();
            let mut view = View::new();
            let source = view.add_source(Arc::new(bytes.clone()));
            let mut model = Vec::new();
            for (gap, from, n) in parts {
                let at = model.len() as u64 + gap;
                view.pad_to(at);
                model.resize(at as usize, 0);
                view.push(source, from as u64, n as u64);
                model.extend_from_slice(&bytes[from..from + n]);
            }
            prop_assert_eq!(view.len(), model.len() as u64);
            let mut buf = vec![0xff; len];
            let n = view.read_at(off, &mut buf).unwrap();
            prop_assert_eq!(&buf[..n], model.get(off as usize..).map_or(&[][..], |m| &m[..n]));
            prop_assert_eq!(n, len.min(model.len().saturating_sub(off as usize)));
            // Outside of what next_data names there are only zeros.
            let mut at = 0;
            let mut covered = vec![false; model.len()];
            while let Some(d) = view.next_data(at).unwrap() {
                prop_assert!(d.start >= at && d.end > d.start);
                covered[d.start as usize..d.end as usize].fill(true);
                at = d.end;
            }
            prop_assert!(model.iter().zip(&covered).all(|(&b, &c)| c || b == 0));
        }
    }
}
