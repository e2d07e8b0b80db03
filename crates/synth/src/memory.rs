//! Physical memory: which ranges exist, which pages are dumped.

use std::ops::Range;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// Bytes of a page (`PAGE_SIZE`, `sys/amd64/include/param.h`).
pub(crate) const PAGE_SIZE: u64 = 4096;

/// A physical page number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frame(pub(crate) u64);

/// Consecutive dumped pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// First page.
    pub(crate) frame: u64,
    pub(crate) pages: u64,
    /// Bit of the first page in the bitmap.
    pub(crate) bit: u64,
    /// Dumped pages before it.
    pub(crate) ordinal: u64,
}

/// Ranges of pages that exist, as a PC's firmware reports them: 636 KiB below
/// the legacy hole at 640 KiB, memory up to the PCI hole below 4 GiB, the
/// rest from 4 GiB up; from 64 GiB on in two NUMA nodes with a gap between.
pub(crate) fn avail(ram: u64) -> Vec<Range<u64>> {
    let pages = |bytes: u64| bytes / PAGE_SIZE;
    let mut left = pages(ram);
    let mut ranges = Vec::new();
    let mut take = |start: u64, most: u64| {
        let n = left.min(most);
        if n > 0 {
            ranges.push(start..start + n);
        }
        left -= n;
    };
    take(0, pages(0x9f000));
    take(pages(1 << 20), pages((3 << 30) - (1 << 20)));
    if ram >= 64 << 30 {
        let half = pages(ram) / 2;
        take(pages(4 << 30), half);
        take(pages(5 << 30) + half, u64::MAX);
    } else {
        take(pages(4 << 30), u64::MAX);
    }
    ranges
}

/// Chooses runs of dumped pages: `fixed` and as many others that there are
/// `total` pages in all. `bit_of_range` gives the bit of each range's first
/// page.
pub(crate) fn runs(
    avail: &[Range<u64>],
    bit_of_range: &[u64],
    fixed: &Range<u64>,
    total: u64,
    run_pages: u64,
    seed: u64,
) -> Vec<Run> {
    let existing: u64 = avail.iter().map(|r| r.end - r.start).sum();
    let wanted = total - (fixed.end - fixed.start);
    let free = existing - total;
    // In the numbering of pages that leaves out `fixed`.
    let count = (wanted / run_pages).clamp(1, 1 << 24);
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x7275_6e73);
    let lengths = split(wanted, count, &mut rng);
    let gaps = split(free, count + 1, &mut rng);
    let mut chosen: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    for (gap, length) in gaps.into_iter().zip(lengths) {
        at += gap;
        if length > 0 {
            match chosen.last_mut() {
                Some(last) if last.end == at => last.end += length,
                _ => chosen.push(at..at + length),
            }
        }
        at += length;
    }
    place(avail, bit_of_range, fixed, &chosen)
}

/// From the numbering of free pages to frames, with `fixed` put in.
fn place(
    avail: &[Range<u64>],
    bit_of_range: &[u64],
    fixed: &Range<u64>,
    chosen: &[Range<u64>],
) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(chosen.len() + avail.len() + 1);
    let mut ordinal = 0;
    let mut push = |frames: Range<u64>, range: usize| {
        let pages = frames.end - frames.start;
        let bit = bit_of_range[range] + (frames.start - avail[range].start);
        match runs.last_mut() {
            Some(last)
                if last.frame + last.pages == frames.start && last.bit + last.pages == bit =>
            {
                last.pages += pages;
            }
            _ => runs.push(Run { frame: frames.start, pages, bit, ordinal }),
        }
        ordinal += pages;
    };
    let mut chosen = chosen.iter().cloned().peekable();
    let mut number = 0;
    for (i, range) in avail.iter().enumerate() {
        let holds_fixed = range.contains(&fixed.start);
        let pieces = if holds_fixed {
            vec![range.start..fixed.start, fixed.clone(), fixed.end..range.end]
        } else {
            vec![range.clone()]
        };
        for piece in pieces {
            if holds_fixed && piece == *fixed {
                push(piece, i);
                continue;
            }
            let numbers = number..number + (piece.end - piece.start);
            number = numbers.end;
            while let Some(run) = chosen.peek()
                && run.start < numbers.end
            {
                let start = run.start.max(numbers.start) - numbers.start + piece.start;
                let end = run.end.min(numbers.end) - numbers.start + piece.start;
                push(start..end, i);
                if run.end > numbers.end {
                    break;
                }
                chosen.next();
            }
        }
    }
    runs
}

/// Splits `total` into `parts` whole numbers, distributed like waiting times:
/// many short, few long (geometric for large totals).
fn split(total: u64, parts: u64, rng: &mut Xoshiro256PlusPlus) -> Vec<u64> {
    let weights: Vec<u64> = (0..parts).map(|_| exponential(rng.next_u64())).collect();
    let sum: u128 = weights.iter().map(|&w| u128::from(w)).sum();
    let mut before = 0u128;
    let mut given = 0;
    weights
        .into_iter()
        .map(|w| {
            before += u128::from(w);
            let until = (u128::from(total) * before / sum.max(1)) as u64;
            let part = until - given;
            given = until;
            part
        })
        .collect()
}

/// -log2(u / 2^64) in units of 2^-20, by integers alone: floating-point
/// logarithms differ between machines in their last bits. The fraction is
/// interpolated linearly, 9 % off at most.
fn exponential(u: u64) -> u64 {
    let u = u | 1;
    let whole = u64::from(u.leading_zeros());
    let mantissa = (u << whole) >> 43 & 0xf_ffff;
    (whole << 20) + (0x10_0000 - mantissa)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_exact_and_disjoint() {
        for (ram, total, run_pages) in [
            (1u64 << 30, 50_000u64, 64),
            (64 << 30, 500_000, 1),
            (1 << 30, 262_144, 64),
            (16 << 20, 4096, 9),
        ] {
            let ranges = avail(ram);
            assert_eq!(ranges.iter().map(|r| r.end - r.start).sum::<u64>(), ram / PAGE_SIZE);
            let bits: Vec<u64> = ranges.iter().map(|r| r.start).collect();
            let runs = runs(&ranges, &bits, &(512..1024), total, run_pages, 5);
            assert_eq!(runs.iter().map(|r| r.pages).sum::<u64>(), total);
            for pair in runs.windows(2) {
                assert!(pair[0].frame + pair[0].pages <= pair[1].frame);
                assert_eq!(pair[0].ordinal + pair[0].pages, pair[1].ordinal);
            }
            for run in &runs {
                assert!(
                    ranges.iter().any(|r| r.start <= run.frame && run.frame + run.pages <= r.end)
                );
            }
            assert!(runs.iter().any(|r| r.frame <= 512 && r.frame + r.pages >= 1024));
        }
    }
}
