//! [`VirtMem`]: reading kernel memory by virtual address.

use crate::addr::{FileOff, VirtAddr};
use crate::error::{Error, Result};
use crate::minidump::header::Arch;
use crate::phys::{PhysMem, fill};

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
    fn read_virt(&self, va: VirtAddr, buf: &mut [u8]) -> Result<()> {
        let past_end =
            Error::NotMapped { va: VirtAddr(u64::MAX), reason: "the address space ends there" };
        fill(self.source(), va.0, buf, past_end, &|va| self.locate_virt(VirtAddr(va)))
    }
}
