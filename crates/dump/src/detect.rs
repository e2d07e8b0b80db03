//! What a file holds, told from its first bytes and never from its name.

use crate::minidump::Header;

/// Bytes that [`detect`] wants to see.
pub const PREFIX_LEN: usize = 32;

/// Formats that can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A FreeBSD minidump.
    Minidump,
    /// An ELF file; a core or not.
    Elf,
    /// A gzip stream (savecore's `vmcore.N.gz`).
    Gzip,
    /// A zstd stream (savecore's `vmcore.N.zst`).
    Zstd,
    /// A bzip2 stream.
    Bzip2,
    /// An xz stream: known to say so, not read.
    Xz,
    /// Nothing known.
    Unknown,
}

impl Format {
    /// What to call it in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minidump => "a minidump",
            Self::Elf => "an ELF file",
            Self::Gzip => "gzip data",
            Self::Zstd => "zstd data",
            Self::Bzip2 => "bzip2 data",
            Self::Xz => "xz data, which isn't read here: unpack it first (`xz -d`)",
            Self::Unknown => "of no format known here",
        }
    }
}

/// Looks at the first [`PREFIX_LEN`] bytes of a file, fewer if it is shorter.
pub fn detect(prefix: &[u8]) -> Format {
    if Header::is_minidump(prefix) {
        Format::Minidump
    } else if prefix.starts_with(b"\x7fELF") {
        Format::Elf
    } else if prefix.starts_with(b"\x1f\x8b") {
        Format::Gzip
    } else if prefix.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Format::Zstd
    } else if prefix.starts_with(b"BZh") {
        Format::Bzip2
    } else if prefix.starts_with(b"\xfd7zXZ\0") {
        Format::Xz
    } else {
        Format::Unknown
    }
}
