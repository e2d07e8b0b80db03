//! Every lookup against a naive count, at every edge.

use std::collections::HashMap;

use proptest::prelude::*;
use vmcask_rank::{
    ABSENT, AvailRanges, ChainedHash, OwnedRankIndex, PageBitmap, PageLookup, Pfn, Popcount1024,
    RankIndex,
};

const SHIFT: u32 = 12;

/// What the answer means, written down without any cleverness.
struct Naive {
    /// Page of each dumped bit.
    pages: Vec<u64>,
    /// Ordinal of each page that can be found: of two bits for one page, only
    /// the first counts.
    ordinals: HashMap<u64, u64>,
}

impl Naive {
    fn new(bits: &[bool], pairs: &[(u64, u64)]) -> Self {
        let mut pages = Vec::new();
        let mut ordinals = HashMap::new();
        let mut bit = 0;
        let mut counted = 0;
        for &(start, end) in pairs {
            for page in start >> SHIFT..end.div_ceil(1 << SHIFT) {
                if bits.get(bit).copied().unwrap_or(false) {
                    if page >= counted {
                        ordinals.insert(page, pages.len() as u64);
                    }
                    pages.push(page);
                }
                bit += 1;
            }
            counted = end.div_ceil(1 << SHIFT);
        }
        Self { pages, ordinals }
    }
}

fn bitmap(bits: &[bool], len: u64) -> PageBitmap {
    let mut words = vec![0u64; bits.len().div_ceil(64)];
    for (i, _) in bits.iter().enumerate().filter(|(_, b)| **b) {
        words[i / 64] |= 1 << (i % 64);
    }
    PageBitmap::from_words(words, len)
}

fn check(bits: &[bool], pairs: &[(u64, u64)]) {
    let avail = AvailRanges::new(pairs, SHIFT).unwrap();
    let bits = &bits[..bits.len().min(avail.total_pages() as usize)];
    let map = bitmap(bits, avail.total_pages());
    let naive = Naive::new(bits, pairs);
    let index = OwnedRankIndex::build(map.clone(), avail.clone());
    let hash = ChainedHash::build(&map, &avail, SHIFT);
    let popcount = Popcount1024::build(map.clone(), &avail, SHIFT).unwrap();

    assert_eq!(index.total(), naive.pages.len() as u64);
    assert_eq!(map.count_ones(), naive.pages.len() as u64);
    let last = pairs.last().map_or(0, |p| p.1 >> SHIFT);
    let asked: Vec<u64> = (0..last + 70).chain([u64::MAX >> SHIFT, u64::MAX]).collect();
    let pfns: Vec<Pfn> = asked.iter().map(|&p| Pfn(p)).collect();
    let mut batch = vec![0; pfns.len()];
    index.find_batch(&pfns, &mut batch);
    for (i, &page) in asked.iter().enumerate() {
        let want = naive.ordinals.get(&page).copied();
        assert_eq!(index.find(Pfn(page)), want, "rank of page {page}");
        assert_eq!(batch[i], want.unwrap_or(ABSENT), "batched rank of page {page}");
        assert_eq!(hash.find(Pfn(page)), want, "hash of page {page}");
        assert_eq!(popcount.find(Pfn(page)), want, "popcount of page {page}");
    }
    for (i, &page) in naive.pages.iter().enumerate() {
        assert_eq!(index.select(i as u64), Some(Pfn(page)), "select {i}");
    }
    assert_eq!(index.select(naive.pages.len() as u64), None);
    let runs: Vec<u64> = index
        .page_runs()
        .flat_map(|(pfn, n, ordinal)| {
            assert_eq!(naive.pages[ordinal as usize], pfn.0);
            pfn.0..pfn.0 + n
        })
        .collect();
    assert_eq!(runs, naive.pages);
    let mut ones = 0;
    for bit in 0..bits.len() as u64 + 3 {
        assert_eq!(index.rank(bit), ones, "rank before bit {bit}");
        ones += u64::from(bits.get(bit as usize).copied().unwrap_or(false));
    }
    // The parts of an index are an index.
    let again =
        RankIndex::from_parts(index.words(), index.blocks(), index.supers(), avail).unwrap();
    for page in asked {
        assert_eq!(again.find(Pfn(page)), index.find(Pfn(page)));
    }
}

fn whole(bits: &[bool]) {
    check(bits, &[(0, (bits.len() as u64) << SHIFT)]);
}

#[test]
fn word_block_and_superblock_edges() {
    for len in [1, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025] {
        whole(&vec![true; len]);
        whole(&vec![false; len]);
        for at in [0, len / 2, len - 1] {
            let mut one = vec![false; len];
            one[at] = true;
            whole(&one);
            let mut hole = vec![true; len];
            hole[at] = false;
            whole(&hole);
        }
    }
    for len in [65_535, 65_536, 65_537, 200_000] {
        whole(&vec![true; len]);
        whole(&(0..len).map(|i| i % 3 == 0).collect::<Vec<_>>());
        whole(&(0..len).map(|i| i % 65_536 == 65_535).collect::<Vec<_>>());
    }
}

#[test]
fn empty() {
    let index = OwnedRankIndex::build(PageBitmap::default(), AvailRanges::identity(0));
    assert_eq!(index.find(Pfn(0)), None);
    assert_eq!(index.select(0), None);
    assert_eq!(index.rank(5), 0);
    let mut out = [1, 2];
    index.find_batch(&[Pfn(0), Pfn(9)], &mut out);
    assert_eq!(out, [ABSENT, ABSENT]);
}

#[test]
fn holes_are_absent() {
    // libkvm answers for page 300 with a page of the first range.
    check(&[true; 64], &[(0x1000, 0x21000), (0x200_000, 0x220_000)]);
    // Ranges that touch, that share a page, that begin within one.
    check(&[true; 64], &[(0, 0x4000), (0x4000, 0x8000)]);
    check(&[true; 16], &[(0x800, 0x2800), (0x3c00, 0x3d00)]);
}

#[test]
fn ranges_that_share_a_page() {
    // The kernel gives the page two bits and uses the first.
    let avail = AvailRanges::new(&[(0, 0x1800), (0x1800, 0x3000)], SHIFT).unwrap();
    assert_eq!(avail.total_pages(), 4);
    assert_eq!(avail.bit_of(Pfn(1)), Some(1));
    assert_eq!(avail.pfn_of(2), Some(Pfn(1)));
    assert_eq!(avail.bit_of(Pfn(2)), Some(3));
}

#[test]
fn a_range_with_nearly_all_pages() {
    let bits = |n: u64| (0..n).map(|i| i % 3 != 1).collect::<Vec<_>>();
    check(&bits(200), &[(0x1000, 0xa000), (0x10_0000, 0x1b_b000), (0x20_0000, 0x20_3000)]);
    // It begins, and ends, within a page of another range.
    check(&bits(200), &[(0, 0x1800), (0x1800, 0xb_f800), (0xb_f900, 0xc_1000)]);
    // Two behind it share a page.
    check(&bits(60), &[(0, 0x3_6000), (0x3_6000, 0x3_6100), (0x3_6800, 0x3_6900)]);
    // Beside more than are gone through one by one.
    let mut pairs: Vec<_> = (0..20u64).map(|i| (i * 0x2000, i * 0x2000 + 0x1000)).collect();
    pairs.push((0x10_0000, 0x30_0000));
    check(&bits(532), &pairs);
}

#[test]
fn many_ranges() {
    let pairs: Vec<_> = (0..50u64).map(|i| (i * 0x10000, i * 0x10000 + 0x3000)).collect();
    check(&(0..150).map(|i| i % 5 != 2).collect::<Vec<_>>(), &pairs);
}

#[test]
fn bad_ranges_are_refused() {
    for pairs in [
        &[(5, 5)][..],
        &[(5, 4)],
        &[(0, 0x2000), (0x1000, 0x3000)],
        &[(0x2000, 0x3000), (0, 0x1000)],
        &[(u64::MAX - 1, u64::MAX), (0, 1)],
    ] {
        assert!(AvailRanges::new(pairs, SHIFT).is_err(), "{pairs:?}");
    }
    let all = AvailRanges::new(&[(0, u64::MAX)], SHIFT).unwrap();
    assert_eq!(all.total_pages(), 1 << 52);
    assert_eq!(all.bit_of(Pfn((1 << 52) - 1)), Some((1 << 52) - 1));
    assert_eq!(all.bit_of(Pfn(1 << 52)), None);
}

#[test]
fn spare_bits_are_counted_and_ignored() {
    let map = PageBitmap::from_le_bytes(&[0xff; 24], 70);
    assert_eq!(map.count_ones(), 70);
    assert_eq!(map.spare_bits(), 24 * 8 - 70);
    assert!(!map.get(70));
}

#[test]
fn byte_orders() {
    let mut bytes = [0; 16];
    bytes[7] = 1; // bit 0 of a big-endian word
    bytes[8] = 0x80; // bit 63 of the next
    let map = PageBitmap::from_be_words(&bytes, 128);
    assert_eq!(map.runs().collect::<Vec<_>>(), [0..1, 127..128]);
    let map = PageBitmap::from_le_bytes(&bytes, 128);
    assert_eq!(map.runs().collect::<Vec<_>>(), [56..57, 71..72]);
}

/// More than 2^32 bits: 512 MiB of bitmap, of which only touched pages exist;
/// reading maps the zero page.
#[test]
fn past_two_to_the_32() {
    let bits = (1u64 << 32) + 1000;
    let mut words = vec![0u64; (bits / 64) as usize + 1];
    let set = [0, 77, (1 << 32) - 1, 1 << 32, (1 << 32) + 999];
    for bit in set {
        words[(bit / 64) as usize] |= 1 << (bit % 64);
    }
    let index =
        OwnedRankIndex::build(PageBitmap::from_words(words, bits), AvailRanges::identity(bits));
    for (i, &bit) in set.iter().enumerate() {
        assert_eq!(index.find(Pfn(bit)), Some(i as u64));
        assert_eq!(index.select(i as u64), Some(Pfn(bit)));
    }
    assert_eq!(index.find(Pfn(1 << 31)), None);
    assert_eq!(index.total(), 5);
    let pfns: Vec<_> = set.iter().flat_map(|&bit| [Pfn(bit), Pfn(bit ^ 2)]).collect();
    let mut out = vec![0; pfns.len()];
    index.find_batch(&pfns, &mut out);
    assert_eq!(out, (0..5).flat_map(|i| [i, ABSENT]).collect::<Vec<_>>());
}

/// Sizes that a hostile header may claim cost nothing: memory and time follow
/// the words that are there.
#[test]
fn claims_far_past_the_words() {
    let avail = AvailRanges::new(&[(0x3000, 0x5000), (0x10_0000, u64::MAX)], SHIFT).unwrap();
    for bits in [avail.total_pages(), u64::MAX] {
        let map = PageBitmap::from_words(vec![0b1110], bits);
        let naive = [(3, None), (4, Some(0)), (0x100, Some(1)), (0x101, Some(2)), (0x102, None)];
        let hash = ChainedHash::build(&map, &avail, SHIFT);
        let popcount = Popcount1024::build(map.clone(), &avail, SHIFT).unwrap();
        let index = OwnedRankIndex::build(map, avail.clone());
        for (page, want) in naive {
            assert_eq!(hash.find(Pfn(page)), want, "hash of page {page}");
            assert_eq!(popcount.find(Pfn(page)), want, "popcount of page {page}");
            assert_eq!(index.find(Pfn(page)), want, "rank of page {page}");
        }
        let far = Pfn(avail.total_pages() / 2);
        assert_eq!((hash.find(far), popcount.find(far), index.find(far)), (None, None, None));
        assert_eq!(index.select(2), Some(Pfn(0x101)));
        assert_eq!(index.select(3), None);
        let (w, b, s) = (index.words(), index.blocks(), index.supers());
        assert!(RankIndex::from_parts(w, b, s, avail.clone()).is_ok());
    }
    // All ones past the last page, and pages of absurd sizes.
    let map = PageBitmap::from_words(vec![!0; 8], 512);
    let index = OwnedRankIndex::build(map.clone(), AvailRanges::identity(70));
    assert_eq!(index.total(), 70);
    assert_eq!(index.page_runs().collect::<Vec<_>>(), [(Pfn(0), 70, 0)]);
    for shift in [52, 63, 64, u32::MAX] {
        let avail = AvailRanges::identity(70);
        let hash = ChainedHash::build(&map, &avail, shift);
        assert_eq!(hash.find(Pfn(70)), None);
        assert!(Popcount1024::build(map.clone(), &avail, shift).is_err());
    }
    // Ranges without end, and the largest page that libkvm has 32 bits for.
    for avail in [AvailRanges::identity(0), AvailRanges::identity(u64::MAX)] {
        let want = (avail.total_pages() > 0).then_some(0);
        for shift in [0, 31] {
            let popcount = Popcount1024::build(map.clone(), &avail, shift).unwrap();
            assert_eq!(popcount.find(Pfn(0)), want);
            assert_eq!(popcount.find(Pfn(u64::MAX)), None);
        }
    }
    assert!(AvailRanges::new(&[(0, 5)], 63).is_ok());
    assert!(AvailRanges::new(&[(0, 5)], 64).is_err());
}

#[test]
fn parts_of_other_lengths_are_refused() {
    let avail = AvailRanges::identity(70_000);
    let index = OwnedRankIndex::build(PageBitmap::from_words(vec![!0; 2000], 70_000), avail);
    let (w, b, s) = (index.words(), index.blocks(), index.supers());
    let from = |w, b, s| RankIndex::from_parts(w, b, s, AvailRanges::identity(70_000));
    assert!(from(w, b, s).is_ok());
    assert!(from(&w[1..], b, s).is_err());
    assert!(from(w, &b[1..], s).is_err());
    assert!(from(w, b, &s[1..]).is_err());
    // More set bits than pages.
    let mut more = s.to_vec();
    more[2] = 70_001;
    assert!(from(w, b, &more).is_err());
    // A longer bitmap than the ranges have pages for.
    assert!(RankIndex::from_parts(w, b, s, AvailRanges::identity(69_000)).is_err());
}

fn avail_pairs() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0u64..0x40_000, 1u64..0x80_000), 1..20).prop_map(|steps| {
        let mut at = 0;
        steps
            .into_iter()
            .map(|(gap, len)| {
                let start = at + gap;
                at = start + len;
                (start, at)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn random_bitmaps(
        bits in prop::collection::vec(any::<bool>(), 1..3000),
        pairs in avail_pairs(),
    ) {
        whole(&bits);
        check(&bits, &pairs);
    }

    /// Counts that don't belong to the bitmap: wrong answers, no panic.
    #[test]
    fn hostile_counts(
        words in prop::collection::vec(any::<u64>(), 40),
        blocks in prop::collection::vec(any::<u16>(), 10),
        supers in prop::collection::vec(any::<u64>(), 6),
        long in any::<bool>(),
        total in 0u64..=40 * 64,
    ) {
        // Five superblocks, so that a search among them goes wrong too.
        let times = if long { 128 } else { 1 };
        let (words, blocks) = (words.repeat(times), blocks.repeat(times));
        let mut supers = if long { supers } else { supers[..2].to_vec() };
        *supers.last_mut().unwrap() = total;
        let bits = words.len() as u64 * 64;
        let index =
            RankIndex::from_parts(words, blocks, supers, AvailRanges::identity(bits)).unwrap();
        let pfns: Vec<_> = (0..bits + 500).step_by(times).map(Pfn).collect();
        let mut out = vec![0; pfns.len()];
        index.find_batch(&pfns, &mut out);
        for (pfn, out) in pfns.into_iter().zip(out) {
            prop_assert_eq!(index.find(pfn).unwrap_or(ABSENT), out);
            let _ = (index.rank(pfn.0), index.select(pfn.0));
        }
        let _ = (index.select(u64::MAX), index.page_runs().count());
    }
}
