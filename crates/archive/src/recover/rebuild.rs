//! A new index from the checkpoints.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vmcask_dump::ReadAt;
use zerocopy::IntoBytes;

use super::scan::{Found, MOST_CONTENT, walk};
use crate::checkpoint::Window;
use crate::error::{Error, Result};
use crate::extents::Extents;
use crate::layout::{CELL_SIZE, Head, UNKNOWN_LEN};
use crate::plan::Plan;
use crate::reader::ArchiveReader;
use crate::reader::frames::Zeros;
use crate::reader::sections::read;
use crate::writer::pipeline::Data;
use crate::writer::{Output, head, index};

const CELL: u64 = CELL_SIZE as u64;

pub(super) struct Rebuilt {
    pub(super) reader: ArchiveReader,
    /// Ranges of the original that no intact checkpoint describes.
    pub(super) unknown: Vec<Range<u64>>,
}

/// No data frame has fewer bytes.
const LEAST_FRAME: u64 = 9;

/// A data frame in the file: offset, bytes, content.
type Place = (u64, u64, u64);

/// Reads the archive by its checkpoints; `None` where there are none.
pub(super) fn rebuild(src: &Arc<dyn ReadAt>, cancelled: &AtomicBool) -> Result<Option<Rebuilt>> {
    let mut windows: Vec<Window> = Vec::new();
    let mut frames = Numbering::new(&**src);
    walk(&**src, src.len(), cancelled, |found| match found {
        Found::Frame { off, len, content } => frames.frame((off, len, content)),
        Found::Gap => frames.gap(),
        Found::Checkpoint(w) => {
            // The frames before it are in this file, or were.
            let most = (src.len() / LEAST_FRAME + 1) * u64::from(w.cells_per_frame);
            // Later than the last, or it isn't of this archive.
            let fits = w.first_slot <= most
                && windows.last().is_none_or(|last| {
                    w.first_cell >= last.first_cell + last.cells
                        && (w.first_slot >= last.first_slot + last.new_slots || mixed(&w, last))
                        && (w.cells_per_frame, w.plain) == (last.cells_per_frame, last.plain)
                        && (w.original_len == last.original_len
                            || (w.last && last.original_len == UNKNOWN_LEN))
                        && w.extents.first().is_none_or(|e| {
                            last.extents.last().is_none_or(|before| e.start >= before.end)
                        })
                });
            if fits {
                frames.checkpoint(w.next_frame, u64::from(w.cells_per_frame) * CELL, w.plain);
                windows.push(*w);
            }
        }
    })?;
    let Some(first) = windows.first() else { return Ok(None) };
    let (k, plain) = (u64::from(first.cells_per_frame), first.plain);
    // Of a stream cut off nobody knows how long it was.
    let original_len = match windows.last() {
        Some(w) if w.original_len != UNKNOWN_LEN => w.original_len,
        _ => windows.iter().filter_map(|w| w.extents.last()).map(|e| e.end).max().unwrap_or(0),
    };
    let (mut data, ranges, unknown, slots) = assemble(&windows, original_len)?;
    let total_frames = slots.div_ceil(k);
    frames.end(windows.last().filter(|w| w.last).map(|_| total_frames));

    let extents = Extents::new(ranges, original_len)
        .map_err(|bad| Error::Plan(format!("checkpoints contradict each other: {}", bad.found)))?;
    let mut stored_len = slots * CELL;
    if plain && let Some(last) = extents.ranges().last().filter(|e| e.end == original_len) {
        stored_len -= (last.end - last.start).next_multiple_of(CELL) - (last.end - last.start);
    }
    let places = frames.places(total_frames, k * CELL, stored_len);
    // Where each lies is told to the reader apart from the index.
    for frame in 0..=total_frames {
        data.offsets.push(size_of::<Head>() as u64 + frame)?;
    }
    checks(&**src, &places, &mut data)?;

    // Not marked as plain: cells may be missing.
    let head = head(k as u32, 0, false);
    let start = src.len().next_multiple_of(64);
    let mut tail = Vec::new();
    let mut out = Output::new(&mut tail);
    out.at = start;
    index::write(data, &extents, &Plan::default(), original_len, &head, &mut out)?;
    out.seek_table()?;
    let patched = Patched { src: src.clone(), head: head.as_bytes().to_vec(), start, tail };
    let mut reader = ArchiveReader::open_index(Arc::new(patched), true)?;
    reader.set_stored_len(stored_len);
    for (frame, place) in (0..).zip(&places) {
        reader.set_moved(frame, place.map(|(off, len, _)| (off, len)));
    }
    Ok(Some(Rebuilt { reader, unknown }))
}

/// Both have their slots among the same ones.
fn mixed(a: &Window, b: &Window) -> bool {
    a.reordered && b.reordered && (a.first_slot, a.new_slots) == (b.first_slot, b.new_slots)
}

type Assembled = (Data, Vec<Range<u64>>, Vec<Range<u64>>, u64);

/// What the windows say together: their cells numbered anew, what lies
/// between them, and how many slots there are at least.
fn assemble(windows: &[Window], original_len: u64) -> Result<Assembled> {
    let mut data = Data::default();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut unknown = Vec::new();
    let (mut cell, mut next_slot, mut slots) = (0u64, 0, 0);
    let mut expected_cell = 0;
    for w in windows {
        let whole = w.first_cell == expected_cell;
        if !whole {
            let from = ranges.last().map_or(0, |r| r.end);
            unknown.push(from..w.extents.first().map_or(original_len, |e| e.start));
        }
        expected_cell = w.first_cell + w.cells;
        for (i, extent) in w.extents.iter().enumerate() {
            match ranges.last_mut() {
                Some(last) if i == 0 && whole && w.continues && last.end == extent.start => {
                    last.end = extent.end;
                }
                _ => ranges.push(extent.clone()),
            }
        }
        let mut of_window = w.slots.iter();
        for c in 0..w.cells {
            if cell.is_multiple_of(64) {
                data.words.push(0);
            }
            if w.is_non_zero(c)
                && let Some(&slot) = of_window.next()
            {
                if let Some(word) = data.words.last_mut() {
                    *word |= 1 << (cell % 64);
                }
                if slot != next_slot {
                    data.except(data.non_zero, slot)?;
                }
                next_slot = next_slot.max(slot + 1);
                data.non_zero += 1;
                slots = slots.max(slot + 1);
            }
            cell += 1;
        }
        slots = slots.max(w.first_slot + w.new_slots);
    }
    if windows.last().is_none_or(|w| !w.last) {
        unknown.push(ranges.last().map_or(0, |r| r.end)..original_len);
    }
    data.words.resize(data.words.len().next_multiple_of(4), 0);
    // No cell is left that would need a slot.
    data.slots = if data.non_zero == 0 { 0 } else { slots };
    let slots = data.slots;
    Ok((data, ranges, unknown, slots))
}

/// Gives frames their numbers: counted on from a checkpoint, and behind a gap
/// back from the next one.
struct Numbering<'a> {
    src: &'a dyn ReadAt,
    known: Vec<(u64, Place)>,
    /// Those since the last checkpoint.
    since: Vec<(u64, Place)>,
    /// Number of the next frame, as long as no gap has come.
    next: Option<u64>,
    /// Frames since the gap.
    behind_gap: Vec<Place>,
    /// Bytes of whole frames' contents, and whether there are frames of zeros.
    frame_len: Option<(u64, bool)>,
    zeros: Zeros,
}

impl<'a> Numbering<'a> {
    fn new(src: &'a dyn ReadAt) -> Self {
        Self {
            src,
            known: Vec::new(),
            since: Vec::new(),
            next: None,
            behind_gap: Vec::new(),
            frame_len: None,
            zeros: Zeros::default(),
        }
    }

    /// Whether a frame's content is right by zstd's checksum. The length of one
    /// that isn't may have led over whole frames, and exactly to the next.
    fn is_intact(&self, place: &Place) -> bool {
        let Ok(frame) = read(self.src, place.0, place.1 as usize, "data frame") else {
            return false;
        };
        let mut content = Vec::with_capacity(place.2.min(MOST_CONTENT) as usize);
        zstd_safe::decompress(&mut content, &frame).is_ok()
    }

    fn holds_zeros(&mut self, &(off, len, content): &Place) -> bool {
        read(self.src, off, len as usize, "frame of zeros")
            .is_ok_and(|frame| self.zeros.are_in(frame, content as usize))
    }

    /// Takes those since the last checkpoint, which nothing has confirmed: up to
    /// one that is damaged.
    fn take_unconfirmed(&mut self) {
        let right = self.since.iter().take_while(|(_, place)| self.is_intact(place)).count();
        self.since.truncate(right);
        self.known.append(&mut self.since);
    }

    fn frame(&mut self, place: Place) {
        // Frames of zeros are longer than data frames. What says so and isn't one
        // may be a data frame: whether it counts is not known.
        if self.frame_len.is_some_and(|(len, plain)| plain && place.2 > len) {
            if !self.holds_zeros(&place) {
                self.gap();
            }
            return;
        }
        if let Some(next) = &mut self.next {
            self.since.push((*next, place));
            *next += 1;
        } else {
            self.behind_gap.push(place);
        }
    }

    fn gap(&mut self) {
        self.next = None;
        self.behind_gap.clear();
    }

    fn checkpoint(&mut self, next_frame: u64, frame_len: u64, plain: bool) {
        self.frame_len = Some((frame_len, plain));
        // A wrong count means that a frame in between was misread.
        match self.next {
            Some(next) if next == next_frame => self.known.append(&mut self.since),
            Some(_) => self.since.clear(),
            None => self.take_unconfirmed(),
        }
        self.count_back(next_frame);
        self.next = Some(next_frame);
    }

    fn count_back(&mut self, next_frame: u64) {
        let len = self.frame_len.map_or(u64::MAX, |l| l.0);
        let mut behind = std::mem::take(&mut self.behind_gap);
        behind.retain(|p| p.2 <= len);
        let right = behind.iter().rev().take_while(|place| self.is_intact(place)).count();
        for (back, place) in (1..).zip(behind.into_iter().rev().take(right)) {
            if let Some(number) = next_frame.checked_sub(back) {
                self.known.push((number, place));
            }
        }
    }

    /// At the end of the file, where `frames` are known to be all.
    fn end(&mut self, frames: Option<u64>) {
        if self.next.is_some() && self.next == frames {
            self.known.append(&mut self.since);
        } else {
            self.take_unconfirmed();
        }
        if let Some(frames) = frames
            && self.next.is_none()
        {
            self.count_back(frames);
        }
    }

    /// Where each of `frames` lies: only those that hold what they must.
    fn places(&self, frames: u64, frame_len: u64, stored_len: u64) -> Vec<Option<Place>> {
        let mut places = vec![None; frames as usize];
        for &(number, place) in &self.known {
            let expected = frame_len.min(stored_len.saturating_sub(number * frame_len));
            if let Some(p) = places.get_mut(number as usize)
                && place.2 == expected
            {
                *p = Some(place);
            }
        }
        places
    }
}

/// Checks that fit the frames as they are: zstd's own checksums must do.
fn checks(src: &dyn ReadAt, places: &[Option<Place>], data: &mut Data) -> Result<()> {
    for place in places {
        let check = match place {
            Some((off, len, _)) => crc32fast::hash(&read(src, *off, *len as usize, "data frame")?),
            None => 0,
        };
        data.frame_checks.push(&check.to_le_bytes())?;
    }
    Ok(())
}

/// The damaged file with another head, and another index behind its end.
struct Patched {
    src: Arc<dyn ReadAt>,
    head: Vec<u8>,
    /// Where `tail` begins, behind the file's end.
    start: u64,
    tail: Vec<u8>,
}

impl ReadAt for Patched {
    fn len(&self) -> u64 {
        self.start + self.tail.len() as u64
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        if off >= self.start {
            return self.tail.read_at(off - self.start, buf);
        }
        let n = (self.start - off).min(buf.len() as u64) as usize;
        let (now, rest) = buf.split_at_mut(n);
        let read = self.src.read_at(off, now)?;
        now[read..].fill(0);
        if let Some(head) = self.head.get(off as usize..) {
            let h = head.len().min(n);
            now[..h].copy_from_slice(&head[..h]);
        }
        Ok(n + self.tail.read_at(0, rest)?)
    }

    fn slice(&self, off: u64, len: usize) -> Option<&[u8]> {
        if off >= self.start {
            self.tail.slice(off - self.start, len)
        } else if off >= self.head.len() as u64 {
            self.src.slice(off, len)
        } else {
            None
        }
    }
}
