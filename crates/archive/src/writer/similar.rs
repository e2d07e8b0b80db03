//! Which cells resemble each other, and an order that puts those side by side.
//!
//! zstd finds repetitions within a frame, and a frame is small so that a page
//! costs little to read. Kernels have memory full of pages that differ in few
//! bytes from others hundreds of megabytes away: the same file's versions,
//! slabs of the same objects. Brought into one frame they cost one page's
//! bytes.
//!
//! A cell is described by *features*: hashes of 12 consecutive bytes, taken
//! every 4 bytes and kept where another hash happens to begin with some zero
//! bits, so that equal content is sampled alike wherever it stands. Frames are
//! filled greedily: the first cell not yet placed, then each time the one that
//! shares most features with those already in the frame, unless the next cell
//! in file order shares about as many.

use crate::layout::{CELL_SIZE, MIDDLE_CELLS_PER_FRAME};

/// Places in a cell where a feature may begin.
const PLACES: usize = CELL_SIZE / 4 - 2;
/// Most features of a cell: some are sampled at every place.
const MOST_FEATURES: usize = 64;
/// Cells of one feature that are considered at a time, nearest first.
const MOST_CANDIDATES: usize = 8;
/// Parts of the feature table, sorted on their own.
pub(super) const SHARDS: usize = 64;
/// Cells nearer than this are neighbours: file order serves them well.
const NEAR: u32 = 16;
/// File order is left where at least one of so many features stands far away
/// too.
const LEAST_FAR: usize = 32;
/// Most of a list's cells that are looked at, and most cells in file order:
/// what has been placed leaves gaps, and many gaps must not cost a square.
const MOST_STEPS: usize = 64;

/// How densely cells are sampled.
#[derive(Clone, Copy)]
pub(super) struct Sampling {
    /// Bits of a feature's hash that must be zero: one in 16 places is kept, or
    /// one in 32.
    bits: u32,
    /// Features that a cell must share beyond those of the next in file order.
    /// What stands in file order is cheaper to read and to describe.
    far_cost: u16,
}

impl Sampling {
    /// Half as many features for smaller frames than the default's: 0.2 to 0.7 %
    /// larger, and packed in a twentieth to a tenth less time.
    pub(super) fn suited_to(cells_per_frame: u32) -> Self {
        if cells_per_frame <= MIDDLE_CELLS_PER_FRAME {
            Self { bits: 5, far_cost: 2 }
        } else {
            Self { bits: 4, far_cost: 3 }
        }
    }
}

/// Adds the features of a cell; the same one may come more than once.
pub(super) fn features(cell: &[u8], sampling: Sampling, to: &mut Vec<u32>) {
    let (words, _) = cell.as_chunks::<4>();
    let number = |a: [u8; 4], b: [u8; 4]| {
        u64::from(u32::from_le_bytes(a)) | u64::from(u32::from_le_bytes(b)) << 32
    };
    // Eight bytes choose the place; no branch that would be mispredicted each
    // sixteenth time.
    let least = u64::MAX >> sampling.bits;
    let mut places = [0u16; PLACES + 1];
    let mut n = 0;
    for (place, w) in (0..).zip(words.windows(3)) {
        let hash = number(w[0], w[1]).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
        places[n] = place;
        // One less, so that zeros, which say nothing, are beyond.
        n += usize::from(hash.wrapping_sub(1) < least);
    }
    to.extend(places[..n.min(MOST_FEATURES)].iter().map(|&place| {
        let w = &words[usize::from(place)..][..3];
        let hash = number(w[0], w[1]).wrapping_mul(0xD6E8_FEB8_6659_FD93)
            ^ number(w[2], w[2]).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (hash >> 32) as u32
    }));
}

/// Features of all cells, by feature.
pub(super) struct Features {
    /// Feature in the upper half, cell in the lower.
    shards: Vec<Vec<u64>>,
    cells: u32,
}

impl Default for Features {
    fn default() -> Self {
        Self { shards: vec![Vec::new(); SHARDS], cells: 0 }
    }
}

impl Features {
    /// Notes the next cell.
    pub(super) fn push(&mut self, features: &[u32]) {
        for &feature in features {
            let shard = feature as usize % SHARDS;
            self.shards[shard].push(u64::from(feature) << 32 | u64::from(self.cells));
        }
        self.cells += 1;
    }

    /// What was noted, to be made into [`Lists`].
    pub(super) fn into_shards(self) -> Vec<Vec<u64>> {
        self.shards
    }
}

/// For each feature that several cells have, those cells, ascending.
#[derive(Default)]
pub(super) struct Lists {
    /// Where each list ends in `cells`.
    ends: Vec<u32>,
    cells: Vec<u32>,
    /// Features noted, those of one cell alone included.
    noted: usize,
    /// Those that a cell far away has too.
    far: usize,
}

impl Lists {
    /// The lists of one part of [`Features`].
    pub(super) fn new(mut noted: Vec<u64>) -> Self {
        // Stable: the cells of each stay ascending. Half the time of comparing.
        radsort::sort_by_key(&mut noted, |&n| (n >> 32) as u32);
        noted.dedup();
        let mut lists = Self { noted: noted.len(), ..Self::default() };
        for same in noted.chunk_by(|a, b| a >> 32 == b >> 32).filter(|s| s.len() > 1) {
            lists.far += same.windows(2).filter(|w| w[1] as u32 - w[0] as u32 > NEAR).count();
            lists.cells.extend(same.iter().map(|&s| s as u32));
            lists.ends.push(lists.cells.len() as u32);
        }
        lists
    }
}

/// The cells of a feature: what is asked for at once, in one place.
#[derive(Clone, Copy)]
struct List {
    /// Where they begin in [`Order::cells`], the placed ones skipped.
    start: u32,
    end: u32,
    /// The frame in which they were counted last.
    counted: u32,
}

/// Cells of a window in an order that pays.
pub(super) struct Order {
    lists: Vec<List>,
    cells: Vec<u32>,
    /// Where each cell's list numbers end in `lists_of`.
    ends: Vec<u32>,
    lists_of: Vec<u32>,
    /// Lists that are to be counted: kept for its memory.
    found: Vec<(u32, List)>,
    placed: Vec<bool>,
    /// Features that each cell shares with those in the frame, and the cells
    /// that share any.
    shared: Vec<u16>,
    candidates: Vec<u32>,
    far_cost: u16,
    /// No cell before this one is left.
    next: usize,
    frame: u32,
}

impl Order {
    /// The order of `cells` cells; `None` where that of the file is as good.
    pub(super) fn new(cells: usize, parts: Vec<Lists>, sampling: Sampling) -> Option<Self> {
        let noted: usize = parts.iter().map(|p| p.noted).sum();
        let far: usize = parts.iter().map(|p| p.far).sum();
        if far * LEAST_FAR < noted.max(1) {
            return None;
        }
        let mut order = Self {
            lists: Vec::with_capacity(parts.iter().map(|p| p.ends.len()).sum()),
            cells: Vec::with_capacity(parts.iter().map(|p| p.cells.len()).sum()),
            ends: vec![0; cells],
            lists_of: Vec::new(),
            found: Vec::new(),
            placed: vec![false; cells],
            shared: vec![0; cells],
            candidates: Vec::new(),
            far_cost: sampling.far_cost,
            next: 0,
            frame: 0,
        };
        for part in parts {
            let base = order.cells.len() as u32;
            let mut start = base;
            for end in part.ends {
                order.lists.push(List { start, end: base + end, counted: 0 });
                start = base + end;
            }
            order.cells.extend(part.cells);
        }
        order.turn_around();
        Some(order)
    }

    /// From cells of lists to lists of cells.
    fn turn_around(&mut self) {
        for &cell in &self.cells {
            self.ends[cell as usize] += 1;
        }
        let mut sum = 0;
        for end in &mut self.ends {
            // The start, which filling moves to the end.
            sum += std::mem::replace(end, sum);
        }
        self.lists_of = vec![0; sum as usize];
        for (id, list) in (0..).zip(&self.lists) {
            for &cell in &self.cells[list.start as usize..list.end as usize] {
                let at = &mut self.ends[cell as usize];
                self.lists_of[*at as usize] = id;
                *at += 1;
            }
        }
    }

    /// The next frame's cells, at most `k`; none when all have been placed.
    pub(super) fn next_frame(&mut self, k: usize, to: &mut Vec<u32>) {
        while self.placed.get(self.next) == Some(&true) {
            self.next += 1;
        }
        let first = self.next;
        if first == self.placed.len() {
            return;
        }
        self.frame += 1;
        let mut last = first;
        self.place(first, to);
        for _ in 1..k {
            self.count(last);
            let Some(following) = self.following(last + 1).or_else(|| self.following(first)) else {
                break;
            };
            let mut best = following;
            let mut most = self.shared[following] + self.far_cost;
            for &cell in &self.candidates {
                let cell = cell as usize;
                if self.shared[cell] > most && !self.placed[cell] {
                    (best, most) = (cell, self.shared[cell]);
                }
            }
            self.place(best, to);
            last = best;
        }
        for &cell in &self.candidates {
            self.shared[cell as usize] = 0;
        }
        self.candidates.clear();
    }

    /// The next cell in file order from `cell` on that has no place yet.
    fn following(&self, cell: usize) -> Option<usize> {
        let left = self.placed.get(cell..)?;
        Some(cell + left.iter().take(MOST_STEPS).position(|&placed| !placed)?)
    }

    fn place(&mut self, cell: usize, to: &mut Vec<u32>) {
        self.placed[cell] = true;
        to.push(cell as u32);
    }

    /// Counts the features of a cell that the frame didn't have yet for the
    /// cells that share them.
    fn count(&mut self, cell: usize) {
        let start = if cell == 0 { 0 } else { self.ends[cell - 1] };
        // First all lists, then what they list: the processor waits for many at
        // once.
        let mut found = std::mem::take(&mut self.found);
        for &id in &self.lists_of[start as usize..self.ends[cell] as usize] {
            let list = &mut self.lists[id as usize];
            if std::mem::replace(&mut list.counted, self.frame) != self.frame {
                found.push((id, *list));
            }
        }
        for (id, List { start, end, .. }) in found.drain(..) {
            let list = &self.cells[start as usize..end as usize];
            // A list's placed beginning is passed once.
            let skipped = list.iter().take_while(|&&c| self.placed[c as usize]).count();
            if skipped > 0 {
                self.lists[id as usize].start += skipped as u32;
            }
            let near = list[skipped..].iter().take(MOST_STEPS);
            for &cell in near.filter(|&&c| !self.placed[c as usize]).take(MOST_CANDIDATES) {
                let shared = &mut self.shared[cell as usize];
                if *shared == 0 {
                    self.candidates.push(cell);
                }
                *shared += 1;
            }
        }
        self.found = found;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(cells: &[Vec<u8>], k: usize) -> Option<Vec<u32>> {
        let sampling = Sampling::suited_to(k as u32);
        let mut all = Features::default();
        let mut buf = Vec::new();
        for cell in cells {
            buf.clear();
            features(cell, sampling, &mut buf);
            all.push(&buf);
        }
        let lists = all.into_shards().into_iter().map(Lists::new).collect();
        let mut order = Order::new(cells.len(), lists, sampling)?;
        let mut to = Vec::new();
        loop {
            let before = to.len();
            order.next_frame(k, &mut to);
            if to.len() == before {
                return Some(to);
            }
        }
    }

    fn is_permutation(order: &[u32]) -> bool {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        sorted.into_iter().eq(0..order.len() as u32)
    }

    /// Cells that have nothing in common.
    fn random(n: usize) -> Vec<Vec<u8>> {
        let mut bytes = blake3::Hasher::new().finalize_xof();
        let cell = |_| {
            let mut cell = vec![0; 4096];
            bytes.fill(&mut cell);
            cell
        };
        (0..n).map(cell).collect()
    }

    #[test]
    fn similar_cells_come_together() {
        let mut cells = random(200);
        for far in 100..200 {
            let twin = cells[far - 100].clone();
            cells[far][..3000].copy_from_slice(&twin[..3000]);
        }
        let order = order(&cells, 4).unwrap();
        for frame in order.chunks(4) {
            let has_twin = |&&c: &&u32| frame.contains(&((c + 100) % 200));
            assert!(frame.iter().filter(has_twin).count() >= 2, "{frame:?}");
        }
        assert!(is_permutation(&order));
    }

    #[test]
    fn shifted_content_is_found() {
        let cells = random(1);
        let mut shifted = cells[0].clone();
        shifted[400..4000].copy_from_slice(&cells[0][8..3608]);
        let mut found = (Vec::new(), Vec::new());
        features(&cells[0], Sampling::suited_to(6), &mut found.0);
        features(&shifted, Sampling::suited_to(6), &mut found.1);
        let n = found.0.iter().filter(|f| found.1.contains(f)).count();
        assert!(n * 2 > found.0.len(), "{n} of {}", found.0.len());
    }

    #[test]
    fn what_shares_nothing_stays_in_file_order() {
        assert_eq!(order(&random(300), 4), None);
        assert_eq!(order(&[], 4), None);
        assert_eq!(order(&vec![vec![0; 4096]; 9], 4), None);
    }

    #[test]
    fn neighbours_that_resemble_each_other_stay() {
        let mut cells = random(256);
        for i in 0..256 {
            let base = cells[i / 8 * 8].clone();
            cells[i][100..2100].copy_from_slice(&base[100..2100]);
        }
        assert_eq!(order(&cells, 4), None);
    }

    #[test]
    fn many_alike_take_no_square() {
        // Lists as long as can be of cells that are no neighbours.
        let bases = random(20);
        let cells: Vec<_> = bases.iter().cycle().take(20_000).cloned().collect();
        assert!(is_permutation(&order(&cells, 6).unwrap()));
    }
}
