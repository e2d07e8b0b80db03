//! ELF cores: FreeBSD's full dumps (`dumpsys_generic`, `sys/kern/kern_dump.c`),
//! cores of hypervisors and of other dumpers, and those that vmcask writes.

mod headers;
mod segments;

use std::ops::Range;
use std::sync::Arc;

use crate::addr::{FileOff, PhysAddr, VirtAddr};
use crate::error::{Error, Result, Warning};
use crate::layout::elf as wire;
use crate::phys::PhysMem;
use crate::source::ReadAt;
pub use headers::{Ident, Phdr};
use segments::IntervalMap;

/// A core file, open.
pub struct ElfCore {
    src: Arc<dyn ReadAt>,
    ident: Ident,
    phdrs: Vec<Phdr>,
    phys: IntervalMap,
    virt: IntervalMap,
    warnings: Vec<Warning>,
}

impl std::fmt::Debug for ElfCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ElfCore")
            .field("ident", &self.ident)
            .field("phdrs", &self.phdrs.len())
            .finish_non_exhaustive()
    }
}

impl ElfCore {
    /// Opens the core that `src` holds. Memory: the program headers and two
    /// tables of the runs they make up.
    pub fn open(src: Arc<dyn ReadAt>) -> Result<Self> {
        let (ident, phdrs) = headers::parse(&*src)?;
        if ident.e_type != wire::ET_CORE {
            return Err(Error::Field {
                off: 16,
                field: "e_type",
                found: ident.e_type.to_string(),
                expected: "4 (ET_CORE): this is an ELF file, but no core".into(),
            });
        }
        let len = src.len();
        let loads = || phdrs.iter().filter(|p| p.p_type == wire::PT_LOAD);
        let phys = IntervalMap::new(
            loads()
                .filter(|p| !ident.is_virtual_alias(p))
                .map(|p| (p.p_paddr, p.p_offset, p.p_filesz.min(p.p_memsz))),
        );
        let virt = IntervalMap::new(
            loads()
                .filter(|p| ident.has_kernel_vaddr(p))
                .map(|p| (p.p_vaddr, p.p_offset, p.p_filesz.min(p.p_memsz))),
        );
        let mut warnings = Vec::new();
        let lost: u64 = phys
            .runs()
            .map(|(_, off, size)| size - size.min(len.saturating_sub(off)))
            .fold(0, u64::saturating_add);
        if lost > 0 {
            warnings.push(Warning::Lost { bytes: lost, len });
        }
        if loads().next().is_none() {
            warnings.push(Warning::NoSegments);
        }
        Ok(Self { src, ident, phdrs, phys, virt, warnings })
    }

    /// Class, byte order, machine.
    pub fn ident(&self) -> &Ident {
        &self.ident
    }

    /// All program headers, in file order.
    pub fn phdrs(&self) -> &[Phdr] {
        &self.phdrs
    }

    /// What is odd about this core, though it can be read.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Whether the core itself says where kernel addresses lie.
    pub fn has_virtual(&self) -> bool {
        !self.virt.is_empty()
    }

    /// Runs of physical memory the core holds, ascending, merged where memory
    /// and file offsets both go on: address, file offset, bytes. Bytes past
    /// the end of a truncated file are left out.
    pub fn phys_runs(&self) -> impl Iterator<Item = (PhysAddr, FileOff, u64)> + '_ {
        let len = self.src.len();
        self.phys.runs().filter_map(move |(pa, off, size)| {
            let size = size.min(len.saturating_sub(off));
            (size > 0).then_some((PhysAddr(pa), FileOff(off), size))
        })
    }

    /// File ranges of the notes.
    pub fn note_ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.phdrs
            .iter()
            .filter(|p| p.p_type == wire::PT_NOTE)
            .filter_map(|p| Some(p.p_offset..p.p_offset.checked_add(p.p_filesz)?))
    }

    /// Where the byte at kernel address `va` lies by the program headers'
    /// p_vaddr, and how many bytes go on from there.
    pub fn locate_virt(&self, va: VirtAddr) -> Result<(FileOff, u64)> {
        let (off, run) = self
            .virt
            .find(va.0)
            .ok_or(Error::NotMapped { va, reason: "no program header holds it" })?;
        let left = self.src.len().saturating_sub(off);
        if left == 0 {
            return Err(Error::NotMapped { va, reason: "the file ends before its bytes" });
        }
        Ok((FileOff(off), run.min(left)))
    }

    /// Fills `buf` from kernel address `va` on, by the program headers alone.
    pub fn read_virt_by_phdrs(&self, mut va: VirtAddr, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let (off, run) = self.locate_virt(va)?;
            let n = usize::try_from(run).unwrap_or(usize::MAX).min(buf.len());
            let (now, rest) = buf.split_at_mut(n);
            self.src.read_exact_at(off.0, now).map_err(|source| Error::Io {
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

impl PhysMem for ElfCore {
    fn source(&self) -> &dyn ReadAt {
        &*self.src
    }

    fn locate(&self, pa: PhysAddr) -> Result<(FileOff, u64)> {
        let (off, run) = self.phys.find(pa.0).ok_or(Error::Absent { pa })?;
        let len = self.src.len();
        let left = len.saturating_sub(off);
        if left == 0 {
            return Err(Error::Truncated { pa, off, len });
        }
        Ok((FileOff(off), run.min(left)))
    }
}
