//! The fastest public rank structures, each on the same bitmap and asked the
//! same way: `dump_avail`, presence, rank.

use std::rc::Rc;

use bitm::{ArrayWithRank101111, BitAccess as _, Rank as _};
use sucds::Serializable as _;
use sucds::bit_vectors::{Access as _, BitVector, Rank as _, rank9sel::Rank9Sel};
use sux::prelude::{BitVec, Rank as _, Rank9, RankSmall};
use vers_vecs::{BitVec as VersBits, RsVec};
use vmcask_rank::{ABSENT, Pfn};

use super::{Engine, engine};
use crate::Dump;

/// An engine from a table and what a bit's rank is in it, `None` where not set.
macro_rules! peer {
    ($dump:expr, $name:expr, $bytes:expr, $table:expr, |$t:ident, $bit:ident| $rank:expr) => {{
        let shared = Rc::new(($dump.avail.clone(), $table));
        engine!($name, $bytes, {
            let shared = Rc::clone(&shared);
            move |pfn: Pfn| {
                let (avail, $t) = &*shared;
                let Some(bit) = avail.bit_of(pfn) else { return ABSENT };
                let $bit = bit as usize;
                $rank.map_or(ABSENT, |n| n as u64)
            }
        })
    }};
}

/// All of them, sux's Rank9 first.
pub fn all(dump: &Dump) -> Vec<Engine> {
    ALL.iter().map(|make| make(dump)).collect()
}

type Bits = BitVec<Vec<usize>>;

/// Of sux's structures, with what its documentation says that each takes beside
/// the bitmap, in percent.
macro_rules! sux {
    ($name:literal, $percent:literal, $table:ty) => {
        |dump| {
            let table = <$table>::new(sux_bits(dump));
            peer!(dump, $name, Some(sux_bytes(dump, $percent)), table, |table, bit| {
                table[bit].then(|| table.rank(bit))
            })
        }
    };
}

/// What makes each.
pub const ALL: [fn(&Dump) -> Engine; 10] = [
    sux!("sux Rank9", 25.0, Rank9<Bits>),
    rank9_unbranched,
    sux!("sux RankSmall 0", 18.75, RankSmall<64, 2, 9, Bits>),
    sux!("sux RankSmall 1", 12.5, RankSmall<64, 1, 9, Bits>),
    sux!("sux RankSmall 2", 6.25, RankSmall<64, 1, 10, Bits>),
    sux!("sux RankSmall 3", 3.125, RankSmall<64, 1, 11, Bits>),
    sux!("sux RankSmall 4", 1.5625, RankSmall<64, 3, 13, Bits>),
    rank101111,
    sucds,
    vers,
];

fn sux_bytes(dump: &Dump, percent: f64) -> usize {
    let bitmap = dump.bitmap.words().len() * 8;
    bitmap + (bitmap as f64 * percent / 100.0) as usize
}

fn sux_bits(dump: &Dump) -> Bits {
    let mut bits = BitVec::new(dump.bitmap.bits() as usize);
    let to: &mut [usize] = bits.as_mut();
    for (to, &word) in to.iter_mut().zip(dump.bitmap.words()) {
        *to = word as usize;
    }
    bits
}

/// Counts for absent pages too, and chooses: no lookup waits for a wrong guess
/// at which are absent. ABSENT is all ones.
fn rank9_unbranched(dump: &Dump) -> Engine {
    let table = Rank9::new(sux_bits(dump));
    peer!(dump, "sux Rank9, no branch", Some(sux_bytes(dump, 25.0)), table, |table, bit| {
        Some(table.rank(bit) as u64 | u64::from(table[bit]).wrapping_sub(1))
    })
}

fn rank101111(dump: &Dump) -> Engine {
    let table = ArrayWithRank101111::from(dump.bitmap.words().to_vec().into_boxed_slice());
    let bytes = (table.content.len() + table.l1ranks.len() + table.l2ranks.len()) * 8;
    peer!(dump, "bitm RankSelect101111", Some(bytes), table, |table, bit| {
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
    peer!(dump, "sucds Rank9Sel", Some(bytes), table, |table, bit| {
        (table.access(bit) == Some(true)).then(|| table.rank1(bit)).flatten()
    })
}

fn vers(dump: &Dump) -> Engine {
    let table = RsVec::from_bit_vec(VersBits::from_limbs(dump.bitmap.words()));
    let bytes = table.heap_size();
    peer!(dump, "vers-vecs RsVec", Some(bytes), table, |table, bit| {
        (table.get(bit) == Some(1)).then(|| table.rank1(bit))
    })
}
