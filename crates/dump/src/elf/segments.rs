//! Overlapping segments as disjoint, sorted intervals.

/// An interval `[addr, addr + size)` whose byte `addr` lies at file offset
/// `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    addr: u64,
    size: u64,
    off: u64,
}

/// Disjoint intervals, ascending by address.
#[derive(Debug, Default)]
pub(super) struct IntervalMap(Vec<Interval>);

impl IntervalMap {
    /// Builds the map from `(address, file offset, bytes)`. Where segments
    /// overlap, the earlier one wins, as in libkvm's and gdb's linear scans.
    /// Ranges that leave the 64-bit address space are cut there.
    pub(super) fn new(segments: impl Iterator<Item = (u64, u64, u64)>) -> Self {
        let mut all: Vec<(Interval, usize)> = segments
            .filter_map(|(addr, off, size)| {
                let size = size.min(u64::MAX - addr).min(u64::MAX - off);
                (size > 0).then_some(Interval { addr, size, off })
            })
            .enumerate()
            .map(|(order, interval)| (interval, order))
            .collect();
        all.sort_by_key(|(interval, order)| (interval.addr, *order));
        let mut out: Vec<Interval> = Vec::with_capacity(all.len());
        // Segments that began before the point reached so far and go on
        // behind it, the winner (the one first in the file) on top.
        let mut open = std::collections::BinaryHeap::new();
        let mut at = 0u64;
        let mut next = all.iter().peekable();
        loop {
            while let Some((interval, order)) = next.peek()
                && interval.addr <= at
            {
                open.push((std::cmp::Reverse(*order), interval.addr, interval.size, interval.off));
                next.next();
            }
            while let Some((_, addr, size, _)) = open.peek()
                && addr + size <= at
            {
                open.pop();
            }
            let Some(&(std::cmp::Reverse(order), addr, size, off)) = open.peek() else {
                match next.peek() {
                    Some((interval, _)) => at = interval.addr,
                    None => break,
                }
                continue;
            };
            // It reigns until it ends or one that wins over it begins; an
            // equal start has been pushed already.
            let mut end = addr + size;
            while let Some((interval, other)) = next.peek()
                && interval.addr < end
            {
                if *other < order {
                    end = interval.addr;
                    break;
                }
                open.push((std::cmp::Reverse(*other), interval.addr, interval.size, interval.off));
                next.next();
            }
            let piece = Interval { addr: at, size: end - at, off: off + (at - addr) };
            match out.last_mut() {
                Some(last)
                    if last.addr + last.size == piece.addr && last.off + last.size == piece.off =>
                {
                    last.size += piece.size;
                }
                _ => out.push(piece),
            }
            at = end;
        }
        Self(out)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// File offset of `addr`, and the bytes from there to the interval's end.
    pub(super) fn find(&self, addr: u64) -> Option<(u64, u64)> {
        let after = self.0.partition_point(|i| i.addr <= addr);
        let interval = self.0.get(after.checked_sub(1)?)?;
        let within = addr - interval.addr;
        (within < interval.size).then(|| (interval.off + within, interval.size - within))
    }

    /// `(address, file offset, bytes)`, ascending.
    pub(super) fn runs(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.0.iter().map(|i| (i.addr, i.off, i.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // Against the definition: the first segment that holds the address.
        #[test]
        fn first_segment_wins(
            segments in prop::collection::vec((0u64..200, 0u64..10_000, 0u64..60), 0..20)
        ) {
            let map = IntervalMap::new(segments.iter().copied());
            for addr in 0..300 {
                let naive = segments
                    .iter()
                    .find(|&&(a, _, size)| addr >= a && addr - a < size)
                    .map(|&(a, off, _)| off + (addr - a));
                prop_assert_eq!(map.find(addr).map(|(off, _)| off), naive, "address {}", addr);
            }
            for pair in map.0.windows(2) {
                prop_assert!(pair[0].addr + pair[0].size <= pair[1].addr);
            }
        }
    }

    #[test]
    fn the_top_of_the_address_space() {
        let map = IntervalMap::new([(u64::MAX - 10, 5, u64::MAX)].into_iter());
        assert_eq!(map.find(u64::MAX - 1), Some((14, 1)));
        assert_eq!(map.find(u64::MAX), None);
    }
}
