//! i386: `sys/i386/include/{minidump,pmap,vmparam}.h`, before and after the
//! split of the address space in FreeBSD 12.

use super::{Kernel, MIB, Map, Sizes};
use crate::arch::Fields;

/// KERNBASE while user and kernel shared an address space. Since then it is
/// 0 and the image is mapped one to one.
const OLD_KERNBASE: u64 = 0xc000_0000;

/// PG_V, PG_RW, PG_A, PG_M, PG_G
const PG_KERN: u64 = 1 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 8;

/// Minidumps with dump_avail are from after the split.
pub(super) fn map(spec: &crate::spec::Spec, load: u64) -> Map {
    let kernbase = if spec.version == 1 { OLD_KERNBASE } else { 0 };
    Map { kernbase, image_va: kernbase + load, kva: kernbase + 128 * MIB, dmap: None }
}

pub(super) fn pte(pa: u64) -> u64 {
    pa | PG_KERN
}

/// `struct minidumphdr`, version 2.
pub(super) fn header(kernel: &Kernel, sizes: &Sizes, f: &mut Fields<'_>) {
    f.text(0, "minidump FreeBSD/i386")
        .u32(24, kernel.version.into())
        .u32(28, sizes.msgbuf)
        .u32(32, sizes.bitmap)
        .u32(36, kernel.pmap_size())
        .u32(40, kernel.map.kernbase)
        .u32(44, kernel.pae.into())
        .u32(48, sizes.dump_avail);
}
