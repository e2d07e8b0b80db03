//! i386: `sys/i386/include/pmap.h`, `lib/libkvm/kvm_minidump_i386.c`.

use super::Mapping;
use crate::addr::VirtAddr;
use crate::error::{Error, Result};
use crate::minidump::Minidump;

const PG_V: u64 = 1;
/// Bits of the frame's address in an 8-byte PTE.
const PG_FRAME_PAE: u64 = 0x000f_ffff_ffff_f000;
/// Bits of the frame's address in a 4-byte PTE.
const PG_FRAME: u64 = 0xffff_f000;

/// `va` must not be below `kernbase`.
pub(crate) fn minidump(dump: &Minidump, va: VirtAddr, paemode: bool) -> Result<Mapping> {
    let index = (va.0 - dump.header().kernbase.0) >> 12;
    let entry = if paemode { dump.pmap_u64(va, index)? } else { dump.pmap_u32(va, index)?.into() };
    pte(entry, va, paemode)
}

/// The mapping that a PTE makes for `va`.
pub(crate) fn pte(pte: u64, va: VirtAddr, paemode: bool) -> Result<Mapping> {
    let frame = if paemode { PG_FRAME_PAE } else { PG_FRAME };
    if pte & PG_V == 0 {
        return Err(Error::NotMapped { va, reason: "its page table entry is not valid" });
    }
    Ok(Mapping::page(pte & frame, va, 12))
}
