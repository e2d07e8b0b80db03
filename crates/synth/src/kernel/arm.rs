//! arm: `sys/arm/include/{minidump,pte-v6,vmparam}.h` (FreeBSD 14).

use super::{Kernel, MIB, Map, Sizes, TWO_MIB};
use crate::arch::Fields;

/// KERNBASE, also KERNVIRTADDR's gigabyte.
pub(crate) const KERNBASE: u64 = 0xc000_0000;

/// A small page (PTE2_V), PTE2_A, PTE2_NX's absence, write-back memory.
const L2_S: u64 = 1 << 1 | 1 << 4 | 1 << 2 | 1 << 3;

/// `__ARM_ARCH`
const ARM_ARCH: u64 = 7;
/// `MINIDUMP_MMU_FORMAT_V6`
const MMU_FORMAT_V6: u64 = 1;

pub(super) fn map() -> Map {
    Map { kernbase: KERNBASE, image_va: KERNBASE + TWO_MIB, kva: KERNBASE + 128 * MIB, dmap: None }
}

pub(super) fn l2s(pa: u64) -> u64 {
    pa | L2_S
}

/// `struct minidumphdr`, version 2.
pub(super) fn header(kernel: &Kernel, sizes: &Sizes, f: &mut Fields<'_>) {
    f.text(0, "minidump FreeBSD/arm")
        .u32(24, kernel.version.into())
        .u32(28, sizes.msgbuf)
        .u32(32, sizes.bitmap)
        .u32(36, kernel.pmap_size())
        .u32(40, kernel.map.kernbase)
        .u32(44, ARM_ARCH)
        .u32(48, MMU_FORMAT_V6)
        .u32(52, sizes.dump_avail);
}
