//! The original's bytes in their order, cell by cell.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use vmcask_dump::ReadAt;
use vmcask_dump::source::{Sink, Wanted};

use super::ArchiveReader;
use super::extents::Entry;
use super::scatter::Stop;
use crate::error::Result;
use crate::layout::CELL_SIZE;

impl ReadAt for ArchiveReader {
    fn len(&self) -> u64 {
        self.summary.original_length.get()
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read(off, buf).map_err(io::Error::other)
    }

    /// Where slots are in another order than cells.
    fn scatter(&self, pieces: &[Wanted], threads: usize, to: &dyn Sink) -> io::Result<bool> {
        if self.slots.is_none() {
            return Ok(false);
        }
        self.by_frame(pieces, threads, to).map(|()| true).map_err(|stop| match stop {
            Stop::Archive(e) => io::Error::other(e),
            Stop::Sink(e) => e,
        })
    }

    fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
        self.next_run(off).map_err(io::Error::other)
    }
}

impl ArchiveReader {
    /// [`ReadAt::read_at`] with this crate's errors.
    pub fn read(&self, off: u64, buf: &mut [u8]) -> Result<usize> {
        let len = self.summary.original_length.get();
        let end = len.min(off.saturating_add(buf.len() as u64));
        let total = end.saturating_sub(off) as usize;
        let mut rest = &mut buf[..total];
        let mut at = off;
        // The frame read last: cells that follow each other share frames.
        let mut last: Option<(u64, Arc<Vec<u8>>)> = None;
        let mut entry: Option<Entry> = None;
        while !rest.is_empty() {
            if entry.as_ref().is_none_or(|e| !e.range.contains(&at)) {
                entry = self.extents.at_or_after(&*self.src, at)?;
            }
            let current = match &entry {
                Some(e) if e.range.contains(&at) => e,
                // A hostile table may send us back: the hole then ends here.
                next => {
                    let until = next.as_ref().map_or(end, |e| e.range.start.clamp(at, end));
                    let until = if until == at { end } else { until };
                    let (hole, more) =
                        std::mem::take(&mut rest).split_at_mut((until - at) as usize);
                    hole.fill(0);
                    rest = more;
                    at = until;
                    continue;
                }
            };
            let extent = &current.range;
            let cell = current.cell_of(at);
            let within = ((at - extent.start) % CELL_SIZE as u64) as usize;
            let n = (CELL_SIZE - within).min((extent.end - at) as usize).min(rest.len());
            match self.slot_of(cell)? {
                None => rest[..n].fill(0),
                Some(slot) => {
                    if let Some(frame) = self.whole_frame(slot, cell, at, extent, rest)? {
                        let len = self.frame_len(frame);
                        self.decode(frame, &mut rest[..len])?;
                        rest = &mut std::mem::take(&mut rest)[len..];
                        at += len as u64;
                        continue;
                    }
                    let frame = slot / self.cells_per_frame;
                    let start = (slot % self.cells_per_frame) as usize * CELL_SIZE + within;
                    if last.as_ref().is_none_or(|l| l.0 != frame || l.1.get(..start + n).is_none())
                    {
                        last = Some((frame, self.frame(frame, start + n)?));
                    }
                    let bytes = last.as_ref().and_then(|l| l.1.get(start..start + n));
                    let Some(bytes) = bytes else {
                        return Err(self.frame_error(frame, "it is shorter than its cells"));
                    };
                    rest[..n].copy_from_slice(bytes);
                }
            }
            rest = &mut std::mem::take(&mut rest)[n..];
            at += n as u64;
        }
        Ok(total)
    }

    /// The frame whose cells, in order, are just what is wanted next: it can
    /// be decompressed in place.
    fn whole_frame(
        &self,
        slot: u64,
        cell: u64,
        at: u64,
        extent: &Range<u64>,
        buf: &[u8],
    ) -> Result<Option<u64>> {
        let k = self.cells_per_frame;
        let len = k * CELL_SIZE as u64;
        if !slot.is_multiple_of(k)
            || !(at - extent.start).is_multiple_of(CELL_SIZE as u64)
            || (buf.len() as u64) < len
            || extent.end - at < len
            || slot + k > self.summary.slots.get()
        {
            return Ok(None);
        }
        for i in 1..k {
            if self.slot_of(cell + i)? != Some(slot + i) {
                return Ok(None);
            }
        }
        Ok(Some(slot / k))
    }

    fn next_run(&self, off: u64) -> Result<Option<Range<u64>>> {
        let src = &*self.src;
        let Some(extent) = self.extents.at_or_after(src, off)? else { return Ok(None) };
        let from = extent.cell_of(off.max(extent.range.start));
        let Some(run) = self.cells.next_run(src, from)? else { return Ok(None) };
        let Some(first) = self.extents.range_of(src, run.start)? else { return Ok(None) };
        let Some(extent) = self.extents.at_or_after(src, first.start)? else { return Ok(None) };
        let cells = run.end - run.start;
        let end = first.start.saturating_add(cells.saturating_mul(CELL_SIZE as u64));
        let range = first.start.max(off)..end.min(extent.range.end);
        // Only a hostile index leads backwards.
        Ok((range.start < range.end).then_some(range))
    }
}
