//! The architectures and what FreeBSD's headers fix for each.

use std::fmt;
use std::str::FromStr;

/// An architecture that writes kernel dumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// x86, 64 bits.
    Amd64,
    /// ARMv8, 4 KiB or 16 KiB pages.
    Arm64,
    /// RISC-V, 64 bits, Sv39.
    Riscv,
    /// x86, 32 bits, with or without PAE.
    I386,
    /// ARMv7.
    Arm,
    /// POWER with a hashed page table, big-endian.
    Powerpc64,
    /// The same, little-endian.
    Powerpc64le,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Amd64,
        Self::Arm64,
        Self::Riscv,
        Self::I386,
        Self::Arm,
        Self::Powerpc64,
        Self::Powerpc64le,
    ];

    /// The name used on the command line and in a spec's line of text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Riscv => "riscv",
            Self::I386 => "i386",
            Self::Arm => "arm",
            Self::Powerpc64 => "powerpc64",
            Self::Powerpc64le => "powerpc64le",
        }
    }

    /// `MACHINE_ARCH`, as kernel dump headers carry it.
    pub fn machine_arch(self) -> &'static str {
        match self {
            Self::Arm64 => "aarch64",
            Self::Riscv => "riscv64",
            Self::Arm => "armv7",
            other => other.name(),
        }
    }

    /// The newest minidump version (`MINIDUMP_VERSION`); all down to 1 can be
    /// made.
    pub fn newest_version(self) -> u32 {
        match self {
            Self::Amd64 | Self::Arm64 => 3,
            _ => 2,
        }
    }

    /// Whether this version's header has `dumpavailsize`.
    pub(crate) fn has_dump_avail(self, version: u32) -> bool {
        version >= if self == Self::Amd64 { 3 } else { 2 }
    }

    pub(crate) fn is_big_endian(self) -> bool {
        self == Self::Powerpc64
    }

    /// Whether pointers and ELF files have 32 bits.
    pub(crate) fn is_32_bit(self) -> bool {
        matches!(self, Self::I386 | Self::Arm)
    }

    /// `e_machine` (`sys/sys/elf_common.h`).
    pub(crate) fn e_machine(self) -> u16 {
        match self {
            Self::I386 => 3,
            Self::Powerpc64 | Self::Powerpc64le => 21,
            Self::Arm => 40,
            Self::Amd64 => 62,
            Self::Arm64 => 183,
            Self::Riscv => 243,
        }
    }

    /// `KERNELDUMP_*_VERSION` (`sys/sys/kerneldump.h`).
    pub(crate) fn kerneldump_version(self) -> u32 {
        match self {
            Self::Amd64 | Self::I386 => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Arch {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|a| a.name() == s)
            .ok_or_else(|| format!("{s:?} is no architecture known here"))
    }
}

/// Integers in the target's byte order, put into a buffer at offsets.
pub(crate) struct Fields<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) big: bool,
}

impl Fields<'_> {
    pub(crate) fn u16(&mut self, at: usize, n: u16) -> &mut Self {
        self.put(at, &n.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, at: usize, n: u64) -> &mut Self {
        self.put(at, &(n as u32).to_le_bytes())
    }

    pub(crate) fn u64(&mut self, at: usize, n: u64) -> &mut Self {
        self.put(at, &n.to_le_bytes())
    }

    pub(crate) fn text(&mut self, at: usize, text: &str) -> &mut Self {
        self.bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        self
    }

    fn put(&mut self, at: usize, le: &[u8]) -> &mut Self {
        let to = &mut self.bytes[at..at + le.len()];
        to.copy_from_slice(le);
        if self.big {
            to.reverse();
        }
        self
    }
}
