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

/// Bytes that a page directory entry maps (`NBPDR`).
pub const TWO_MIB: u64 = 2 << 20;

const PAGE_SHIFT: u32 = 12;
const PDRSHIFT: u32 = 21;

/// `va` must not be below `kernbase`. The page-table pages are in `phys`.
pub(crate) fn minidump(dump: &Minidump, phys: &dyn PhysMem, va: VirtAddr) -> Result<Mapping> {
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
    pte(entry(phys, pde & PG_FRAME, index)?, va)
}

/// The mapping that a PTE makes for `va`.
pub(crate) fn pte(pte: u64, va: VirtAddr) -> Result<Mapping> {
    if pte & PG_V == 0 {
        return Err(Error::NotMapped { va, reason: "its page table entry is not valid" });
    }
    Ok(Mapping::page(pte & PG_FRAME, va, PAGE_SHIFT))
}

fn entry(phys: &dyn PhysMem, table: u64, index: u64) -> Result<u64> {
    let mut entry = [0; 8];
    phys.read_phys(PhysAddr(table + index * 8), &mut entry)?;
    Ok(u64::from_le_bytes(entry))
}

/// Page tables in physical memory, as CR3 names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageTables {
    /// The PML4 page, or the PML5 page.
    pub root: PhysAddr,
    /// 4, or 5 with LA57.
    pub levels: u32,
}

impl PageTables {
    /// log2 of the bytes that an entry of the root spans.
    pub fn root_shift(&self) -> u32 {
        level_shift(self.levels)
    }

    /// The address that entry `index` of the root begins at.
    pub fn root_base(&self, index: u64) -> VirtAddr {
        canonical(index << self.root_shift(), self.levels)
    }

    /// Walks the tables.
    pub fn translate(&self, phys: &dyn PhysMem, va: VirtAddr) -> Result<Mapping> {
        if canonical(va.0, self.levels) != va {
            return Err(Error::NotMapped { va, reason: "it is not a canonical address" });
        }
        let mut table = self.root.0;
        for level in (1..=self.levels).rev() {
            let shift = level_shift(level);
            let entry = entry(phys, table, (va.0 >> shift) & 511)?;
            if entry & PG_V == 0 {
                let reason = match level {
                    1 => "its page table entry is not valid",
                    2 => "its page directory entry is not valid",
                    3 => "its page directory pointer entry is not valid",
                    4 => "its PML4 entry is not valid",
                    _ => "its PML5 entry is not valid",
                };
                return Err(Error::NotMapped { va, reason });
            }
            if level == 1 || (level <= 3 && entry & PG_PS != 0) {
                return Ok(Mapping::page(entry & PG_FRAME, va, shift));
            }
            table = entry & PG_FRAME;
        }
        Err(Error::NotMapped { va, reason: "its page tables have no leaf" })
    }

    /// The entry for `va` in its table at `level` (3: page directory
    /// pointers), down from the root; `None` where one on the way isn't valid.
    pub fn entry_at(&self, phys: &dyn PhysMem, va: VirtAddr, level: u32) -> Result<Option<u64>> {
        let mut table = self.root.0;
        for l in (level..=self.levels).rev() {
            let e = entry(phys, table, (va.0 >> level_shift(l)) & 511)?;
            if e & PG_V == 0 {
                return Ok(None);
            }
            if l == level {
                return Ok(Some(e));
            }
            table = e & PG_FRAME;
        }
        Ok(None)
    }
}

/// log2 of the bytes that an entry of a table at `level` (1: PTEs) spans.
pub(crate) fn level_shift(level: u32) -> u32 {
    PAGE_SHIFT + 9 * (level - 1)
}

/// Copies the highest translated bit into the bits above it.
pub(crate) fn canonical(va: u64, levels: u32) -> VirtAddr {
    let unused = 64 - level_shift(levels + 1);
    VirtAddr(((va << unused) as i64 >> unused) as u64)
}
