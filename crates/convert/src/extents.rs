//! Which ranges of a dump an archive stores: where it holds data, cut where
//! the parts of its format begin, so that archive cells are memory pages.

use std::io;
use std::ops::Range;

use vmcask_dump::ReadAt;

/// Archive cells are this many bytes.
const CELL: u64 = 4096;

/// Holes shorter than this are stored as zero cells: an extent costs 16
/// bytes, a zero cell one bit.
const SHORTEST_HOLE: u64 = 256 * CELL;

/// The data of `src`, ascending and disjoint. `cuts` are offsets, ascending,
/// at which a part begins; cells are counted from the last cut before them.
pub(crate) fn of(src: &dyn ReadAt, cuts: &[u64]) -> io::Result<Vec<Range<u64>>> {
    let mut extents: Vec<Range<u64>> = Vec::new();
    let mut cuts = cuts.iter().copied().peekable();
    let mut cut = 0;
    let mut at = 0;
    while let Some(data) = src.next_data(at)? {
        at = data.end;
        let mut start = data.start;
        while start < data.end {
            while let Some(next) = cuts.next_if(|&c| c <= start) {
                cut = next;
            }
            let part_end = cuts.peek().copied().unwrap_or(u64::MAX);
            // Out to whole cells of this part; zeros of the hole beside the
            // data cost nothing.
            let from = cut + (start - cut) / CELL * CELL;
            let end = data.end.min(part_end);
            let to = (cut + (end - cut).next_multiple_of(CELL)).min(part_end).min(src.len());
            match extents.last_mut() {
                Some(last)
                    if from < last.end
                        || (from - last.end < SHORTEST_HOLE
                            && last.start >= cut
                            && (from - last.start).is_multiple_of(CELL)) =>
                {
                    last.end = last.end.max(to);
                }
                _ => extents.push(from..to),
            }
            start = end;
        }
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fake {
        len: u64,
        data: Vec<Range<u64>>,
    }

    impl ReadAt for Fake {
        fn len(&self) -> u64 {
            self.len
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
            unreachable!("extents are found without reading")
        }
        fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
            Ok(self.data.iter().find(|d| d.end > off).map(|d| d.start.max(off)..d.end))
        }
    }

    #[test]
    fn whole_file_is_one_extent() {
        let fake = Fake { len: 10_000, data: vec![0..10_000] };
        assert_eq!(of(&fake, &[]).unwrap(), [0..10_000]);
    }

    #[test]
    fn parts_begin_extents() {
        let fake = Fake { len: 1 << 20, data: vec![0..1 << 20] };
        assert_eq!(of(&fake, &[1000, 9192]).unwrap(), [0..1000, 1000..9192, 9192..1 << 20]);
    }

    #[test]
    fn long_holes_separate_short_ones_do_not() {
        let fake =
            Fake { len: 1 << 30, data: vec![5000..6000, 100_000..100_001, (1 << 29) + 7..1 << 30] };
        assert_eq!(of(&fake, &[]).unwrap(), [4096..102_400, 1 << 29..1 << 30]);
    }

    proptest! {
        #[test]
        fn all_data_is_covered_once(
            lens in prop::collection::vec((0u64..3_000_000, 1u64..200_000), 1..12),
            mut cuts in prop::collection::vec(0u64..4_000_000, 0..6),
            tail in 0u64..2_000_000,
        ) {
            let mut data = Vec::new();
            let mut at = 0;
            for (hole, len) in lens {
                data.push(at + hole..at + hole + len);
                at += hole + len + 1;
            }
            let fake = Fake { len: at + tail, data };
            cuts.sort_unstable();
            cuts.dedup();
            let extents = of(&fake, &cuts).unwrap();
            for pair in extents.windows(2) {
                prop_assert!(pair[0].end <= pair[1].start, "{extents:?}");
            }
            for e in &extents {
                prop_assert!(e.start < e.end && e.end <= fake.len);
            }
            for d in &fake.data {
                let mut from = d.start;
                for e in &extents {
                    if e.contains(&from) {
                        from = e.end;
                    }
                }
                prop_assert!(from >= d.end, "{d:?} not covered by {extents:?}");
            }
            // A cut inside an extent would shift the cells of the part behind it.
            for &c in &cuts {
                prop_assert!(!extents.iter().any(|e| e.start < c && c < e.end), "{c} in {extents:?}");
            }
        }
    }
}
