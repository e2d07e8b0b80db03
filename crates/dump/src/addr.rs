//! Addresses, page numbers and file offsets: four numbers that must not mix.

use std::fmt;

pub use vmcask_rank::Pfn;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// This address moved up by `bytes`; `None` past 2^64.
            #[inline]
            pub fn checked_add(self, bytes: u64) -> Option<Self> {
                self.0.checked_add(bytes).map(Self)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A physical address in bytes: FreeBSD's `vm_paddr_t`.
    PhysAddr
}
address! {
    /// A virtual address in bytes of the dumped kernel: FreeBSD's `vm_offset_t`.
    VirtAddr
}
address! {
    /// A byte offset in the dump as a file, decompressed.
    FileOff
}

impl PhysAddr {
    /// The number of the page that holds this address, for pages of
    /// `1 << page_shift` bytes.
    #[inline]
    pub fn pfn(self, page_shift: u32) -> Pfn {
        Pfn(self.0 >> page_shift)
    }

    /// The first address of page `pfn`; `None` past 2^64.
    #[inline]
    pub fn of_pfn(pfn: Pfn, page_shift: u32) -> Option<Self> {
        (pfn.0 <= u64::MAX >> page_shift).then(|| Self(pfn.0 << page_shift))
    }
}
