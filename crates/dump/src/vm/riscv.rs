//! riscv: `sys/riscv/include/pte.h`, `lib/libkvm/kvm_minidump_riscv.c`.

use super::Mapping;
use crate::addr::VirtAddr;
use crate::error::{Error, Result};
use crate::minidump::Minidump;

const PTE_V: u64 = 1;
/// Readable, writable or executable: the entry is a leaf.
const PTE_RWX: u64 = 0b1110;
/// `PTE_PPN0_S`: the page number starts at this bit,
const PTE_PPN0_S: u32 = 10;
/// and has this many (Sv39 to Sv57); above it stand N, PBMT and reserved bits,
/// which libkvm takes for address bits.
const PPN_MASK: u64 = (1 << 44) - 1;

/// `va` must not be below `kernbase`.
pub(crate) fn minidump(dump: &Minidump, va: VirtAddr) -> Result<Mapping> {
    let shift = dump.header().page_shift();
    l3(dump.pmap_u64(va, (va.0 - dump.header().kernbase.0) >> shift)?, va, shift)
}

/// The mapping that an L3 entry makes for `va`.
pub(crate) fn l3(l3: u64, va: VirtAddr, shift: u32) -> Result<Mapping> {
    if l3 & PTE_V == 0 || l3 & PTE_RWX == 0 {
        return Err(Error::NotMapped { va, reason: "its L3 entry is not a valid leaf" });
    }
    Ok(Mapping::page(((l3 >> PTE_PPN0_S) & PPN_MASK) << shift, va, shift))
}
