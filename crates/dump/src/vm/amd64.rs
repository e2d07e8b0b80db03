//! amd64: `sys/amd64/include/pmap.h`, `lib/libkvm/kvm_minidump_amd64.c`.

use super::Mapping;
use crate::addr::{PhysAddr, VirtAddr};
use crate::error::{Error, Result};
use crate::minidump::Minidump;
use crate::phys::PhysMem;

/// Valid.
pub const PG_V: u64 = 1;
/// Page size: the entry maps a large page and points at no further table.
pub const PG_PS: u64 = 1 << 7;
/// Bits of the frame's address in a PTE.
pub const PG_FRAME: u64 = 0x000f_ffff_ffff_f000;
/// Bits of the frame's address in a PDE that maps 2 MiB.
pub const PG_PS_FRAME: u64 = 0x000f_ffff_ffe0_0000;

const PAGE_SHIFT: u32 = 12;
const PDRSHIFT: u32 = 21;

/// `va` must not be below `kernbase`.
pub(crate) fn minidump(dump: &Minidump, va: VirtAddr) -> Result<Mapping> {
    let above = va.0 - dump.header().kernbase.0;
    if dump.header().version == 1 {
        return pte(dump.pmap_u64(va, above >> PAGE_SHIFT)?, va);
    }
    let pde = dump.pmap_u64(va, above >> PDRSHIFT)?;
    if pde & PG_V == 0 {
        return Err(Error::NotMapped { va, reason: "its page directory entry is not valid" });
    }
    if pde & PG_PS != 0 {
        return Ok(Mapping::page(pde & PG_PS_FRAME, va, PDRSHIFT));
    }
    // The table itself is one of the dumped pages.
    let index = (va.0 >> PAGE_SHIFT) & 511;
    let mut entry = [0; 8];
    dump.read_phys(PhysAddr((pde & PG_FRAME) + index * 8), &mut entry)?;
    pte(u64::from_le_bytes(entry), va)
}

fn pte(pte: u64, va: VirtAddr) -> Result<Mapping> {
    if pte & PG_V == 0 {
        return Err(Error::NotMapped { va, reason: "its page table entry is not valid" });
    }
    Ok(Mapping::page(pte & PG_FRAME, va, PAGE_SHIFT))
}
