//! The files that inputs begin with: dumps of every architecture, version and
//! defect, made when they are first asked for.

use std::fs::File;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, OnceLock};

use vmcask_dump::{KernelImage, Minidump, PhysAddr, PhysMem, ReadAt, VirtMem};
use vmcask_synth::{
    Arch, Compression, Defect, DeviceSpec, Format, Profile, Spec, SynthDump, WriteOptions,
};

use crate::build::{self, Mini};

/// A file.
pub struct Base {
    pub bytes: Arc<Vec<u8>>,
    /// Where something interesting begins, never empty.
    pub anchors: Vec<u64>,
    /// The kernel image that belongs to it.
    pub kernel: Option<Box<Base>>,
}

/// A file that is made when it is first asked for.
pub struct Recipe {
    make: Box<dyn Fn() -> Base + Send + Sync>,
    made: OnceLock<Base>,
}

impl Recipe {
    pub fn new(make: impl Fn() -> Base + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), made: OnceLock::new() }
    }
}

/// The base that an input's first byte names.
pub fn pick(recipes: &'static [Recipe], data: &[u8]) -> &'static Base {
    let which = usize::from(data.first().copied().unwrap_or(0)) % recipes.len();
    recipes[which].made.get_or_init(|| (recipes[which].make)())
}

/// Bytes with anchors at the beginning of each of the first pages.
fn of_bytes(bytes: Vec<u8>) -> Base {
    let len = bytes.len() as u64;
    let anchors = (0..len).step_by(4096).take(16).chain([len.saturating_sub(512)]).collect();
    Base { bytes: Arc::new(bytes), anchors, kernel: None }
}

/// Small minidumps: a page of each part, and few pages of memory.
pub static SMALL: LazyLock<Vec<Recipe>> = LazyLock::new(|| {
    let mut recipes = Vec::new();
    for (arch, page, newest) in build::ARCHES {
        for version in [1, newest] {
            for pae in [false, true] {
                let odd = pae && arch != "i386" || page != 4096 && version == 1;
                if !odd {
                    recipes.push(Recipe::new(move || {
                        of_bytes(small(arch, page, version, pae).bytes())
                    }));
                }
            }
        }
    }
    recipes.push(Recipe::new(|| {
        let pages = |n: usize, seed: u8| (0..n * 4096).map(|i| i as u8 ^ seed).collect();
        of_bytes(build::generic_core(&[(0x1000, pages(2, 1)), (0x10_0000, pages(3, 2))]))
    }));
    recipes
});

fn small(arch: &'static str, page: u64, version: u32, pae: bool) -> Mini {
    let wide = arch != "i386" || pae;
    let entry = |pfn: u64| match arch {
        "riscv" => (pfn << 10) + 0xf,
        "arm64" => pfn * page + 0x703,
        _ => pfn * page + 0x103,
    };
    let pmap = [entry(3), entry(6), 0, entry(100), 0xe3 | 0x20_0000]
        .into_iter()
        .flat_map(|e| e.to_le_bytes()[..if wide { 8 } else { 4 }].to_vec())
        .collect();
    Mini {
        arch,
        page,
        version,
        ranges: vec![(0, 8 * page), (16 * page, 40 * page)],
        pages: vec![1, 3, 4, 6, 20, 21, 22, 39],
        content: std::iter::once((6, vec![0x63; page as usize])).collect(),
        pmap,
        pae,
    }
}

/// The synthetic dump of a spec.
fn synth(spec: &Spec) -> Base {
    let dump = SynthDump::new(spec.clone()).expect("a spec that can be made");
    let mut bytes = vec![0; dump.len() as usize];
    dump.read_at(0, &mut bytes);
    let mut base = of_bytes(bytes);
    base.kernel = dump.kernel_image().map(|image| Box::new(image_base(image)));
    base.anchors.extend(more_anchors(&base));
    base
}

/// A kernel image: its headers, sections, symbols.
fn image_base(image: Vec<u8>) -> Base {
    let mut base = of_bytes(image);
    let bytes = &base.bytes;
    let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    // Both classes; what is wrong for one of them is beyond the file.
    for (at, entry) in [(0x28, 64), (0x20, 40)] {
        let shoff = if entry == 64 { word(at) } else { word(at) & 0xffff_ffff };
        let field = if entry == 64 { 0x18 } else { 0x10 };
        let headers = (0..12u64).map(|i| shoff.saturating_add(i * entry));
        for header in headers.filter(|&at| at + 64 < bytes.len()) {
            base.anchors.push(header);
            let section = word((header + field) as usize);
            let section = if entry == 64 { section } else { section & 0xffff_ffff };
            base.anchors.extend(Some(section).filter(|&at| at < bytes.len()));
        }
    }
    base
}

/// Where a minidump's parts begin, page tables, and what debuggers ask for.
fn more_anchors(base: &Base) -> Vec<u64> {
    const SYMBOLS: [&str; 12] = [
        "allproc",
        "msgbufp",
        "dumppcb",
        "dumptid",
        "stoppcbs",
        "pcb_size",
        "panicstr",
        "version",
        "hz",
        "proc_off_p_pid",
        "thread_off_td_pcb",
        "nprocs",
    ];
    let source: Arc<dyn ReadAt> = base.bytes.clone();
    let mut anchors = Vec::new();
    if let Ok(d) = Minidump::open(source) {
        let p = d.parts();
        anchors.extend([&p.msgbuf, &p.dump_avail, &p.bitmap, &p.pmap, &p.pages].map(|r| r.start));
        let pmap = &base.bytes[p.pmap.start as usize..];
        let entries = pmap
            .chunks_exact(8)
            .take(512)
            .map(|e| u64::from_le_bytes(e.try_into().unwrap_or_default()) & 0x000f_ffff_ffff_f000);
        let tables = entries.filter(|&pa| pa != 0).filter_map(|pa| d.locate(PhysAddr(pa)).ok());
        anchors.extend(tables.take(16).map(|(off, _)| off.0));
        let image = base.kernel.as_ref().and_then(|k| KernelImage::parse(&k.bytes).ok());
        for name in SYMBOLS {
            let at = image.as_ref().and_then(|i| i.symbol(name)).map(|s| s.addr);
            anchors.extend(at.and_then(|va| d.locate_virt(va).ok()).map(|(off, _)| off.0));
        }
    }
    anchors
}

fn spec(arch: Arch) -> Spec {
    Spec { ram: 16 << 20, dump: 3584 << 10, procs: 3, profile: Profile::Zeros, ..Spec::of(arch) }
}

/// Architectures, with arm64's large pages and i386's large entries.
fn specs() -> Vec<Spec> {
    let mut all: Vec<Spec> = Arch::ALL.into_iter().map(spec).collect();
    all.push(Spec { page_size: 16384, ..spec(Arch::Arm64) });
    all.push(Spec { pae: true, ..spec(Arch::I386) });
    all
}

/// Synthetic minidumps of every architecture and version, and each defect.
pub static MINIDUMPS: LazyLock<Vec<Recipe>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for spec in specs() {
        let oldest = if spec.page_size == 4096 { 1 } else { 3 };
        for version in oldest..=spec.version {
            all.push(Spec { version, ..spec.clone() });
        }
    }
    for defect in Defect::ALL {
        for arch in [Arch::Amd64, Arch::Arm, Arch::I386, Arch::Powerpc64] {
            all.push(Spec { defects: vec![defect], ..spec(arch) });
        }
    }
    recipes(all)
});

/// Synthetic full cores.
pub static CORES: LazyLock<Vec<Recipe>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for spec in specs() {
        for defect in [None, Some(Defect::Truncate(50)), Some(Defect::BadPte)] {
            // Whole, and in pieces.
            for dump in [3584 << 10, 16 << 20] {
                let defects = defect.into_iter().collect();
                all.push(Spec { format: Format::Elf, dump, defects, ..spec.clone() });
            }
        }
    }
    recipes(all)
});

/// Those that can be made: not every defect is of every architecture.
fn recipes(specs: Vec<Spec>) -> Vec<Recipe> {
    let possible = specs.into_iter().filter(|s| SynthDump::new(s.clone()).is_ok());
    possible.map(|s| Recipe::new(move || synth(&s))).collect()
}

/// Dump devices.
pub static DEVICES: LazyLock<Vec<Recipe>> = LazyLock::new(|| {
    let mut all = Vec::new();
    let device = |header_version, compression| DeviceSpec { header_version, compression };
    for header_version in 1..=4 {
        all.push((spec(Arch::Amd64), device(header_version, Compression::None)));
    }
    for compression in [Compression::Gzip, Compression::Zstd] {
        all.push((spec(Arch::Arm64), device(4, compression)));
    }
    for defect in [Defect::BadParity, Defect::HeadersDiffer, Defect::Cleared] {
        let spec = Spec { defects: vec![defect], ..spec(Arch::Amd64) };
        all.push((spec, DeviceSpec::default()));
    }
    all.into_iter().map(|(s, d)| Recipe::new(move || written(&s, d))).collect()
});

fn written(spec: &Spec, device: DeviceSpec) -> Base {
    let bytes = to_bytes(|file| {
        let dump = SynthDump::new(spec.clone()).expect("a spec that can be made");
        let options = WriteOptions { sparse: true, threads: 1 };
        dump.write_device(file, device, options, &|_| {}, &AtomicBool::new(false))
            .expect("a device that can be written");
    });
    // Behind the leading header, and the trailing one.
    let magic =
        |window: &[u8]| window.starts_with(b"FreeBSD Kernel") || window.starts_with(b"Cleared");
    let headers: Vec<u64> = (0..bytes.len())
        .step_by(512)
        .filter(|&at| magic(&bytes[at..]))
        .flat_map(|at| [at as u64, at as u64 + 512])
        .collect();
    let mut base = of_bytes(bytes);
    base.anchors.splice(0..0, headers);
    base.anchors.retain(|&at| at < base.bytes.len());
    base
}

/// What is written to a file.
fn to_bytes(write: impl FnOnce(&File)) -> Vec<u8> {
    use std::io::{Read, Seek};
    let mut file = tempfile::tempfile().expect("a temporary file");
    write(&file);
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("what was written");
    bytes
}

/// A base out of bytes that a target has itself.
pub fn plain(bytes: Vec<u8>, anchors: Vec<u64>) -> Base {
    let mut base = of_bytes(bytes);
    base.anchors.splice(0..0, anchors);
    base
}
