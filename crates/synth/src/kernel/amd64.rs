//! amd64: `sys/amd64/include/{minidump,pmap,pte,vmparam}.h` (FreeBSD 14).
//!
//! The page tables are complete: a reader that starts at KPML4phys (or, above
//! 4 TiB of memory, at KPML5phys) finds all the kernel has.

use super::{Dmap, GIB, Kernel, Map, Sizes, TWO_MIB};
use crate::arch::Fields;
use crate::content::{FRAME_SIZE, Frame, Page};
use crate::spec::Spec;

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

/// `KERNBASE`: where the kernel image lies.
pub(super) const KERNBASE: u64 = 0xffff_ffff_8000_0000;
/// Where the image is linked above KERNBASE.
const KERNLOAD: u64 = 2 << 20;
/// `VM_MIN_KERNEL_ADDRESS`: where kernel memory begins, and what the dump's
/// header calls `kernbase`.
const VM_MIN_KERNEL_ADDRESS: u64 = 0xffff_fe00_0000_0000;
/// `DMAP_MIN_ADDRESS` with 4 levels of page tables: 4 TiB from there on.
const DMAP_LA48: u64 = 0xffff_f800_0000_0000;
const DMAP_LA48_SIZE: u64 = 4 << 40;
/// `DMAP_MIN_ADDRESS` with 5 levels.
const DMAP_LA57: u64 = 0xff01_0000_0000_0000;
/// The slot in which the top-level table maps itself (`PML4PML4I`,
/// `PML5PML5I`).
const SELF: u64 = 256;

fn la57(top: u64) -> bool {
    top > DMAP_LA48_SIZE
}

/// Version 1 stored a PTE for each page of the kernel map, which then spanned
/// a gigabyte or two.
pub(super) fn map(spec: &Spec, top: u64) -> Map {
    let old = spec.version == 1;
    let base = if la57(top) { DMAP_LA57 } else { DMAP_LA48 };
    Map {
        kernbase: if old { KERNBASE } else { VM_MIN_KERNEL_ADDRESS },
        image_va: KERNBASE + KERNLOAD,
        kva: if old { KERNBASE + GIB / 2 } else { VM_MIN_KERNEL_ADDRESS + 7 * GIB },
        dmap: Some(Dmap { base, end: base + top.next_multiple_of(GIB), phys: 0 }),
    }
}

/// `struct minidumphdr`, version 3.
pub(super) fn header(kernel: &Kernel, sizes: &Sizes, f: &mut Fields<'_>) {
    f.text(0, "minidump FreeBSD/amd64")
        .u32(24, kernel.version.into())
        .u32(28, sizes.msgbuf)
        .u32(32, sizes.bitmap)
        .u32(36, kernel.pmap_size())
        .u64(40, kernel.map.kernbase)
        .u32(64, sizes.dump_avail);
    if let Some(dmap) = kernel.map.dmap {
        f.u64(48, dmap.base).u64(56, dmap.end);
    }
}

/// A gigabyte of kernel memory mapped by one entry: what it maps is the
/// gigabyte that the kernel lies in. Version 1's kernel map has no room for
/// it.
pub(super) fn giant(kernel: &Kernel) -> Option<u64> {
    (kernel.version > 1).then(|| kernel.map.kva + 16 * GIB)
}

/// Bytes of pmap: in version 1, PTEs of 1 GiB; later 512 PDEs for each GiB
/// from kernbase to 1 GiB below the top, as in real dumps.
pub(super) fn pmap_size(kernel: &Kernel) -> u64 {
    if kernel.version == 1 {
        GIB / FRAME_SIZE * 8
    } else {
        (0u64.wrapping_sub(GIB) - kernel.map.kernbase) / GIB * FRAME_SIZE
    }
}

/// Kernel memory that 4 KiB of the pmap part map.
pub(super) fn pmap_page_span(kernel: &Kernel) -> u64 {
    if kernel.version == 1 { TWO_MIB } else { GIB }
}

pub(super) fn pmap_page(kernel: &Kernel, number: u64, page: &mut Page) {
    let span = pmap_page_span(kernel) / 512;
    for (i, word) in page.chunks_exact_mut(8).enumerate() {
        let va = kernel.map.kernbase + (number * 512 + i as u64) * span;
        // Version 1 has no large pages in its pmap: they are broken up.
        let entry = if kernel.version == 1 { any_pte(kernel, va) } else { pde(kernel, va) };
        word.copy_from_slice(&entry.to_le_bytes());
    }
}

fn any_pte(kernel: &Kernel, va: u64) -> u64 {
    let pde = pde(kernel, va);
    if pde & PS != 0 { (pde & !PS) + (va & (TWO_MIB - 1)) } else { pte(kernel, va) }
}

fn pte(kernel: &Kernel, va: u64) -> u64 {
    let page = kernel.entry_page(va);
    page.map_or(0, |pfn| (pfn * FRAME_SIZE) | V | RW | A | M | G | NX)
}

/// PDE of the address `va`. A mapping of a gigabyte has none; dumps break it
/// up into 512.
fn pde(kernel: &Kernel, va: u64) -> u64 {
    let image = kernel.map.image_va;
    if (image..image + kernel.image_size()).contains(&va) {
        // The first is text, the others data.
        let nx = if va < image + TWO_MIB { 0 } else { NX | RW };
        let pa = kernel.image.start * FRAME_SIZE + (va - image) / TWO_MIB * TWO_MIB;
        return pa | V | PS | A | G | nx;
    }
    if let Some(giant) = giant(kernel)
        && (giant..giant + GIB).contains(&va)
    {
        return giant_entry(kernel) + (va - giant) / TWO_MIB * TWO_MIB;
    }
    match va.checked_sub(kernel.map.kva).map(|above| above / TWO_MIB) {
        Some(0) if kernel.missing_pt.is_some() => table(kernel.missing_pt.unwrap_or_default()),
        Some(i) if va < kernel.kva_end() => table(Tables::of(kernel).kva_pt + i),
        _ => 0,
    }
}

fn giant_entry(kernel: &Kernel) -> u64 {
    (kernel.image.start * FRAME_SIZE / GIB * GIB) | V | RW | PS | A | M | G | NX
}

fn table(frame: u64) -> u64 {
    (frame * FRAME_SIZE) | V | RW | A | M
}

/// Frames of the page tables, one after the other.
struct Tables {
    top: u64,
    pml4: u64,
    image_pdp: u64,
    image_pd: u64,
    kva_pdp: u64,
    kva_pd: u64,
    /// With 5 levels only.
    dmap_pml4: u64,
    dmap_pdp: u64,
    dmap_pdps: u64,
    kva_pt: u64,
}

impl Tables {
    fn of(kernel: &Kernel) -> Self {
        Self::at(kernel.tables.start, kernel.top)
    }

    fn at(first: u64, memory: u64) -> Self {
        let extra = u64::from(la57(memory));
        let pml4 = first + extra;
        let dmap_pdp = pml4 + 5 + extra;
        let dmap_pdps = memory.div_ceil(512 * GIB);
        Self {
            top: first,
            pml4,
            image_pdp: pml4 + 1,
            image_pd: pml4 + 2,
            kva_pdp: pml4 + 3,
            kva_pd: pml4 + 4,
            dmap_pml4: pml4 + 5,
            dmap_pdp,
            dmap_pdps,
            kva_pt: dmap_pdp + dmap_pdps,
        }
    }
}

/// Frames of all page tables.
pub(super) fn table_frames(top: u64, kva_size: u64) -> u64 {
    Tables::at(0, top).kva_pt + kva_size / TWO_MIB
}

/// The variable that holds the top-level table's physical address, and the
/// address.
pub(super) fn kpml_phys(kernel: &Kernel) -> (&'static str, u64) {
    let name = if la57(kernel.top) { "KPML5phys" } else { "KPML4phys" };
    (name, kernel.tables.start * FRAME_SIZE)
}

/// Fills a page table, `page` being zero.
pub(super) fn page_table(kernel: &Kernel, frame: Frame, page: &mut Page) {
    let t = Tables::of(kernel);
    let f = frame.0;
    let old = kernel.version == 1;
    let mut set = |index: u64, entry: u64| {
        let at = (index & 511) as usize * 8;
        page[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    };
    let five = la57(kernel.top);
    let dmap = if five { DMAP_LA57 } else { DMAP_LA48 };
    if f == t.top {
        set(SELF, table(f) | NX);
    }
    if five && f == t.top {
        set(511, table(t.pml4));
        set(dmap >> 48, table(t.dmap_pml4));
    } else if f == t.pml4 {
        set(KERNBASE >> 39, table(t.image_pdp));
        if !old {
            set(kernel.map.kva >> 39, table(t.kva_pdp));
        }
        if !five {
            (0..t.dmap_pdps).for_each(|i| set((dmap >> 39) + i, table(t.dmap_pdp + i)));
        }
    } else if f == t.image_pdp {
        set(KERNBASE >> 30, table(t.image_pd));
    } else if f == t.image_pd {
        (0..512).for_each(|i| set(i, pde(kernel, KERNBASE + i * TWO_MIB)));
    } else if f == t.kva_pdp {
        if let Some(giant) = giant(kernel) {
            set(kernel.map.kva >> 30, table(t.kva_pd));
            set(giant >> 30, giant_entry(kernel));
        }
    } else if f == t.kva_pd {
        if !old {
            (0..512).for_each(|i| set(i, pde(kernel, kernel.map.kva + i * TWO_MIB)));
        }
    } else if five && f == t.dmap_pml4 {
        (0..t.dmap_pdps).for_each(|i| set((dmap >> 39) + i, table(t.dmap_pdp + i)));
    } else if f < t.kva_pt {
        let i = f - t.dmap_pdp;
        for entry in 0..512 {
            let pa = (i * 512 + entry) * GIB;
            if pa < kernel.top {
                set(entry, pa | V | RW | PS | A | M | G | NX);
            }
        }
    } else {
        let first = kernel.map.kva + (f - t.kva_pt) * TWO_MIB;
        (0..512).for_each(|i| set(i, pte(kernel, first + i * FRAME_SIZE)));
    }
}
