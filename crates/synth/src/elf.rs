//! ELF cores in the shape of `dumpsys_generic` (`sys/kern/kern_dump.c`):
//! headers, then from the next page boundary on the ranges of memory, no gaps
//! between them.

use crate::arch::{Arch, Fields};
use crate::dump::Part;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::runs::Runs;
use crate::spec::{Spec, bad};

/// `ELFOSABI_STANDALONE`
const OSABI_STANDALONE: u8 = 255;
const ET_CORE: u16 = 4;
const PT_LOAD: u64 = 1;
const PF_R: u64 = 4;
/// `PT_DUMP_DELTA` (`sys/arm/include/elf.h`).
const PT_DUMP_DELTA: u64 = 0x6fb5_d000;

/// Segments at most, about: a kernel has as many as there are ranges of
/// memory. Far fewer than the 65,534 that `e_phnum` can count.
pub(crate) const MOST_RUNS: u64 = 2048;

/// One program header.
struct Phdr {
    kind: u64,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    size: u64,
}

/// The parts of the file and their sizes in bytes.
pub(crate) fn parts(spec: &Spec, kernel: &Kernel, runs: &Runs) -> Result<Vec<(u64, Part)>, Error> {
    let page = spec.page_size;
    let narrow = spec.arch.is_32_bit();
    let powerpc = matches!(spec.arch, Arch::Powerpc64 | Arch::Powerpc64le);
    let (ehsize, phentsize, shentsize) = if narrow { (52, 32, 40) } else { (64, 56, 64) };

    let mut phdrs: Vec<Phdr> = runs
        .merged()
        .map(|run| Phdr {
            kind: PT_LOAD,
            offset: 0,
            vaddr: if powerpc { u64::MAX } else { run.pfn * page },
            paddr: run.pfn * page,
            size: run.pages * page,
        })
        .collect();
    let aux = u64::from(spec.arch == Arch::Arm);
    let headers = ehsize + (phdrs.len() as u64 + aux) * phentsize;
    let mut offset = headers.next_multiple_of(page);
    for phdr in &mut phdrs {
        phdr.offset = offset;
        offset += phdr.size;
    }
    if aux > 0 {
        let (vaddr, paddr) = (kernel.image_va(), kernel.image_pa());
        phdrs.push(Phdr { kind: PT_DUMP_DELTA, offset: 0, vaddr, paddr, size: 0 });
    }
    if narrow && offset > u64::from(u32::MAX) {
        return bad("dump", format!("{} bytes", spec.dump), "less than 4 GiB in a 32-bit ELF core");
    }

    let mut bytes = vec![0; headers as usize];
    let mut f = Fields { bytes: &mut bytes, big: spec.arch.is_big_endian() };
    f.text(0, "\x7fELF");
    f.bytes[4] = if narrow { 1 } else { 2 };
    f.bytes[5] = if f.big { 2 } else { 1 };
    f.bytes[6] = 1;
    f.bytes[7] = OSABI_STANDALONE;
    // e_version stays 0: the kernel doesn't set it.
    f.u16(16, ET_CORE).u16(18, spec.arch.e_machine());
    let (phoff_at, sizes_at) = if narrow { (28, 40) } else { (32, 52) };
    if narrow {
        f.u32(phoff_at, ehsize);
    } else {
        f.u64(phoff_at, ehsize);
    }
    for (i, n) in [ehsize, phentsize, phdrs.len() as u64, shentsize].into_iter().enumerate() {
        f.u16(sizes_at + i * 2, n as u16);
    }
    for (i, p) in phdrs.iter().enumerate() {
        let at = (ehsize + i as u64 * phentsize) as usize;
        f.u32(at, p.kind);
        if narrow {
            for (j, n) in
                [p.offset, p.vaddr, p.paddr, p.size, p.size, PF_R, page].into_iter().enumerate()
            {
                f.u32(at + 4 + j * 4, n);
            }
        } else {
            f.u32(at + 4, PF_R);
            for (j, n) in [p.offset, p.vaddr, p.paddr, p.size, p.size, page].into_iter().enumerate()
            {
                f.u64(at + 8 + j * 8, n);
            }
        }
    }
    Ok(vec![(headers, Part::Bytes(bytes)), (spec.dump, Part::Pages)])
}
