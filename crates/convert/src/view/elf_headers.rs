//! Writing ELF headers, program headers and notes of either class and byte
//! order.

use vmcask_dump::elf::{MOST_PHDRS, Phdr};
use vmcask_dump::layout::elf as wire;
use vmcask_dump::{Arch, ElfCore};
use zerocopy::IntoBytes;
use zerocopy::byteorder::{BigEndian, ByteOrder, LittleEndian};

use crate::error::{Error, Result};

/// Class, byte order and the fields of the ELF header that vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) is_64: bool,
    pub(crate) is_big_endian: bool,
    pub(crate) e_machine: u16,
    pub(crate) osabi: u8,
    /// 1, except that FreeBSD's kernel leaves it 0.
    pub(crate) e_version: u32,
}

impl Shape {
    /// The shape for a core of `arch` whose highest physical address or file
    /// offset is `highest`: 32-bit machines with more than 4 GiB (PAE) need
    /// 64-bit headers.
    pub(crate) fn for_arch(arch: Arch, highest: u64, osabi: u8) -> Self {
        Self {
            is_64: arch.is_64() || highest > u64::from(u32::MAX),
            is_big_endian: arch.is_big_endian(),
            e_machine: arch.e_machine(),
            osabi,
            e_version: 1,
        }
    }

    /// The shape of a core that is there.
    pub(crate) fn of(core: &ElfCore) -> Self {
        let ident = core.ident();
        Self {
            is_64: ident.is_64,
            is_big_endian: ident.is_big_endian,
            e_machine: ident.e_machine,
            osabi: ident.osabi,
            e_version: 1,
        }
    }

    /// Bytes of the ELF header.
    pub(crate) fn ehsize(self) -> u64 {
        if self.is_64 {
            size_of::<wire::Elf64Ehdr<LittleEndian>>() as u64
        } else {
            size_of::<wire::Elf32Ehdr<LittleEndian>>() as u64
        }
    }

    /// Bytes of a program header.
    pub(crate) fn phentsize(self) -> u64 {
        if self.is_64 {
            size_of::<wire::Elf64Phdr<LittleEndian>>() as u64
        } else {
            size_of::<wire::Elf32Phdr<LittleEndian>>() as u64
        }
    }

    /// Bytes of ELF header, `phnum` program headers, and the section header
    /// that holds their number where 16 bits don't.
    pub(crate) fn headers_len(self, phnum: u64) -> u64 {
        let section = if phnum >= wire::PN_XNUM.into() { self.shentsize() } else { 0 };
        self.ehsize() + phnum * self.phentsize() + section
    }

    fn shentsize(self) -> u64 {
        if self.is_64 {
            size_of::<wire::Elf64Shdr<LittleEndian>>() as u64
        } else {
            size_of::<wire::Elf32Shdr<LittleEndian>>() as u64
        }
    }

    /// The bytes of all headers.
    pub(crate) fn headers(self, phdrs: impl Iterator<Item = Phdr>, phnum: u64) -> Result<Vec<u8>> {
        if phnum > u64::from(MOST_PHDRS) {
            return Err(too_many_runs());
        }
        Ok(match (self.is_64, self.is_big_endian) {
            (true, false) => headers64::<LittleEndian>(self, phdrs, phnum),
            (true, true) => headers64::<BigEndian>(self, phdrs, phnum),
            (false, false) => headers32::<LittleEndian>(self, phdrs, phnum),
            (false, true) => headers32::<BigEndian>(self, phdrs, phnum),
        })
    }
}

/// What has more runs than ELF files read here have program headers.
pub(crate) fn too_many_runs() -> Error {
    Error::Unsupported(format!("the memory is in more than {MOST_PHDRS} runs"))
}

macro_rules! writer {
    ($name:ident, $ehdr:ident, $phdr:ident, $shdr:ident, $word:ty, $class:ident) => {
        fn $name<O: ByteOrder>(
            shape: Shape,
            phdrs: impl Iterator<Item = Phdr>,
            phnum: u64,
        ) -> Vec<u8> {
            let extended = phnum >= wire::PN_XNUM.into();
            let mut e_ident = [0; 16];
            e_ident[..4].copy_from_slice(wire::ELFMAG);
            e_ident[wire::EI_CLASS] = wire::$class;
            e_ident[wire::EI_DATA] =
                if shape.is_big_endian { wire::ELFDATA2MSB } else { wire::ELFDATA2LSB };
            e_ident[wire::EI_VERSION] = 1;
            e_ident[wire::EI_OSABI] = shape.osabi;
            let e_shoff = shape.ehsize() + phnum * shape.phentsize();
            let ehdr = wire::$ehdr::<O> {
                e_ident,
                e_type: wire::ET_CORE.into(),
                e_machine: shape.e_machine.into(),
                e_version: shape.e_version.into(),
                e_entry: 0.into(),
                e_phoff: (shape.ehsize() as $word).into(),
                e_shoff: if extended { e_shoff as $word } else { 0 }.into(),
                e_flags: 0.into(),
                e_ehsize: (shape.ehsize() as u16).into(),
                e_phentsize: (shape.phentsize() as u16).into(),
                e_phnum: if extended { wire::PN_XNUM } else { phnum as u16 }.into(),
                e_shentsize: (shape.shentsize() as u16).into(),
                e_shnum: u16::from(extended).into(),
                e_shstrndx: 0.into(),
            };
            let mut out = Vec::with_capacity(shape.headers_len(phnum) as usize);
            out.extend_from_slice(ehdr.as_bytes());
            for p in phdrs {
                let phdr = wire::$phdr::<O> {
                    p_type: p.p_type.into(),
                    p_flags: p.p_flags.into(),
                    p_offset: (p.p_offset as $word).into(),
                    p_vaddr: (p.p_vaddr as $word).into(),
                    p_paddr: (p.p_paddr as $word).into(),
                    p_filesz: (p.p_filesz as $word).into(),
                    p_memsz: (p.p_memsz as $word).into(),
                    p_align: (p.p_align as $word).into(),
                };
                out.extend_from_slice(phdr.as_bytes());
            }
            if extended {
                let section = wire::$shdr::<O> {
                    sh_name: 0.into(),
                    sh_type: 0.into(),
                    sh_flags: 0.into(),
                    sh_addr: 0.into(),
                    sh_offset: 0.into(),
                    sh_size: 0.into(),
                    sh_link: 0.into(),
                    sh_info: (phnum as u32).into(),
                    sh_addralign: 0.into(),
                    sh_entsize: 0.into(),
                };
                out.extend_from_slice(section.as_bytes());
            }
            out
        }
    };
}

writer!(headers64, Elf64Ehdr, Elf64Phdr, Elf64Shdr, u64, ELFCLASS64);
writer!(headers32, Elf32Ehdr, Elf32Phdr, Elf32Shdr, u32, ELFCLASS32);

/// Header and `owner` of a note whose description has `descsz` bytes; the
/// description follows, padded to 4 bytes.
pub(crate) fn note_header(is_big_endian: bool, owner: &[u8], n_type: u32, descsz: u32) -> Vec<u8> {
    fn bytes<O: ByteOrder>(owner: &[u8], n_type: u32, descsz: u32) -> Vec<u8> {
        let header = wire::ElfNote::<O> {
            n_namesz: (owner.len() as u32 + 1).into(),
            n_descsz: descsz.into(),
            n_type: n_type.into(),
        };
        let mut out = header.as_bytes().to_vec();
        out.extend_from_slice(owner);
        // The owner's NUL, and up to a multiple of 4.
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }
    if is_big_endian {
        bytes::<BigEndian>(owner, n_type, descsz)
    } else {
        bytes::<LittleEndian>(owner, n_type, descsz)
    }
}
