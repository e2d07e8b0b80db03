//! `struct minidumphdr` of every architecture, from
//! `sys/<arch>/include/minidump.h` (FreeBSD 15), and for powerpc64
//! `sys/powerpc/include/minidump.h`.
//!
//! Each struct is the newest version's; older versions lack the fields after
//! the point that a comment marks, and their bytes there mean nothing (the
//! kernel zero-fills the header page). Integers stand in the target's byte
//! order with natural alignment; `pad` fields are the compiler's padding.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `magic` is a NUL-padded string of this many bytes (powerpc64: 32).
pub const MINIDUMP_MAGIC_LEN: usize = 24;

/// `MINIDUMP_MAGIC` of `sys/amd64/include/minidump.h`.
pub const MAGIC_AMD64: &[u8] = b"minidump FreeBSD/amd64";
/// `MINIDUMP_MAGIC` of `sys/arm64/include/minidump.h`.
pub const MAGIC_ARM64: &[u8] = b"minidump FreeBSD/arm64";
/// `MINIDUMP_MAGIC` of `sys/riscv/include/minidump.h`.
pub const MAGIC_RISCV: &[u8] = b"minidump FreeBSD/riscv";
/// `MINIDUMP_MAGIC` of `sys/i386/include/minidump.h`.
pub const MAGIC_I386: &[u8] = b"minidump FreeBSD/i386";
/// `MINIDUMP_MAGIC` of `sys/arm/include/minidump.h`.
pub const MAGIC_ARM: &[u8] = b"minidump FreeBSD/arm";
/// `MINIDUMP_MAGIC` of `sys/powerpc/include/minidump.h`, both byte orders.
pub const MAGIC_POWERPC64: &[u8] = b"minidump FreeBSD/powerpc64";
/// What all of them begin with.
pub const MAGIC_PREFIX: &[u8] = b"minidump FreeBSD/";

/// `MINIDUMP_FLAG_PS_MASK` of `sys/arm64/include/minidump.h`, version 3.
pub const MINIDUMP_FLAG_PS_MASK: u32 = 3;
/// `MINIDUMP_FLAG_PS_4K`.
pub const MINIDUMP_FLAG_PS_4K: u32 = 0;
/// `MINIDUMP_FLAG_PS_16K`.
pub const MINIDUMP_FLAG_PS_16K: u32 = 1;

macro_rules! minidumphdr {
    ($($(#[$doc:meta])* struct $name:ident { $($field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $ty,)* }
    )*};
}

use zerocopy::big_endian as be;
use zerocopy::little_endian::{U32, U64};

minidumphdr! {
    /// `sys/amd64/include/minidump.h`, version 3. Version 1 stores PTEs in
    /// the pmap part, 2 and 3 store PDEs; `dumpavailsize` is version 3's.
    struct Amd64 {
        magic: [u8; MINIDUMP_MAGIC_LEN],
        version: U32,
        msgbufsize: U32,
        bitmapsize: U32,
        pmapsize: U32,
        kernbase: U64,
        dmapbase: U64,
        dmapend: U64,
        dumpavailsize: U32,
        pad: [u8; 4],
    }

    /// `sys/arm64/include/minidump.h`, version 3. `dumpavailsize` came with
    /// version 2, `flags` (the page size) with version 3.
    struct Arm64 {
        magic: [u8; MINIDUMP_MAGIC_LEN],
        version: U32,
        msgbufsize: U32,
        bitmapsize: U32,
        pmapsize: U32,
        kernbase: U64,
        dmapphys: U64,
        dmapbase: U64,
        dmapend: U64,
        dumpavailsize: U32,
        flags: U32,
    }

    /// `sys/riscv/include/minidump.h`, version 2 (1 lacks `dumpavailsize`).
    struct Riscv {
        magic: [u8; MINIDUMP_MAGIC_LEN],
        version: U32,
        msgbufsize: U32,
        bitmapsize: U32,
        pmapsize: U32,
        kernbase: U64,
        dmapphys: U64,
        dmapbase: U64,
        dmapend: U64,
        dumpavailsize: U32,
        pad: [u8; 4],
    }

    /// `sys/i386/include/minidump.h`, version 2 (1 lacks `dumpavailsize`).
    struct I386 {
        magic: [u8; MINIDUMP_MAGIC_LEN],
        version: U32,
        msgbufsize: U32,
        bitmapsize: U32,
        ptesize: U32,
        kernbase: U32,
        paemode: U32,
        dumpavailsize: U32,
    }

    /// `sys/arm/include/minidump.h`, version 2 (1 lacks `dumpavailsize`).
    struct Arm {
        magic: [u8; MINIDUMP_MAGIC_LEN],
        version: U32,
        msgbufsize: U32,
        bitmapsize: U32,
        ptesize: U32,
        kernbase: U32,
        arch: U32,
        mmuformat: U32,
        dumpavailsize: U32,
    }

    /// `sys/powerpc/include/minidump.h`, version 2 (1 lacks
    /// `dumpavailsize`), big-endian kernels.
    struct Powerpc64 {
        magic: [u8; 32],
        mmu_name: [u8; 32],
        version: be::U32,
        msgbufsize: be::U32,
        bitmapsize: be::U32,
        pmapsize: be::U32,
        kernbase: be::U64,
        kernend: be::U64,
        dmapbase: be::U64,
        dmapend: be::U64,
        hw_direct_map: be::U32,
        pad0: [u8; 4],
        startkernel: be::U64,
        endkernel: be::U64,
        dumpavailsize: be::U32,
        pad1: [u8; 4],
    }

    /// The same header from a powerpc64le kernel.
    struct Powerpc64Le {
        magic: [u8; 32],
        mmu_name: [u8; 32],
        version: U32,
        msgbufsize: U32,
        bitmapsize: U32,
        pmapsize: U32,
        kernbase: U64,
        kernend: U64,
        dmapbase: U64,
        dmapend: U64,
        hw_direct_map: U32,
        pad0: [u8; 4],
        startkernel: U64,
        endkernel: U64,
        dumpavailsize: U32,
        pad1: [u8; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    // Sizes and offsets as the C compilers of the targets lay them out.
    #[test]
    fn layouts_match_the_headers() {
        assert_eq!(size_of::<Amd64>(), 72);
        assert_eq!(offset_of!(Amd64, kernbase), 40);
        assert_eq!(offset_of!(Amd64, dumpavailsize), 64);
        assert_eq!(size_of::<Arm64>(), 80);
        assert_eq!(offset_of!(Arm64, dumpavailsize), 72);
        assert_eq!(offset_of!(Arm64, flags), 76);
        assert_eq!(size_of::<Riscv>(), 80);
        assert_eq!(offset_of!(Riscv, dumpavailsize), 72);
        assert_eq!(size_of::<I386>(), 52);
        assert_eq!(offset_of!(I386, dumpavailsize), 48);
        assert_eq!(size_of::<Arm>(), 56);
        assert_eq!(offset_of!(Arm, dumpavailsize), 52);
        assert_eq!(size_of::<Powerpc64>(), 144);
        assert_eq!(offset_of!(Powerpc64, version), 64);
        assert_eq!(offset_of!(Powerpc64, startkernel), 120);
        assert_eq!(offset_of!(Powerpc64, dumpavailsize), 136);
        assert_eq!(size_of::<Powerpc64Le>(), 144);
    }
}
