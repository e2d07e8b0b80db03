//! Physical memory: which ranges exist.

use std::ops::Range;

use crate::arch::Arch;
use crate::spec::Spec;

/// From here on a machine has two NUMA nodes with a gap between.
const TWO_NODES: u64 = 64 << 30;

/// Ranges of pages that exist, in pages.
///
/// x86 as a PC's firmware reports them: 636 KiB below the legacy hole at
/// 640 KiB, memory up to the PCI hole below 4 GiB, the rest from 4 GiB up.
/// arm64, riscv and arm boards have theirs start high, with a hole where
/// firmware lives; POWER's starts at 0. 64 GiB and more come as two NUMA
/// nodes.
pub(crate) fn avail(spec: &Spec) -> Vec<Range<u64>> {
    let page = spec.page_size;
    if !spec.avail.is_empty() {
        return spec.avail.iter().map(|&(start, end)| start / page..end / page).collect();
    }
    let mut left = spec.ram / page;
    let mut ranges = Vec::new();
    let mut take = |start: u64, most: u64| {
        let n = left.min(most / page);
        if n > 0 {
            ranges.push(start / page..start / page + n);
        }
        left -= n;
    };
    let half = spec.ram / 2 / page * page;
    let two = spec.ram >= TWO_NODES;
    match spec.arch {
        Arch::Amd64 | Arch::I386 => {
            take(0, 0x9f000);
            take(1 << 20, (3 << 30) - (1 << 20));
            if two {
                take(4 << 30, half);
                take((5 << 30) + half, u64::MAX);
            } else {
                take(4 << 30, u64::MAX);
            }
        }
        Arch::Arm64 => {
            take(1 << 30, (1 << 30) - (64 << 20));
            if two {
                take(0x8_8000_0000, half);
                // The second socket's memory starts at its own power of two.
                take((0x8_8000_0000 + half).next_power_of_two().max(1 << 40), u64::MAX);
            } else {
                take(0x8_8000_0000, u64::MAX);
            }
        }
        Arch::Riscv => {
            take(2 << 30, (2 << 30) - (16 << 20));
            if two {
                take(4 << 30, half);
                take((5 << 30) + half, u64::MAX);
            } else {
                take(4 << 30, u64::MAX);
            }
        }
        // One bank from 2 GiB up; the last page stays out so that the end
        // fits into 32 bits.
        Arch::Arm => take(2 << 30, u64::MAX),
        Arch::Powerpc64 | Arch::Powerpc64le => {
            if two {
                take(0, half);
                take((half + (1 << 30)).next_power_of_two().max(1 << 40), u64::MAX);
            } else {
                take(0, u64::MAX);
            }
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_add_up_and_ascend() {
        for arch in Arch::ALL {
            for ram in [16 << 20, 1 << 30, 5 << 30, 31 << 30, 64 << 30, 96 << 30, 16u64 << 40] {
                let spec = Spec { ram, dump: 0, pae: arch == Arch::I386, ..Spec::of(arch) };
                if spec.check().is_err() {
                    continue;
                }
                let ranges = avail(&spec);
                let sum: u64 = ranges.iter().map(|r| r.end - r.start).sum();
                assert_eq!(sum, ram / 4096, "{arch} {ram}");
                assert!(ranges.windows(2).all(|w| w[0].end < w[1].start), "{arch} {ranges:x?}");
                // The same ranges are accepted from outside.
                let avail = ranges.iter().map(|r| (r.start * 4096, r.end * 4096)).collect();
                assert!(Spec { avail, ..spec }.check().is_ok(), "{arch} {ram}");
            }
        }
    }
}
