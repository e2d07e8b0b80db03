//! Page tables: from a kernel's virtual address to a physical one, by
//! architecture.

pub mod amd64;
pub mod arm64;
pub mod i386;
pub mod leaves;
pub mod riscv;
pub mod roots;

use crate::addr::{PhysAddr, VirtAddr};
use crate::error::{Error, Result};
use crate::minidump::Minidump;
use crate::minidump::header::{Arch, KernelMap};
use crate::phys::PhysMem;

/// What a virtual address maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The physical address of the byte asked for.
    pub pa: PhysAddr,
    /// Bytes from there to the end of the mapped page, at least 1. Their
    /// virtual and physical addresses run in step.
    pub len: u64,
    /// What mapped it.
    pub kind: MapKind,
}

/// What kind of entry a translation ended at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// The direct map, no page table involved.
    Direct,
    /// A page of `1 << shift` bytes.
    Page {
        /// log2 of its size in bytes.
        shift: u32,
    },
}

impl Mapping {
    fn page(frame: u64, va: VirtAddr, shift: u32) -> Self {
        let mask = (1u64 << shift) - 1;
        Self {
            pa: PhysAddr((frame & !mask) | (va.0 & mask)),
            len: mask + 1 - (va.0 & mask),
            kind: MapKind::Page { shift },
        }
    }
}

/// Translates `va` with what the minidump `tables` has as header and pmap;
/// page-table pages are read from `phys`, which is the same dump unless an
/// ELF core carries a minidump's tables in a note.
pub(crate) fn translate(tables: &Minidump, phys: &dyn PhysMem, va: VirtAddr) -> Result<Mapping> {
    let header = tables.header();
    // libkvm asks the direct map first on arm64 and riscv and the kernel map
    // first on amd64; the ranges don't overlap in any real kernel.
    let kernel_map_first = header.arch == Arch::Amd64;
    if kernel_map_first && va >= header.kernbase {
        return amd64::minidump(tables, phys, va);
    }
    if let Some((base, end, phys)) = header.direct_map()
        && (base..end).contains(&va)
    {
        let pa = phys
            .checked_add(va.0 - base.0)
            .ok_or(Error::NotMapped { va, reason: "the direct map would reach past 2^64" })?;
        return Ok(Mapping { pa: PhysAddr(pa), len: end.0 - va.0, kind: MapKind::Direct });
    }
    if va < header.kernbase {
        return Err(Error::NotMapped {
            va,
            reason: "it lies below the kernel map and outside the direct map",
        });
    }
    match header.map {
        KernelMap::Amd64 { .. } => amd64::minidump(tables, phys, va),
        KernelMap::Arm64 { .. } => arm64::minidump(tables, va),
        KernelMap::Riscv { .. } => riscv::minidump(tables, va),
        KernelMap::I386 { paemode } => i386::minidump(tables, va, paemode),
        KernelMap::Arm { .. } | KernelMap::Powerpc64 { .. } => Err(Error::Unsupported(format!(
            "virtual addresses of {} dumps can't be translated; read physical ones",
            header.arch
        ))),
    }
}
