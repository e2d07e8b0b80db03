//! Every field of every header, one after the other, with values that lie:
//! an error or an answer, never a panic (overflows are panics in tests), and
//! never more memory than the file has and a constant.

mod build;

use std::collections::BTreeMap;
use std::sync::Arc;

use build::{KERNBASE64, Mini, convert, generic_core};
use vmcask_convert::view::target::{self, Options};
use vmcask_convert::{Dump, Target};
use vmcask_dump::{ElfCore, KernelImage, Minidump, PhysAddr, ReadAt, VirtAddr};

const VALUES: [u64; 14] = [
    0,
    1,
    7,
    0xfff,
    0x1000,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    0x7fff_ffff_ffff_ffff,
    1 << 63,
    0xffff_ffff_ffff_f000,
    u64::MAX - 1,
    u64::MAX,
];

/// Asks everything of a dump that can be asked.
fn exercise(bytes: Vec<u8>) {
    let is_elf = bytes.starts_with(b"\x7fELF");
    let len = bytes.len() as u64;
    let source: Arc<dyn ReadAt> = Arc::new(bytes);
    let dump: Dump = if is_elf {
        let Ok(core) = ElfCore::open(source.clone()) else { return };
        core.into()
    } else {
        let Ok(minidump) = Minidump::open(source.clone()) else { return };
        minidump.into()
    };
    let mut buf = [0; 5000];
    for address in [0, 0x1000, 0x20_0ff8, 0x20_1000, KERNBASE64, KERNBASE64 + 0x1ff8, u64::MAX] {
        let _ = dump.phys().read_phys(PhysAddr(address), &mut buf);
        let _ = dump.virt().read_virt(VirtAddr(address), &mut buf);
    }
    for to in [
        Target::Elf,
        Target::KernelView,
        Target::Minidump { version: None },
        Target::Minidump { version: Some(2) },
    ] {
        for drop_zero in [false, true] {
            let options = Options { drop_zero, ..Options::default() };
            let Ok(view) = target::of_dump(&dump, &source, to, &options) else { continue };
            // Headers (16 MiB of pmap at most), and the file for each segment.
            let most = (64 << 20) + len * 64;
            assert!(view.len() <= most, "{to:?}: {} bytes of {len}", view.len());
            let mut at = 0;
            while let Ok(Some(data)) = view.next_data(at) {
                let n = (data.end - data.start).min(buf.len() as u64) as usize;
                let _ = view.read_at(data.start, &mut buf[..n]);
                at = data.end;
            }
        }
    }
}

/// Puts each value into each field: `size` bytes at `at`.
fn lies(bytes: &[u8], fields: impl Iterator<Item = (usize, usize)>) {
    for (at, size) in fields {
        for value in VALUES {
            let mut bad = bytes.to_vec();
            if at + size <= bad.len() {
                bad[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
                exercise(bad);
            }
        }
    }
}

/// Fields of an ELF64 header and of its program headers.
fn elf_fields(phnum: usize) -> impl Iterator<Item = (usize, usize)> {
    let ident = (4..16).map(|at| (at, 1));
    let halves = [16, 18, 52, 54, 56, 58, 60, 62].map(|at| (at, 2));
    let words = [(20, 4), (24, 8), (32, 8), (40, 8), (48, 4)];
    let phdrs = (0..phnum).flat_map(|i| {
        let p = 64 + i * 56;
        [(p, 4), (p + 4, 4)].into_iter().chain((0..6).map(move |f| (p + 8 + f * 8, 8)))
    });
    ident.chain(halves).chain(words).chain(phdrs)
}

/// A machine of 16 pages with page tables that map themselves.
fn machine() -> Vec<u8> {
    let start = 0x20_0000u64;
    let mut memory: Vec<u8> = (0..16).flat_map(|i| build::page_bytes(i, 4096)).collect();
    let mut set = |page: usize, index: usize, entry: u64| {
        let at = page * 4096 + index * 8;
        memory[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    };
    for page in 8..14 {
        (0..512).for_each(|i| set(page, i, 0));
    }
    let at = |page: u64| (start + page * 4096) | 3;
    set(8, 256, at(8)); // recursive
    set(8, 496, at(9));
    set(9, 0, 0x83); // 1 GiB of direct map
    set(8, 511, at(10));
    set(10, 510, at(11));
    set(11, 1, start | 0x83);
    set(8, 508, at(12));
    set(12, 0, at(13));
    set(13, 0, at(14)); // a page of PTEs, with whatever is in it
    memory
}

#[test]
fn full_cores() {
    let memory = machine();
    let segments = [(0x20_0000, memory[..8192].to_vec()), (0x20_2000, memory[8192..].to_vec())];
    let core = generic_core(&segments);
    exercise(core.clone());
    lies(&core, elf_fields(2));
    for len in (0..400).chain([4095, 4096, 4097, 8192, core.len() - 1]) {
        exercise(core[..len].to_vec());
    }
}

#[test]
fn page_tables() {
    let memory = machine();
    let core = generic_core(&[(0x20_0000, memory)]);
    // The first entries of each table, and those in use.
    let entries = (8..15)
        .flat_map(|page| [0, 1, 256, 496, 508, 510, 511].map(|i| (4096 + page * 4096 + i * 8, 8)));
    lies(&core, entries);
    // Tables that point at each other and at themselves, in all levels.
    for to in 8..14u64 {
        let mut bad = core.clone();
        for page in 8..14usize {
            for i in 0..512usize {
                let at = 4096 + page * 4096 + i * 8;
                let entry = (0x20_0000 + to * 4096) | 3;
                bad[at..at + 8].copy_from_slice(&entry.to_le_bytes());
            }
        }
        exercise(bad);
    }
}

fn small(arch: &'static str, version: u32) -> Mini {
    Mini {
        arch,
        page: 4096,
        version,
        ranges: vec![(0x1000, 0x9000), (0x20_0000, 0x20_8000)],
        pages: vec![1, 2, 4, 5, 0x200, 0x201, 0x202, 0x207],
        content: BTreeMap::new(),
        pmap: [0x20_0083u64, 0x20_1003, 0x1003, 0xf].iter().flat_map(|e| e.to_le_bytes()).collect(),
        pae: true,
    }
}

#[test]
fn cores_with_a_note() {
    for to in [Target::Elf, Target::KernelView] {
        let (elf, _) = convert(&small("amd64", 3).bytes(), to);
        let phnum = usize::from(elf[56]);
        lies(&elf, elf_fields(phnum));
        // The note: its headers, the JSON, the minidump's header in it.
        let note = 64 + (phnum - 1) * 56;
        let at = u64::from_le_bytes(elf[note + 8..note + 16].try_into().unwrap()) as usize;
        let json = u32::from_le_bytes(elf[at + 4..at + 8].try_into().unwrap()) as usize;
        let prefix = at + 20 + json.next_multiple_of(4);
        lies(&elf, (0..5).flat_map(|i| [(at + i * 4, 4), (prefix + i * 4, 4)]));
        lies(&elf, (20..20 + 72).step_by(4).map(|i| (prefix + i, 4)));
        for i in 0..json {
            for byte in [b'9', b'"', b'{', 0, 0xff] {
                let mut bad = elf.clone();
                bad[at + 20 + i] = byte;
                exercise(bad);
            }
        }
    }
}

#[test]
fn minidumps_of_every_architecture() {
    for (arch, _, newest) in build::ARCHES {
        for version in 1..=newest {
            let bytes = small(arch, version).bytes();
            let end = if arch.starts_with("power") { 144 } else { 80 };
            lies(&bytes, (24..end).step_by(4).map(|at| (at, 4)));
            lies(&bytes, (40..end).step_by(8).map(|at| (at, 8)));
            // dump_avail, bitmap, pmap.
            lies(&bytes, (0..12).map(|i| (8192 + i * 8, 8)));
            lies(&bytes, (0..4).flat_map(|i| [(12288 + i * 8, 8), (16384 + i * 8, 8)]));
            for len in (0..200).step_by(3).chain([4096, 8192, 12288, 20000, bytes.len() - 1]) {
                exercise(bytes[..len.min(bytes.len())].to_vec());
            }
        }
    }
}

#[test]
fn thirty_two_bit_cores() {
    let (elf, _) = convert(&small("i386", 2).bytes(), Target::KernelView);
    assert_eq!(elf[4], 1, "ELFCLASS32");
    let phnum = usize::from(elf[44]);
    let fields = (16..52).step_by(2).map(|at| (at, 2));
    lies(&elf, fields.chain((52..52 + phnum * 32).step_by(4).map(|at| (at, 4))));
}

#[test]
fn a_million_segments_of_the_same_bytes() {
    let segments = (0..200_000u64).map(|i| (i << 20, vec![]));
    let mut core = generic_core(&segments.take(60_000).collect::<Vec<_>>());
    // All name the whole file.
    let len = core.len() as u64;
    for i in 0..60_000 {
        let p = 64 + i * 56;
        core[p + 8..p + 16].fill(0);
        for at in [p + 32, p + 40] {
            core[at..at + 8].copy_from_slice(&len.to_le_bytes());
        }
    }
    let source: Arc<dyn ReadAt> = Arc::new(core);
    let core = ElfCore::open(source).unwrap();
    assert!(core.phys_runs().count() > 1000);
    let mut buf = [0; 16];
    core_reads(&core, &mut buf);
}

fn core_reads(core: &ElfCore, buf: &mut [u8]) {
    use vmcask_dump::PhysMem;
    core.read_phys(PhysAddr(59_999 << 20), buf).unwrap();
}

#[test]
fn kernel_images() {
    let memory = machine();
    let core: Arc<dyn ReadAt> = Arc::new(generic_core(&[(0x20_0000, memory)]));
    let bytes = generic_core(&[(0x20_0000, vec![1; 100])]);
    // Not an executable at all, and one with lies in it.
    for at in 0..bytes.len().min(300) {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bad = bytes.clone();
            bad[at] = value;
            if let Ok(kernel) = KernelImage::parse(&bad) {
                let mut elf = ElfCore::open(core.clone()).unwrap();
                let _ = elf.use_kernel(&kernel);
                let _ = kernel.nearest(VirtAddr(u64::MAX));
                let _ = kernel.read(VirtAddr(u64::MAX - 3), &mut [0; 8]);
            }
        }
    }
}
