//! Page tables of a full core by the kernel image, wherever the loader put
//! the kernel.

use std::sync::Arc;

use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SymbolFlags, SymbolKind, SymbolScope};
use vmcask_dump::elf::How;
use vmcask_dump::{ElfCore, KernelImage, PhysAddr, ReadAt, VirtAddr, VirtMem};

const KERNBASE: u64 = 0xffff_ffff_8000_0000;
/// Where the variable is linked: 2 MiB and three pages above KERNBASE.
const VARIABLE: u64 = KERNBASE + 0x20_3010;

fn image(symbols: &[(&str, u64)]) -> KernelImage {
    let mut obj = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    for (name, value) in symbols {
        obj.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: *value,
            size: 8,
            kind: SymbolKind::Data,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Absolute,
            flags: SymbolFlags::None,
        });
    }
    KernelImage::parse(&obj.write().unwrap()).unwrap()
}

/// 2 MiB of memory from `start` with a kernel in it that was linked for
/// physical 2 MiB, and one segment elsewhere that is no kernel.
fn core(start: u64, levels: usize) -> Vec<u8> {
    let mut memory = vec![0x5a; 0x20_0000];
    let mut set = |page: usize, index: usize, entry: u64| {
        let at = page * 4096 + index * 8;
        memory[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    };
    for page in 16..20 {
        (0..512).for_each(|i| set(page, i, 0));
    }
    let at = |page: u64| (start + page * 4096) | 3;
    // KPML5phys or KPML4phys; nothing maps itself.
    set(3, 2, start + (21 - levels as u64) * 4096);
    if levels == 5 {
        set(16, 511, at(17));
    }
    set(17, 511, at(18));
    set(18, 510, at(19));
    set(19, 1, start | 0x83);

    let mut out = b"\x7fELF\x02\x01\x01\xff".to_vec();
    out.resize(16, 0);
    out.extend([4u16.to_le_bytes(), 62u16.to_le_bytes()].concat());
    out.extend(1u32.to_le_bytes());
    out.extend([0u64, 64, 0].map(u64::to_le_bytes).concat());
    out.extend(0u32.to_le_bytes());
    out.extend([64u16, 56, 2, 64, 0, 0].map(u16::to_le_bytes).concat());
    for (pa, off, len) in [(0x1000, 4096, 8192), (start, 12288, 0x20_0000)] {
        out.extend([1u32.to_le_bytes(), 4u32.to_le_bytes()].concat());
        out.extend([off, pa, pa, len, len, 4096u64].map(u64::to_le_bytes).concat());
    }
    out.resize(4096, 0);
    out.extend([0x11; 8192]);
    out.extend(memory);
    out
}

#[test]
fn kernels_are_found_where_they_were_loaded() {
    for levels in [4, 5] {
        let name = if levels == 5 { "KPML5phys" } else { "KPML4phys" };
        for shift in [0, 0x20_0000, 0x6000_0000, 0x1_2340_0000] {
            let start = 0x20_0000 + shift;
            let source: Arc<dyn ReadAt> = Arc::new(core(start, levels));
            let mut elf = ElfCore::open(source).unwrap();
            assert!(elf.page_tables().is_none(), "nothing maps itself");
            elf.use_kernel(&image(&[("kernbase", KERNBASE), (name, VARIABLE)])).unwrap();
            let found = elf.page_tables().unwrap();
            assert_eq!(found.how, How::Kernel { shift });
            assert_eq!(found.tables.levels, levels as u32);
            assert_eq!(found.tables.root, PhysAddr(start + (21 - levels as u64) * 4096));
            let mut word = [0; 8];
            elf.read_virt(VirtAddr(VARIABLE), &mut word).unwrap();
            assert_eq!(u64::from_le_bytes(word), found.tables.root.0);
            assert!(elf.read_virt(VirtAddr(KERNBASE), &mut word).is_err());
        }
    }
}

#[test]
fn another_kernels_image_is_told() {
    let source: Arc<dyn ReadAt> = Arc::new(core(0x20_0000, 4));
    let mut elf = ElfCore::open(source).unwrap();
    let e = elf.use_kernel(&image(&[("KPML4phys", VARIABLE + 8)])).unwrap_err();
    assert!(e.to_string().contains("another kernel"), "{e}");
    let e = elf.use_kernel(&image(&[("hz", 1)])).unwrap_err();
    assert!(e.to_string().contains("KPML4phys"), "{e}");
}

#[test]
fn a_variable_whose_own_page_table_is_lost() {
    // The page that maps KPML4phys is zeros in a cut-down dump; the root is
    // known by mapping itself.
    let mut bytes = core(0x20_0000, 4);
    let at = |page: usize, index: usize| 12288 + page * 4096 + index * 8;
    bytes[at(19, 1)..at(19, 2)].fill(0);
    let kernel = image(&[("kernbase", KERNBASE), ("KPML4phys", VARIABLE)]);
    let mut elf = ElfCore::open(Arc::new(bytes.clone()) as Arc<dyn ReadAt>).unwrap();
    assert!(elf.use_kernel(&kernel).is_err());
    bytes[at(17, 256)..at(17, 257)].copy_from_slice(&(0x20_0000u64 + 17 * 4096 + 3).to_le_bytes());
    let mut elf = ElfCore::open(Arc::new(bytes) as Arc<dyn ReadAt>).unwrap();
    assert_eq!(elf.page_tables().unwrap().how, How::SelfMap, "found without the image, too");
    elf.use_kernel(&kernel).unwrap();
    assert_eq!(elf.page_tables().unwrap().tables.root, PhysAddr(0x20_0000 + 17 * 4096));
}
