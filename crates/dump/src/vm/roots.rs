//! Finding amd64's kernel page tables in physical memory.

use super::amd64::{PG_FRAME, PG_V, PageTables};
use crate::addr::{PhysAddr, VirtAddr};
use crate::error::{Error, Result};
use crate::kernel::KernelImage;
use crate::phys::PhysMem;

/// `KERNBASE` (`sys/amd64/include/vmparam.h`), for images without the symbol.
const KERNBASE: u64 = 0xffff_ffff_8000_0000;
/// The loader places kernels at multiples of this (`NBPDR`).
const ALIGNMENT: u64 = 2 << 20;
/// The loader allocates below this, and the kernel its first page tables
/// right behind itself.
const SCAN_END: u64 = 4 << 30;
/// Writable.
const PG_RW: u64 = 2;
const PAGE: u64 = 4096;

/// A run of physical memory: first address and bytes.
pub type Run = (PhysAddr, u64);

/// The kernel's page tables by the image's `KPML4phys` (`KPML5phys` where the
/// kernel runs with LA57).
///
/// libkvm takes the kernel to lie at its link address (physical = virtual -
/// kernbase); since 13.1 the loader may place it anywhere on 2 MiB. Here each
/// place in memory is tried, and taken only if the tables found there map the
/// variable's virtual address back to that very place. Returns the shift too.
pub fn from_kernel(
    phys: &dyn PhysMem,
    runs: &[Run],
    kernel: &KernelImage,
) -> Result<(PageTables, u64)> {
    let kernbase = kernel.symbol("kernbase").map_or(KERNBASE, |s| s.addr.0);
    for (name, levels) in VARIABLES {
        let Some(symbol) = kernel.symbol(name) else { continue };
        let linked = symbol.addr.0.wrapping_sub(kernbase);
        let check = |pa: u64| {
            let mut word = [0; 8];
            phys.read_phys(PhysAddr(pa), &mut word).ok()?;
            let root = u64::from_le_bytes(word);
            if root == 0 || root & !PG_FRAME != 0 {
                return None;
            }
            let tables = PageTables { root: PhysAddr(root), levels };
            let back = tables.translate(phys, symbol.addr).ok()?;
            (back.pa.0 == pa).then_some((tables, pa.wrapping_sub(linked)))
        };
        if let Some(found) = check(linked) {
            return Ok(found);
        }
        for &(start, len) in runs {
            let end = start.0.saturating_add(len);
            let Some(first) = start.0.checked_add(linked.wrapping_sub(start.0) & (ALIGNMENT - 1))
            else {
                continue;
            };
            if let Some(found) = (first..end).step_by(ALIGNMENT as usize).find_map(check) {
                return Ok(found);
            }
        }
    }
    // Cut-down dumps may lack the very page table that maps the variable. A
    // page that maps itself, named where libkvm looks, will do.
    for (name, levels) in VARIABLES {
        let Some(symbol) = kernel.symbol(name) else { continue };
        let mut word = [0; 8];
        let mut page = [0; PAGE as usize];
        if phys.read_phys(PhysAddr(symbol.addr.0.wrapping_sub(kernbase)), &mut word).is_ok() {
            let root = PhysAddr(u64::from_le_bytes(word));
            if root.0 & !PG_FRAME == 0
                && phys.read_phys(root, &mut page).is_ok()
                && maps_itself(root.0, &page)
            {
                return Ok((PageTables { root, levels }, 0));
            }
        }
    }
    kernel.require("KPML4phys")?;
    Err(Error::Kernel {
        what: "nowhere in the dump's memory do its page tables map KPML4phys back to itself: \
               it is another kernel's image, or the tables aren't in the dump"
            .into(),
    })
}

/// The bigger tables first: a kernel with LA57 sets both variables, and one
/// without leaves KPML5phys zero.
const VARIABLES: [(&str, u32); 2] = [("KPML5phys", 5), ("KPML4phys", 4)];

/// Whether one of the upper half's entries of the page at `root` points,
/// valid and writable, at the page itself.
fn maps_itself(root: u64, page: &[u8]) -> bool {
    let (words, _) = page.as_chunks::<8>();
    words
        .iter()
        .skip(256)
        .map(|w| u64::from_le_bytes(*w))
        .any(|e| e & PG_FRAME == root && e & (PG_V | PG_RW) == PG_V | PG_RW)
}

/// The kernel's page tables by their recursive slot: a page one of whose
/// entries 256 to 511 points, valid and writable, at the page itself, and
/// whose tables, best of all, map some of the top 2 GiB, where kernels are
/// linked. Scans
/// memory up to 4 GiB. Processes have such pages as well, with the same upper
/// half; one whose lower half is empty is the kernel's own and is preferred.
pub fn by_self_map(phys: &dyn PhysMem, runs: &[Run]) -> Option<PageTables> {
    let mut best: Option<(PageTables, Rank)> = None;
    let mut piece = vec![0; 256 * PAGE as usize];
    for &(start, len) in runs {
        let end = start.0.saturating_add(len).min(SCAN_END) & !(PAGE - 1);
        let mut at = start.0.min(SCAN_END).next_multiple_of(PAGE);
        while at < end {
            let n = (end - at).min(piece.len() as u64);
            let bytes = &mut piece[..n as usize];
            if phys.read_phys(PhysAddr(at), bytes).is_ok() {
                for (i, page) in bytes.chunks_exact(PAGE as usize).enumerate() {
                    let root = at + i as u64 * PAGE;
                    let found = candidate(phys, root, page);
                    if let Some((tables, Rank::KernelsOwn)) = found {
                        return Some(tables);
                    }
                    if found.map(|f| f.1) > best.map(|b| b.1) {
                        best = found;
                    }
                }
            }
            at += n;
        }
    }
    best.map(|(tables, _)| tables)
}

/// How likely a page that maps itself is the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// What it maps isn't in the dump: one cut down to what somebody touched.
    MapsNothing,
    /// A process's.
    MapsAKernel,
    /// It maps a kernel and no user memory.
    KernelsOwn,
}

/// Whether the page at `root` is a PML4 or PML5, and whose.
fn candidate(phys: &dyn PhysMem, root: u64, page: &[u8]) -> Option<(PageTables, Rank)> {
    let (words, _) = page.as_chunks::<8>();
    let (lower, upper) = words.split_at(256);
    if !maps_itself(root, page) {
        return None;
    }
    let valid = |e: &[u8; 8]| u64::from_le_bytes(*e) & PG_V != 0;
    // The kernel is linked into the last slot.
    if !valid(&upper[255]) {
        return None;
    }
    let maps_a_kernel = |levels| {
        let tables = PageTables { root: PhysAddr(root), levels };
        (KERNBASE..KERNBASE + (1 << 30))
            .step_by(ALIGNMENT as usize)
            .any(|va| tables.translate(phys, VirtAddr(va)).is_ok())
            .then_some(tables)
    };
    let Some(tables) = maps_a_kernel(4).or_else(|| maps_a_kernel(5)) else {
        return Some((PageTables { root: PhysAddr(root), levels: 4 }, Rank::MapsNothing));
    };
    let is_a_process = lower.iter().any(valid);
    Some((tables, if is_a_process { Rank::MapsAKernel } else { Rank::KernelsOwn }))
}

/// Where the direct map and the kernel map lie in a kernel's page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelLayout {
    /// First address of the direct map, and the one behind its last; `None`
    /// where none was found.
    pub direct_map: Option<(VirtAddr, VirtAddr)>,
    /// `VM_MIN_KERNEL_ADDRESS`: where the slots above the direct map begin.
    pub kernbase: VirtAddr,
}

/// Bytes that a PML4 entry spans: the direct map and the kernel map begin at
/// multiples of it.
const NBPML4: u64 = 1 << 39;
/// Bytes that a PDP entry spans.
const NBPDP: u64 = 1 << 30;
/// FreeBSD's direct map ends after 4 TiB, or 64 TiB and more with LA57.
const MAX_DMAP: u64 = 1 << 52;

/// Finds the direct map as the place where the tables' own root is mapped at
/// its physical address plus a multiple of 512 GiB, and the kernel map as the
/// lowest slot above it that is in use.
pub fn layout(phys: &dyn PhysMem, tables: &PageTables) -> Result<KernelLayout> {
    let slots = used_slots(phys, tables)?;
    let direct = slots.iter().copied().find(|&base| {
        let (within, slot) = (tables.root.0 % NBPML4, tables.root.0 / NBPML4);
        let va = base.checked_add(slot * NBPML4).and_then(|va| va.checked_add(within));
        // The slot must begin at physical 0: the recursive slot maps the root
        // too, but not at this distance.
        va.is_some_and(|va| tables.translate(phys, VirtAddr(va)).is_ok_and(|m| m.pa == tables.root))
            && !is_recursive(phys, tables, base)
    });
    let direct_map = direct.map(|base| {
        let mut end = base;
        while end - base < MAX_DMAP
            && end < u64::MAX - NBPDP
            && tables.translate(phys, VirtAddr(end)).is_ok_and(|m| m.pa.0 == end - base)
        {
            end += NBPDP;
        }
        (VirtAddr(base), VirtAddr(end))
    });
    let above = direct_map.map_or(0, |(_, end)| end.0);
    let kernbase = slots
        .iter()
        .copied()
        .filter(|&base| base >= above && !is_recursive(phys, tables, base))
        .find(|&base| direct_map.is_some() || base >= u64::MAX - 4 * NBPML4)
        .ok_or_else(|| {
            Error::Unsupported("its page tables map nothing above the direct map".into())
        })?;
    Ok(KernelLayout { direct_map, kernbase: VirtAddr(kernbase) })
}

/// First addresses of the upper half's 512 GiB slots in use, ascending.
fn used_slots(phys: &dyn PhysMem, tables: &PageTables) -> Result<Vec<u64>> {
    let mut page = vec![0; PAGE as usize];
    phys.read_phys(tables.root, &mut page)?;
    let upper = |page: &[u8]| -> Vec<(u64, u64)> {
        let entries = page.as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w));
        (0..).zip(entries).filter(|(_, e)| e & PG_V != 0).collect()
    };
    let mut slots = Vec::new();
    for (i, entry) in upper(&page).into_iter().filter(|(i, _)| *i >= 256) {
        let base = tables.root_base(i).0;
        if tables.levels == 4 {
            slots.push(base);
        } else if phys.read_phys(PhysAddr(entry & PG_FRAME), &mut page).is_ok() {
            slots.extend(upper(&page).into_iter().map(|(j, _)| base + j * NBPML4));
        }
    }
    Ok(slots)
}

/// Whether the slot's entry points at the root.
fn is_recursive(phys: &dyn PhysMem, tables: &PageTables, base: u64) -> bool {
    let index = (base >> tables.root_shift()) & 511;
    let mut word = [0; 8];
    phys.read_phys(PhysAddr(tables.root.0 + index * 8), &mut word).is_ok()
        && u64::from_le_bytes(word) & PG_FRAME == tables.root.0
}
