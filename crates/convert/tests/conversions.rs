//! Whatever is present before a conversion is present after it, with the same
//! bytes; whatever is absent stays absent; and the ways back are exact.

mod build;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use build::{ARCHES, DMAPBASE, KERNBASE64, Mini, convert, convert_with, generic_core, open};
use proptest::prelude::*;
use vmcask_archive::{ArchiveReader, WriteOptions, write};
use vmcask_convert::view::target::Options;
use vmcask_convert::{Dump, Input, Target};
use vmcask_dump::vm::leaves;
use vmcask_dump::{Minidump, Pfn, PhysAddr, VirtAddr};

const MINIDUMP: Target = Target::Minidump { version: None };

/// Memory with holes, of which some pages are dumped.
fn memory(page: u64) -> impl Strategy<Value = (Vec<(u64, u64)>, Vec<u64>)> {
    let range = (1u64..40, 1u64..90, 0u8..4, any::<u64>());
    prop::collection::vec(range, 1..4).prop_map(move |parts| {
        let (mut ranges, mut pages) = (Vec::new(), Vec::new());
        let mut at = 0;
        for (gap, len, density, seed) in parts {
            // Gaps of no pages at all are possible: ranges may meet.
            let start = at + gap.saturating_sub(5);
            for i in 0..len {
                let random = (seed ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(23) % 4;
                if density == 3 || random < u64::from(density) {
                    pages.push(start + i);
                }
            }
            at = start + len;
            ranges.push((start * page, at * page));
        }
        (ranges, pages)
    })
}

/// Any minidump of any architecture and version, maybe with page tables.
fn minidump() -> impl Strategy<Value = Mini> {
    (0..ARCHES.len(), 1u32..4, any::<bool>()).prop_flat_map(|(i, version, pae)| {
        let (arch, page, newest) = ARCHES[i];
        let version = if page == 16384 { 3 } else { version.min(newest) };
        (memory(page), prop::collection::vec(any::<u64>(), 0..200)).prop_map(
            move |((ranges, pages), seeds)| {
                let mut mini = Mini {
                    arch,
                    page,
                    version,
                    ranges,
                    pages,
                    content: BTreeMap::new(),
                    pmap: Vec::new(),
                    pae,
                };
                page_tables(&mut mini, &seeds);
                mini
            },
        )
    })
}

/// Entries that point into memory (and beyond), and for amd64 page-table
/// pages among the dumped ones.
fn page_tables(mini: &mut Mini, seeds: &[u64]) {
    let top = mini.ranges.last().map_or(1, |r| r.1 / mini.page) + 10;
    let frame = |seed: u64| (seed >> 8) % top * mini.page;
    let mut pmap = Vec::new();
    let mut tables = BTreeMap::new();
    for &seed in seeds {
        let entry: u64 = match (mini.arch, seed % 4) {
            (_, 0) => 0,
            ("amd64", 1) if mini.version > 1 => (frame(seed) & !0x1f_ffff) | 0x83,
            ("amd64", _) if mini.version > 1 && !mini.pages.is_empty() => {
                let pfn = mini.pages[(seed >> 20) as usize % mini.pages.len()];
                let table: Vec<u8> = (0..512u64)
                    .flat_map(|i| {
                        let random = seed.rotate_left(i as u32).wrapping_mul(i | 1);
                        let pte = if random % 3 == 0 { 0 } else { frame(random) | 3 };
                        pte.to_le_bytes()
                    })
                    .collect();
                tables.entry(pfn).or_insert(table);
                pfn << 12 | 0x23
            }
            ("riscv", _) => frame(seed) >> 12 << 10 | 0xf,
            _ => frame(seed) | 3,
        };
        if mini.arch == "i386" && !mini.pae {
            pmap.extend((entry as u32).to_le_bytes());
        } else {
            pmap.extend(entry.to_le_bytes());
        }
    }
    mini.pmap = pmap;
    mini.content = tables;
}

/// Everything a dump says of physical memory, page by page.
fn physical(dump: &Dump, mini: &Mini) -> Vec<Option<Vec<u8>>> {
    let top = mini.ranges.last().map_or(0, |r| r.1 / mini.page) + 3;
    (0..top)
        .map(|pfn| {
            let mut bytes = vec![0; mini.page as usize];
            let read = dump.phys().read_phys(PhysAddr(pfn * mini.page), &mut bytes);
            read.is_ok().then_some(bytes)
        })
        .collect()
}

/// Kernel addresses worth asking for, and what is there.
fn virtual_memory(dump: &Dump, addresses: &[u64]) -> Vec<Option<[u8; 16]>> {
    addresses
        .iter()
        .map(|&va| {
            let mut bytes = [0; 16];
            dump.virt().read_virt(VirtAddr(va), &mut bytes).is_ok().then_some(bytes)
        })
        .collect()
}

fn addresses(dump: &Dump, mini: &Mini) -> Vec<u64> {
    let Dump::Minidump(d) = dump else { unreachable!() };
    let mut out = Vec::new();
    let _ = leaves::of_minidump(d, &**d, &mut |leaf| {
        if out.len() < 3000 {
            // Inside, across the end, and where nothing may be.
            out.extend([leaf.va.0 + 8, leaf.va.0.saturating_add(leaf.len - 8)]);
        }
        Ok(())
    });
    if mini.kernbase() == KERNBASE64 {
        out.extend((0..200).map(|pfn| DMAPBASE + pfn * mini.page + 16));
        out.extend([0, 8, DMAPBASE - 8, KERNBASE64 - 8, u64::MAX - 15]);
    }
    out
}

fn follows_kernel_map(mini: &Mini) -> bool {
    !mini.arch.starts_with("arm") && !mini.arch.starts_with("power") || mini.arch == "arm64"
}

/// An archive of a dump.
fn archived(source: &Arc<dyn vmcask_dump::ReadAt>) -> Arc<ArchiveReader> {
    let input = Input::of_source(Path::new("vmcore"), source.clone()).unwrap();
    let plan = vmcask_convert::archive::plan(&input).unwrap();
    let (mut archive, go) = (Vec::new(), AtomicBool::new(false));
    write(&**source, &plan, &WriteOptions::default(), &mut archive, &|_| {}, &go).unwrap();
    Arc::new(ArchiveReader::open(Arc::new(archive)).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// A minidump opened by its archive's page map is the one whose bitmap was
    /// counted.
    #[test]
    fn archives_know_where_pages_lie(mini in minidump(), cut in 0usize..3) {
        let mut bytes = mini.bytes();
        bytes.truncate(bytes.len() - cut * mini.page as usize * mini.pages.len() / 3);
        let (Dump::Minidump(counted), source) = open(bytes) else { unreachable!() };
        let reader = archived(&source);
        let map = reader.minidump_pages().unwrap().expect("a page map");
        let mapped = Minidump::open_mapped(reader, map).unwrap();
        let beyond = mini.ranges.last().map_or(0, |r| r.1 / mini.page) + 5;
        for pfn in (0..beyond).map(Pfn) {
            prop_assert_eq!(mapped.page_offset(pfn).ok(), counted.page_offset(pfn).ok());
        }
        prop_assert_eq!(mapped.warnings(), counted.warnings());
        prop_assert_eq!(mapped.pages_promised(), counted.pages_promised());
        prop_assert_eq!(mapped.pages_present(), counted.pages_present());
        prop_assert_eq!(mapped.pages_of_memory(), counted.pages_of_memory());
        // Now counted, too.
        prop_assert_eq!(mapped.index().unwrap().words(), counted.index().unwrap().words());
        for ordinal in 0..=counted.pages_promised() {
            let there = counted.page_address(ordinal).unwrap();
            prop_assert_eq!(mapped.page_address(ordinal).unwrap(), there);
        }
    }

    #[test]
    fn minidumps_through_elf(mini in minidump(), cut in 0u64..3, trailing in 0usize..2) {
        let mut bytes = mini.bytes();
        let pages = mini.pages.len() as u64 * mini.page;
        let first = bytes.len() as u64 - pages;
        if cut == 1 {
            // Anywhere in the pages, in the middle of one too.
            bytes.truncate((first + pages * 5 / 9) as usize);
        } else {
            bytes.extend(std::iter::repeat_n(7, trailing * 1000));
        }
        let (before, _) = open(bytes.clone());
        let present = physical(&before, &mini);
        for (pfn, page) in present.iter().enumerate() {
            if let Some(page) = page {
                prop_assert_eq!(page, &mini.page_content(pfn as u64));
                prop_assert!(mini.pages.contains(&(pfn as u64)));
            } else if cut != 1 {
                prop_assert!(!mini.pages.contains(&(pfn as u64)));
            }
        }
        let asked = addresses(&before, &mini);
        let there = virtual_memory(&before, &asked);

        let mut views = vec![Target::Elf];
        if follows_kernel_map(&mini) {
            views.push(Target::KernelView);
        }
        for view in views {
            let (elf, losses) = convert(&bytes, view);
            prop_assert_eq!(losses.is_empty(), cut != 1 || pages == 0, "{:?}", losses);
            let (core, _) = open(elf.clone());
            prop_assert_eq!(&physical(&core, &mini), &present, "{:?}", view);
            prop_assert_eq!(&virtual_memory(&core, &asked), &there, "{:?}", view);
            let (back, losses) = convert(&elf, MINIDUMP);
            prop_assert!(losses.is_empty());
            prop_assert!(back == bytes, "{:?} and back differs", view);
            // One view after the other loses nothing either.
            let (other, _) = convert(&elf, Target::Elf);
            let (back, _) = convert(&other, MINIDUMP);
            prop_assert!(back == bytes);
        }
    }

    #[test]
    fn zero_pages_can_be_dropped(mini in minidump()) {
        let bytes = mini.bytes();
        let (before, _) = open(bytes.clone());
        let options = Options { drop_zero: true, ..Options::default() };
        let (elf, _) = convert_with(&bytes, Target::Elf, &options);
        let (core, _) = open(elf.clone());
        let is_zero = |p: &Vec<u8>| p.iter().all(|&b| b == 0);
        let mut dropped = 0;
        for (a, b) in physical(&before, &mini).iter().zip(&physical(&core, &mini)) {
            match (a, b) {
                (Some(a), None) if is_zero(a) => dropped += 1,
                (a, b) => prop_assert_eq!(a, b),
            }
        }
        let Dump::Elf(core) = core else { unreachable!() };
        prop_assert_eq!(core.note().unwrap().meta.dropped_zero_pages, dropped);
        // What is known to be zero comes back.
        let (back, _) = convert(&elf, MINIDUMP);
        prop_assert!(back == bytes);
    }

    #[test]
    fn versions_change_and_memory_stays(mini in minidump(), version in 1u32..4) {
        let bytes = mini.bytes();
        let (before, source) = open(bytes.clone());
        let to = Target::Minidump { version: Some(version) };
        let Ok(view) = vmcask_convert::view::target::of_dump(
            &before, &source, to, &Options::default(),
        ) else {
            // No such version, or no way to it.
            let newest = ARCHES.iter().find(|a| a.0 == mini.arch).unwrap().2;
            prop_assert!(
                version > newest || mini.page == 16384
                    || (mini.arch == "amd64" && (version == 1 || mini.version == 1))
            );
            return Ok(());
        };
        let after = build::all(&view);
        let (after, _) = open(after);
        let Dump::Minidump(d) = &after else { unreachable!() };
        prop_assert_eq!(d.header().version, version);
        prop_assert_eq!(physical(&after, &mini), physical(&before, &mini));
        let asked = addresses(&before, &mini);
        prop_assert_eq!(virtual_memory(&after, &asked), virtual_memory(&before, &asked));
    }
}

const V: u64 = 1;
const RW: u64 = 2;
const PS: u64 = 0x80;

/// A machine: contiguous memory from `start` of `pages`, an amd64 kernel's
/// page tables in it, made by hand.
struct Machine {
    start: u64,
    memory: Vec<u8>,
    next: u64,
}

impl Machine {
    fn new(start: u64, pages: u64) -> Self {
        let memory = (0..pages).flat_map(|i| build::page_bytes(start / 4096 + i, 4096)).collect();
        Self { start, memory, next: 16 }
    }

    /// A zeroed page for a table.
    fn table(&mut self) -> u64 {
        let at = self.next as usize * 4096;
        self.memory[at..at + 4096].fill(0);
        self.next += 1;
        self.start + at as u64
    }

    fn set(&mut self, table: u64, index: u64, entry: u64) {
        let at = (table - self.start + index * 8) as usize;
        self.memory[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    }

    /// Page tables with a recursive slot, a direct map of `dmap_gib` GiB, a
    /// kernel at KERNBASE and a heap, all over `seeds`.
    fn page_tables(&mut self, dmap_gib: u64, seeds: &[u64]) -> u64 {
        let pages = self.memory.len() as u64 / 4096;
        let pml4 = self.table();
        self.set(pml4, 256, pml4 | V | RW | 0x20);
        let dmap = self.table();
        self.set(pml4, 496, dmap | V | RW);
        for i in 0..dmap_gib {
            self.set(dmap, i, i << 30 | V | RW | PS);
        }
        let image = self.table();
        let image_pd = self.table();
        self.set(pml4, 511, image | V | RW);
        self.set(image, 510, image_pd | V | RW);
        self.set(image_pd, 1, (self.start & !0x1f_ffff) | V | PS);
        let heap = self.table();
        self.set(pml4, 508, heap | V | RW);
        // A mapping of a whole GiB, which minidumps know as 512 PDEs.
        self.set(heap, 3, V | RW | PS);
        let heap_pd = self.table();
        self.set(heap, 0, heap_pd | V | RW);
        for (i, &seed) in seeds.iter().enumerate() {
            let i = i as u64;
            match seed % 5 {
                0 => {}
                1 => self.set(heap_pd, i, (self.start & !0x1f_ffff) | V | RW | PS),
                _ => {
                    let pt = self.table();
                    self.set(heap_pd, i, pt | V | RW);
                    for j in 0..512 {
                        let random = seed.wrapping_mul(j + 1).rotate_left(17);
                        if random % 4 > 0 {
                            let pa = self.start + random / 8 % (pages + 20) * 4096;
                            self.set(pt, j, pa | V | RW | 1 << 63);
                        }
                    }
                }
            }
        }
        pml4
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn generic_cores_through_minidumps(
        shift in 0u64..3,
        cuts in prop::collection::vec(1u64..100, 0..4),
        seeds in prop::collection::vec(any::<u64>(), 1..12),
        version in 2u32..4,
    ) {
        let mut machine = Machine::new(0x20_0000 * (1 + shift), 160);
        let pml4 = machine.page_tables(2, &seeds);
        // Segments that meet and segments with holes between them: the pages
        // at cuts 3 and up are missing.
        let mut segments = Vec::new();
        let mut at = 0;
        let mut cuts: Vec<u64> = cuts.into_iter().map(|c| 60 + c).collect();
        cuts.sort_unstable();
        cuts.dedup();
        for (i, &cut) in cuts.iter().chain(&[160]).enumerate() {
            if cut > at {
                let bytes = machine.memory[at as usize * 4096..cut as usize * 4096].to_vec();
                segments.push((machine.start + at * 4096, bytes));
            }
            at = if i % 2 == 0 { cut } else { cut + 2 };
        }
        let core = generic_core(&segments);
        let (before, _) = open(core.clone());
        let Dump::Elf(elf) = &before else { unreachable!() };
        let found = elf.page_tables().expect("the recursive slot");
        prop_assert_eq!((found.tables.root.0, found.tables.levels), (pml4, 4));

        let mut asked = vec![
            0xffff_ffff_8020_0010, 0xffff_ffff_8040_0000, DMAPBASE + pml4, DMAPBASE + 8,
            KERNBASE64 + (3 << 30) + machine.start + 24, KERNBASE64 + (4 << 30),
        ];
        for i in 0..seeds.len() as u64 {
            asked.extend((0..512).step_by(7).map(|j| KERNBASE64 + (i << 21) + (j << 12) + 40));
        }
        let there = virtual_memory(&before, &asked);
        prop_assert!(there.iter().flatten().count() > 2);

        let to = Target::Minidump { version: Some(version) };
        let (minidump, losses) = convert(&core, to);
        prop_assert!(losses.is_empty(), "{:?}", losses);
        let (after, _) = open(minidump.clone());
        let Dump::Minidump(d) = &after else { unreachable!() };
        prop_assert_eq!(d.header().version, version);
        prop_assert_eq!(d.header().kernbase.0, KERNBASE64);
        prop_assert_eq!(&virtual_memory(&after, &asked), &there);
        for pfn in 0..machine.start / 4096 + 170 {
            let (mut a, mut b) = ([0; 4096], [0; 4096]);
            let a = before.phys().read_phys(PhysAddr(pfn << 12), &mut a).is_ok().then_some(a);
            let b = after.phys().read_phys(PhysAddr(pfn << 12), &mut b).is_ok().then_some(b);
            prop_assert!(a == b, "page {pfn:#x}");
        }
        // Version 2 has no ranges: segments that meet become one there, and
        // the core is then written with a note.
        let meet = segments.windows(2).any(|w| w[0].0 + w[0].1.len() as u64 == w[1].0);
        let (back, _) = convert(&minidump, Target::Elf);
        if version == 3 || !meet {
            prop_assert!(back == core, "the way back differs");
        } else {
            let (again, _) = convert(&back, MINIDUMP);
            prop_assert!(again == minidump);
        }
        // The kernel view has the same addresses, without page tables.
        let (view, _) = convert(&core, Target::KernelView);
        let (view, _) = open(view);
        let Dump::Elf(elf) = &view else { unreachable!() };
        prop_assert!(elf.has_virtual());
        prop_assert_eq!(&virtual_memory(&view, &asked), &there);
    }
}

#[test]
fn a_hole_in_dump_avail_is_absent() {
    // libkvm forgets to compare with a range's start, and returns a page of
    // the range before.
    let mini = Mini {
        arch: "amd64",
        page: 4096,
        version: 3,
        ranges: vec![(0x1000, 0x5000), (0x9000, 0xc000)],
        pages: vec![1, 2, 3, 4, 9, 10, 11],
        content: BTreeMap::new(),
        pmap: Vec::new(),
        pae: false,
    };
    for bytes in [mini.bytes(), convert(&mini.bytes(), Target::Elf).0] {
        let (dump, _) = open(bytes);
        for pa in [0, 0x5000, 0x6000, 0x8fff, 0xc000, 1 << 40] {
            let read = dump.phys().read_phys(PhysAddr(pa), &mut [0]);
            assert!(matches!(read, Err(vmcask_dump::Error::Absent { .. })), "{pa:#x}: {read:?}");
        }
    }
}

/// A core as hypervisors and other dumpers write it, of either class and byte
/// order: the note first, data at odd offsets, p_memsz beyond p_filesz,
/// segments that overlap.
fn foreign_core(is_64: bool, is_big: bool, segments: &[(u64, u64, &[u8], u64)]) -> Vec<u8> {
    let half = |n: u16| if is_big { n.to_be_bytes() } else { n.to_le_bytes() }.to_vec();
    let word = |n: u32| if is_big { n.to_be_bytes() } else { n.to_le_bytes() }.to_vec();
    let long = |n: u64| match (is_64, is_big) {
        (false, _) => word(n as u32),
        (true, true) => n.to_be_bytes().to_vec(),
        (true, false) => n.to_le_bytes().to_vec(),
    };
    let machine = if is_64 { 62 } else { 3 };
    let (ehsize, phentsize) = if is_64 { (64, 56) } else { (52, 32) };
    let phnum = segments.len() + 1;
    let mut out = vec![0x7f, b'E', b'L', b'F', 1 + u8::from(is_64), 1 + u8::from(is_big), 1, 0];
    out.resize(16, 0);
    out.extend([half(4), half(machine), word(1)].concat());
    out.extend([long(0), long(ehsize), long(0), word(0)].concat());
    out.extend([half(ehsize as u16), half(phentsize), half(phnum as u16)].concat());
    out.extend([half(0), half(0), half(0)].concat());
    let note = [word(5), word(4), word(1), b"CORE\0\0\0\0".to_vec(), word(7)].concat();
    let mut at = ehsize + u64::from(phentsize) * phnum as u64;
    let mut phdr = |p_type: u32, va: u64, pa: u64, filesz: u64, memsz: u64| {
        let fields = if is_64 {
            [
                word(p_type),
                word(0),
                long(at),
                long(va),
                long(pa),
                long(filesz),
                long(memsz),
                long(0),
            ]
        } else {
            [
                word(p_type),
                long(at),
                long(va),
                long(pa),
                long(filesz),
                long(memsz),
                word(0),
                long(0),
            ]
        };
        out.extend(fields.concat());
        at += filesz;
    };
    phdr(4, 0, 0, note.len() as u64, 0);
    for (pa, va, bytes, memsz) in segments {
        phdr(1, *va, *pa, bytes.len() as u64, *memsz);
    }
    out.extend(note);
    for s in segments {
        out.extend_from_slice(s.2);
    }
    out
}

#[test]
fn cores_as_others_write_them() {
    let bytes: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
    for (is_64, is_big) in [(true, false), (true, true), (false, false), (false, true)] {
        let kernel = if is_64 { 0xffff_ffff_8000_0000 } else { 0xc000_0000 };
        let core = foreign_core(
            is_64,
            is_big,
            &[
                // 2 pages of which the file has one and a half.
                (0x10_0000, 0, &bytes[..6144], 8192),
                (0x20_0000, kernel, &bytes[1000..13_288], 12_288),
                // The same memory again: the first segment wins.
                (0x20_1000, 0, &bytes[5..12_293], 12_288),
                // Less than a page, not at its beginning.
                (0x30_0123, 0, &bytes[..77], 77),
            ],
        );
        let (dump, source) = open(core.clone());
        let phys = |pa: u64, n: usize| {
            let mut buf = vec![0; n];
            dump.phys().read_phys(PhysAddr(pa), &mut buf).map(|()| buf)
        };
        assert_eq!(phys(0x10_0000, 6144).unwrap(), bytes[..6144]);
        assert!(phys(0x10_1800, 1).is_err(), "memory that isn't in the file is absent, not zero");
        assert_eq!(phys(0x20_0000, 12_288).unwrap(), bytes[1000..13_288]);
        assert_eq!(phys(0x20_3000, 4096).unwrap(), bytes[8197..12_293]);
        assert_eq!(phys(0x30_0123, 77).unwrap(), bytes[..77]);
        assert!(phys(0x30_0122, 1).is_err() && phys(0x30_0170, 1).is_err());
        let mut buf = [0; 9];
        dump.virt().read_virt(VirtAddr(kernel + 4090), &mut buf).unwrap();
        assert_eq!(buf, bytes[5090..5099]);
        // Written as a physical view of its own, page for page.
        let options = Options { drop_zero: true, ..Options::default() };
        let view = vmcask_convert::view::target::of_dump(&dump, &source, Target::Elf, &options);
        if is_big {
            // No machine of FreeBSD's is an x86 in that order.
            let _ = view;
            continue;
        }
        let (again, _) = open(build::all(&view.unwrap()));
        for pa in (0x0f_f000..0x30_2000u64).step_by(512) {
            let (mut a, mut b) = ([0; 100], [0; 100]);
            let (a, b) = (
                dump.phys().read_phys(PhysAddr(pa), &mut a).is_ok().then_some(a),
                again.phys().read_phys(PhysAddr(pa), &mut b).is_ok().then_some(b),
            );
            assert_eq!(a, b, "{pa:#x}");
        }
    }
}
