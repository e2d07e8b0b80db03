//! powerpc64: `sys/powerpc/include/{minidump,vmparam}.h` and the hashed page
//! table of `lib/libkvm/kvm_minidump_powerpc64_hpt.c` (FreeBSD 13).

use std::collections::BTreeMap;

use super::{AreaKind, Dmap, Kernel, MIB, Map, Sizes};
use crate::arch::Fields;
use crate::content::{FRAME_SIZE, Page};

/// `VM_MIN_KERNEL_ADDRESS`
const VM_MIN_KERNEL_ADDRESS: u64 = 0xe000_0000_0000_0000;
/// `VM_MAX_SAFE_KERNEL_ADDRESS`
const VM_MAX_KERNEL_ADDRESS: u64 = 0xe000_0007_ffff_ffff;
/// `DMAP_BASE_ADDRESS`
const DMAP_BASE_ADDRESS: u64 = 0xc000_0000_0000_0000;
/// `DMAP_MAX_ADDRESS`
const DMAP_MAX_ADDRESS: u64 = 0xcfff_ffff_ffff_ffff;
/// Where `__startkernel` lies in the image: libkvm's PPC64_KERNBASE is
/// 0x100100 for an image linked at 0x100000.
const START: u64 = 0x100;

/// LPTEH_VALID, LPTEH_HID (the secondary hash)
const LPTEH_VALID: u64 = 1;
const LPTEH_HID: u64 = 2;
/// LPTEL_M, LPTEL_BW: memory coherence, kernel may read and write
const LPTEL_KERN: u64 = 0x10 | 0x2;
/// `KERNEL_VSID_BIT`
const KERNEL_VSID_BIT: u64 = 1 << 36;
const HASH_MASK: u64 = (1 << 39) - 1;
/// Bytes of a group of 8 entries.
const PTEG_SIZE: u64 = 128;

pub(super) fn map(load: u64) -> Map {
    Map {
        kernbase: VM_MIN_KERNEL_ADDRESS,
        image_va: DMAP_BASE_ADDRESS + load,
        kva: VM_MIN_KERNEL_ADDRESS + 16 * MIB,
        dmap: Some(Dmap { base: DMAP_BASE_ADDRESS, end: DMAP_MAX_ADDRESS, phys: 0 }),
    }
}

/// `struct minidumphdr`, version 2.
pub(super) fn header(kernel: &Kernel, sizes: &Sizes, f: &mut Fields<'_>) {
    // The little-endian port runs under a hypervisor only.
    let mmu_name = if f.big { "mmu_g5" } else { "mmu_phyp" };
    f.text(0, "minidump FreeBSD/powerpc64")
        .text(32, mmu_name)
        .u32(64, kernel.version.into())
        .u32(68, sizes.msgbuf)
        .u32(72, sizes.bitmap)
        .u32(76, kernel.pmap_size())
        .u64(80, VM_MIN_KERNEL_ADDRESS)
        .u64(88, VM_MAX_KERNEL_ADDRESS)
        .u64(96, DMAP_BASE_ADDRESS)
        .u64(104, DMAP_MAX_ADDRESS)
        .u32(112, 1)
        .u64(120, kernel.map.image_va + START)
        .u64(128, kernel.map.image_va + kernel.image_size())
        .u32(136, sizes.dump_avail);
}

/// The hashed page table: entries by index, all others 0. Always big-endian,
/// whatever the kernel is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hpt {
    groups: u64,
    entries: BTreeMap<u64, (u64, u64)>,
}

impl Hpt {
    pub(super) fn new(kernel: &Kernel) -> Self {
        let pages: u64 = kernel.areas.iter().map(|a| a.pages).sum();
        // Twice the room needed, as the kernel sizes it for all memory.
        let mut hpt =
            Self { groups: (pages / 4).next_power_of_two().max(2048), entries: BTreeMap::new() };
        for area in kernel.areas.iter().filter(|a| a.kind != AreaKind::Linear) {
            for i in 0..area.pages {
                let va = area.va + i * FRAME_SIZE;
                if let Some(pfn) = kernel.area_page(va) {
                    hpt.insert(va, pfn * FRAME_SIZE);
                }
            }
        }
        hpt
    }

    /// `moea64_pte_insert`: the first free entry of the primary group, else
    /// of the secondary one. A page that finds neither isn't mapped, as in
    /// the kernel, which evicts another one.
    fn insert(&mut self, va: u64, pa: u64) {
        let esid = va >> 28;
        let vsid = ((esid << 8 | esid >> 28).wrapping_mul(0x13bb) & (KERNEL_VSID_BIT - 1))
            | KERNEL_VSID_BIT;
        let page = va >> 12 & 0xffff;
        let hash = (vsid & HASH_MASK) ^ page;
        // The AVA holds the VSID and the upper 5 bits of the page index.
        let hi = vsid << 12 | page >> 11 << 7 | LPTEH_VALID;
        for (hash, hid) in [(hash, 0), (!hash & HASH_MASK, LPTEH_HID)] {
            let first = (hash & (self.groups - 1)) * 8;
            if let Some(slot) = (first..first + 8).find(|s| !self.entries.contains_key(s)) {
                self.entries.insert(slot, (hi | hid, pa | LPTEL_KERN));
                return;
            }
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.groups * PTEG_SIZE
    }

    pub(super) fn page(&self, number: u64, page: &mut Page) {
        page.fill(0);
        let first = number * (FRAME_SIZE / 16);
        for (slot, (hi, lo)) in self.entries.range(first..first + FRAME_SIZE / 16) {
            let at = (slot - first) as usize * 16;
            page[at..at + 8].copy_from_slice(&hi.to_be_bytes());
            page[at + 8..at + 16].copy_from_slice(&lo.to_be_bytes());
        }
    }

    pub(super) fn page_used(&self, number: u64) -> bool {
        let first = number * (FRAME_SIZE / 16);
        self.entries.range(first..first + FRAME_SIZE / 16).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::spec::Spec;

    /// `pte_search` of libkvm: primary group, then secondary.
    fn search(hpt: &Hpt, ea: u64) -> Option<u64> {
        let esid = ea >> 28;
        let hashed = ((esid << 8) | (esid >> 28)) * 0x13bb;
        let vsid = (hashed & 0xf_ffff_ffff) | 0x10_0000_0000;
        let va_page = (ea & 0x0fff_ffff) >> 12;
        let mut page = [0; FRAME_SIZE as usize];
        for hid in [0, 2] {
            let mut hash = (vsid & 0x7f_ffff_ffff) ^ va_page;
            if hid != 0 {
                hash = !hash & 0x7f_ffff_ffff;
            }
            let first = (hash & (hpt.size() / 128 - 1)) * 128;
            hpt.page(first / FRAME_SIZE, &mut page);
            let at = (first % FRAME_SIZE) as usize;
            for entry in page[at..at + 128].chunks_exact(16) {
                let hi = u64::from_be_bytes(entry[..8].try_into().unwrap());
                let lo = u64::from_be_bytes(entry[8..].try_into().unwrap());
                if hi & 1 == 1
                    && hi & 2 == hid
                    && hi & 4 == 0
                    && (hi & 0x3fff_ffff_ffff_f000) >> 12 == vsid
                    && (hi & 0xf80) >> 7 == va_page >> 11
                {
                    return Some(lo & 0x0fff_ffff_ffff_f000);
                }
            }
        }
        None
    }

    #[test]
    fn every_page_is_found_as_libkvm_looks_for_it() {
        for dump in [8 << 20, 2 << 30] {
            let spec = Spec { dump, ..Spec::of(Arch::Powerpc64) };
            let avail = crate::ranges::avail(&spec);
            let kernel = Kernel::new(&spec, &avail, 1 << 17, 10).unwrap();
            let mut lost = 0;
            for area in &kernel.areas {
                for i in 0..area.pages {
                    let va = area.va + i * FRAME_SIZE;
                    let want = kernel.area_page(va).map(|pfn| pfn * FRAME_SIZE);
                    lost += u32::from(search(&kernel.hpt, va) != want);
                }
            }
            assert_eq!(lost, 0);
        }
    }
}
