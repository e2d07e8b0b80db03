//! The header on a raw dump device: `sys/sys/kerneldump.h`. Version 1 to
//! 2016 (FreeBSD 11), 2 with encryption (12-CURRENT), 3 with compression
//! (early 2018), 4 since (FreeBSD 12). All integers are big-endian.

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `KERNELDUMPMAGIC`
pub const KERNELDUMPMAGIC: &[u8] = b"FreeBSD Kernel Dump";
/// `TEXTDUMPMAGIC`
pub const TEXTDUMPMAGIC: &[u8] = b"FreeBSD Text Dump";
/// `KERNELDUMPMAGIC_CLEARED`: savecore has already saved this one.
pub const KERNELDUMPMAGIC_CLEARED: &[u8] = b"Cleared Kernel Dump";
/// `KERNELDUMP_COMP_NONE`
pub const KERNELDUMP_COMP_NONE: u8 = 0;
/// `KERNELDUMP_COMP_GZIP`
pub const KERNELDUMP_COMP_GZIP: u8 = 1;
/// `KERNELDUMP_COMP_ZSTD`
pub const KERNELDUMP_COMP_ZSTD: u8 = 2;
/// Bytes of a header of any version.
pub const HEADER_LEN: usize = 512;

macro_rules! header {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name {
            pub magic: [u8; 20],
            pub architecture: [u8; 12],
            pub version: U32,
            pub architectureversion: U32,
            pub dumplength: U64,
            $(pub $field: $ty,)*
            pub parity: U32,
        }
        const _: () = assert!(size_of::<$name>() == HEADER_LEN);
    };
}

header! {
    /// `struct kerneldumpheader`, version 1.
    KernelDumpHeaderV1 {
        dumptime: U64,
        blocksize: U32,
        hostname: [u8; 64],
        versionstring: [u8; 192],
        panicstring: [u8; 192],
    }
}

header! {
    /// `struct kerneldumpheader`, version 2.
    KernelDumpHeaderV2 {
        dumptime: U64,
        dumpkeysize: U32,
        blocksize: U32,
        hostname: [u8; 64],
        versionstring: [u8; 192],
        panicstring: [u8; 188],
    }
}

header! {
    /// `struct kerneldumpheader`, version 3: the only one whose extent stands
    /// before the time.
    KernelDumpHeaderV3 {
        dumpextent: U64,
        dumptime: U64,
        dumpkeysize: U32,
        blocksize: U32,
        compression: u8,
        hostname: [u8; 64],
        versionstring: [u8; 192],
        panicstring: [u8; 179],
    }
}

header! {
    /// `struct kerneldumpheader`, version 4.
    KernelDumpHeaderV4 {
        dumptime: U64,
        dumpkeysize: U32,
        blocksize: U32,
        hostname: [u8; 64],
        versionstring: [u8; 192],
        panicstring: [u8; 175],
        compression: u8,
        dumpextent: U64,
        unused: [u8; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn offsets_of_the_headers() {
        assert_eq!(offset_of!(KernelDumpHeaderV1, hostname), 60);
        assert_eq!(offset_of!(KernelDumpHeaderV1, versionstring), 124);
        assert_eq!(offset_of!(KernelDumpHeaderV1, panicstring), 316);
        assert_eq!(offset_of!(KernelDumpHeaderV4, dumptime), 48);
        assert_eq!(offset_of!(KernelDumpHeaderV4, blocksize), 60);
        assert_eq!(offset_of!(KernelDumpHeaderV4, versionstring), 128);
        assert_eq!(offset_of!(KernelDumpHeaderV4, panicstring), 320);
        assert_eq!(offset_of!(KernelDumpHeaderV4, compression), 495);
        assert_eq!(offset_of!(KernelDumpHeaderV4, dumpextent), 496);
        assert_eq!(offset_of!(KernelDumpHeaderV4, parity), 508);
    }
}
