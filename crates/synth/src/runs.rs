//! Which pages are dumped: runs, chosen by the seed, never listed in memory.
//!
//! The pages that exist, without the kernel's own, are numbered through. They
//! fall into groups, and each group holds its share of the dumped pages in a
//! few hundred runs that follow from the seed and the group's number alone.
//! So any run can be found from a page, a bit or an ordinal by making one
//! group, and a dump of any size needs no list.

use std::ops::Range;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// Consecutive dumped pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// First page's number.
    pub(crate) pfn: u64,
    pub(crate) pages: u64,
    /// Bit of the first page in the bitmap.
    pub(crate) bit: u64,
    /// Dumped pages before it.
    pub(crate) ordinal: u64,
}

/// Runs of a group, about.
const GROUP_RUNS: u64 = 256;

/// Consecutive pages that exist, the kernel's own or none of them.
#[derive(Clone, Copy, Debug)]
struct Piece {
    pfn: u64,
    pages: u64,
    bit: u64,
    /// First page in the numbering that leaves the kernel's pages out.
    number: u64,
    fixed: bool,
}

/// A group's runs in the making.
struct Expansion<'a> {
    free: &'a [Piece],
    ordinal: u64,
    runs: Vec<Run>,
}

impl Expansion<'_> {
    /// The free pages of these numbers.
    fn numbers(&mut self, mut numbers: Range<u64>) {
        if numbers.is_empty() {
            return;
        }
        let mut i = self.free.partition_point(|p| p.number + p.pages <= numbers.start);
        while !numbers.is_empty() {
            let p = self.free[i];
            let n = numbers.end.min(p.number + p.pages) - numbers.start;
            let within = numbers.start - p.number;
            self.push(p.pfn + within, n, p.bit + within);
            numbers.start += n;
            i += 1;
        }
    }

    fn push(&mut self, pfn: u64, pages: u64, bit: u64) {
        match self.runs.last_mut() {
            Some(l) if l.pfn + l.pages == pfn && l.bit + l.pages == bit => l.pages += pages,
            _ => self.runs.push(Run { pfn, pages, bit, ordinal: self.ordinal }),
        }
        self.ordinal += pages;
    }
}

/// All runs of a dump.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    pieces: Vec<Piece>,
    free_pieces: Vec<Piece>,
    fixed: Range<u64>,
    fixed_bit: u64,
    /// Free pages before the fixed ones.
    fixed_number: u64,
    /// Dumped pages besides the fixed ones, and pages not dumped.
    wanted: u64,
    free: u64,
    /// Runs to aim at.
    count: u64,
    groups: u64,
    /// The group in which the fixed pages stand.
    fixed_group: u64,
    /// Free dumped pages before the fixed ones.
    fixed_ordinal: u64,
    seed: u64,
    /// Bits of the bitmap that stand for pages.
    pub(crate) bits: u64,
}

/// One group's runs, kept from one look-up to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    group: Option<u64>,
    runs: Vec<Run>,
    at: usize,
}

impl Runs {
    /// Chooses `fixed` (inside one of `avail`) and as many other pages that
    /// there are `total` in all, in runs of `run_pages` on average, at most
    /// `most_runs` of them. Bits count the pages of `avail` one after the
    /// other, or, with `identity`, all pages from 0 on.
    pub(crate) fn new(
        avail: &[Range<u64>],
        identity: bool,
        fixed: Range<u64>,
        total: u64,
        run_pages: u64,
        most_runs: u64,
        seed: u64,
    ) -> Self {
        let mut pieces: Vec<Piece> = Vec::new();
        let (mut bits, mut number) = (0, 0);
        for range in avail {
            let first_bit = if identity { range.start } else { bits };
            let mut push = |pages: Range<u64>, is_fixed: bool| {
                let n = pages.end - pages.start;
                if n > 0 {
                    let bit = first_bit + (pages.start - range.start);
                    pieces.push(Piece { pfn: pages.start, pages: n, bit, number, fixed: is_fixed });
                    number += if is_fixed { 0 } else { n };
                }
            };
            if range.start <= fixed.start && fixed.end <= range.end {
                push(range.start..fixed.start, false);
                push(fixed.clone(), true);
                push(fixed.end..range.end, false);
            } else {
                push(range.clone(), false);
            }
            bits = first_bit + (range.end - range.start);
        }
        let wanted = total - (fixed.end - fixed.start);
        let free = number - wanted;
        // Runs without a gap between them would be one.
        let count = (wanted / run_pages).min(most_runs).min(free + 1).max(1);
        let groups = count.div_ceil(GROUP_RUNS);
        let at_fixed = pieces.iter().find(|p| p.fixed);
        let before = at_fixed.map_or(0, |p| p.number);
        let mut runs = Self {
            free_pieces: pieces.iter().filter(|p| !p.fixed).copied().collect(),
            fixed_bit: at_fixed.map_or(0, |p| p.bit),
            fixed_number: before,
            pieces,
            fixed,
            wanted,
            free,
            count,
            groups,
            fixed_group: 0,
            fixed_ordinal: 0,
            seed,
            bits,
        };
        runs.fixed_group = runs.group_of_number(before);
        runs.fixed_ordinal = {
            let group = runs.fixed_group;
            let (mut number, mut ordinal) = (runs.first_number(group), runs.first_wanted(group));
            for (gap, length) in runs.shares(group) {
                number += gap;
                ordinal += length.min(before.saturating_sub(number));
                number += length;
            }
            ordinal
        };
        runs
    }

    /// Dumped pages.
    pub(crate) fn total(&self) -> u64 {
        self.wanted + (self.fixed.end - self.fixed.start)
    }

    /// Free dumped pages before group `g`.
    fn first_wanted(&self, g: u64) -> u64 {
        share(self.wanted, g, self.groups)
    }

    /// First number of group `g`.
    fn first_number(&self, g: u64) -> u64 {
        self.first_wanted(g) + share(self.free, g, self.groups)
    }

    fn group_of_number(&self, number: u64) -> u64 {
        self.group_by(number, self.wanted + self.free, |g| self.first_number(g))
    }

    /// The last group whose `first` is at most `n`, of those that hold
    /// anything.
    fn group_by(&self, n: u64, total: u64, first: impl Fn(u64) -> u64) -> u64 {
        let guess = u128::from(n) * u128::from(self.groups) / u128::from(total.max(1));
        let mut g = (guess as u64).min(self.groups - 1);
        while g > 0 && first(g) > n {
            g -= 1;
        }
        while g + 1 < self.groups && first(g + 1) <= n {
            g += 1;
        }
        g
    }

    /// Gaps and lengths of a group, in pages. All but the last gap and all
    /// lengths are at least 1 where there are pages enough.
    fn shares(&self, g: u64) -> impl Iterator<Item = (u64, u64)> {
        let count = share(self.count, g + 1, self.groups) - share(self.count, g, self.groups);
        let wanted = self.first_wanted(g + 1) - self.first_wanted(g);
        let free = share(self.free, g + 1, self.groups) - share(self.free, g, self.groups);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(
            (self.seed ^ 0x7275_6e73).wrapping_add(g.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        );
        let least = |total: u64, parts: u64| u64::from(total >= parts);
        let (length, gap) = (least(wanted, count), least(free, count));
        let lengths = split(wanted - length * count, count, &mut rng);
        let gaps = split(free - gap * count, count + 1, &mut rng);
        gaps.into_iter().zip(lengths).map(move |(g, l)| (g + gap, l + length))
    }

    /// The runs of group `g`, in order.
    fn expand(&self, g: u64) -> Vec<Run> {
        let fixed_pages = self.fixed.end - self.fixed.start;
        let moved = if g > self.fixed_group { fixed_pages } else { 0 };
        let mut out = Expansion {
            free: &self.free_pieces,
            ordinal: self.first_wanted(g) + moved,
            runs: Vec::with_capacity(GROUP_RUNS as usize + 2),
        };
        // The number before which the fixed pages have still to come.
        let mut fixed_at = (g == self.fixed_group).then_some(self.fixed_number);
        let mut number = self.first_number(g);
        for (gap, length) in self.shares(g) {
            number += gap;
            let mut run = number..number + length;
            number = run.end;
            if let Some(at) = fixed_at
                && at < run.end
            {
                out.numbers(run.start..at);
                run.start = run.start.max(at);
                out.push(self.fixed.start, fixed_pages, self.fixed_bit);
                fixed_at = None;
            }
            out.numbers(run);
        }
        if fixed_at.is_some() {
            out.push(self.fixed.start, fixed_pages, self.fixed_bit);
        }
        out.runs
    }

    fn load(&self, cursor: &mut Cursor, group: u64) {
        if cursor.group != Some(group) {
            cursor.runs = self.expand(group);
            cursor.group = Some(group);
            cursor.at = 0;
        }
    }

    /// The run that holds the dumped page at `ordinal`, below the total.
    pub(crate) fn by_ordinal(&self, ordinal: u64, cursor: &mut Cursor) -> Run {
        if let Some(run) = cursor.runs.get(cursor.at)
            && (run.ordinal..run.ordinal + run.pages).contains(&ordinal)
        {
            return *run;
        }
        let fixed = self.fixed.end - self.fixed.start;
        let group = if ordinal < self.fixed_ordinal {
            self.group_by(ordinal, self.wanted, |g| self.first_wanted(g))
        } else if ordinal < self.fixed_ordinal + fixed {
            self.fixed_group
        } else {
            self.group_by(ordinal - fixed, self.wanted, |g| self.first_wanted(g))
        };
        self.load(cursor, group);
        let i = cursor.runs.partition_point(|r| r.ordinal + r.pages <= ordinal);
        cursor.at = i.min(cursor.runs.len().saturating_sub(1));
        cursor.runs[cursor.at]
    }

    /// The first run that holds a page at or after `pfn`.
    pub(crate) fn at_or_after_pfn(&self, pfn: u64, cursor: &mut Cursor) -> Option<Run> {
        self.first_from(cursor, pfn, |p| p.pfn, |r| r.pfn)
    }

    /// The first run that holds a bit at or after `bit`.
    pub(crate) fn at_or_after_bit(&self, bit: u64, cursor: &mut Cursor) -> Option<Run> {
        self.first_from(cursor, bit, |p| p.bit, |r| r.bit)
    }

    fn first_from(
        &self,
        cursor: &mut Cursor,
        at: u64,
        of_piece: impl Fn(&Piece) -> u64,
        of_run: impl Fn(&Run) -> u64,
    ) -> Option<Run> {
        let piece = self.pieces.partition_point(|p| of_piece(p) + p.pages <= at);
        let p = self.pieces.get(piece)?;
        let mut group = if p.fixed {
            self.fixed_group
        } else {
            self.group_of_number(p.number + at.saturating_sub(of_piece(p)))
        };
        loop {
            self.load(cursor, group);
            let i = cursor.runs.partition_point(|r| of_run(r) + r.pages <= at);
            if let Some(run) = cursor.runs.get(i) {
                cursor.at = i;
                return Some(*run);
            }
            group += 1;
            if group >= self.groups {
                return None;
            }
        }
    }

    /// All runs in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Run> + '_ {
        (0..self.groups).flat_map(|g| self.expand(g))
    }

    /// All runs, merged where they meet.
    pub(crate) fn merged(&self) -> impl Iterator<Item = Run> + '_ {
        let mut runs = self.iter().peekable();
        std::iter::from_fn(move || {
            let mut run = runs.next()?;
            while let Some(next) =
                runs.next_if(|n| n.pfn == run.pfn + run.pages && n.bit == run.bit + run.pages)
            {
                run.pages += next.pages;
            }
            Some(run)
        })
    }
}

fn share(total: u64, part: u64, parts: u64) -> u64 {
    (u128::from(total) * u128::from(part) / u128::from(parts)) as u64
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
    use proptest::prelude::*;

    fn check(avail: &[Range<u64>], fixed: &Range<u64>, total: u64, run_pages: u64, seed: u64) {
        for identity in [false, true] {
            let runs = Runs::new(avail, identity, fixed.clone(), total, run_pages, 1 << 40, seed);
            let all: Vec<Run> = runs.merged().collect();
            assert_eq!(all.iter().map(|r| r.pages).sum::<u64>(), total);
            assert_eq!(runs.total(), total);
            let mut ordinal = 0;
            let mut last = 0;
            for run in &all {
                assert!(run.pages > 0);
                assert_eq!(run.ordinal, ordinal);
                assert!(run.pfn >= last);
                last = run.pfn + run.pages;
                ordinal += run.pages;
                let range = avail.iter().position(|r| r.contains(&run.pfn)).unwrap();
                assert!(last <= avail[range].end);
                let before: u64 = avail[..range].iter().map(|r| r.end - r.start).sum();
                let bit = if identity { run.pfn } else { before + run.pfn - avail[range].start };
                assert_eq!(run.bit, bit);
            }
            assert!(all.iter().any(|r| r.pfn <= fixed.start && r.pfn + r.pages >= fixed.end));
            // Every way to find a run finds the same one.
            let mut cursor = Cursor::default();
            for (i, run) in all.iter().enumerate() {
                for within in [0, run.pages / 2, run.pages - 1] {
                    let found = runs.by_ordinal(run.ordinal + within, &mut cursor);
                    assert_eq!(run.pfn + within - found.pfn, run.ordinal + within - found.ordinal);
                    assert!(found.ordinal + found.pages > run.ordinal + within);
                    for fresh in [&mut Cursor::default(), &mut cursor] {
                        let found = runs.at_or_after_pfn(run.pfn + within, fresh).unwrap();
                        assert!(found.pfn <= run.pfn + within);
                        assert!(found.pfn + found.pages > run.pfn + within);
                        let found = runs.at_or_after_bit(run.bit + within, fresh).unwrap();
                        assert!(found.bit <= run.bit + within);
                        assert!(found.bit + found.pages > run.bit + within);
                    }
                }
                let next = runs.at_or_after_pfn(run.pfn + run.pages, &mut cursor);
                assert_eq!(next.map(|r| r.pfn), all.get(i + 1).map(|r| r.pfn));
            }
        }
    }

    #[test]
    fn runs_are_exact_and_disjoint() {
        let pc = [0..159, 256..786_432, 1_048_576..1_310_720];
        let fixed = 512..1024;
        let existing = 159 + 786_176 + 262_144;
        for (total, run_pages) in
            [(20_000, 64), (20_000, 3), (3000, 1), (existing, 64), (512, 9), (513, 1000)]
        {
            check(&pc, &fixed, total, run_pages, 5);
        }
        check(&[0..4096], &(4000..4096), 2000, 7, 1);
        check(&[0..4096], &(0..100), 2000, 7, 1);
        check(&[0..100, 200..300, 400..500], &(200..300), 250, 2, 1);
    }

    #[test]
    fn means_are_what_was_asked_for() {
        for (total, run_pages) in [(20_000, 1), (100_000, 8), (400_000, 64)] {
            let runs = Runs::new(&[0..4_000_000], false, 100..200, total, run_pages, 1 << 40, 3);
            let n = runs.merged().count() as f64;
            let mean = total as f64 / n;
            assert!((mean / run_pages as f64 - 1.0).abs() < 0.02, "{mean} for {run_pages}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_ranges(
            gaps in prop::collection::vec((1u64..50, 1u64..1000), 1..8),
            at in any::<prop::sample::Index>(),
            start in any::<prop::sample::Index>(),
            fixed in 1u64..200,
            more in any::<prop::sample::Index>(),
            run_pages in 1u64..100,
            seed: u64,
        ) {
            let mut end = 0;
            let mut avail = Vec::new();
            for (gap, pages) in gaps {
                avail.push(end + gap..end + gap + pages);
                end += gap + pages;
            }
            let range = &avail[at.index(avail.len())];
            let pages = range.end - range.start;
            let first = range.start + start.index(pages as usize) as u64;
            let fixed = first..(first + fixed).min(range.end);
            let existing: u64 = avail.iter().map(|r| r.end - r.start).sum();
            let least = fixed.end - fixed.start;
            let total = least + more.index((existing - least + 1) as usize) as u64;
            check(&avail, &fixed, total, run_pages, seed);
        }
    }
}
