//! An indexed, compressed archive for kernel crash dumps that any zstd tool
//! can walk. FORMAT.md beside this crate is its description.
//!
//! [`write`] makes one from any [`vmcask_dump::ReadAt`]; [`ArchiveReader`]
//! is a `ReadAt` itself, so that a dump parser doesn't know that it reads an
//! archive. [`verify`] checks every bit of one, [`recover`] gets back what is
//! intact of a damaged or cut one.
//!
//! ```
//! use std::sync::{Arc, atomic::AtomicBool};
//! use vmcask_archive::{ArchiveReader, Plan, WriteOptions, verify, write};
//! use vmcask_dump::ReadAt;
//!
//! let dump: Vec<u8> = (0..1000u64).flat_map(|page| [page as u8 / 3; 4096]).collect();
//! let plan = Plan::whole(dump.len() as u64); // `vmcask_convert::archive::plan` knows dumps
//! let (mut bytes, go_on) = (Vec::new(), AtomicBool::new(false));
//! write(&dump, &plan, &WriteOptions::default(), &mut bytes, &|_| {}, &go_on)?;
//!
//! let archive = ArchiveReader::open(Arc::new(bytes))?;
//! let mut page = [0; 4096];
//! archive.read_exact_at(500 * 4096, &mut page).unwrap();
//! assert_eq!(page, dump[500 * 4096..][..4096]);
//! assert_eq!(archive.stats().zero_cells, 12);
//! assert!(verify(&archive, 2, &|_| {}, &go_on)?.is_intact());
//! # Ok::<(), vmcask_archive::Error>(())
//! ```

#![forbid(unsafe_code)]

mod cell_hash;
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
