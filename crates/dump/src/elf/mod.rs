//! ELF cores: FreeBSD's full dumps (`dumpsys_generic`, `sys/kern/kern_dump.c`),
//! cores of hypervisors and of other dumpers, and those that vmcask writes.

mod headers;
pub mod note;
mod segments;
mod virt;

use std::sync::{Arc, OnceLock};

use crate::addr::{FileOff, PhysAddr, VirtAddr};
use crate::error::{Error, Result, Warning};
use crate::layout::elf as wire;
use crate::phys::PhysMem;
use crate::source::ReadAt;
pub use headers::{Ident, MOST_PHDRS, Phdr};
pub use note::VmcaskNote;
use segments::IntervalMap;
pub use virt::{FoundTables, How};

/// A core file, open.
pub struct ElfCore {
    src: Arc<dyn ReadAt>,
    ident: Ident,
    phdrs: Vec<Phdr>,
    phys: IntervalMap,
    virt: IntervalMap,
    note: Option<VmcaskNote>,
    tables: OnceLock<Option<FoundTables>>,
    lost: u64,
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
        // libfbsdvmcore's converter leaves p_paddr 0 in all its segments. One
        // alone may well be physical page 0, and so may several that name the
        // same bytes.
        let mut held = loads().filter(|p| p.p_filesz > 0);
        let first = held.next().map_or(0, |p| p.p_offset);
        let all_zero = loads().all(|p| p.p_paddr == 0 && ident.has_kernel_vaddr(p))
            && held.any(|p| p.p_offset != first);
        let lacks_paddr = |p: &Phdr| ident.lacks_paddr(p) || all_zero;
        let phys = IntervalMap::new(
            loads()
                .filter(|p| !lacks_paddr(p))
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
        let note = note::find(&src, &ident, &phdrs);
        let tables = OnceLock::new();
        Ok(Self { src, ident, phdrs, phys, virt, note, tables, lost, warnings })
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

    /// Bytes of physical memory by the segments' p_memsz, in the file or not.
    pub fn memory_bytes(&self) -> u64 {
        let loads = self.phdrs.iter().filter(|p| p.p_type == wire::PT_LOAD);
        // Kernel views name the same memory many times.
        IntervalMap::new(loads.map(|p| (p.p_paddr, 0, p.p_memsz)))
            .runs()
            .fold(0, |sum: u64, (_, _, size)| sum.saturating_add(size))
    }

    /// Bytes of segments that are past the end of a truncated file.
    pub fn lost_bytes(&self) -> u64 {
        self.lost
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

    /// What vmcask noted when it wrote this core.
    pub fn note(&self) -> Option<&VmcaskNote> {
        self.note.as_ref()
    }

    /// Where the byte at kernel address `va` lies by the program headers'
    /// p_vaddr, and how many bytes go on from there.
    fn locate_virt_by_phdrs(&self, va: VirtAddr) -> Result<(FileOff, u64)> {
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
