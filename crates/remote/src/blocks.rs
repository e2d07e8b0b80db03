//! Which blocks of an object are kept, which are on their way, and how much
//! to ask for next.

use std::collections::HashSet;
use std::num::NonZero;
use std::ops::Range;

use bytes::Bytes;
use lru::LruCache;

/// Bytes of a block. An archive's index is read in chunks of 64 KiB that begin
/// anywhere: larger blocks would fetch up to twice as much.
pub(crate) const BLOCK: u64 = 16 << 10;
/// Blocks asked for at a time at most: 8 MiB.
const MOST: u64 = 512;
/// The same for who reads here and there: 1 MiB.
const MOST_AHEAD: u64 = 64;
/// Missing blocks with no more than this many others between them are asked for
/// together: a request costs more than 128 KiB do.
const GAP: u64 = 8;

/// The blocks of one object.
pub(crate) struct Blocks {
    /// Blocks that the object has; the last may be short.
    count: u64,
    kept: LruCache<u64, Bytes>,
    /// On their way, for somebody.
    coming: HashSet<u64>,
    /// The block behind the range asked for last, and the blocks in it: who
    /// goes on reading there gets twice as many.
    next: u64,
    run: u64,
    /// Blocks asked for so far.
    asked: u64,
}

/// What to do about a block.
pub(crate) enum Step {
    /// It is here.
    Have(Bytes),
    /// Somebody else has asked for it.
    Wait,
    /// Ask for these, the block among them, which are noted as being on their
    /// way.
    Fetch(Range<u64>),
}

impl Blocks {
    pub(crate) fn new(len: u64, cache_bytes: usize) -> Self {
        // Room for several requests under way.
        let places = (cache_bytes as u64 / BLOCK).max(2 * MOST) as usize;
        Self {
            count: len.div_ceil(BLOCK),
            kept: LruCache::new(NonZero::new(places).unwrap_or(NonZero::<usize>::MIN)),
            coming: HashSet::new(),
            next: u64::MAX,
            run: 0,
            asked: 0,
        }
    }

    /// What to do about `block` for a reader that wants the blocks up to
    /// `until` (not included).
    pub(crate) fn step(&mut self, block: u64, until: u64) -> Step {
        if let Some(bytes) = self.kept.get(&block) {
            return Step::Have(bytes.clone());
        }
        if self.coming.contains(&block) {
            return Step::Wait;
        }
        let window = self.ahead(block);
        let ahead = (block + window).min(self.count);
        let wanted = self.wanted(block, until).min(self.count);
        // Nothing is asked for twice at the same time.
        let wanted = (block + 1..wanted).find(|b| self.coming.contains(b)).unwrap_or(wanted);
        let is_new = |b: &u64| !self.coming.contains(b) && !self.kept.contains(b);
        let end = wanted + (wanted..ahead).take_while(is_new).count() as u64;
        // Who reads here and there often comes back for what is just before.
        let back = if block == self.next { 0 } else { (window / 2).min(block) };
        let back = (1..=back).take_while(|n| is_new(&(block - n))).count() as u64;
        let range = block - back..end;
        self.coming.extend(range.clone());
        self.next = range.end;
        self.run = range.end - range.start;
        self.asked += self.run;
        Step::Fetch(range)
    }

    /// The end of what is missing up to `until`, small gaps included.
    fn wanted(&self, block: u64, until: u64) -> u64 {
        let mut end = block + 1;
        for b in block + 1..until.min(block + MOST) {
            if self.kept.contains(&b) {
                continue;
            }
            if b - end > GAP {
                break;
            }
            end = b + 1;
        }
        end
    }

    /// How many blocks are worth asking for at `block`. Who goes on where the
    /// last range ended reads a stream. Else an eighth of all that was asked
    /// for so far, and half of that before it: few requests, whether little is
    /// read or much.
    fn ahead(&self, block: u64) -> u64 {
        if block == self.next {
            return (2 * self.run).clamp(2, MOST);
        }
        (self.asked / 8).clamp(2, MOST_AHEAD)
    }

    /// Takes in what came for `range`, or notes that it didn't.
    pub(crate) fn done(&mut self, range: Range<u64>, bytes: Option<&Bytes>) {
        for block in range.clone() {
            self.coming.remove(&block);
            let Some(bytes) = bytes else { continue };
            let from = ((block - range.start) * BLOCK) as usize;
            let to = bytes.len().min(from + BLOCK as usize);
            if from < to {
                self.kept.put(block, bytes.slice(from..to));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(blocks: &mut Blocks, block: u64, until: u64) -> Range<u64> {
        match blocks.step(block, until) {
            Step::Fetch(range) => range,
            Step::Have(_) => panic!("{block} is here"),
            Step::Wait => panic!("{block} is on its way"),
        }
    }

    fn come(blocks: &mut Blocks, range: Range<u64>) {
        let bytes = vec![range.start as u8; ((range.end - range.start) * BLOCK) as usize];
        blocks.done(range, Some(&bytes.into()));
    }

    #[test]
    fn neighbours_go_together_and_nothing_twice() {
        let mut b = Blocks::new(10_000 * BLOCK, 0);
        assert_eq!(fetch(&mut b, 100, 110), 99..110);
        // The same, and what follows, while that is on its way.
        assert!(matches!(b.step(105, 106), Step::Wait));
        assert_eq!(fetch(&mut b, 90, 120), 89..99);
        come(&mut b, 99..110);
        come(&mut b, 89..99);
        assert!(matches!(b.step(105, 106), Step::Have(bytes) if bytes.len() as u64 == BLOCK));
        // A small gap is bridged, a large one isn't.
        come(&mut b, 203..206);
        assert_eq!(fetch(&mut b, 200, 210), 199..210);
        come(&mut b, 303..333);
        assert_eq!(fetch(&mut b, 300, 340), 298..303);
        // What didn't come is asked for again.
        b.done(298..303, None);
        assert_eq!(fetch(&mut b, 300, 303), 298..303);
    }

    #[test]
    fn streams_get_more_each_time() {
        let mut b = Blocks::new(10_000 * BLOCK, 1 << 30);
        let (mut at, mut requests) = (5, 0);
        while at < 10_000 {
            let range = fetch(&mut b, at, at + 1);
            assert!(range.end - range.start <= MOST && range.end <= 10_000);
            assert!(range.contains(&at));
            at = range.end;
            come(&mut b, range);
            requests += 1;
        }
        assert!(requests < 30, "{requests}");
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let mut b = Blocks::new(1 << 40, 0);
        for i in 0..10 {
            come(&mut b, i * MOST..(i + 1) * MOST);
        }
        assert_eq!(b.kept.len() as u64, 2 * MOST);
        assert!(matches!(b.step(0, 1), Step::Fetch(_)));
    }
}
