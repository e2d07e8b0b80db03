//! Checkpoints between data frames: which cells the next slots belong to, so
//! that an archive whose index is lost can be put together again. FORMAT.md
//! 11.

use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use crate::digest::checksum;
use crate::error::{Error, Result};
use crate::layout::{
    CELL_SIZE, CHECKPOINT_FRAME, CHECKPOINT_MAGIC, Checkpoint, MAX_CELLS_PER_FRAME,
    MAX_ORDER_SLOTS, MAX_ORIGINAL_LEN, SKIPPABLE_HEADER_LEN, Span, WINDOW_CELLS, checkpoint_flag,
};

/// Bytes before those that the checksum covers.
const COVERED_FROM: usize = SKIPPABLE_HEADER_LEN + 16;
/// Longest body: an extent, a bit and a slot number for each cell.
const MOST_BODY: usize = WINDOW_CELLS as usize * (16 + 1 + 10);
/// Body level: bodies are small, and nearly all zeros where cells are in
/// order.
const LEVEL: i32 = 3;

/// What a checkpoint says: consecutive cells and their slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// Length of the original; [`UNKNOWN_LEN`] in all but the last window of
    /// a stream.
    pub(crate) original_len: u64,
    pub(crate) cells_per_frame: u32,
    pub(crate) plain: bool,
    /// The first extent is the rest of the window's before.
    pub(crate) continues: bool,
    /// No cell follows.
    pub(crate) last: bool,
    /// The slots of several windows are mixed: `first_slot` and `new_slots` are
    /// those of all of them together.
    pub(crate) reordered: bool,
    pub(crate) first_cell: u64,
    pub(crate) cells: u64,
    /// Slots that all windows before have taken.
    pub(crate) first_slot: u64,
    /// Slots this one takes.
    pub(crate) new_slots: u64,
    /// The number of the first data frame behind the checkpoint.
    pub(crate) next_frame: u64,
    pub(crate) extents: Vec<Range<u64>>,
    /// Bit c: cell `first_cell + c` is not zero.
    pub(crate) bits: Vec<u8>,
    /// Slots of the non-zero cells.
    pub(crate) slots: Vec<u64>,
}

impl Window {
    /// Adds the next cell, which covers `range` of the original; `slot` is
    /// that of a non-zero one.
    pub(crate) fn push(&mut self, range: Range<u64>, starts_extent: bool, slot: Option<u64>) {
        match self.extents.last_mut() {
            Some(last) if !starts_extent => last.end = range.end,
            _ => self.extents.push(range),
        }
        let (byte, bit) = ((self.cells / 8) as usize, self.cells % 8);
        if byte == self.bits.len() {
            self.bits.push(0);
        }
        if let Some(slot) = slot {
            self.bits[byte] |= 1 << bit;
            self.slots.push(slot);
        }
        self.cells += 1;
    }

    /// The slot that the cell behind one with `slot` has if nothing is known.
    fn next(&self, next: u64, slot: u64) -> u64 {
        if self.reordered { slot + 1 } else { next.max(slot + 1) }
    }

    pub(crate) fn is_non_zero(&self, cell: u64) -> bool {
        self.bits.get((cell / 8) as usize).is_some_and(|b| b >> (cell % 8) & 1 != 0)
    }

    /// The whole frame.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        for e in &self.extents {
            let span = Span { start: e.start.into(), end: e.end.into() };
            body.extend_from_slice(span.as_bytes());
        }
        body.extend_from_slice(&self.bits);
        let mut next = self.first_slot;
        for &slot in &self.slots {
            // Zero for a cell that takes the next slot, else how far back (odd)
            // or ahead (even) its slot lies.
            let code = if slot < next { (next - slot) * 2 - 1 } else { (slot - next) * 2 };
            next = self.next(next, slot);
            put_varint(&mut body, code);
        }
        let packed =
            zstd::bulk::compress(&body, LEVEL).map_err(|e| Error::Compress(e.to_string()))?;
        let mut flags = 0;
        for (set, flag) in [
            (self.plain, checkpoint_flag::PLAIN),
            (self.continues, checkpoint_flag::CONTINUES),
            (self.last, checkpoint_flag::LAST),
            (self.reordered, checkpoint_flag::REORDERED),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let mut header = Checkpoint {
            frame_magic: CHECKPOINT_FRAME.into(),
            frame_size: ((size_of::<Checkpoint>() - SKIPPABLE_HEADER_LEN + packed.len()) as u32)
                .into(),
            magic: CHECKPOINT_MAGIC,
            checksum: [0; 8],
            original_length: self.original_len.into(),
            first_cell: self.first_cell.into(),
            first_slot: self.first_slot.into(),
            new_slots: self.new_slots.into(),
            next_frame: self.next_frame.into(),
            cells: (self.cells as u32).into(),
            extents: (self.extents.len() as u32).into(),
            cells_per_frame: self.cells_per_frame.into(),
            flags: flags.into(),
            body_length: (body.len() as u32).into(),
            reserved: 0.into(),
        };
        let mut frame = header.as_bytes().to_vec();
        frame.extend_from_slice(&packed);
        header.checksum = checksum(&frame[COVERED_FROM..]);
        frame[..size_of::<Checkpoint>()].copy_from_slice(header.as_bytes());
        Ok(frame)
    }

    /// What a frame says; `None` where it is no checkpoint or a damaged one.
    pub(crate) fn decode(frame: &[u8]) -> Option<Self> {
        let (header, packed) = Checkpoint::read_from_prefix(frame).ok()?;
        let covered = frame.get(COVERED_FROM..)?;
        if header.frame_magic.get() != CHECKPOINT_FRAME
            || header.magic != CHECKPOINT_MAGIC
            || header.frame_size.get() as usize != frame.len() - SKIPPABLE_HEADER_LEN
            || checksum(covered) != header.checksum
        {
            return None;
        }
        let (cells, flags) = (u64::from(header.cells.get()), header.flags.get());
        let reordered = flags & checkpoint_flag::REORDERED != 0;
        let limits = [
            (header.original_length.get(), MAX_ORIGINAL_LEN),
            (header.first_cell.get(), 1 << 35),
            (header.first_slot.get(), 1 << 35),
            (header.new_slots.get(), if reordered { MAX_ORDER_SLOTS } else { cells }),
            (header.next_frame.get(), 1 << 35),
            (cells, WINDOW_CELLS),
            (header.extents.get().into(), cells),
            (header.body_length.get().into(), MOST_BODY as u64),
        ];
        let k = header.cells_per_frame.get();
        if limits.iter().any(|&(found, most)| found > most)
            || !(1..=MAX_CELLS_PER_FRAME).contains(&k)
        {
            return None;
        }
        let body = zstd::bulk::decompress(packed, header.body_length.get() as usize).ok()?;
        let (spans, rest) = body.split_at_checked(header.extents.get() as usize * 16)?;
        let (bits, mut codes) = rest.split_at_checked(cells.div_ceil(8) as usize)?;
        let mut window = Self {
            original_len: header.original_length.get(),
            cells_per_frame: k,
            plain: flags & checkpoint_flag::PLAIN != 0,
            continues: flags & checkpoint_flag::CONTINUES != 0,
            last: flags & checkpoint_flag::LAST != 0,
            reordered,
            first_cell: header.first_cell.get(),
            cells,
            first_slot: header.first_slot.get(),
            new_slots: header.new_slots.get(),
            next_frame: header.next_frame.get(),
            extents: Vec::new(),
            bits: bits.to_vec(),
            slots: Vec::new(),
        };
        let (mut end, mut counted) = (0, 0u64);
        for span in spans.chunks_exact(16) {
            let span = Span::read_from_bytes(span).ok()?;
            let range = span.start.get()..span.end.get();
            if range.start < end || range.start >= range.end || range.end > window.original_len {
                return None;
            }
            end = range.end;
            counted += (range.end - range.start).div_ceil(CELL_SIZE as u64);
            window.extents.push(range);
        }
        let mut next = window.first_slot;
        for cell in 0..cells {
            if window.is_non_zero(cell) {
                let code = get_varint(&mut codes)?;
                let away = code.div_ceil(2);
                let slot = if code % 2 == 1 { next.checked_sub(away)? } else { next + away };
                if slot >= window.first_slot + window.new_slots {
                    return None;
                }
                next = window.next(next, slot);
                window.slots.push(slot);
            }
        }
        (counted == cells && codes.is_empty()).then_some(window)
    }
}

/// 7 bits a byte, lowest first; the top bit says that more follow.
fn put_varint(to: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        to.push(n as u8 | 0x80);
        n >>= 7;
    }
    to.push(n as u8);
}

/// At most 2^42: five bytes and a bit are enough for any slot.
fn get_varint(from: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..42).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Window {
        let mut w = Window {
            original_len: 1 << 20,
            cells_per_frame: 4,
            first_cell: 77,
            first_slot: 50,
            new_slots: 2,
            next_frame: 12,
            ..Window::default()
        };
        w.push(0..4096, true, Some(50));
        w.push(4096..5000, false, None);
        w.push(8192..12288, true, Some(3));
        w.push(12288..16384, false, Some(51));
        w
    }

    #[test]
    fn comes_back() {
        let w = sample();
        assert_eq!(w.extents, [0..5000, 8192..16384]);
        assert_eq!(Window::decode(&w.encode().unwrap()).as_ref(), Some(&w));
        let reordered = Window { reordered: true, new_slots: 9000, ..w.clone() };
        assert_eq!(Window::decode(&reordered.encode().unwrap()), Some(reordered));
        let empty = Window { last: true, cells_per_frame: 1, ..Window::default() };
        assert_eq!(Window::decode(&empty.encode().unwrap()), Some(empty));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let frame = sample().encode().unwrap();
        for at in 0..frame.len() {
            let mut bad = frame.clone();
            bad[at] ^= 1 << (at % 8);
            assert_eq!(Window::decode(&bad), None, "byte {at}");
            assert_eq!(Window::decode(&frame[..at]), None);
        }
    }

    proptest! {
        // With a right checksum, whatever it covers: an answer, no panic.
        #[test]
        fn hostile_fields_do_no_harm(
            at in COVERED_FROM..size_of::<Checkpoint>() - 8,
            value in prop::sample::select(vec![0, 1, u64::MAX, u64::MAX / 2, 1 << 36, 4096, 65_535]),
            body in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut frame = sample().encode().unwrap();
            frame[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let sum = checksum(&frame[COVERED_FROM..]);
            frame[16..24].copy_from_slice(&sum);
            Window::decode(&frame);
            let mut frame = sample().encode().unwrap();
            frame.truncate(size_of::<Checkpoint>());
            frame.extend(zstd::bulk::compress(&body, 1).unwrap());
            let size = (frame.len() - SKIPPABLE_HEADER_LEN) as u32;
            frame[4..8].copy_from_slice(&size.to_le_bytes());
            let length = std::mem::offset_of!(Checkpoint, body_length);
            frame[length..length + 4].copy_from_slice(&(body.len() as u32).to_le_bytes());
            let sum = checksum(&frame[COVERED_FROM..]);
            frame[16..24].copy_from_slice(&sum);
            if let Some(w) = Window::decode(&frame) {
                prop_assert!(w.slots.len() as u64 <= w.cells);
            }
        }
    }
}
