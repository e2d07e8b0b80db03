//! From cells to frames: workers hash and compress, this thread decides in
//! cell order what is zero, a duplicate or stored, and writes in slot order.
//! The archive's bytes depend on the source and the options, never on the
//! number of threads.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};

use super::dedup::DedupTable;
use super::ordered::FirstPass;
use super::similar::Lists;
use super::spill::Spill;
use super::workers::{CellAt, Done, Frames, Hashed, Job, Worker, compress_error, spawn};
use super::{Output, WriteOptions};
use crate::checkpoint::Window;
use crate::digest::Digester;
use crate::error::{Error, Result};
use crate::extents::Extents;
use crate::layout::{CELL_SIZE, FRAMES_PER_BASE, HOLE_FRAME_LEN, UNKNOWN_LEN, WINDOW_CELLS};
use vmcask_dump::ReadAt;

/// Bytes read and hashed at a time.
const BATCH_LEN: usize = 1 << 20;
/// Bytes compressed at a time.
const GROUP_LEN: usize = 1 << 20;
/// Jobs under way for each thread: enough to keep all busy, few enough to
/// bound memory (2 MiB each at most).
const JOBS_PER_THREAD: usize = 4;

/// What the index needs to know about the data frames.
#[derive(Default)]
pub(crate) struct Data {
    /// Bit c: cell c is not zero.
    pub(crate) words: Vec<u64>,
    pub(crate) non_zero: u64,
    /// Non-zero cells that don't take the slot behind the highest so far:
    /// ordinal among the non-zero cells, slot; 8 bytes each.
    pub(crate) exceptions: Spill,
    pub(crate) slots: u64,
    /// Sections 7 and 8, frame by frame.
    pub(crate) offsets: FrameOffsets,
    /// CRC-32 of each data frame.
    pub(crate) frame_checks: Spill,
    pub(crate) digester: Digester,
    /// Where a stream has ended.
    pub(crate) end: Option<u64>,
}

impl Data {
    /// Notes an exception.
    pub(crate) fn except(&mut self, ordinal: u64, slot: u64) -> Result<()> {
        let mut record = [0; 16];
        record[..8].copy_from_slice(&ordinal.to_le_bytes());
        record[8..].copy_from_slice(&slot.to_le_bytes());
        self.exceptions.push(&record)
    }
}

/// Offset of each data frame, and the end of the last: as the index has them.
#[derive(Default)]
pub(crate) struct FrameOffsets {
    /// The offset of every 64th frame.
    pub(crate) bases: Vec<u64>,
    /// Each frame's offset from its base.
    pub(crate) from_base: Spill,
}

impl FrameOffsets {
    /// How many have been noted.
    pub(crate) fn len(&self) -> u64 {
        self.from_base.len() / 4
    }

    pub(crate) fn push(&mut self, offset: u64) -> Result<()> {
        if self.len().is_multiple_of(FRAMES_PER_BASE as u64) {
            self.bases.push(offset);
        }
        let base = self.bases.last().copied().unwrap_or(0);
        let from_base = u32::try_from(offset - base).map_err(|_| {
            Error::Plan("64 frames span more than 4 GiB; use smaller frames".into())
        })?;
        self.from_base.push(&from_base.to_le_bytes())
    }
}

/// Extents of a plain archive: whole frames, so that slots follow cells.
pub(super) fn whole_frames(
    extents: &[Range<u64>],
    len: u64,
    cells_per_frame: u32,
) -> Vec<Range<u64>> {
    let frame = u64::from(cells_per_frame) * CELL_SIZE as u64;
    let mut out: Vec<Range<u64>> = Vec::new();
    for e in extents {
        let start = e.start / frame * frame;
        let end = e.end.next_multiple_of(frame).min(len);
        match out.last_mut() {
            // A hole of one frame is stored: recovery tells data frames from
            // frames of zeros by their size.
            Some(last) if start <= last.end + frame => last.end = last.end.max(end),
            _ => out.push(start..end),
        }
    }
    if let Some(last) = out.last_mut().filter(|last| len - last.end <= frame) {
        last.end = len;
    }
    out
}

pub(super) fn run(
    src: &dyn ReadAt,
    extents: &Extents,
    opts: &WriteOptions,
    open_end: bool,
    out: &mut Output<'_>,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<Data> {
    let frame_len = opts.cells_per_frame as usize * CELL_SIZE;
    let threads = opts.threads.max(1);
    let order = opts.order(open_end);
    std::thread::scope(|scope| {
        let (jobs, job_queue) = crossbeam_channel::unbounded();
        let (done, done_queue) = crossbeam_channel::unbounded();
        for _ in 0..threads {
            let worker = Worker::new(src, opts, open_end, order > 0)?;
            spawn(scope, worker, job_queue.clone(), done.clone());
        }
        drop((job_queue, done));
        let mut writer = Pipeline {
            out,
            jobs,
            done: done_queue,
            // Whole frames, so that only the last one can be short.
            group_len: GROUP_LEN.next_multiple_of(frame_len),
            most_in_flight: threads * JOBS_PER_THREAD,
            progress,
            cancelled,
            first_pass: (order > 0).then(|| FirstPass::new(order, opts.cells_per_frame)),
            sorted: BTreeMap::new(),
            dedup: (!opts.plain).then(|| DedupTable::new(extents.cells(), opts.dedup_memory)),
            group: Vec::new(),
            hashed: BTreeMap::new(),
            compressed: BTreeMap::new(),
            next_hashed: 0,
            next_group: 0,
            next_written: 0,
            group_ends: VecDeque::new(),
            in_flight: 0,
            cell: 0,
            window: Window::default(),
            windows: VecDeque::new(),
            described: 0,
            window_cells: opts.cells_per_checkpoint.into(),
            blank: Window {
                original_len: if open_end { UNKNOWN_LEN } else { src.len() },
                cells_per_frame: opts.cells_per_frame,
                plain: opts.plain,
                ..Window::default()
            },
            // A stream has none that could be told before it is read.
            holes: (opts.plain && !open_end)
                .then(|| Holes::new(extents, src.len(), frame_len as u64)),
            open_end,
            data_written: 0,
            // Its bits grow with what is read: a header or a server may promise
            // any length.
            data: Data::default(),
        };
        writer.window = writer.blank.clone();
        writer.run(extents)
    })
}

pub(super) struct Pipeline<'a, 'b> {
    pub(super) out: &'a mut Output<'b>,
    jobs: Sender<Job>,
    pub(super) done: Receiver<Done>,
    pub(super) group_len: usize,
    pub(super) most_in_flight: usize,
    pub(super) progress: &'a dyn Fn(u64),
    pub(super) cancelled: &'a AtomicBool,
    /// Where cells are put in order of resemblance.
    pub(super) first_pass: Option<FirstPass>,
    pub(super) sorted: BTreeMap<usize, Lists>,
    pub(super) dedup: Option<DedupTable>,
    /// Slots not yet given to a worker.
    group: Vec<u8>,
    /// Results that came before their turn.
    pub(super) hashed: BTreeMap<u64, Hashed>,
    pub(super) compressed: BTreeMap<u64, Frames>,
    next_hashed: u64,
    pub(super) next_group: u64,
    pub(super) next_written: u64,
    /// Of a plain archive's groups to be written: the slot behind the last.
    group_ends: VecDeque<u64>,
    pub(super) in_flight: usize,
    cell: u64,
    /// The window that the next cell belongs to.
    pub(super) window: Window,
    /// Windows whose checkpoints are still to be written.
    pub(super) windows: VecDeque<Window>,
    /// Slots that complete windows describe.
    described: u64,
    /// Cells of a window.
    pub(super) window_cells: u64,
    /// What all windows have in common.
    pub(super) blank: Window,
    holes: Option<Holes>,
    open_end: bool,
    /// Bytes of the original in the frames written so far (plain archives).
    data_written: u64,
    pub(super) data: Data,
}

impl Pipeline<'_, '_> {
    fn run(mut self, extents: &Extents) -> Result<Data> {
        let ranges = extents.ranges();
        // A stream's last extent goes on until it ends; there always is one.
        let (ranges, endless) = match ranges.split_last() {
            Some((last, before)) if self.open_end => (before, Some(last.start..u64::MAX)),
            None if self.open_end => (ranges, Some(0..u64::MAX)),
            _ => (ranges, None),
        };
        // A plain archive's become groups.
        let step = if self.dedup.is_none() { self.group_len } else { BATCH_LEN } as u64;
        let batches = ranges.iter().cloned().chain(endless).flat_map(|e| {
            (e.start..e.end).step_by(step as usize).map(move |at| at..(at + step).min(e.end))
        });
        // Groups wait for the checkpoint that describes their last slot. Those of a
        // plain archive come with their cells: no more than a window has wait.
        let most_groups = if self.dedup.is_none() {
            u64::MAX
        } else {
            2 * self.most_in_flight as u64
                + (WINDOW_CELLS * CELL_SIZE as u64).div_ceil(self.group_len as u64)
                + 1
        };
        let mut bytes_done = 0;
        let mut seq = 0;
        let mut batches = batches.peekable();
        loop {
            // Results that wait for their turn count too: one slow job must
            // not let the others pile up.
            while self.data.end.is_none()
                && self.in_flight < self.most_in_flight
                && seq - self.next_hashed < 2 * self.most_in_flight as u64
                && self.next_group - self.next_written < most_groups
                && let Some(range) = batches.next()
            {
                self.submit(Job::Hash { seq, range })?;
                seq += 1;
            }
            let all_read = self.data.end.is_some() || batches.peek().is_none();
            if all_read && self.next_hashed == seq && !self.window.last {
                self.window.last = true;
                if let Some(end) = self.data.end {
                    self.window.original_len = end;
                }
                self.end_window();
                self.second_pass()?;
                if !self.group.is_empty() {
                    self.compress_group()?;
                }
                self.write_ready()?;
            }
            if self.in_flight == 0 {
                break;
            }
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            match self.done.recv() {
                Ok(Done::Hashed { seq, result }) => {
                    self.in_flight -= 1;
                    self.hashed.insert(seq, result?);
                    while let Some(hashed) = self.hashed.remove(&self.next_hashed) {
                        self.next_hashed += 1;
                        let bytes = hashed.len as u64;
                        self.place(hashed, extents)?;
                        bytes_done += bytes;
                        let pass = self.first_pass.as_mut();
                        (self.progress)(pass.map_or(bytes_done, |p| p.read(bytes)));
                    }
                    self.write_ready()?;
                }
                Ok(Done::Compressed { seq, result }) => {
                    self.in_flight -= 1;
                    self.compressed.insert(seq, result?);
                    self.write_ready()?;
                }
                Ok(Done::Sorted { .. }) => self.in_flight -= 1,
                Err(_) => return Err(Error::ended()),
            }
        }
        self.write_windows(u64::MAX)?;
        if let Some(holes) = self.holes.take() {
            holes.rest(self.out)?;
        }
        let end = self.out.at;
        self.data.offsets.push(end)?;
        Ok(self.data)
    }

    pub(super) fn submit(&mut self, job: Job) -> Result<()> {
        self.in_flight += 1;
        self.jobs.send(job).map_err(|_| Error::ended())
    }

    /// Decides for each cell of a batch, in order.
    fn place(&mut self, hashed: Hashed, extents: &Extents) -> Result<()> {
        if self.data.end.is_some() {
            return Ok(());
        }
        let mut at = hashed.start;
        let end = at + hashed.len as u64;
        if hashed.len < hashed.asked {
            self.data.end = Some(end);
        }
        let mut starts_extent = extents.starts_at(at);
        for (n, hash) in hashed.hashes.iter().enumerate() {
            self.before_cell()?;
            if self.window.cells == self.window_cells {
                self.end_window();
            }
            let number = self.cell;
            self.cell += 1;
            let range = at..end.min(at + CELL_SIZE as u64);
            at = range.end;
            let starts = std::mem::take(&mut starts_extent);
            if self.window.cells == 0 {
                self.window.continues = !starts;
            }
            let Some(hash) = hash else {
                self.window.push(range, starts, None);
                continue;
            };
            let word = (number / 64) as usize;
            if word >= self.data.words.len() {
                self.data.words.resize((word + 1).next_multiple_of(4), 0);
            }
            self.data.words[word] |= 1 << (number % 64);
            self.data.digester.cell(hash);
            let ordinal = self.data.non_zero;
            self.data.non_zero += 1;
            // A short cell's hash is that of its own length: it equals no
            // whole cell, not even one with zeros behind the same bytes.
            let slot = self.data.slots;
            let mut earlier = self.dedup.as_mut().and_then(|d| d.find_or_insert(hash, slot));
            if self.fills_up() {
                earlier = None;
            }
            self.window.push(range.clone(), starts, Some(earlier.unwrap_or(slot)));
            if let Some(earlier) = earlier {
                // Which one that will be isn't known yet where cells are put in
                // order.
                if self.first_pass.is_none() {
                    self.data.except(ordinal, earlier)?;
                }
                continue;
            }
            self.data.slots += 1;
            self.window.new_slots += 1;
            if let Some(pass) = &mut self.first_pass {
                let (check, features) = hashed.sketches.get(n);
                let len = (range.end - range.start) as u32;
                pass.push(CellAt { off: range.start, len, check }, features);
                continue;
            }
            if self.dedup.is_none() {
                continue;
            }
            let start = (range.start - hashed.start) as usize;
            let cell = &hashed.bytes[start..(range.end - hashed.start) as usize];
            self.group.extend_from_slice(cell);
            self.group.resize(self.group.len().next_multiple_of(CELL_SIZE), 0);
            if self.group.len() >= self.group_len {
                self.compress_group()?;
            }
        }
        if !hashed.frames.sizes.is_empty() {
            self.compressed.insert(self.next_group, hashed.frames);
            self.next_group += 1;
            self.group_ends.push_back(self.data.slots);
        }
        Ok(())
    }

    /// The window is complete; the next one begins.
    pub(super) fn end_window(&mut self) {
        let next = Window {
            first_cell: self.cell,
            first_slot: self.data.slots,
            last: self.window.last,
            ..self.blank.clone()
        };
        self.described = self.data.slots;
        self.windows.push_back(std::mem::replace(&mut self.window, next));
    }

    /// Writes what may be written: groups in order, each behind the
    /// checkpoints that describe its slots.
    fn write_ready(&mut self) -> Result<()> {
        let group_slots = (self.group_len / CELL_SIZE) as u64;
        loop {
            let end = match self.group_ends.front() {
                Some(&end) => end,
                None => (self.next_written + 1) * group_slots,
            };
            if end.min(self.data.slots) > self.described && !self.window.last {
                return Ok(());
            }
            let Some(frames) = self.compressed.remove(&self.next_written) else { return Ok(()) };
            self.next_written += 1;
            self.group_ends.pop_front();
            self.write_windows(end)?;
            self.write(&frames)?;
        }
    }

    /// Writes the checkpoints of windows that take slots before `end`.
    fn write_windows(&mut self, end: u64) -> Result<()> {
        while self.windows.front().is_some_and(|w| w.first_slot < end)
            && let Some(mut window) = self.windows.pop_front()
        {
            window.next_frame = self.data.offsets.len();
            self.out.frame(&window.encode()?, 0)?;
        }
        Ok(())
    }

    fn compress_group(&mut self) -> Result<()> {
        let slots = std::mem::replace(&mut self.group, Vec::with_capacity(self.group_len));
        let seq = self.next_group;
        self.next_group += 1;
        self.submit(Job::Compress { seq, slots })
    }

    pub(super) fn write(&mut self, frames: &Frames) -> Result<()> {
        let mut at = 0;
        for &(compressed, decompressed) in &frames.sizes {
            if let Some(holes) = &mut self.holes {
                holes.before(self.data_written, self.out)?;
                self.data_written += u64::from(decompressed);
            }
            self.data.offsets.push(self.out.at)?;
            let end = at + compressed as usize;
            let frame = &frames.bytes[at..end];
            self.data.frame_checks.push(&crc32fast::hash(frame).to_le_bytes())?;
            self.out.frame(frame, decompressed)?;
            at = end;
        }
        Ok(())
    }
}

/// The holes of a plain archive, written as frames of zeros.
struct Holes {
    /// Bytes of data before each hole, and the hole's length; ascending.
    later: std::vec::IntoIter<(u64, u64)>,
    next: Option<(u64, u64)>,
    /// Bytes of a data frame's content.
    data_frame: u64,
    /// The last frame made, by its content's length: nearly all are alike.
    frame: (u64, Vec<u8>),
}

impl Holes {
    fn new(extents: &Extents, len: u64, data_frame: u64) -> Self {
        let mut holes = Vec::new();
        let (mut at, mut data) = (0, 0);
        for e in extents.ranges() {
            if e.start > at {
                holes.push((data, e.start - at));
            }
            data += e.end - e.start;
            at = e.end;
        }
        if len > at {
            holes.push((data, len - at));
        }
        let mut later = holes.into_iter();
        Self { next: later.next(), later, data_frame, frame: (0, Vec::new()) }
    }

    /// Writes the hole that begins after `data` bytes of data, if one does.
    fn before(&mut self, data: u64, out: &mut Output<'_>) -> Result<()> {
        while let Some((at, len)) = self.next
            && at <= data
        {
            self.next = self.later.next();
            let mut left = len;
            while left > 0 {
                let mut n = left.min(HOLE_FRAME_LEN.max(4 * self.data_frame));
                // A frame of zeros is longer than any data frame.
                if (1..=self.data_frame).contains(&(left - n)) {
                    n -= self.data_frame;
                }
                if self.frame.0 != n {
                    self.frame = (n, zeros(n)?);
                }
                out.frame(&self.frame.1, n as u32)?;
                left -= n;
            }
        }
        Ok(())
    }

    fn rest(mut self, out: &mut Output<'_>) -> Result<()> {
        self.before(u64::MAX, out)
    }
}

/// The one frame of `len` zeros.
pub(crate) fn zeros(len: u64) -> Result<Vec<u8>> {
    let content = vec![0; len as usize];
    let mut frame = vec![0; zstd_safe::compress_bound(content.len())];
    let mut context = zstd_safe::CCtx::create();
    context.set_parameter(zstd_safe::CParameter::ChecksumFlag(true)).map_err(compress_error)?;
    let n = context.compress2(&mut frame[..], &content).map_err(compress_error)?;
    frame.truncate(n);
    Ok(frame)
}
