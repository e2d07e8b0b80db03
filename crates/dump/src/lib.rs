//! What the bytes of a FreeBSD kernel dump mean.
//!
//! [`source`] is the seam everything else hangs on: a parser reads through
//! [`ReadAt`] and doesn't know whether the bytes come from a file, a memory
//! map, an archive or a network.

#![deny(unsafe_code)]

pub mod addr;
pub mod source;

pub use addr::{FileOff, Pfn, PhysAddr, VirtAddr};
pub use source::ReadAt;
