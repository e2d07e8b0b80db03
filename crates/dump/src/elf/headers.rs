//! ELF and program headers of both classes and byte orders as one struct.

use zerocopy::FromBytes;
use zerocopy::byteorder::{BigEndian, ByteOrder, LittleEndian};

use crate::error::{Error, Result};
use crate::layout::elf as wire;
use crate::minidump::header::Arch;
use crate::source::ReadAt;

/// What `e_ident` and `e_machine` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ident {
    /// 64-bit, else 32-bit.
    pub is_64: bool,
    /// Big-endian, else little-endian.
    pub is_big_endian: bool,
    /// `e_ident[EI_OSABI]`.
    pub osabi: u8,
    /// `e_type`.
    pub e_type: u16,
    /// `e_machine`.
    pub e_machine: u16,
    /// Program headers, counted through `PN_XNUM`.
    pub phnum: u32,
}

/// A program header of either class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Phdr {
    pub p_type: u32,
    pub p_flags: u32,
    pub p_offset: u64,
    pub p_vaddr: u64,
    pub p_paddr: u64,
    pub p_filesz: u64,
    pub p_memsz: u64,
    pub p_align: u64,
}

impl Ident {
    /// The machine, where it is one whose dumps are known here.
    pub fn arch(&self) -> Option<Arch> {
        Arch::of_elf(self.e_machine, self.is_big_endian)
    }

    /// FreeBSD's name of the machine, or its ELF number.
    pub fn machine(&self) -> String {
        self.arch().map_or_else(|| format!("machine {}", self.e_machine), |arch| arch.name().into())
    }

    /// Whether p_vaddr of a segment is the kernel's address for it. Writers
    /// that don't know it put 0, the physical address (`dumpsys_generic`) or
    /// all ones (the same on powerpc) there.
    pub(super) fn has_kernel_vaddr(&self, p: &Phdr) -> bool {
        let (all_ones, upper_half) =
            if self.is_64 { (u64::MAX, 1 << 63) } else { (u32::MAX.into(), 1 << 31) };
        p.p_vaddr != p.p_paddr && p.p_vaddr != all_ones && p.p_vaddr >= upper_half
    }

    /// Whether p_paddr of a segment is the "unknown" of some writers beside a
    /// real p_vaddr: all ones.
    pub(super) fn lacks_paddr(&self, p: &Phdr) -> bool {
        let all_ones = if self.is_64 { u64::MAX } else { u32::MAX.into() };
        self.has_kernel_vaddr(p) && p.p_paddr == all_ones
    }
}

/// Parses the headers at the start of `src`.
pub(super) fn parse(src: &dyn ReadAt) -> Result<(Ident, Vec<Phdr>)> {
    let mut ident = [0; 16];
    let n = src.read_at(0, &mut ident).map_err(|source| Error::Io {
        off: 0,
        len: ident.len(),
        source,
    })?;
    if !ident[..n].starts_with(wire::ELFMAG) {
        return Err(Error::UnknownFormat { found: "no ELF magic".into() });
    }
    match (ident[wire::EI_CLASS], ident[wire::EI_DATA]) {
        (wire::ELFCLASS64, wire::ELFDATA2LSB) => parse64::<LittleEndian>(src, false),
        (wire::ELFCLASS64, wire::ELFDATA2MSB) => parse64::<BigEndian>(src, true),
        (wire::ELFCLASS32, wire::ELFDATA2LSB) => parse32::<LittleEndian>(src, false),
        (wire::ELFCLASS32, wire::ELFDATA2MSB) => parse32::<BigEndian>(src, true),
        (class, data) => Err(Error::Field {
            off: 4,
            field: "e_ident",
            found: format!("class {class}, data {data}"),
            expected: "class 1 or 2, data 1 or 2".into(),
        }),
    }
}

macro_rules! parser {
    ($name:ident, $ehdr:ident, $phdr:ident, $shdr:ident, $is_64:literal) => {
        fn $name<O: ByteOrder>(src: &dyn ReadAt, big: bool) -> Result<(Ident, Vec<Phdr>)> {
            let e: wire::$ehdr<O> = read(src, 0, "ELF header")?;
            let size = size_of::<wire::$phdr<O>>();
            let phoff = u64::from(e.e_phoff.get());
            let mut phnum = u32::from(e.e_phnum.get());
            if phnum == u32::from(wire::PN_XNUM) {
                let shoff = u64::from(e.e_shoff.get());
                if shoff == 0 {
                    return Err(Error::Field {
                        off: std::mem::offset_of!(wire::$ehdr<O>, e_shoff) as u64,
                        field: "e_shoff",
                        found: "0".into(),
                        expected: "a section header that holds the number of segments".into(),
                    });
                }
                let s: wire::$shdr<O> = read(src, shoff, "section header")?;
                phnum = s.sh_info.get();
            }
            if phnum > 0 && usize::from(e.e_phentsize.get()) != size {
                return Err(Error::Field {
                    off: std::mem::offset_of!(wire::$ehdr<O>, e_phentsize) as u64,
                    field: "e_phentsize",
                    found: e.e_phentsize.get().to_string(),
                    expected: size.to_string(),
                });
            }
            let mut phdrs = Vec::new();
            each_piece(src, phoff, phnum, size, |piece| {
                let entries = piece.chunks_exact(size);
                let entries = entries.filter_map(|b| wire::$phdr::<O>::read_from_bytes(b).ok());
                phdrs.extend(entries.map(|p| Phdr {
                    p_type: p.p_type.get(),
                    p_flags: p.p_flags.get(),
                    p_offset: p.p_offset.get().into(),
                    p_vaddr: p.p_vaddr.get().into(),
                    p_paddr: p.p_paddr.get().into(),
                    p_filesz: p.p_filesz.get().into(),
                    p_memsz: p.p_memsz.get().into(),
                    p_align: p.p_align.get().into(),
                }));
            })?;
            let ident = Ident {
                is_64: $is_64,
                is_big_endian: big,
                osabi: e.e_ident[wire::EI_OSABI],
                e_type: e.e_type.get(),
                e_machine: e.e_machine.get(),
                phnum,
            };
            Ok((ident, phdrs))
        }
    };
}

parser!(parse64, Elf64Ehdr, Elf64Phdr, Elf64Shdr, true);
parser!(parse32, Elf32Ehdr, Elf32Phdr, Elf32Shdr, false);

fn read<T: FromBytes>(src: &dyn ReadAt, off: u64, part: &'static str) -> Result<T> {
    let mut bytes = [0; 128];
    let size = size_of::<T>();
    let bytes = &mut bytes[..size];
    let n = src.read_at(off, bytes).map_err(|source| Error::Io { off, len: size, source })?;
    let end = off.saturating_add(size as u64);
    T::read_from_bytes(&bytes[..n]).map_err(|_| Error::TooShort { part, end, len: src.len() })
}

/// Program headers read at most: a file with holes can promise 2^32 at no
/// cost. FreeBSD's full cores have some dozens; a view of a fragmented machine
/// may have as many as there are runs of pages.
pub const MOST_PHDRS: u32 = 1 << 22;

/// Shows `show` the table in pieces of whole entries.
fn each_piece(
    src: &dyn ReadAt,
    off: u64,
    count: u32,
    size: usize,
    mut show: impl FnMut(&[u8]),
) -> Result<()> {
    if count > MOST_PHDRS {
        return Err(Error::Unsupported(format!(
            "{count} program headers; {MOST_PHDRS} are read at most"
        )));
    }
    let bytes = u64::from(count) * size as u64;
    let end = off.saturating_add(bytes);
    if end > src.len() {
        return Err(Error::TooShort { part: "program header table", end, len: src.len() });
    }
    let mut piece = vec![0; (size * 4096).min(bytes as usize)];
    let mut at = off;
    while at < end {
        let len = (end - at).min(piece.len() as u64) as usize;
        let io = |source| Error::Io { off: at, len, source };
        src.read_exact_at(at, &mut piece[..len]).map_err(io)?;
        show(&piece[..len]);
        at += len as u64;
    }
    Ok(())
}
