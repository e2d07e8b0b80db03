//! Kernel addresses in ELF cores: by the program headers' p_vaddr, by the
//! minidump tables in vmcask's note, or by walking amd64's page tables.

use super::ElfCore;
use crate::addr::{FileOff, PhysAddr, VirtAddr};
use crate::error::{Error, Result};
use crate::kernel::KernelImage;
use crate::minidump::header::Arch;
use crate::phys::PhysMem;
use crate::virt::VirtMem;
use crate::vm::amd64::PageTables;
use crate::vm::roots::{self, Run};
use crate::vm::{self, Mapping};

/// Page tables and how they were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundTables {
    /// The tables.
    pub tables: PageTables,
    /// How they were found.
    pub how: How,
}

/// How page tables were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Named in vmcask's note.
    Note,
    /// By `KPML4phys` of the kernel image.
    Kernel {
        /// Physical address of the kernel less the one it was linked for, in
        /// bytes.
        shift: u64,
    },
    /// By scanning memory for a page table that maps itself.
    SelfMap,
}

impl ElfCore {
    /// Takes the page tables from where the kernel image says they are.
    pub fn use_kernel(&mut self, kernel: &KernelImage) -> Result<()> {
        if self.arch() != Some(Arch::Amd64) {
            return Ok(());
        }
        let (tables, shift) = roots::from_kernel(self, &self.runs(), kernel)?;
        self.tables = Some(FoundTables { tables, how: How::Kernel { shift } }).into();
        Ok(())
    }

    /// The kernel's page tables (amd64 only). Where neither an image nor a
    /// note named them, the first call scans memory for them.
    pub fn page_tables(&self) -> Option<FoundTables> {
        if self.arch() != Some(Arch::Amd64) {
            return None;
        }
        *self.tables.get_or_init(|| {
            let noted = self.note().and_then(|n| {
                let root = PhysAddr(n.meta.page_table_root?);
                let levels = n.meta.page_table_levels.filter(|l| (4..=5).contains(l))?;
                Some(FoundTables { tables: PageTables { root, levels }, how: How::Note })
            });
            noted.or_else(|| {
                let tables = roots::by_self_map(self, &self.runs())?;
                Some(FoundTables { tables, how: How::SelfMap })
            })
        })
    }

    fn runs(&self) -> Vec<Run> {
        self.phys_runs().map(|(pa, _, size)| (pa, size)).collect()
    }

    /// Translates a kernel address to a physical one by the tables in
    /// vmcask's note or by the page tables.
    pub fn translate(&self, va: VirtAddr) -> Result<Mapping> {
        if let Some(minidump) = self.note().and_then(|n| n.minidump.as_ref()) {
            return vm::translate(minidump, self, va);
        }
        match self.page_tables() {
            Some(found) => found.tables.translate(self, va),
            None => Err(Error::NotMapped { va, reason: self.why_no_tables() }),
        }
    }

    fn why_no_tables(&self) -> &'static str {
        match self.arch() {
            Some(Arch::Amd64) => {
                "no program header holds it, and no page tables were found: name the kernel \
                 image with --kernel"
            }
            _ if self.has_virtual() => "no program header holds it",
            _ => {
                "the core has physical addresses only, and page tables are followed for amd64 alone"
            }
        }
    }
}

impl VirtMem for ElfCore {
    fn arch(&self) -> Option<Arch> {
        self.ident().arch()
    }

    fn locate_virt(&self, va: VirtAddr) -> Result<(FileOff, u64)> {
        let by_phdrs = self.locate_virt_by_phdrs(va);
        if by_phdrs.is_ok() {
            return by_phdrs;
        }
        let mapping = self.translate(va)?;
        let (off, run) = self.locate(mapping.pa)?;
        Ok((off, run.min(mapping.len)))
    }
}
