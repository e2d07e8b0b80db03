//! How well a dump compresses, from a look at few of its cells.

use std::ops::Range;

use zstd_safe::CCtx;

use super::workers::is_zero;
use crate::layout::CELL_SIZE;
use vmcask_dump::ReadAt;

/// Most places that are looked at: 5 ms of a packing that takes 100 and more.
const MOST_PLACES: u64 = 64;
/// Bytes at each: a small frame's.
const SAMPLE_LEN: usize = 4 * CELL_SIZE;
/// Cells for each place, so that small dumps don't pay more.
const CELLS_A_PLACE: u64 = 128;

/// How many times smaller than its non-zero cells a sample of them becomes as
/// zstd frames of 16 KiB. `None` where it holds none, or can't be read: whoever
/// reads it next will say so.
pub(super) fn ratio(src: &dyn ReadAt, extents: &[Range<u64>]) -> Option<f64> {
    let cells = |e: &Range<u64>| e.end.saturating_sub(e.start) / CELL_SIZE as u64;
    let all: u64 = extents.iter().map(cells).sum();
    let (mut context, mut frame) = (CCtx::create(), vec![0; zstd_safe::compress_bound(SAMPLE_LEN)]);
    let (mut stored, mut compressed) = (0, 0);
    let mut extents = extents.iter();
    let mut extent = extents.next()?;
    let mut before = 0;
    let places = (all / CELLS_A_PLACE).clamp(1, MOST_PLACES);
    for place in 0..places {
        // In the middle of each of as many equal parts.
        let cell = all * (2 * place + 1) / (2 * places);
        while cell - before >= cells(extent) {
            before += cells(extent);
            extent = extents.next()?;
        }
        let start = extent.start + (cell - before) * CELL_SIZE as u64;
        let len = (extent.end - start).min(SAMPLE_LEN as u64) as usize / CELL_SIZE * CELL_SIZE;
        let mut bytes = vec![0; len];
        src.read_exact_at(start, &mut bytes).ok()?;
        let kept: Vec<u8> =
            bytes.chunks(CELL_SIZE).filter(|c| !is_zero(c)).flatten().copied().collect();
        if !kept.is_empty() {
            stored += kept.len();
            compressed += context.compress(&mut frame[..], &kept, 3).ok()?;
        }
    }
    (compressed > 0).then(|| stored as f64 / compressed as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Plan, WriteOptions};

    /// Cells of which so many bytes in a hundred can't be foretold, each behind
    /// a cell of zeros.
    fn memory(cells: usize, random: usize) -> Vec<u8> {
        let mut bytes = vec![0; 2 * cells * CELL_SIZE];
        for (n, cell) in bytes.chunks_mut(2 * CELL_SIZE).enumerate() {
            let noise = &mut cell[CELL_SIZE..][..CELL_SIZE * random / 100];
            blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(noise);
        }
        bytes
    }

    fn cells_a_frame(src: &dyn ReadAt, plan: &Plan) -> (u32, u32) {
        let options = WriteOptions::suited_to(plan, Some(src));
        (options.cells_per_frame, options.cells_per_block)
    }

    #[test]
    fn frames_suit_the_content() {
        for (random, frame, block) in [(100, 4, 2), (50, 4, 2), (30, 5, 3), (10, 6, 4)] {
            for cells in [1, 3, 1000] {
                let memory = memory(cells, random);
                let plan = Plan::whole(memory.len() as u64);
                assert_eq!(cells_a_frame(&memory, &plan), (frame, block), "{cells} of {random} %");
            }
        }
    }

    /// Zero cells aren't stored, so they say nothing.
    #[test]
    fn only_what_is_stored_counts() {
        let memory = memory(500, 50);
        let found = ratio(&memory, &Plan::whole(memory.len() as u64).extents).unwrap();
        assert!((1.9..2.1).contains(&found), "{found}");
        let zeros = vec![0; 1 << 20];
        assert_eq!(ratio(&zeros, &Plan::whole(1 << 20).extents), None);
        assert_eq!(ratio(&zeros, &[]), None);
    }

    /// Extents are looked at wherever they lie, what lies between isn't.
    #[test]
    fn all_extents_are_looked_at() {
        let mut src = memory(500, 100);
        src.extend(memory(500, 10));
        let half = src.len() as u64 / 2;
        let of = |extents: &[Range<u64>]| ratio(&src, extents).unwrap();
        assert!(of(&[0..half]) < 1.1);
        assert!(of(&[half..2 * half]) > 4.2);
        let both = of(&[17 * 4096..half / 2, half..half / 2 * 3]);
        assert!((1.3..3.0).contains(&both), "{both}");
        // One too short for a cell, and one that ends behind the source.
        assert!(of(&[5..9, half..2 * half]) > 4.2);
        assert_eq!(ratio(&src, &[0..half, half..4 * half]), None);
    }
}
