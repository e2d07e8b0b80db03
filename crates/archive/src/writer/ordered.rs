//! Slots in order of resemblance: cells are read twice, first to hash and
//! sketch them, then, a window of some hundred thousand at a time, in the order
//! that [`similar`](super::similar) finds, to compress them.

use std::sync::atomic::Ordering;

use crossbeam_channel::TryRecvError;

use super::pipeline::Pipeline;
use super::similar::{Features, Lists, Order, Sampling};
use super::workers::{CellAt, Done, Job};
use crate::checkpoint::Window;
use crate::error::{Error, Result};
use crate::layout::{CELL_SIZE, MAX_ORDER_SLOTS};

/// Cells of a window for each cell that takes a slot: more are duplicates,
/// which take memory all the same.
const MOST_CELLS: u64 = 4;
/// Checkpoints of a window: 1 TiB of zeros.
const MOST_CHECKPOINTS: usize = 1 << 16;
/// Of a window, one group in six may be compressed before the order of all is
/// known: 1 MiB before, a quarter of that as it waits.
/// (In tests one, so that none is under way when the order is known.)
const WAITING_OF: usize = if cfg!(test) { usize::MAX } else { 6 };

/// What a window's first pass has found.
pub(super) struct FirstPass {
    /// Cells that have slots of their own, in file order.
    cells: Vec<CellAt>,
    features: Features,
    /// How many make a window.
    most: usize,
    cells_per_frame: usize,
    /// Slots taken by the windows before.
    first_slot: u64,
    /// Non-zero cells of those.
    first_ordinal: u64,
    /// Bytes read since then.
    bytes: u64,
    /// Bytes that progress has been told, half of what was read the first time.
    told: u64,
}

impl FirstPass {
    pub(super) fn new(most: u32, cells_per_frame: u32) -> Self {
        // So that a window's frames are whole.
        let most = u64::from(most).min(MAX_ORDER_SLOTS - u64::from(cells_per_frame));
        Self {
            cells: Vec::new(),
            features: Features::default(),
            most: most as usize,
            cells_per_frame: cells_per_frame as usize,
            first_slot: 0,
            first_ordinal: 0,
            bytes: 0,
            told: 0,
        }
    }

    /// Notes a cell that takes a slot.
    pub(super) fn push(&mut self, cell: CellAt, features: &[u32]) {
        self.features.push(features);
        self.cells.push(cell);
    }

    /// How far both passes together have come with another `bytes` read.
    pub(super) fn read(&mut self, bytes: u64) -> u64 {
        self.bytes += bytes;
        self.told + self.bytes / 2
    }

    /// The window has all the cells that it can have, or no more memory.
    fn is_full(&self, non_zero: u64, checkpoints: usize) -> bool {
        self.cells.len() >= self.most
            || non_zero - self.first_ordinal >= MOST_CELLS * self.most as u64
            || checkpoints >= MOST_CHECKPOINTS
    }

    fn has_whole_frames(&self) -> bool {
        self.cells.len().is_multiple_of(self.cells_per_frame)
    }
}

impl Pipeline<'_, '_> {
    /// Before a cell: ends the window if it is full.
    pub(super) fn before_cell(&mut self) -> Result<()> {
        let Some(pass) = &self.first_pass else { return Ok(()) };
        if pass.is_full(self.data.non_zero, self.windows.len()) && pass.has_whole_frames() {
            if self.window.cells > 0 {
                self.end_window();
            }
            self.second_pass()?;
        }
        Ok(())
    }

    /// A duplicate is to be stored once more, so that the window can end with a
    /// whole frame.
    pub(super) fn fills_up(&self) -> bool {
        self.first_pass.as_ref().is_some_and(|pass| {
            pass.is_full(self.data.non_zero, self.windows.len()) && !pass.has_whole_frames()
        })
    }

    /// Puts the window's cells in order, compresses and writes them. Their
    /// checkpoints stand before all of them.
    pub(super) fn second_pass(&mut self) -> Result<()> {
        let Some(pass) = &mut self.first_pass else { return Ok(()) };
        let cells = std::mem::take(&mut pass.cells);
        let shards = std::mem::take(&mut pass.features).into_shards();
        let k = pass.cells_per_frame;
        let bytes = std::mem::take(&mut pass.bytes);
        let told = pass.told;
        pass.told += bytes;

        let mut order =
            Order::new(cells.len(), self.sorted(shards)?, Sampling::suited_to(k as u32));
        let reordered = order.is_some();
        let mut cells_in_order: Vec<u32> = Vec::with_capacity(cells.len());
        if order.is_none() {
            cells_in_order.extend(0..cells.len() as u32);
        }
        let group = self.group_len / CELL_SIZE;
        let groups = cells.len().div_ceil(group);
        let most_waiting = (groups / WAITING_OF).max(1) as u64;
        let (mut submitted, mut written) = (0, 0);
        let mut since_mark = 0;
        let mut described = false;
        while written < groups || !described {
            if let Some(order) = &mut order {
                let end = (cells_in_order.len() + group).min(cells.len());
                while cells_in_order.len() < end {
                    order.next_frame(k, &mut cells_in_order);
                }
            }
            if !described && cells_in_order.len() == cells.len() {
                order = None;
                self.describe(&cells_in_order, reordered)?;
                described = true;
            }
            while submitted < groups
                && self.in_flight < self.most_in_flight
                && self.next_group - self.next_written < most_waiting
                && let Some(chosen) = chunk(&cells_in_order, submitted, group, cells.len())
            {
                let cells = chosen.iter().map(|&c| cells[c as usize]).collect();
                self.submit(Job::Gather { seq: self.next_group, cells })?;
                self.next_group += 1;
                submitted += 1;
            }
            // Nothing may be under way any more where all that may wait does.
            let ready = self.compressed.contains_key(&self.next_written);
            self.receive(described && written < groups && !ready)?;
            if !described {
                continue;
            }
            while let Some(frames) = self.compressed.remove(&self.next_written) {
                if since_mark >= self.window_cells as usize {
                    self.mark()?;
                    since_mark = 0;
                }
                self.write(&frames)?;
                self.next_written += 1;
                written += 1;
                since_mark += group;
                let second = bytes / 2 * written as u64 / groups as u64;
                (self.progress)(told + bytes / 2 + second);
            }
        }
        if let Some(pass) = &mut self.first_pass {
            pass.first_slot = self.data.slots;
            pass.first_ordinal = self.data.non_zero;
        }
        Ok(())
    }

    /// Takes a result of a worker if there is one, waiting for it if asked to.
    fn receive(&mut self, wait: bool) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        let done = match self.done.try_recv() {
            Err(TryRecvError::Empty) if !wait => return Ok(()),
            Ok(done) => done,
            Err(_) => self.done.recv().map_err(|_| Error::ended())?,
        };
        self.in_flight -= 1;
        match done {
            // Of the next window.
            Done::Hashed { seq, result } => drop(self.hashed.insert(seq, result?)),
            Done::Compressed { seq, result } => drop(self.compressed.insert(seq, result?)),
            Done::Sorted { part, lists } => drop(self.sorted.insert(part, lists)),
        }
        Ok(())
    }

    /// Has the workers sort the features.
    fn sorted(&mut self, shards: Vec<Vec<u64>>) -> Result<Vec<Lists>> {
        let n = shards.len();
        for (part, noted) in shards.into_iter().enumerate() {
            self.submit(Job::Sort { part, noted })?;
        }
        while self.sorted.len() < n {
            self.receive(true)?;
        }
        Ok(std::mem::take(&mut self.sorted).into_values().collect())
    }

    /// Tells everybody which slots the window's cells have, now that their order
    /// is known: the index, the table of duplicates, the checkpoints.
    fn describe(&mut self, cells_in_order: &[u32], reordered: bool) -> Result<()> {
        let Some(pass) = &self.first_pass else { return Ok(()) };
        let (first_slot, mut ordinal) = (pass.first_slot, pass.first_ordinal);
        let new_slots = cells_in_order.len() as u64;
        let mut slot_of = vec![0u32; cells_in_order.len()];
        for (slot, &cell) in (0..).zip(cells_in_order) {
            slot_of[cell as usize] = slot;
        }
        let renumber = |slot: &mut u64| {
            if *slot >= first_slot {
                *slot = first_slot + u64::from(slot_of[(*slot - first_slot) as usize]);
            }
        };
        if let Some(dedup) = &mut self.dedup {
            dedup.slots().for_each(renumber);
        }
        let mut next = first_slot;
        while let Some(mut window) = self.windows.pop_front() {
            for slot in &mut window.slots {
                renumber(slot);
                if *slot != next {
                    self.data.except(ordinal, *slot)?;
                }
                next = next.max(*slot + 1);
                ordinal += 1;
            }
            if reordered {
                window.reordered = true;
                (window.first_slot, window.new_slots) = (first_slot, new_slots);
            }
            window.next_frame = self.data.offsets.len();
            self.out.frame(&window.encode()?, 0)?;
        }
        Ok(())
    }

    /// A checkpoint without cells: it says which number the next frame has.
    fn mark(&mut self) -> Result<()> {
        let mark = Window {
            last: self.window.last,
            first_cell: self.window.first_cell,
            first_slot: self.data.slots,
            next_frame: self.data.offsets.len(),
            ..self.blank.clone()
        };
        self.out.frame(&mark.encode()?, 0)
    }
}

/// The `n`-th group of `all` cells, if its order is known.
fn chunk(cells_in_order: &[u32], n: usize, group: usize, all: usize) -> Option<&[u32]> {
    cells_in_order.get(n * group..((n + 1) * group).min(all))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;
    use std::time::Duration;

    use crate::{Plan, WriteOptions, write};

    /// Where all groups that may wait for the order have been compressed before
    /// it is known, nothing is under way, and the writer must not wait for it.
    #[test]
    fn compressing_faster_than_ordering() {
        let original: Vec<u8> = (0..6000u32)
            .flat_map(|cell| {
                (0..1024u32).map(move |w| match w {
                    0..100 => w.wrapping_mul(cell + 1).wrapping_mul(0x9E37_79B1),
                    _ => (w + cell % 60 * 1024).wrapping_mul(0x85EB_CA6B).rotate_left(w % 31),
                })
            })
            .flat_map(u32::to_le_bytes)
            .collect();
        let opts = WriteOptions { threads: 2, ..WriteOptions::default() };
        let (sender, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let plan = Plan::whole(original.len() as u64);
            let go = AtomicBool::new(false);
            sender.send(write(&original, &plan, &opts, &mut std::io::sink(), &|_| {}, &go))
        });
        // Minutes more than it takes: it ends, or it never does.
        let written = ended.recv_timeout(Duration::from_secs(200)).expect("it stands still");
        assert_eq!(written.unwrap().stored_cells, 6000);
    }
}
