//! Which cells have been stored already: a table of fixed size.

use crate::cell_hash::CellHash;

/// Entries that share a place; the oldest makes room.
const WAYS: usize = 4;

#[derive(Clone, Copy, Default)]
struct Entry {
    /// 128 bits of the cell's hash: two cells that differ agree on them once
    /// in 2^128 pairs, and the digest would tell. All zeros is empty.
    key: [u64; 2],
    slot: u64,
}

/// Slots by cell hash. Bounded: where it is full, an old entry is forgotten
/// and a later duplicate of it is stored a second time.
pub(super) struct DedupTable {
    sets: Vec<[Entry; WAYS]>,
}

impl DedupTable {
    /// For up to `cells` different cells, in at most `budget` bytes.
    pub(super) fn new(cells: u64, budget: usize) -> Self {
        let fits = budget / size_of::<[Entry; WAYS]>();
        // Half full on average: sets overflow seldom.
        let wanted = (cells as usize).div_ceil(WAYS / 2).next_power_of_two();
        let most = if fits.is_power_of_two() { fits } else { fits.next_power_of_two() / 2 };
        Self { sets: vec![[Entry::default(); WAYS]; wanted.min(most).max(1)] }
    }

    /// The slot of an equal cell; else takes `slot` as that of this one.
    pub(super) fn find_or_insert(&mut self, hash: &CellHash, slot: u64) -> Option<u64> {
        let word = |i: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&hash[i * 8..i * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        let key = [word(0), word(1)];
        let place = word(2) as usize & (self.sets.len() - 1);
        let set = &mut self.sets[place];
        if let Some(entry) = set.iter().find(|e| e.key == key) {
            return Some(entry.slot);
        }
        // Newest first.
        set.rotate_right(1);
        set[0] = Entry { key, slot };
        None
    }

    /// All slots, to be given other numbers.
    pub(super) fn slots(&mut self) -> impl Iterator<Item = &mut u64> {
        self.sets.as_flattened_mut().iter_mut().filter(|e| e.key != [0; 2]).map(|e| &mut e.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell_hash::cell_hash;

    #[test]
    fn finds_what_was_inserted() {
        let mut table = DedupTable::new(10_000, 1 << 20);
        let mut lost = 0;
        for i in 0..10_000u64 {
            assert_eq!(table.find_or_insert(&cell_hash(&i.to_le_bytes()), i), None);
        }
        for i in 0..10_000u64 {
            match table.find_or_insert(&cell_hash(&i.to_le_bytes()), 99) {
                Some(slot) => assert_eq!(slot, i),
                None => lost += 1,
            }
        }
        assert!(lost < 1000, "{lost} of 10000 forgotten");
    }

    #[test]
    fn stays_in_its_budget() {
        let table = DedupTable::new(u64::MAX >> 8, 1 << 20);
        assert!(table.sets.len() * size_of::<[Entry; WAYS]>() <= 1 << 20);
        assert_eq!(DedupTable::new(0, 0).sets.len(), 1);
    }
}
