//! The kernel's own pages: image, page tables, heap. Bits of entries as in
//! `sys/amd64/include/pte.h` (FreeBSD 14).

use std::ops::Range;

use crate::content::Page;
use crate::memory::{Frame, PAGE_SIZE};

/// X86_PG_V
const V: u64 = 1;
/// X86_PG_RW
const RW: u64 = 1 << 1;
/// X86_PG_A
const A: u64 = 1 << 5;
/// X86_PG_M
const M: u64 = 1 << 6;
/// X86_PG_PS
const PS: u64 = 1 << 7;
/// X86_PG_G
const G: u64 = 1 << 8;
/// pg_nx
const NX: u64 = 1 << 63;

/// `KERNBASE` (`sys/amd64/include/vmparam.h`): where the kernel image lies.
pub(crate) const KERNBASE: u64 = 0xffff_ffff_8000_0000;
/// `VM_MIN_KERNEL_ADDRESS` with 4-level page tables: where kernel memory
/// begins, and what the dump's header calls `kernbase`.
const VM_MIN_KERNEL_ADDRESS: u64 = 0xffff_fe00_0000_0000;
/// `DMAP_MIN_ADDRESS`.
pub(crate) const DMAP_MIN_ADDRESS: u64 = 0xffff_f800_0000_0000;
/// Where the loader puts the kernel, physically and above KERNBASE.
const LOAD: u64 = 2 << 20;

const TWO_MIB: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// Where a thing of the kernel lies.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    version: u32,
    /// Pages of the image, each 2 MiB.
    image: u64,
    /// Page-table pages of the heap, each 512 pages; the last may map half.
    heap_tables: u64,
    heap_pages: u64,
    /// First of the page-table pages.
    tables: u64,
    /// PDP pages of the direct map.
    dmap_tables: u64,
    top: u64,
}

impl Kernel {
    /// A kernel for a dump of `dump` bytes on a machine whose memory ends at
    /// frame `top`.
    pub(crate) fn new(version: u32, dump: u64, top: u64) -> Self {
        let image = (dump / 64 / TWO_MIB).clamp(1, 16);
        let heap_pages = (dump / 128 / PAGE_SIZE).clamp(256, 32 * 512);
        Self {
            version,
            image,
            heap_tables: heap_pages.div_ceil(512),
            heap_pages,
            tables: (LOAD + image * TWO_MIB) / PAGE_SIZE,
            dmap_tables: top.div_ceil(512 * GIB / PAGE_SIZE),
            top,
        }
    }

    /// All frames the kernel needs; every one is dumped.
    pub(crate) fn frames(&self) -> Range<u64> {
        LOAD / PAGE_SIZE..self.heap_first() + self.heap_pages
    }

    // Page-table pages, one after the other.
    fn pml4(&self) -> u64 {
        self.tables
    }
    fn image_pdp(&self) -> u64 {
        self.tables + 1
    }
    fn image_pd(&self) -> u64 {
        self.tables + 2
    }
    fn heap_pdp(&self) -> u64 {
        self.tables + 3
    }
    fn heap_pd(&self) -> u64 {
        self.tables + 4
    }
    fn dmap_pdp(&self, i: u64) -> u64 {
        self.tables + 5 + i
    }
    fn heap_pt(&self, i: u64) -> u64 {
        self.tables + 5 + self.dmap_tables + i
    }

    /// Frame of the heap's page `i`: neighbours in virtual memory are no
    /// neighbours in physical memory.
    fn heap(&self, i: u64) -> Frame {
        let first = self.heap_first();
        Frame(first + if i ^ 1 < self.heap_pages { i ^ 1 } else { i })
    }

    fn heap_first(&self) -> u64 {
        self.heap_pt(0) + self.heap_tables
    }

    /// The header's `kernbase`. Version 1 stored a PTE for each page of the
    /// kernel map, which then spanned a gigabyte or two.
    pub(crate) fn kernbase(&self) -> u64 {
        if self.version == 1 { KERNBASE } else { VM_MIN_KERNEL_ADDRESS }
    }

    /// Bytes of pmap: in version 1, PTEs of 1 GiB; later 512 PDEs for each GiB
    /// from kernbase to 1 GiB below the top, as in real dumps.
    pub(crate) fn pmap_size(&self) -> u64 {
        if self.version == 1 {
            GIB / PAGE_SIZE * 8
        } else {
            (0u64.wrapping_sub(GIB) - self.kernbase()) / GIB * PAGE_SIZE
        }
    }

    fn heap_va(&self) -> u64 {
        if self.version == 1 { KERNBASE + (512 << 20) } else { VM_MIN_KERNEL_ADDRESS + 7 * GIB }
    }

    pub(crate) fn dmap_end(&self) -> u64 {
        DMAP_MIN_ADDRESS + (self.top * PAGE_SIZE).next_multiple_of(GIB)
    }

    /// Some heap pages are not mapped.
    fn heap_pte(&self, i: u64) -> u64 {
        if i < self.heap_pages && i % 13 != 5 {
            (self.heap(i).0 * PAGE_SIZE) | V | RW | A | M | G | NX
        } else {
            0
        }
    }

    /// PDE of the address `va`.
    fn pde(&self, va: u64) -> u64 {
        let image = KERNBASE + LOAD;
        if (image..image + self.image * TWO_MIB).contains(&va) {
            // The first is text, the others data.
            let nx = if va < image + TWO_MIB { 0 } else { NX | RW };
            return (LOAD + (va - image)) & !(TWO_MIB - 1) | V | PS | A | G | nx;
        }
        match va.checked_sub(self.heap_va()).map(|above| above / TWO_MIB) {
            Some(i) if i < self.heap_tables => (self.heap_pt(i) * PAGE_SIZE) | V | RW | A | M,
            _ => 0,
        }
    }

    /// A 4 KiB page of the pmap part.
    pub(crate) fn pmap_page(&self, number: u64, page: &mut Page) {
        let span = if self.version == 1 { PAGE_SIZE } else { TWO_MIB };
        for (i, word) in page.chunks_exact_mut(8).enumerate() {
            let va = self.kernbase() + (number * 512 + i as u64) * span;
            let entry = if self.version == 1 { self.pte(va) } else { self.pde(va) };
            word.copy_from_slice(&entry.to_le_bytes());
        }
    }

    /// Version 1 has no large pages in its pmap: they are broken up.
    fn pte(&self, va: u64) -> u64 {
        let pde = self.pde(va);
        if pde & PS != 0 {
            return (pde & !PS) + (va & (TWO_MIB - 1));
        }
        va.checked_sub(self.heap_va()).map_or(0, |above| self.heap_pte(above / PAGE_SIZE))
    }

    /// Which pages of the pmap part may hold anything.
    pub(crate) fn pmap_page_used(&self, number: u64) -> bool {
        let span = if self.version == 1 { PAGE_SIZE } else { TWO_MIB } * 512;
        let from = self.kernbase() + number * span;
        let to = from.saturating_add(span);
        let meets = |start: u64, len: u64| start < to && from < start + len;
        meets(KERNBASE + LOAD, self.image * TWO_MIB)
            || meets(self.heap_va(), self.heap_tables * TWO_MIB)
    }

    /// Whether `frame` is a page table; if so, fills `page` with it.
    pub(crate) fn page_table(&self, frame: Frame, page: &mut Page) -> bool {
        let f = frame.0;
        if !(self.tables..self.heap_first()).contains(&f) {
            return false;
        }
        page.fill(0);
        let mut set = |index: u64, entry: u64| {
            let at = (index & 511) as usize * 8;
            page[at..at + 8].copy_from_slice(&entry.to_le_bytes());
        };
        let table = |frame: u64| (frame * PAGE_SIZE) | V | RW | A | M;
        if f == self.pml4() {
            // The recursive slot: the table maps itself.
            set(256, table(f) | NX);
            set(KERNBASE >> 39, table(self.image_pdp()));
            if self.version != 1 {
                set(self.heap_va() >> 39, table(self.heap_pdp()));
            }
            for i in 0..self.dmap_tables {
                set((DMAP_MIN_ADDRESS >> 39) + i, table(self.dmap_pdp(i)));
            }
        } else if f == self.image_pdp() {
            set(KERNBASE >> 30, table(self.image_pd()));
        } else if f == self.image_pd() {
            (0..512).for_each(|i| set(i, self.pde(KERNBASE + i * TWO_MIB)));
        } else if f == self.heap_pdp() {
            if self.version != 1 {
                set(self.heap_va() >> 30, table(self.heap_pd()));
            }
        } else if f == self.heap_pd() {
            if self.version != 1 {
                (0..512).for_each(|i| set(i, self.pde(self.heap_va() + i * TWO_MIB)));
            }
        } else if f < self.heap_pt(0) {
            let i = f - self.dmap_pdp(0);
            for entry in 0..512 {
                let pa = (i * 512 + entry) * GIB;
                if pa < (self.top * PAGE_SIZE).next_multiple_of(GIB) {
                    set(entry, pa | V | RW | PS | A | M | G | NX);
                }
            }
        } else {
            let i = f - self.heap_pt(0);
            (0..512).for_each(|entry| set(entry, self.heap_pte(i * 512 + entry)));
        }
        true
    }

    /// Mapped addresses of each kind: virtual, physical, what maps them.
    pub(crate) fn mappings(&self) -> Vec<(u64, u64, &'static str)> {
        let mut out = Vec::new();
        for offset in [0, 0x1000, self.image * TWO_MIB - 8] {
            out.push((KERNBASE + LOAD + offset, LOAD + offset, "2m"));
        }
        for i in [0, 1, 255, self.heap_pages - 1, self.heap_pages / 2] {
            if i % 13 != 5 {
                out.push((
                    self.heap_va() + i * PAGE_SIZE + 16,
                    self.heap(i).0 * PAGE_SIZE + 16,
                    "4k",
                ));
            }
        }
        for frame in [self.pml4(), self.heap(3).0] {
            out.push((DMAP_MIN_ADDRESS + frame * PAGE_SIZE, frame * PAGE_SIZE, "direct"));
        }
        out
    }

    /// Addresses that nothing maps.
    pub(crate) fn unmapped(&self) -> Vec<u64> {
        vec![
            self.heap_va() + 5 * PAGE_SIZE,
            self.heap_va() + self.heap_tables * TWO_MIB,
            KERNBASE + LOAD + self.image * TWO_MIB,
            0x1000,
        ]
    }
}
