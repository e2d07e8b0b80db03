//! arm64: `sys/arm64/include/{minidump,pte,vmparam}.h` (FreeBSD 14).

use super::{Dmap, GIB, Kernel, Map, Sizes};
use crate::arch::Fields;

/// `VM_MIN_KERNEL_ADDRESS`, also KERNBASE.
const VM_MIN_KERNEL_ADDRESS: u64 = 0xffff_0000_0000_0000;
/// `DMAP_MIN_ADDRESS`.
const DMAP_MIN_ADDRESS: u64 = 0xffff_a000_0000_0000;

/// L3_PAGE.
const L3_PAGE: u64 = 3;
/// `ATTR_S1_IDX(VM_MEMATTR_WRITE_BACK)`.
const ATTR_IDX_WB: u64 = 2 << 2;
/// `ATTR_SH(ATTR_SH_IS)`.
const ATTR_SH_IS: u64 = 3 << 8;
/// ATTR_AF
const ATTR_AF: u64 = 1 << 10;
/// ATTR_DBM
const ATTR_DBM: u64 = 1 << 51;
/// ATTR_S1_PXN and ATTR_S1_UXN
const ATTR_XN: u64 = 3 << 53;
/// ATTR_SW_WIRED
const ATTR_SW_WIRED: u64 = 1 << 55;

/// `MINIDUMP_FLAG_PS_16K`
const FLAG_PS_16K: u64 = 1;

pub(super) fn map(first: u64, top: u64) -> Map {
    // dmap_phys_base is rounded down to what an L1 block maps.
    let phys = first / GIB * GIB;
    Map {
        kernbase: VM_MIN_KERNEL_ADDRESS,
        image_va: VM_MIN_KERNEL_ADDRESS,
        kva: VM_MIN_KERNEL_ADDRESS + GIB / 8,
        dmap: Some(Dmap { base: DMAP_MIN_ADDRESS, end: DMAP_MIN_ADDRESS + (top - phys), phys }),
    }
}

pub(super) fn l3(pa: u64) -> u64 {
    pa | ATTR_SW_WIRED | ATTR_XN | ATTR_DBM | ATTR_AF | ATTR_SH_IS | ATTR_IDX_WB | L3_PAGE
}

/// `struct minidumphdr`, version 3.
pub(super) fn header(kernel: &Kernel, sizes: &Sizes, f: &mut Fields<'_>) {
    super::header_64(kernel, sizes, f, "minidump FreeBSD/arm64");
    if kernel.version >= 3 && kernel.page_size == 16384 {
        f.u32(76, FLAG_PS_16K);
    }
}
