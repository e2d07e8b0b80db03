//! [`VirtMem`]: reading kernel memory by virtual address.

use crate::addr::{FileOff, VirtAddr};
use crate::error::{Error, Result};
use crate::minidump::header::Arch;
use crate::phys::PhysMem;

/// A dump whose kernel virtual addresses can be followed, by whichever means
/// its format has: a minidump's pmap, a core's p_vaddr, or page tables.
pub trait VirtMem: PhysMem {
    /// The machine, where it is one whose dumps are known here.
    fn arch(&self) -> Option<Arch>;

    /// Where the byte at kernel address `va` lies in [`PhysMem::source`], and
    /// how many bytes (at least 1) go on from there in step.
    fn locate_virt(&self, va: VirtAddr) -> Result<(FileOff, u64)>;

    /// Fills `buf` with kernel memory from `va` on; every page of it must be
    /// mapped and present.
    fn read_virt(&self, mut va: VirtAddr, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let (off, run) = self.locate_virt(va)?;
            let n = usize::try_from(run).unwrap_or(usize::MAX).min(buf.len());
            let (now, rest) = buf.split_at_mut(n);
            self.source().read_exact_at(off.0, now).map_err(|source| Error::Io {
                off: off.0,
                len: n,
                source,
            })?;
            buf = rest;
            if !buf.is_empty() {
                va = va.checked_add(n as u64).ok_or(Error::NotMapped {
                    va: VirtAddr(u64::MAX),
                    reason: "the address space ends there",
                })?;
            }
        }
        Ok(())
    }
}
