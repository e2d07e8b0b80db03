//! All mappings of a kernel map, for those who write them down again.

use std::cell::Cell;

use super::{Mapping, amd64, arm64, i386, riscv};
use crate::addr::{PhysAddr, VirtAddr};
use crate::error::{Error, Result};
use crate::minidump::Minidump;
use crate::minidump::header::KernelMap;
use crate::phys::PhysMem;

/// A run of kernel addresses that one leaf entry maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Where it begins.
    pub va: VirtAddr,
    /// What it maps to.
    pub pa: PhysAddr,
    /// Bytes.
    pub len: u64,
}

/// Page-table pages that couldn't be read, and what they would have mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// How many.
    pub tables: u64,
}

/// Bytes of pmap read at a time.
const PIECE: usize = 64 << 10;

/// Calls `leaf` for each mapping in a minidump's pmap, ascending. Page-table
/// pages are read from `phys`. Ends early when `leaf` fails.
///
/// A pmap says at most 512 times as much as it has bytes: with tables shared
/// by all entries a hostile one could be long to walk, so that whoever calls
/// bounds the number of leaves.
pub fn of_minidump(
    tables: &Minidump,
    phys: &dyn PhysMem,
    leaf: &mut dyn FnMut(Leaf) -> Result<()>,
) -> Result<Missing> {
    let header = *tables.header();
    let kernbase = header.kernbase.0;
    let mut missing = Missing::default();
    match header.map {
        KernelMap::Amd64 { .. } if header.version == 1 => {
            each_entry(tables, 8, 12, kernbase, |va, e| one(amd64::pte(e, va).ok(), va, leaf))?;
        }
        KernelMap::Amd64 { .. } => {
            let mut page = vec![0; 4096];
            each_entry(tables, 8, 21, kernbase, |va, pde| {
                directory_entry(phys, va, pde, &mut page, &mut missing, leaf)
            })?;
        }
        KernelMap::Arm64 { .. } => {
            let shift = header.page_shift();
            each_entry(tables, 8, shift, kernbase, |va, e| {
                one(arm64::l3(e, va, shift).ok(), va, leaf)
            })?;
        }
        KernelMap::Riscv { .. } => {
            each_entry(tables, 8, 12, kernbase, |va, e| one(riscv::l3(e, va, 12).ok(), va, leaf))?;
        }
        KernelMap::I386 { paemode } => {
            let size = if paemode { 8 } else { 4 };
            each_entry(tables, size, 12, kernbase, |va, e| {
                one(i386::pte(e, va, paemode).ok(), va, leaf)
            })?;
        }
        KernelMap::Arm { .. } | KernelMap::Powerpc64 { .. } => {
            return Err(Error::Unsupported(format!(
                "the kernel map of {} dumps can't be followed",
                header.arch
            )));
        }
    }
    Ok(missing)
}

/// Calls `leaf` for each mapping of the address range `[from, end)` in
/// `tables`, ascending; `end` is the last address included.
pub fn of_page_tables(
    tables: &amd64::PageTables,
    phys: &dyn PhysMem,
    from: VirtAddr,
    last: VirtAddr,
    leaf: &mut dyn FnMut(Leaf) -> Result<()>,
) -> Result<Missing> {
    let mut missing = Missing::default();
    // Each table is a page; real ones share few.
    let left = Cell::new((phys.source().len() / 4096).saturating_mul(2).saturating_add(1 << 16));
    let walk = Walk { phys, from: from.0, last: last.0, levels: tables.levels, left };
    walk.table(tables.root.0, tables.levels, 0, &mut missing, leaf)?;
    Ok(missing)
}

/// The range of a walk.
struct Walk<'a> {
    phys: &'a dyn PhysMem,
    from: u64,
    last: u64,
    levels: u32,
    /// Tables still read.
    left: Cell<u64>,
}

impl Walk<'_> {
    /// A few pages can be tables of each other 2^36 times over.
    fn count(&self) -> Result<()> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| {
            Error::Unsupported("its page tables lead through the same pages over and over".into())
        })?;
        self.left.set(left);
        Ok(())
    }

    fn table(
        &self,
        table: u64,
        level: u32,
        base: u64,
        missing: &mut Missing,
        leaf: &mut dyn FnMut(Leaf) -> Result<()>,
    ) -> Result<()> {
        self.count()?;
        let mut page = vec![0; 4096];
        if self.phys.read_phys(PhysAddr(table), &mut page).is_err() {
            missing.tables += 1;
            return Ok(());
        }
        let shift = amd64::level_shift(level);
        for (i, entry) in page.as_chunks::<8>().0.iter().enumerate() {
            let entry = u64::from_le_bytes(*entry);
            let va = amd64::canonical(base | (i as u64) << shift, self.levels);
            let end = va.0 | ((1 << shift) - 1);
            if entry & amd64::PG_V == 0 || end < self.from || va.0 > self.last {
                continue;
            }
            if level > 3 {
                self.table(entry & amd64::PG_FRAME, level - 1, va.0, missing, leaf)?;
            } else if level == 3 && entry & amd64::PG_PS == 0 {
                self.table(entry & amd64::PG_FRAME, 2, va.0, missing, leaf)?;
            } else if level == 3 {
                let frame = entry & amd64::PG_FRAME & !((1 << shift) - 1);
                leaf(Leaf { va, pa: PhysAddr(frame), len: 1 << shift })?;
            } else {
                self.count()?;
                let mut pt = vec![0; 4096];
                directory_entry(self.phys, va, entry, &mut pt, missing, leaf)?;
            }
        }
        Ok(())
    }
}

/// What a page directory entry maps: 2 MiB, or a page of PTEs.
fn directory_entry(
    phys: &dyn PhysMem,
    va: VirtAddr,
    pde: u64,
    page: &mut [u8],
    missing: &mut Missing,
    leaf: &mut dyn FnMut(Leaf) -> Result<()>,
) -> Result<()> {
    if pde & amd64::PG_V == 0 {
        return Ok(());
    }
    if pde & amd64::PG_PS != 0 {
        return leaf(Leaf { va, pa: PhysAddr(pde & amd64::PG_PS_FRAME), len: 2 << 20 });
    }
    if phys.read_phys(PhysAddr(pde & amd64::PG_FRAME), page).is_err() {
        missing.tables += 1;
        return Ok(());
    }
    for (i, pte) in page.as_chunks::<8>().0.iter().enumerate() {
        let va = VirtAddr(va.0.wrapping_add((i as u64) << 12));
        one(amd64::pte(u64::from_le_bytes(*pte), va).ok(), va, leaf)?;
    }
    Ok(())
}

fn one(
    mapping: Option<Mapping>,
    va: VirtAddr,
    leaf: &mut dyn FnMut(Leaf) -> Result<()>,
) -> Result<()> {
    mapping.map_or(Ok(()), |m| leaf(Leaf { va, pa: m.pa, len: m.len }))
}

/// Calls `entry` for each pmap entry of `size` bytes that isn't zero, with
/// the address it stands for: `kernbase` and `1 << shift` bytes for each.
fn each_entry(
    tables: &Minidump,
    size: usize,
    shift: u32,
    kernbase: u64,
    mut entry: impl FnMut(VirtAddr, u64) -> Result<()>,
) -> Result<()> {
    let pmapsize = u64::from(tables.header().pmapsize);
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < pmapsize {
        let n = (pmapsize - at).min(PIECE as u64) as usize;
        tables.read_pmap(at, &mut piece[..n])?;
        for (i, bytes) in piece[..n].chunks_exact(size).enumerate() {
            let mut word = [0; 8];
            word[..size].copy_from_slice(bytes);
            let e = u64::from_le_bytes(word);
            if e == 0 {
                continue;
            }
            let index = at / size as u64 + i as u64;
            // Past 2^64 there is nothing to map.
            let Some(va) = index.checked_mul(1 << shift).and_then(|n| kernbase.checked_add(n))
            else {
                return Ok(());
            };
            entry(VirtAddr(va), e)?;
        }
        at += n as u64;
    }
    Ok(())
}
