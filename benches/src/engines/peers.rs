//! The fastest public rank structures, each on the same bitmap and asked the
//! same way: `dump_avail`, presence, rank.

use std::rc::Rc;

use bitm::{ArrayWithRank101111, BitAccess as _, Rank as _};
use sucds::Serializable as _;
use sucds::bit_vectors::{Access as _, BitVector, Rank as _, rank9sel::Rank9Sel};
use sux::prelude::{BitVec, Rank as _, Rank9, RankSmall};
use vers_vecs::{BitVec as VersBits, RsVec};
use vmcask_rank::{ABSENT, AvailRanges, Pfn};

use super::Engine;
use crate::Dump;

/// All of them, sux's Rank9 first.
pub fn all(dump: &Dump) -> Vec<Engine> {
    let bits = sux_bits(dump);
    // What its documentation says of each: bytes beside the bitmap.
    let bitmap = dump.bitmap.words().len() * 8;
    let small = |percent: f64| Some(bitmap + (bitmap as f64 * percent / 100.0) as usize);
    macro_rules! sux {
        ($name:literal, $percent:expr, $table:expr) => {{
            let table = $table;
            present(dump, $name, small($percent), move |bit| table[bit].then(|| table.rank(bit)))
        }};
    }
    vec![
        sux!("sux Rank9", 25.0, Rank9::new(bits.clone())),
        sux!("sux RankSmall 0", 18.75, RankSmall::<64, 2, 9, _, _, _>::new(bits.clone())),
        sux!("sux RankSmall 1", 12.5, RankSmall::<64, 1, 9, _, _, _>::new(bits.clone())),
        sux!("sux RankSmall 2", 6.25, RankSmall::<64, 1, 10, _, _, _>::new(bits.clone())),
        sux!("sux RankSmall 3", 3.125, RankSmall::<64, 1, 11, _, _, _>::new(bits.clone())),
        sux!("sux RankSmall 4", 1.5625, RankSmall::<64, 3, 13, _, _, _>::new(bits)),
        rank101111(dump),
        sucds(dump),
        vers(dump),
    ]
}

/// An engine from what says whether a bit is set, and its rank.
fn present(
    dump: &Dump,
    name: &'static str,
    bytes: Option<usize>,
    find: impl Fn(usize) -> Option<usize> + 'static,
) -> Engine {
    let shared: Rc<(AvailRanges, _)> = Rc::new((dump.avail.clone(), find));
    Engine::new(name, bytes, move |pfn: Pfn| {
        let (avail, find) = &*shared;
        let Some(bit) = avail.bit_of(pfn) else { return ABSENT };
        find(bit as usize).map_or(ABSENT, |n| n as u64)
    })
}

fn sux_bits(dump: &Dump) -> BitVec<Vec<usize>> {
    let words = dump.bitmap.words();
    (0..dump.bitmap.bits()).map(|bit| words[(bit / 64) as usize] >> (bit % 64) & 1 != 0).collect()
}

fn rank101111(dump: &Dump) -> Engine {
    let table = ArrayWithRank101111::from(dump.bitmap.words().to_vec().into_boxed_slice());
    let bytes = (table.content.len() + table.l1ranks.len() + table.l2ranks.len()) * 8;
    present(dump, "bitm RankSelect101111", Some(bytes), move |bit| {
        table.content.get_bit(bit).then(|| table.rank(bit))
    })
}

fn sucds(dump: &Dump) -> Engine {
    let mut bits = BitVector::with_capacity(dump.bitmap.words().len() * 64);
    for &word in dump.bitmap.words() {
        bits.push_bits(word, 64).expect("64 bits fit a word");
    }
    let table = Rank9Sel::new(bits);
    let bytes = table.size_in_bytes();
    present(dump, "sucds Rank9Sel", Some(bytes), move |bit| {
        (table.access(bit) == Some(true)).then(|| table.rank1(bit)).flatten()
    })
}

fn vers(dump: &Dump) -> Engine {
    let table = RsVec::from_bit_vec(VersBits::from_limbs(dump.bitmap.words()));
    let bytes = table.heap_size();
    present(dump, "vers-vecs RsVec", Some(bytes), move |bit| {
        (table.get(bit) == Some(1)).then(|| table.rank1(bit))
    })
}
