//! What can still be had from a damaged or cut archive: FORMAT.md 12.
//!
//! With an intact index, every frame is tried, and those that fail are looked
//! for elsewhere in the file. Without one, the checkpoints between the data
//! frames say which cells the frames hold; a new index is built from them in
//! memory and read like any other.

mod rebuild;
mod scan;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vmcask_dump::ReadAt;

use crate::error::{Error, Result};
use crate::layout::CELL_SIZE;
use crate::reader::ArchiveReader;

/// Frames that a thread tries at a time.
const BATCH_FRAMES: u64 = 64;

/// The original as far as it can be had: a [`ReadAt`] of its full length.
/// What is lost reads as zeros.
///
/// ```
/// use std::sync::{Arc, atomic::AtomicBool};
/// use vmcask_archive::{Plan, WriteOptions, recover, write};
/// use vmcask_dump::ReadAt;
///
/// let original: Vec<u8> = (0..40_000u32).flat_map(|i| i.to_le_bytes()).collect();
/// let mut archive = Vec::new();
/// let plan = Plan::whole(original.len() as u64);
/// let go = AtomicBool::new(false);
/// write(&original, &plan, &WriteOptions::default(), &mut archive, &|_| {}, &go)?;
///
/// // Its index is gone.
/// archive.truncate(archive.len() - 500);
/// let damaged: Arc<dyn ReadAt> = Arc::new(archive);
/// let recovered = recover(&damaged, 1, &|_| {}, &go)?;
/// assert!(recovered.lost().is_empty() && recovered.index_damage().is_some());
/// let mut bytes = vec![0; original.len()];
/// recovered.read_exact_at(0, &mut bytes).unwrap();
/// assert_eq!(bytes, original);
/// # Ok::<(), vmcask_archive::Error>(())
/// ```
pub struct Recovered {
    reader: ArchiveReader,
    original_len: u64,
    index_damage: Option<Error>,
    lost: Vec<Range<u64>>,
    lost_cells: u64,
    damaged_frames: u64,
    moved_frames: u64,
    duplicates_lost: u64,
}

impl std::fmt::Debug for Recovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recovered").field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Recovered {
    /// Ranges of the original that can't be had, ascending and disjoint.
    /// Where checkpoints are lost as well as the index, what lies between two
    /// that remain is all in here, holes included.
    pub fn lost(&self) -> &[Range<u64>] {
        &self.lost
    }

    /// Bytes of all lost ranges.
    pub fn lost_bytes(&self) -> u64 {
        self.lost.iter().map(|r| r.end - r.start).sum()
    }

    /// Lost cells that only repeated the bytes of another lost one.
    pub fn lost_duplicates(&self) -> u64 {
        self.duplicates_lost
    }

    /// Data frames that can't be decompressed.
    pub fn damaged_frames(&self) -> u64 {
        self.damaged_frames
    }

    /// Data frames found elsewhere than the index says.
    pub fn moved_frames(&self) -> u64 {
        self.moved_frames
    }

    /// What is wrong with the index; it was rebuilt from checkpoints then,
    /// and holds no page map and no metadata.
    pub fn index_damage(&self) -> Option<&Error> {
        self.index_damage.as_ref()
    }

    /// The archive as it is read now: its page map, where the index is intact.
    pub fn reader(&self) -> &ArchiveReader {
        &self.reader
    }

    /// The first lost range that ends behind `off`.
    fn next_lost(&self, off: u64) -> Option<&Range<u64>> {
        self.lost.get(self.lost.partition_point(|r| r.end <= off))
    }
}

impl ReadAt for Recovered {
    fn len(&self) -> u64 {
        self.original_len
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let total = self.original_len.saturating_sub(off).min(buf.len() as u64) as usize;
        let (mut at, mut rest) = (off, &mut buf[..total]);
        while !rest.is_empty() {
            let lost = self.next_lost(at).cloned().unwrap_or(u64::MAX..u64::MAX);
            let is_lost = lost.start <= at;
            let end = if is_lost { lost.end } else { lost.start };
            let n = (end - at).min(rest.len() as u64) as usize;
            let (now, more) = std::mem::take(&mut rest).split_at_mut(n);
            if is_lost {
                now.fill(0);
            } else {
                self.reader.read_exact_at(at, now)?;
            }
            rest = more;
            at += n as u64;
        }
        Ok(total)
    }

    fn next_data(&self, mut off: u64) -> io::Result<Option<Range<u64>>> {
        loop {
            let Some(data) = self.reader.next_data(off)? else { return Ok(None) };
            match self.next_lost(data.start) {
                Some(lost) if lost.start <= data.start => off = lost.end,
                Some(lost) => return Ok(Some(data.start..data.end.min(lost.start))),
                None => return Ok(Some(data)),
            }
        }
    }
}

/// Finds out what can be had of the archive that `src` holds. `progress` is
/// told how many of 1000 parts of the work are done.
///
/// Fails where nothing can be: neither an index nor a checkpoint is intact.
pub fn recover(
    src: &Arc<dyn ReadAt>,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
    cancelled: &AtomicBool,
) -> Result<Recovered> {
    let opened = ArchiveReader::open(src.clone()).and_then(|reader| {
        match reader.verify_index().into_iter().next() {
            None => Ok(reader),
            Some(e) => Err(e),
        }
    });
    let (mut reader, index_damage, unknown) = match opened {
        Ok(reader) => (reader, None, Vec::new()),
        Err(e) => {
            let rebuilt = rebuild::rebuild(src, cancelled)?;
            let Some(rebuilt) = rebuilt else { return Err(e) };
            (rebuilt.reader, Some(e), rebuilt.unknown)
        }
    };
    let original_len = ReadAt::len(&reader);
    let damaged = try_frames(&reader, threads, progress, cancelled)?;
    let mut moved_frames = 0;
    if index_damage.is_none() && !damaged.is_empty() {
        moved_frames = find_moved(&mut reader, &damaged, cancelled)?;
    }
    let mut still = Vec::new();
    for &frame in &damaged {
        let mut content = vec![0; reader.frame_len(frame)];
        if reader.decode(frame, &mut content).is_err() {
            still.push(frame);
        }
    }
    let (lost, lost_cells, duplicates_lost) = lost_ranges(&reader, &still, unknown)?;
    let damaged_frames = still.len() as u64;
    Ok(Recovered {
        reader,
        original_len,
        index_damage,
        lost,
        lost_cells,
        damaged_frames,
        moved_frames,
        duplicates_lost,
    })
}

impl Recovered {
    /// Non-zero cells that are known and lost.
    pub fn lost_cells(&self) -> u64 {
        self.lost_cells
    }
}

/// Numbers of the frames that can't be decoded where they should be,
/// ascending.
fn try_frames(
    reader: &ArchiveReader,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
    cancelled: &AtomicBool,
) -> Result<Vec<u64>> {
    let frames = reader.stats().frames;
    let next = AtomicU64::new(0);
    let damaged = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut content = Vec::new();
                while !cancelled.load(Ordering::Relaxed) {
                    let first = next.fetch_add(BATCH_FRAMES, Ordering::Relaxed);
                    if first >= frames {
                        return;
                    }
                    for frame in first..(first + BATCH_FRAMES).min(frames) {
                        content.resize(reader.frame_len(frame), 0);
                        if reader.decode(frame, &mut content).is_err() {
                            damaged.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
                        }
                    }
                    progress((first * 1000).checked_div(frames).unwrap_or(1000));
                }
            });
        }
    });
    if cancelled.load(Ordering::Relaxed) {
        return Err(Error::Cancelled);
    }
    let mut damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
    damaged.sort_unstable();
    Ok(damaged)
}

/// Looks for damaged frames among those that lie where the index names none.
/// How many were found.
fn find_moved(reader: &mut ArchiveReader, damaged: &[u64], cancelled: &AtomicBool) -> Result<u64> {
    let mut wanted: HashMap<u32, Vec<u64>> = HashMap::new();
    for &frame in damaged {
        if let Ok(check) = reader.frame_check(frame) {
            wanted.entry(check).or_default().push(frame);
        }
    }
    let mut found = Vec::new();
    scan::frames(reader.src(), reader.data_end(), cancelled, |off, bytes| {
        for &frame in wanted.get(&crc32fast::hash(bytes)).into_iter().flatten() {
            found.push((frame, off, bytes.len() as u64));
        }
    })?;
    let mut moved = 0;
    for (frame, off, len) in found {
        reader.set_moved(frame, Some((off, len)));
        let mut content = vec![0; reader.frame_len(frame)];
        if reader.decode(frame, &mut content).is_ok() {
            moved += 1;
        } else {
            reader.set_moved(frame, None);
        }
    }
    Ok(moved)
}

/// What the lost frames held, and what isn't known at all; with the numbers
/// of cells lost, and of those that shared a slot with another.
fn lost_ranges(
    reader: &ArchiveReader,
    frames: &[u64],
    unknown: Vec<Range<u64>>,
) -> Result<(Vec<Range<u64>>, u64, u64)> {
    let mut lost = unknown;
    let (mut cells, mut slots) = (0, std::collections::HashSet::new());
    if !frames.is_empty() {
        let mut extents = Vec::new();
        reader.for_each_extent(|range, first| extents.push((range.clone(), first)))?;
        for (range, first) in extents {
            for (cell, start) in (first..).zip(range.clone().step_by(CELL_SIZE)) {
                let Some(slot) = reader.slot_of(cell)? else { continue };
                if frames.binary_search(&reader.frame_of_slot(slot)).is_ok() {
                    lost.push(start..(start + CELL_SIZE as u64).min(range.end));
                    slots.insert(slot);
                    cells += 1;
                }
            }
        }
    }
    lost.sort_unstable_by_key(|r| r.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for r in lost.into_iter().filter(|r| r.start < r.end) {
        match merged.last_mut() {
            Some(last) if r.start <= last.end => last.end = last.end.max(r.end),
            _ => merged.push(r),
        }
    }
    Ok((merged, cells, cells - slots.len() as u64))
}
