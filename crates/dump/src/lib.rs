//! What the bytes of a FreeBSD kernel dump mean.
//!
//! [`source`] is the seam everything else hangs on: a parser reads through
//! [`ReadAt`] and doesn't know whether the bytes come from a file, a memory
//! map, an archive or a network. [`Minidump`] answers where a physical page
//! lies and what a kernel virtual address maps to.
//!
//! ```
//! use std::{path::Path, sync::Arc};
//! use vmcask_dump::{Minidump, VirtAddr, VirtMem, source::FileSource};
//! # use vmcask_synth::{Spec, SynthDump, WriteOptions};
//! # let synth = SynthDump::new(Spec { ram: 64 << 20, dump: 8 << 20, ..Spec::default() })?;
//! # let file = tempfile::NamedTempFile::new()?;
//! # let options = WriteOptions { sparse: true, threads: 1 };
//! # synth.write_to(file.as_file(), options, &|_| {}, &false.into())?;
//! # let path = file.path();
//!
//! // let path = Path::new("/var/crash/vmcore.0");
//! let dump = Minidump::open(Arc::new(FileSource::open(path)?))?;
//! let mut word = [0; 4];
//! dump.read_virt(VirtAddr(0xffffffff80200000), &mut word)?;
//! assert_eq!(&word, b"vmca"); // how a synthetic dump's kernel begins
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(unsafe_code)]

pub mod addr;
pub mod detect;
pub mod device;
pub mod elf;
pub mod error;
pub mod kernel;
pub mod layout;
pub mod minidump;
pub mod phys;
pub mod source;
pub mod virt;
pub mod vm;

pub use addr::{FileOff, Pfn, PhysAddr, VirtAddr};
pub use elf::ElfCore;
pub use error::{Error, Result, Warning};
pub use kernel::KernelImage;
pub use minidump::Minidump;
pub use minidump::header::Arch;
pub use phys::PhysMem;
pub use source::ReadAt;
pub use virt::VirtMem;
