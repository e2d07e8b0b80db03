//! The rank index and both of libkvm's lookups against counting bit by bit.

use std::collections::HashMap;

use vmcask_rank::{AvailRanges, ChainedHash, PageBitmap, PageLookup, Pfn, Popcount1024, RankIndex};

use crate::words;

pub fn rank(data: &[u8]) {
    let [pairs, shift, spare, rest @ ..] = data else { return };
    let shift = 12 + u32::from(shift % 3);
    let (ranges, bits) = rest.split_at(rest.len().min(usize::from(pairs % 9) * 4));
    let mut at = 0u64;
    let pairs: Vec<(u64, u64)> = ranges
        .chunks_exact(4)
        .map(|c| {
            // Mostly ascending, sometimes not, in steps that aren't pages.
            let start = at.wrapping_add(u64::from(c[0]) << (c[1] % 40));
            let end = start.wrapping_add(u64::from(c[2]) << (c[3] % 20));
            at = end;
            (start, end)
        })
        .collect();
    let avail = if pairs.is_empty() {
        AvailRanges::identity((rest.len() as u64 * 8).saturating_sub(u64::from(spare % 70)))
    } else {
        match AvailRanges::new(&pairs, shift) {
            Ok(avail) => avail,
            Err(e) => return crate::shown(&e),
        }
    };
    let total = avail.total_pages();
    if total > 1 << 16 {
        return;
    }
    let mut bytes = bits.to_vec();
    bytes.resize(total.div_ceil(64) as usize * 8, *spare);
    // Of a page that two ranges share, no kernel sets the second bit.
    for second in (0..total).filter(|&b| avail.pfn_of(b).and_then(|p| avail.bit_of(p)) != Some(b)) {
        bytes[(second / 8) as usize] &= !(1 << (second % 8));
    }
    let bitmap = PageBitmap::from_le_bytes(&bytes, total);
    let bit = |bit: u64| bit < total && bytes[(bit / 8) as usize] >> (bit % 8) & 1 == 1;
    // By counting: page number of each bit that is set, in order.
    let pages: Vec<Pfn> = (0..total).filter(|&b| bit(b)).filter_map(|b| avail.pfn_of(b)).collect();
    let chained = ChainedHash::build(&bitmap, &avail, shift);
    let popcount =
        Popcount1024::build(bitmap.clone(), &avail, shift).expect("fewer than 2^32 pages");
    let index = RankIndex::build(bitmap, avail);
    assert_eq!(index.total(), pages.len() as u64);
    let ordinals: HashMap<Pfn, u64> = pages.iter().copied().zip(0..).collect();
    let mut asked = pages.clone();
    asked.extend(words(data).map(Pfn));
    asked.extend(pages.iter().take(50).flat_map(|p| [Pfn(p.0 + 1), Pfn(p.0.saturating_sub(1))]));
    let mut found = vec![0; asked.len()];
    index.find_batch(&asked, &mut found);
    for (pfn, batched) in asked.iter().zip(found) {
        let want = ordinals.get(pfn).copied();
        assert_eq!(index.find(*pfn), want, "{pfn:?}");
        assert_eq!(batched, want.unwrap_or(u64::MAX), "{pfn:?} in a batch");
        // Addresses past 2^64 are no pages for libkvm's tables.
        if pfn.0 <= u64::MAX >> shift {
            assert_eq!(chained.find(*pfn), want, "{pfn:?} in the hash table");
            assert_eq!(popcount.find(*pfn), want, "{pfn:?} by popcounts");
        }
    }
    for (ordinal, pfn) in pages.iter().enumerate() {
        assert_eq!(index.select(ordinal as u64), Some(*pfn));
    }
    assert_eq!(index.select(pages.len() as u64), None);
    let runs: Vec<Pfn> =
        index.page_runs().flat_map(|(pfn, n, _)| (0..n).map(move |i| Pfn(pfn.0 + i))).collect();
    assert_eq!(runs, pages);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for pairs in 0..9u8 {
        for fill in [0, 1, 0x55, 0xff] {
            let ranges: Vec<u8> = (0..pairs).flat_map(|i| [i + 1, 13, 40 + i, 12]).collect();
            let bits: Vec<u8> = (0..300u32).map(|i| (i * 7) as u8 | fill).collect();
            seeds.push([&[pairs, fill, fill][..], &ranges, &bits].concat());
        }
    }
    seeds
}
