//! Faster paths chosen at run time: the one module with `unsafe` code.
#![allow(unsafe_code)]

/// Calls `$portable` compiled for POPCNT where the processor has it: default
/// x86-64 builds may not assume it, and count bits in a dozen instructions.
macro_rules! with_popcnt {
    ($name:ident, $portable:path, ($($arg:ident: $ty:ty),*) -> $ret:ty) => {
        #[inline]
        pub(crate) fn $name($($arg: $ty),*) -> $ret {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "popcnt")]
                fn fast($($arg: $ty),*) -> $ret {
                    $portable($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("popcnt") {
                    // SAFETY: the processor has the one feature `fast` asks
                    // for.
                    return unsafe { fast($($arg),*) };
                }
            }
            $portable($($arg),*)
        }
    };
}

use crate::Pfn;
use crate::avail::AvailRanges;
use crate::index;

with_popcnt!(
    find,
    index::find_portable,
    (words: &[u64], blocks: &[u16], supers: &[u64], bit: u64) -> u64
);
with_popcnt!(
    find_batch,
    index::find_batch_portable,
    (words: &[u64], blocks: &[u16], supers: &[u64], avail: &AvailRanges, pfns: &[Pfn], out: &mut [u64]) -> ()
);
with_popcnt!(
    count,
    index::count_portable,
    (words: &[u64]) -> (Vec<u16>, Vec<u64>)
);
