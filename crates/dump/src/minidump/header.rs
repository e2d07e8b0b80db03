//! The minidump header of every architecture as one struct.

use zerocopy::FromBytes;

use crate::addr::VirtAddr;
use crate::error::{Error, Result};
use crate::layout::{elf, minidump as wire};

/// Architectures that write minidumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Arch {
    Amd64,
    Arm64,
    Riscv,
    I386,
    Arm,
    Powerpc64,
    Powerpc64Le,
}

impl Arch {
    /// FreeBSD's name of it, `MACHINE_ARCH`-like, as in the dump's magic.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Riscv => "riscv",
            Self::I386 => "i386",
            Self::Arm => "arm",
            Self::Powerpc64 => "powerpc64",
            Self::Powerpc64Le => "powerpc64le",
        }
    }

    /// The newest minidump version this crate reads. Older ones down to 1
    /// are read too.
    pub fn newest_version(self) -> u32 {
        match self {
            Self::Amd64 | Self::Arm64 => 3,
            _ => 2,
        }
    }

    /// The first version whose header has `dumpavailsize`.
    pub fn dumpavail_since(self) -> u32 {
        if self == Self::Amd64 { 3 } else { 2 }
    }

    /// The machine that an ELF file's `e_machine` and byte order name.
    pub fn of_elf(e_machine: u16, is_big_endian: bool) -> Option<Self> {
        Some(match e_machine {
            elf::EM_X86_64 => Self::Amd64,
            elf::EM_AARCH64 => Self::Arm64,
            elf::EM_RISCV => Self::Riscv,
            elf::EM_386 => Self::I386,
            elf::EM_ARM => Self::Arm,
            elf::EM_PPC64 if is_big_endian => Self::Powerpc64,
            elf::EM_PPC64 => Self::Powerpc64Le,
            _ => return None,
        })
    }

    /// `e_machine` of its ELF files.
    pub fn e_machine(self) -> u16 {
        match self {
            Self::Amd64 => elf::EM_X86_64,
            Self::Arm64 => elf::EM_AARCH64,
            Self::Riscv => elf::EM_RISCV,
            Self::I386 => elf::EM_386,
            Self::Arm => elf::EM_ARM,
            Self::Powerpc64 | Self::Powerpc64Le => elf::EM_PPC64,
        }
    }

    /// Whether its ELF files are 64-bit ones.
    pub fn is_64(self) -> bool {
        !matches!(self, Self::I386 | Self::Arm)
    }

    /// Whether integers in the dump are big-endian.
    pub fn is_big_endian(self) -> bool {
        self == Self::Powerpc64
    }
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How the kernel's virtual addresses map to physical ones, as far as the
/// header says. Field names are those of the C structs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KernelMap {
    /// PDEs (version 2 and 3) or PTEs (version 1) from `kernbase` on.
    Amd64 { dmapbase: VirtAddr, dmapend: VirtAddr },
    /// L3 entries from `kernbase` on.
    Arm64 { dmapphys: u64, dmapbase: VirtAddr, dmapend: VirtAddr, flags: u32 },
    /// L3 entries from `kernbase` on.
    Riscv { dmapphys: u64, dmapbase: VirtAddr, dmapend: VirtAddr },
    /// PTEs from `kernbase` on, 8 bytes each with `paemode`, else 4.
    I386 { paemode: bool },
    /// Second-level entries; not translated here.
    Arm { arch: u32, mmuformat: u32 },
    /// Hash table entries; not translated here.
    Powerpc64 {
        mmu_name: [u8; 32],
        kernend: VirtAddr,
        dmapbase: VirtAddr,
        dmapend: VirtAddr,
        hw_direct_map: u32,
        startkernel: u64,
        endkernel: u64,
    },
}

/// A minidump's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who wrote it.
    pub arch: Arch,
    /// Minidump version, 1 to [`Arch::newest_version`].
    pub version: u32,
    /// Bytes of message buffer, before rounding up to a page.
    pub msgbufsize: u32,
    /// Bytes of bitmap, before rounding up to a page.
    pub bitmapsize: u32,
    /// Bytes of the pmap part (i386 and arm call it `ptesize`).
    pub pmapsize: u32,
    /// Bytes of dump_avail; 0 in versions that don't have it.
    pub dumpavailsize: u32,
    /// The lowest virtual address that pmap covers. On amd64 this is
    /// VM_MIN_KERNEL_ADDRESS, not KERNBASE.
    pub kernbase: VirtAddr,
    /// The rest, by architecture.
    pub map: KernelMap,
}

/// Bytes of the longest header (powerpc64's).
pub const MAX_HEADER_LEN: usize = size_of::<wire::Powerpc64>();

impl Header {
    /// Whether a file that begins with these bytes is a minidump.
    pub fn is_minidump(prefix: &[u8]) -> bool {
        prefix.starts_with(wire::MAGIC_PREFIX)
    }

    /// Parses and checks a header from the first bytes of a dump
    /// ([`MAX_HEADER_LEN`] of them, fewer where the file is shorter).
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let name = magic(bytes)?;
        let header = match name {
            wire::MAGIC_AMD64 => {
                let h = raw::<wire::Amd64>(bytes)?;
                Self {
                    arch: Arch::Amd64,
                    version: h.version.get(),
                    msgbufsize: h.msgbufsize.get(),
                    bitmapsize: h.bitmapsize.get(),
                    pmapsize: h.pmapsize.get(),
                    dumpavailsize: h.dumpavailsize.get(),
                    kernbase: VirtAddr(h.kernbase.get()),
                    map: KernelMap::Amd64 {
                        dmapbase: VirtAddr(h.dmapbase.get()),
                        dmapend: VirtAddr(h.dmapend.get()),
                    },
                }
            }
            wire::MAGIC_ARM64 => {
                let h = raw::<wire::Arm64>(bytes)?;
                let version = h.version.get();
                Self {
                    arch: Arch::Arm64,
                    version,
                    msgbufsize: h.msgbufsize.get(),
                    bitmapsize: h.bitmapsize.get(),
                    pmapsize: h.pmapsize.get(),
                    dumpavailsize: h.dumpavailsize.get(),
                    kernbase: VirtAddr(h.kernbase.get()),
                    map: KernelMap::Arm64 {
                        dmapphys: h.dmapphys.get(),
                        dmapbase: VirtAddr(h.dmapbase.get()),
                        dmapend: VirtAddr(h.dmapend.get()),
                        flags: if version >= 3 { h.flags.get() } else { 0 },
                    },
                }
            }
            wire::MAGIC_RISCV => {
                let h = raw::<wire::Riscv>(bytes)?;
                Self {
                    arch: Arch::Riscv,
                    version: h.version.get(),
                    msgbufsize: h.msgbufsize.get(),
                    bitmapsize: h.bitmapsize.get(),
                    pmapsize: h.pmapsize.get(),
                    dumpavailsize: h.dumpavailsize.get(),
                    kernbase: VirtAddr(h.kernbase.get()),
                    map: KernelMap::Riscv {
                        dmapphys: h.dmapphys.get(),
                        dmapbase: VirtAddr(h.dmapbase.get()),
                        dmapend: VirtAddr(h.dmapend.get()),
                    },
                }
            }
            wire::MAGIC_I386 => {
                let h = raw::<wire::I386>(bytes)?;
                Self {
                    arch: Arch::I386,
                    version: h.version.get(),
                    msgbufsize: h.msgbufsize.get(),
                    bitmapsize: h.bitmapsize.get(),
                    pmapsize: h.ptesize.get(),
                    dumpavailsize: h.dumpavailsize.get(),
                    kernbase: VirtAddr(h.kernbase.get().into()),
                    map: KernelMap::I386 { paemode: h.paemode.get() != 0 },
                }
            }
            wire::MAGIC_ARM => {
                let h = raw::<wire::Arm>(bytes)?;
                Self {
                    arch: Arch::Arm,
                    version: h.version.get(),
                    msgbufsize: h.msgbufsize.get(),
                    bitmapsize: h.bitmapsize.get(),
                    pmapsize: h.ptesize.get(),
                    dumpavailsize: h.dumpavailsize.get(),
                    kernbase: VirtAddr(h.kernbase.get().into()),
                    map: KernelMap::Arm { arch: h.arch.get(), mmuformat: h.mmuformat.get() },
                }
            }
            wire::MAGIC_POWERPC64 => powerpc64(bytes)?,
            other => {
                return Err(Error::Field {
                    off: 0,
                    field: "magic",
                    found: format!("{:?}", String::from_utf8_lossy(other)),
                    expected: "a minidump of amd64, arm64, riscv, i386, arm or powerpc64".into(),
                });
            }
        };
        header.checked()
    }

    fn checked(mut self) -> Result<Self> {
        let newest = self.arch.newest_version();
        if self.version == 0 || self.version > newest {
            let off = match self.arch {
                Arch::Powerpc64 | Arch::Powerpc64Le => 64,
                _ => 24,
            };
            return Err(Error::Field {
                off,
                field: "version",
                found: self.version.to_string(),
                expected: format!("1 to {newest} for {}", self.arch),
            });
        }
        if self.version < self.arch.dumpavail_since() {
            self.dumpavailsize = 0;
        }
        if let KernelMap::Arm64 { flags, .. } = self.map {
            let ps = flags & wire::MINIDUMP_FLAG_PS_MASK;
            if ps > wire::MINIDUMP_FLAG_PS_16K {
                return Err(Error::Field {
                    off: 76,
                    field: "flags",
                    found: format!("page size {ps}"),
                    expected: "0 (4 KiB pages) or 1 (16 KiB pages)".into(),
                });
            }
        }
        Ok(self)
    }

    /// log2 of the page size in bytes: 12, or 14 on arm64 with 16 KiB pages.
    pub fn page_shift(&self) -> u32 {
        match self.map {
            KernelMap::Arm64 { flags, .. }
                if flags & wire::MINIDUMP_FLAG_PS_MASK == wire::MINIDUMP_FLAG_PS_16K =>
            {
                14
            }
            _ => 12,
        }
    }

    /// The direct map, where the architecture has one: `[base, end)` and the
    /// physical address that `base` maps to.
    pub fn direct_map(&self) -> Option<(VirtAddr, VirtAddr, u64)> {
        let (base, end, phys) = match self.map {
            KernelMap::Amd64 { dmapbase, dmapend } => (dmapbase, dmapend, 0),
            KernelMap::Arm64 { dmapphys, dmapbase, dmapend, .. }
            | KernelMap::Riscv { dmapphys, dmapbase, dmapend } => (dmapbase, dmapend, dmapphys),
            KernelMap::Powerpc64 { dmapbase, dmapend, hw_direct_map, .. } if hw_direct_map != 0 => {
                (dmapbase, dmapend, 0)
            }
            _ => return None,
        };
        Some((base, end, phys))
    }
}

/// The magic up to its first NUL.
fn magic(bytes: &[u8]) -> Result<&[u8]> {
    let field = &bytes[..bytes.len().min(32)];
    let len = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    if Header::is_minidump(field) {
        Ok(&field[..len])
    } else {
        Err(Error::UnknownFormat { found: "no minidump magic".into() })
    }
}

fn raw<T: FromBytes>(bytes: &[u8]) -> Result<T> {
    T::read_from_prefix(bytes).map(|(h, _)| h).map_err(|_| Error::TooShort {
        part: "header",
        end: size_of::<T>() as u64,
        len: bytes.len() as u64,
    })
}

/// Both byte orders share one magic; the version, 1 or 2, tells them apart.
fn powerpc64(bytes: &[u8]) -> Result<Header> {
    let big = raw::<wire::Powerpc64>(bytes)?;
    let little = raw::<wire::Powerpc64Le>(bytes)?;
    macro_rules! header {
        ($h:expr, $arch:expr) => {
            Header {
                arch: $arch,
                version: $h.version.get(),
                msgbufsize: $h.msgbufsize.get(),
                bitmapsize: $h.bitmapsize.get(),
                pmapsize: $h.pmapsize.get(),
                dumpavailsize: $h.dumpavailsize.get(),
                kernbase: VirtAddr($h.kernbase.get()),
                map: KernelMap::Powerpc64 {
                    mmu_name: $h.mmu_name,
                    kernend: VirtAddr($h.kernend.get()),
                    dmapbase: VirtAddr($h.dmapbase.get()),
                    dmapend: VirtAddr($h.dmapend.get()),
                    hw_direct_map: $h.hw_direct_map.get(),
                    startkernel: $h.startkernel.get(),
                    endkernel: $h.endkernel.get(),
                },
            }
        };
    }
    Ok(if (1..=2).contains(&little.version.get()) {
        header!(little, Arch::Powerpc64Le)
    } else {
        header!(big, Arch::Powerpc64)
    })
}
