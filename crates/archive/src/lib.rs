//! An indexed, compressed archive for kernel crash dumps that any zstd tool
//! can walk. FORMAT.md beside this crate is its description.
//!
//! [`write`] makes one from any [`vmcask_dump::ReadAt`]; [`ArchiveReader`]
//! is a `ReadAt` itself, so that a dump parser doesn't know that it reads an
//! archive. [`verify`] checks every bit of one, [`recover`] gets back what is
//! intact of a damaged or cut one.

#![forbid(unsafe_code)]

mod checkpoint;
mod digest;
mod error;
mod extents;
pub mod layout;
mod plan;
mod reader;
mod recover;
mod verify;
mod writer;

pub use digest::Digest;
pub use error::{Error, Result};
pub use layout::CELL_SIZE;
pub use plan::{Metadata, MinidumpPages, PageMap, Plan, PtLoad};
pub use reader::sections::is_archive;
pub use reader::{ArchiveReader, Stats};
pub use recover::{Recovered, recover};
pub use verify::{Damage, Report, verify};
pub use writer::{WriteOptions, Written, write};
