//! ELF as cores use it: `sys/sys/elf32.h`, `sys/sys/elf64.h`,
//! `sys/sys/elf_common.h` (FreeBSD 15). Generic over byte order.

use zerocopy::byteorder::{ByteOrder, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `e_ident[0..4]`.
pub const ELFMAG: &[u8; 4] = b"\x7fELF";
/// Index of the class in `e_ident`.
pub const EI_CLASS: usize = 4;
/// Index of the byte order in `e_ident`.
pub const EI_DATA: usize = 5;
/// Index of the header version, 1, in `e_ident`.
pub const EI_VERSION: usize = 6;
/// Index of the OS ABI in `e_ident`.
pub const EI_OSABI: usize = 7;
/// 32-bit objects.
pub const ELFCLASS32: u8 = 1;
/// 64-bit objects.
pub const ELFCLASS64: u8 = 2;
/// Little-endian.
pub const ELFDATA2LSB: u8 = 1;
/// Big-endian.
pub const ELFDATA2MSB: u8 = 2;
/// What `dumpsys_generic` writes into cores.
pub const ELFOSABI_STANDALONE: u8 = 255;
/// What FreeBSD's kernel images carry.
pub const ELFOSABI_FREEBSD: u8 = 9;

/// Executable: a kernel image.
pub const ET_EXEC: u16 = 2;
/// Core file.
pub const ET_CORE: u16 = 4;

/// Machines whose dumps are known here.
pub const EM_386: u16 = 3;
/// See [`EM_386`].
pub const EM_PPC64: u16 = 21;
/// See [`EM_386`].
pub const EM_ARM: u16 = 40;
/// See [`EM_386`].
pub const EM_X86_64: u16 = 62;
/// See [`EM_386`].
pub const EM_AARCH64: u16 = 183;
/// See [`EM_386`].
pub const EM_RISCV: u16 = 243;

/// Loadable segment: a run of memory.
pub const PT_LOAD: u32 = 1;
/// Notes.
pub const PT_NOTE: u32 = 4;
/// `PT_DUMP_DELTA` of `sys/arm/include/elf.h`: p_paddr - p_vaddr of the
/// kernel, appended to arm's cores.
pub const PT_DUMP_DELTA: u32 = 0x6fb5_d000;
/// `e_phnum` when the real number stands in section 0's `sh_info`.
pub const PN_XNUM: u16 = 0xffff;

/// Readable.
pub const PF_R: u32 = 4;
/// Writable.
pub const PF_W: u32 = 2;
/// Executable.
pub const PF_X: u32 = 1;

macro_rules! elf {
    ($($(#[$doc:meta])* struct $name:ident { $($field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name<O: ByteOrder> { $(pub $field: $ty,)* }
    )*};
}

elf! {
    /// `Elf32_Ehdr`.
    struct Elf32Ehdr {
        e_ident: [u8; 16],
        e_type: U16<O>,
        e_machine: U16<O>,
        e_version: U32<O>,
        e_entry: U32<O>,
        e_phoff: U32<O>,
        e_shoff: U32<O>,
        e_flags: U32<O>,
        e_ehsize: U16<O>,
        e_phentsize: U16<O>,
        e_phnum: U16<O>,
        e_shentsize: U16<O>,
        e_shnum: U16<O>,
        e_shstrndx: U16<O>,
    }

    /// `Elf64_Ehdr`.
    struct Elf64Ehdr {
        e_ident: [u8; 16],
        e_type: U16<O>,
        e_machine: U16<O>,
        e_version: U32<O>,
        e_entry: U64<O>,
        e_phoff: U64<O>,
        e_shoff: U64<O>,
        e_flags: U32<O>,
        e_ehsize: U16<O>,
        e_phentsize: U16<O>,
        e_phnum: U16<O>,
        e_shentsize: U16<O>,
        e_shnum: U16<O>,
        e_shstrndx: U16<O>,
    }

    /// `Elf32_Phdr`.
    struct Elf32Phdr {
        p_type: U32<O>,
        p_offset: U32<O>,
        p_vaddr: U32<O>,
        p_paddr: U32<O>,
        p_filesz: U32<O>,
        p_memsz: U32<O>,
        p_flags: U32<O>,
        p_align: U32<O>,
    }

    /// `Elf64_Phdr`.
    struct Elf64Phdr {
        p_type: U32<O>,
        p_flags: U32<O>,
        p_offset: U64<O>,
        p_vaddr: U64<O>,
        p_paddr: U64<O>,
        p_filesz: U64<O>,
        p_memsz: U64<O>,
        p_align: U64<O>,
    }

    /// `Elf32_Shdr`.
    struct Elf32Shdr {
        sh_name: U32<O>,
        sh_type: U32<O>,
        sh_flags: U32<O>,
        sh_addr: U32<O>,
        sh_offset: U32<O>,
        sh_size: U32<O>,
        sh_link: U32<O>,
        sh_info: U32<O>,
        sh_addralign: U32<O>,
        sh_entsize: U32<O>,
    }

    /// `Elf64_Shdr`.
    struct Elf64Shdr {
        sh_name: U32<O>,
        sh_type: U32<O>,
        sh_flags: U64<O>,
        sh_addr: U64<O>,
        sh_offset: U64<O>,
        sh_size: U64<O>,
        sh_link: U32<O>,
        sh_info: U32<O>,
        sh_addralign: U64<O>,
        sh_entsize: U64<O>,
    }

    /// `Elf_Note`, before the owner's name and the description, each padded
    /// to 4 bytes.
    struct ElfNote {
        n_namesz: U32<O>,
        n_descsz: U32<O>,
        n_type: U32<O>,
    }
}
