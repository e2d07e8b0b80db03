//! The kernel's own pages: image, page tables, structures, stacks, heap, and
//! how virtual addresses map to them. What differs between architectures
//! stands in a module each.

mod amd64;
mod arm;
mod arm64;
mod i386;
mod overlay;
mod powerpc64;
mod riscv;

use std::ops::Range;

use crate::arch::{Arch, Fields};
use crate::content::{Content, FRAME_SIZE, Frame, Page};
use crate::error::Error;
use crate::spec::{Spec, bad};
use overlay::Overlay;

const MIB: u64 = 1 << 20;
const TWO_MIB: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// `KSTACK_PAGES` * `PAGE_SIZE` on 64-bit machines.
pub(crate) const KSTACK_SIZE: u64 = 16384;

/// What an architecture's headers and boot code fix.
#[derive(Clone, Debug)]
struct Map {
    /// Where the pmap part begins.
    kernbase: u64,
    /// Where the kernel image lies.
    image_va: u64,
    /// Where the areas of 4 KiB mappings begin.
    kva: u64,
    dmap: Option<Dmap>,
}

/// A direct map: virtual range, and the physical address it begins with.
#[derive(Clone, Copy, Debug)]
struct Dmap {
    base: u64,
    end: u64,
    phys: u64,
}

/// Pages of kernel memory mapped one by one.
#[derive(Clone, Copy, Debug)]
struct Area {
    va: u64,
    pages: u64,
    /// First physical page.
    pfn: u64,
    kind: AreaKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AreaKind {
    /// Virtual and physical pages run in step.
    Linear,
    /// Neighbours are swapped, and one page in 13 is not mapped.
    Heap,
    /// A guard page, then a stack whose pages run backwards.
    Stacks,
}

/// The sizes that the parts of a minidump have, for its header.
pub(crate) struct Sizes {
    pub(crate) msgbuf: u64,
    pub(crate) dump_avail: u64,
    pub(crate) bitmap: u64,
}

/// Where the kernel's things lie. Ranges are in frames of 4 KiB.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    arch: Arch,
    version: u32,
    pae: bool,
    page_size: u64,
    map: Map,
    image: Range<u64>,
    tables: Range<u64>,
    /// The message buffer and structures.
    slab: Range<u64>,
    stacks: Range<u64>,
    heap: Range<u64>,
    areas: Vec<Area>,
    /// End of physical memory in bytes.
    top: u64,
    overlay: Overlay,
    /// powerpc64: the hashed page table.
    hpt: powerpc64::Hpt,
    /// What the heap's first page is mapped to instead, a page number.
    bad_pte: Option<u64>,
    /// Where amd64's first page table of the areas lies instead, a frame.
    pub(crate) missing_pt: Option<u64>,
}

impl Kernel {
    /// A kernel for `spec` on a machine whose memory is `avail` (in pages),
    /// with room for `slab` bytes of structures and `threads` stacks.
    pub(crate) fn new(
        spec: &Spec,
        avail: &[Range<u64>],
        slab: u64,
        threads: u64,
    ) -> Result<Self, Error> {
        let page = spec.page_size;
        let frames = |bytes: u64| bytes.next_multiple_of(page) / FRAME_SIZE;
        let top = avail.last().map_or(0, |r| r.end) * page;
        // A sparse dump shall not be filled by its kernel.
        let scale = if spec.sparse { spec.dump.min(GIB) } else { spec.dump };
        let image = frames((scale / 64 / TWO_MIB).clamp(1, 16) * TWO_MIB);
        let heap = frames((scale / 128).clamp(MIB, 64 * MIB));
        let stacks = frames(threads * KSTACK_SIZE);
        let slab = frames(slab);

        // The areas of 4 KiB mappings, as offsets first.
        let has_dmap = !spec.arch.is_32_bit();
        let mut kva_size = 0;
        let mut place = |pages: u64| {
            let at = kva_size;
            kva_size = (kva_size + pages * page).next_multiple_of(TWO_MIB);
            at
        };
        let per_page = page / FRAME_SIZE;
        let slab_at = if has_dmap { None } else { Some(place(slab / per_page)) };
        let heap_at = place(heap / per_page);
        let stack_pages = KSTACK_SIZE.div_ceil(page) + 1;
        let stacks_at = place(threads * stack_pages);

        let tables = match spec.arch {
            Arch::Amd64 => amd64::table_frames(top, kva_size),
            _ => 0,
        };
        let total = image + tables.next_multiple_of(per_page) + slab + stacks + heap;
        let Some(load) = load_address(spec, avail, total * FRAME_SIZE) else {
            return bad(
                "dump",
                format!("{} bytes of {} bytes of memory", spec.dump, spec.ram),
                format!(
                    "at least {} for the kernel's own pages, in one range of memory",
                    total * FRAME_SIZE
                ),
            );
        };
        let mut next = load / FRAME_SIZE;
        let mut take = |frames: u64| {
            let range = next..next + frames;
            next = range.end.next_multiple_of(per_page);
            range
        };
        let (image, tables, slab, stacks, heap) =
            (take(image), take(tables), take(slab), take(stacks), take(heap));

        let map = match spec.arch {
            Arch::Amd64 => amd64::map(spec, top),
            Arch::Arm64 => arm64::map(avail[0].start * page, top),
            Arch::Riscv => riscv::map(avail[0].start * page, top),
            Arch::I386 => i386::map(spec, load),
            Arch::Arm => arm::map(),
            Arch::Powerpc64 | Arch::Powerpc64le => powerpc64::map(load),
        };
        let area = |at: u64, frames: &Range<u64>, pages: u64, kind| Area {
            va: map.kva + at,
            pages,
            pfn: frames.start / per_page,
            kind,
        };
        let pages = |frames: &Range<u64>| (frames.end - frames.start) / per_page;
        let mut areas = vec![
            area(heap_at, &heap, pages(&heap), AreaKind::Heap),
            area(stacks_at, &stacks, threads * stack_pages, AreaKind::Stacks),
        ];
        if let Some(at) = slab_at {
            areas.push(area(at, &slab, pages(&slab), AreaKind::Linear));
        }
        let mut kernel = Self {
            arch: spec.arch,
            version: spec.version,
            pae: spec.pae,
            page_size: page,
            map,
            image,
            tables,
            slab,
            stacks,
            heap,
            areas,
            top,
            overlay: Overlay::default(),
            hpt: powerpc64::Hpt::default(),
            bad_pte: None,
            missing_pt: None,
        };
        if matches!(spec.arch, Arch::Powerpc64 | Arch::Powerpc64le) {
            kernel.hpt = powerpc64::Hpt::new(&kernel);
        }
        Ok(kernel)
    }

    /// All frames the kernel needs; every one is dumped.
    pub(crate) fn frames(&self) -> Range<u64> {
        self.image.start..self.heap.end
    }

    fn per_page(&self) -> u64 {
        self.page_size / FRAME_SIZE
    }

    fn image_size(&self) -> u64 {
        (self.image.end - self.image.start) * FRAME_SIZE
    }

    /// Physical address of the image's first byte.
    pub(crate) fn image_pa(&self) -> u64 {
        self.image.start * FRAME_SIZE
    }

    /// Virtual address of the image's first byte.
    pub(crate) fn image_va(&self) -> u64 {
        self.map.image_va
    }

    /// Physical address of the slab's first byte.
    pub(crate) fn slab_pa(&self) -> u64 {
        self.slab.start * FRAME_SIZE
    }

    /// The kernel's virtual address of a byte of the slab.
    pub(crate) fn slab_va(&self, pa: u64) -> u64 {
        match self.map.dmap {
            Some(dmap) => dmap.base + (pa - dmap.phys),
            None => self.areas[2].va + (pa - self.slab_pa()),
        }
    }

    /// Lowest and highest address of a thread's stack.
    pub(crate) fn stack(&self, thread: u64) -> (u64, u64) {
        let pages = KSTACK_SIZE.div_ceil(self.page_size);
        let low = self.areas[1].va + (thread * (pages + 1) + 1) * self.page_size;
        (low, low + pages * self.page_size)
    }

    /// What the kernel image calls `kernbase`.
    pub(crate) fn link_base(&self) -> u64 {
        if self.arch == Arch::Amd64 { amd64::KERNBASE } else { self.map.kernbase }
    }

    /// amd64: the variable that holds the top-level page table's physical
    /// address, and that address.
    pub(crate) fn kpml_phys(&self) -> Option<(&'static str, u64)> {
        (self.arch == Arch::Amd64).then(|| amd64::kpml_phys(self))
    }

    /// Writes bytes over memory that the image or an area maps. What isn't
    /// mapped is left out.
    pub(crate) fn put_va(&mut self, mut va: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let within = va % self.page_size;
            let n = bytes.len().min((self.page_size - within) as usize);
            if let Some(pfn) = self.page_at(va) {
                self.put(pfn * self.page_size + within, &bytes[..n]);
            }
            va += n as u64;
            bytes = &bytes[n..];
        }
    }

    /// Writes bytes over the kernel's memory.
    pub(crate) fn put(&mut self, pa: u64, bytes: &[u8]) {
        self.overlay.put(pa, bytes);
    }

    /// The physical page that one of the areas maps at `va`.
    fn area_page(&self, va: u64) -> Option<u64> {
        let area =
            self.areas.iter().find(|a| (a.va..a.va + a.pages * self.page_size).contains(&va))?;
        let i = (va - area.va) / self.page_size;
        match area.kind {
            AreaKind::Linear => Some(area.pfn + i),
            AreaKind::Heap if i % 13 == 5 => None,
            AreaKind::Heap => Some(area.pfn + if i ^ 1 < area.pages { i ^ 1 } else { i }),
            AreaKind::Stacks => {
                let pages = KSTACK_SIZE.div_ceil(self.page_size);
                let (stack, within) = (i / (pages + 1), i % (pages + 1));
                (within > 0).then(|| area.pfn + stack * pages + (pages - within))
            }
        }
    }

    /// What the page table entry of `va` names: [`Self::area_page`], or the
    /// defect asked for.
    fn entry_page(&self, va: u64) -> Option<u64> {
        match self.bad_pte {
            Some(pfn) if va == self.areas[0].va => Some(pfn),
            _ => self.area_page(va),
        }
    }

    /// Makes the defects of page tables: `pa` isn't in the dump.
    pub(crate) fn break_tables(&mut self, pa: u64, bad_pte: bool, missing_pt: bool) {
        self.bad_pte = bad_pte.then_some(pa / self.page_size);
        self.missing_pt = missing_pt.then_some(pa / FRAME_SIZE);
    }

    /// Whether a defect keeps a reader from what `va` maps.
    fn is_broken(&self, va: u64) -> bool {
        let above = va.wrapping_sub(self.areas[0].va);
        (self.bad_pte.is_some() && above < self.page_size)
            || (self.missing_pt.is_some() && above < TWO_MIB)
    }

    /// Addresses that are mapped, but to what isn't in the dump.
    pub(crate) fn broken(&self) -> Vec<u64> {
        let heap = self.areas[0].va;
        let all = [heap + 8, heap + 3 * self.page_size, heap + TWO_MIB - self.page_size];
        all.into_iter().filter(|&va| self.is_broken(va)).collect()
    }

    /// The physical page at `va` of the image or of an area.
    fn page_at(&self, va: u64) -> Option<u64> {
        let image = self.map.image_va;
        if (image..image + self.image_size()).contains(&va) {
            return Some(self.image.start / self.per_page() + (va - image) / self.page_size);
        }
        self.area_page(va)
    }

    /// End of the areas.
    fn kva_end(&self) -> u64 {
        let end = self.areas.iter().map(|a| a.va + a.pages * self.page_size).max();
        end.unwrap_or(self.map.kva).next_multiple_of(TWO_MIB)
    }

    /// Bytes of the pmap part.
    pub(crate) fn pmap_size(&self) -> u64 {
        match self.arch {
            Arch::Amd64 => amd64::pmap_size(self),
            Arch::Powerpc64 | Arch::Powerpc64le => self.hpt.size(),
            // One entry a page up to kernel_vm_end, which grows by a page
            // table's worth at a time.
            _ => {
                let end = self.kva_end().max(self.map.image_va + self.image_size());
                let entries = (end - self.map.kernbase).next_multiple_of(4 * MIB) / self.page_size;
                (entries * self.entry_size()).next_multiple_of(self.page_size)
            }
        }
    }

    fn entry_size(&self) -> u64 {
        match self.arch {
            Arch::I386 if !self.pae => 4,
            Arch::Arm => 4,
            _ => 8,
        }
    }

    /// 4 KiB of the pmap part.
    pub(crate) fn pmap_page(&self, number: u64, page: &mut Page) {
        match self.arch {
            Arch::Amd64 => amd64::pmap_page(self, number, page),
            Arch::Powerpc64 | Arch::Powerpc64le => self.hpt.page(number, page),
            _ => {
                let size = self.entry_size();
                let first = number * FRAME_SIZE / size;
                for (i, word) in page.chunks_exact_mut(size as usize).enumerate() {
                    let va = self.map.kernbase + (first + i as u64) * self.page_size;
                    let page = self.bad_pte.and(self.entry_page(va)).or_else(|| self.page_at(va));
                    let entry = page.map_or(0, |pfn| self.leaf(pfn * self.page_size));
                    word.copy_from_slice(&entry.to_le_bytes()[..size as usize]);
                }
            }
        }
    }

    /// A valid last-level entry.
    fn leaf(&self, pa: u64) -> u64 {
        match self.arch {
            Arch::Arm64 => arm64::l3(pa),
            Arch::Riscv => riscv::leaf(pa),
            Arch::Arm => arm::l2s(pa),
            _ => i386::pte(pa),
        }
    }

    /// Whether 4 KiB of the pmap part may hold anything.
    pub(crate) fn pmap_page_used(&self, number: u64) -> bool {
        let span = match self.arch {
            Arch::Powerpc64 | Arch::Powerpc64le => return self.hpt.page_used(number),
            Arch::Amd64 => amd64::pmap_page_span(self),
            _ => FRAME_SIZE / self.entry_size() * self.page_size,
        };
        let from = self.map.kernbase + number * span;
        let to = from.saturating_add(span);
        let meets = |start: u64, len: u64| start < to && from < start + len;
        meets(self.map.image_va, self.image_size())
            || meets(self.map.kva, self.kva_end() - self.map.kva)
            || (self.arch == Arch::Amd64 && amd64::giant(self).is_some_and(|va| meets(va, GIB)))
    }

    /// The minidump's header, a page of it.
    pub(crate) fn header(&self, sizes: &Sizes) -> Vec<u8> {
        let mut bytes = vec![0; self.page_size as usize];
        let mut fields = Fields { bytes: &mut bytes, big: self.arch.is_big_endian() };
        match self.arch {
            Arch::Amd64 => amd64::header(self, sizes, &mut fields),
            Arch::Arm64 => arm64::header(self, sizes, &mut fields),
            Arch::Riscv => riscv::header(self, sizes, &mut fields),
            Arch::I386 => i386::header(self, sizes, &mut fields),
            Arch::Arm => arm::header(self, sizes, &mut fields),
            Arch::Powerpc64 | Arch::Powerpc64le => powerpc64::header(self, sizes, &mut fields),
        }
        bytes
    }

    /// Fills a frame of the kernel's own.
    pub(crate) fn fill(&self, content: &Content, frame: Frame, page: &mut Page) {
        if self.tables.contains(&frame.0) {
            page.fill(0);
            amd64::page_table(self, frame, page);
            return;
        }
        if self.slab.contains(&frame.0) || self.stacks.contains(&frame.0) {
            page.fill(0);
        } else {
            content.fill_kernel(frame, page);
        }
        self.overlay.apply(frame, page);
    }

    /// Mapped addresses of each kind: virtual, physical, what maps them.
    pub(crate) fn mappings(&self) -> Vec<(u64, u64, &'static str)> {
        let amd64 = self.arch == Arch::Amd64;
        let small = if self.page_size == 4096 { "4k" } else { "16k" };
        let image = self.image.start * FRAME_SIZE;
        let kind = match self.arch {
            Arch::Amd64 if self.version > 1 => "2m",
            Arch::Powerpc64 | Arch::Powerpc64le => "direct",
            _ => small,
        };
        let mut out = Vec::new();
        for offset in [0, 0x1000, self.image_size() / 2 + 24, self.image_size() - 8] {
            out.push((self.map.image_va + offset, image + offset, kind));
        }
        for area in &self.areas {
            for i in [0, 1, 2, 254, area.pages / 2, area.pages.saturating_sub(1)] {
                let va = area.va + i * self.page_size + 16;
                if i < area.pages
                    && !self.is_broken(va)
                    && let Some(pfn) = self.area_page(va)
                {
                    out.push((va, pfn * self.page_size + 16, small));
                }
            }
        }
        if let Some(dmap) = self.map.dmap {
            for frame in [self.image.start, self.slab.start, self.heap.start + 3, self.heap.end - 1]
            {
                let pa = frame * FRAME_SIZE + 8;
                out.push((dmap.base + (pa - dmap.phys), pa, "direct"));
            }
        }
        if let Some(va) = amd64.then(|| amd64::giant(self)).flatten() {
            out.push((va + image % GIB + 16, image + 16, "1g"));
        }
        out
    }

    /// Addresses that nothing maps.
    pub(crate) fn unmapped(&self) -> Vec<u64> {
        let (heap, stacks) = (self.areas[0], self.areas[1]);
        let mut out = vec![heap.va + 5 * self.page_size, heap.va + 18 * self.page_size];
        out.retain(|_| self.missing_pt.is_none());
        if stacks.pages > 0 {
            out.push(stacks.va);
        }
        out.push(self.kva_end());
        if self.arch == Arch::Amd64 {
            out.push(self.map.image_va + self.image_size());
        }
        // Powerpc's kernel map has nothing below the direct map.
        out.push(0x1000);
        out
    }
}

/// Where the boot loader puts the kernel: the usual place, or the first with
/// `size` bytes of memory.
fn load_address(spec: &Spec, avail: &[Range<u64>], size: u64) -> Option<u64> {
    let page = spec.page_size;
    let first = avail.first()?.start * page;
    let (usual, limit) = match spec.arch {
        Arch::Amd64 => (TWO_MIB, u64::MAX),
        Arch::Arm64 | Arch::Riscv | Arch::Arm => (first + TWO_MIB, u64::MAX),
        // KERNLOAD of `sys/i386/include/vmparam.h`, then and now; version 2's
        // kernels are mapped one to one.
        Arch::I386 if spec.version == 1 => (if spec.pae { 2 } else { 4 } * MIB, 64 * MIB),
        Arch::I386 => (8 * MIB, 64 * MIB),
        Arch::Powerpc64 | Arch::Powerpc64le => (MIB, u64::MAX),
    };
    let fits = |at: u64| {
        at < limit && avail.iter().any(|r| r.start * page <= at && at + size <= r.end * page)
    };
    std::iter::once(usual)
        .chain(avail.iter().map(|r| (r.start * page).next_multiple_of(TWO_MIB)))
        .find(|&at| fits(at))
}

/// The header that arm64 and riscv share.
fn header_64(kernel: &Kernel, sizes: &Sizes, f: &mut Fields<'_>, magic: &str) {
    f.text(0, magic)
        .u32(24, kernel.version.into())
        .u32(28, sizes.msgbuf)
        .u32(32, sizes.bitmap)
        .u32(36, kernel.pmap_size())
        .u64(40, kernel.map.kernbase);
    if let Some(dmap) = kernel.map.dmap {
        f.u64(48, dmap.phys).u64(56, dmap.base).u64(64, dmap.end);
    }
    f.u32(72, sizes.dump_avail);
}
