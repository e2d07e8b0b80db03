//! arm64: `sys/arm64/include/pte.h`, `lib/libkvm/kvm_minidump_aarch64.c`.

use super::Mapping;
use crate::addr::VirtAddr;
use crate::error::{Error, Result};
use crate::minidump::Minidump;

/// The low bits of a valid L3 entry (`ATTR_DESCR_MASK`, `L3_PAGE`).
const L3_PAGE: u64 = 3;
/// What is left of an entry without its attributes (`ATTR_MASK`,
/// 0xfffc000000000fff, cleared) and without the bits 48 and 49 that only
/// 52-bit physical addresses would use.
const FRAME: u64 = 0x0000_ffff_ffff_f000;

/// `va` must not be below `kernbase`.
pub(crate) fn minidump(dump: &Minidump, va: VirtAddr) -> Result<Mapping> {
    let shift = dump.header().page_shift();
    l3(dump.pmap_u64(va, (va.0 - dump.header().kernbase.0) >> shift)?, va, shift)
}

/// The mapping that an L3 entry makes for `va`.
pub(crate) fn l3(l3: u64, va: VirtAddr, shift: u32) -> Result<Mapping> {
    if l3 & L3_PAGE != L3_PAGE {
        return Err(Error::NotMapped { va, reason: "its L3 entry is not valid" });
    }
    Ok(Mapping::page(l3 & FRAME, va, shift))
}
