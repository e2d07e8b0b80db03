//! riscv: `sys/riscv/include/{minidump,pte,vmparam}.h` (FreeBSD 14, Sv39).

use super::{Dmap, GIB, Kernel, Map, Sizes};
use crate::arch::Fields;

/// `VM_MIN_KERNEL_ADDRESS`: the kernel is loaded at its beginning.
const VM_MIN_KERNEL_ADDRESS: u64 = 0xffff_ffc0_0000_0000;
/// `DMAP_MIN_ADDRESS`.
const DMAP_MIN_ADDRESS: u64 = 0xffff_ffd0_0000_0000;

/// PTE_V, PTE_R, PTE_W, PTE_X, PTE_G, PTE_A, PTE_D
const PTE_KERN: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7;
/// PTE_PPN0_S
const PTE_PPN0_S: u32 = 10;

pub(super) fn map(first: u64, top: u64) -> Map {
    let phys = first / GIB * GIB;
    Map {
        kernbase: VM_MIN_KERNEL_ADDRESS,
        image_va: VM_MIN_KERNEL_ADDRESS,
        kva: VM_MIN_KERNEL_ADDRESS + GIB / 8,
        dmap: Some(Dmap { base: DMAP_MIN_ADDRESS, end: DMAP_MIN_ADDRESS + (top - phys), phys }),
    }
}

pub(super) fn leaf(pa: u64) -> u64 {
    pa >> 12 << PTE_PPN0_S | PTE_KERN
}

/// `struct minidumphdr`, version 2.
pub(super) fn header(kernel: &Kernel, sizes: &Sizes, f: &mut Fields<'_>) {
    super::header_64(kernel, sizes, f, "minidump FreeBSD/riscv");
}
