//! From any dump to any format, by plans and pipelines with bounded memory.
//!
//! [`input::open`] tells what a file is, and sees through archives and dump
//! devices. A [`View`] is a dump in another format whose bytes are made as
//! they are read; [`restore`] writes one to an [`OutputFile`], which appears
//! whole or not at all.
//!
//! ```
//! use std::{path::Path, sync::Arc};
//! use vmcask_convert::view::target;
//! use vmcask_convert::{Input, Target};
//! use vmcask_dump::ElfCore;
//! use vmcask_synth::{Spec, SynthDump};
//!
//! # let synth = SynthDump::new(Spec { ram: 64 << 20, dump: 8 << 20, ..Spec::default() })?;
//! # let mut bytes = vec![0; synth.len() as usize];
//! # synth.read_at(0, &mut bytes);
//! // A minidump, in memory here; `input::open` takes a path.
//! let input = Input::of_source(Path::new("vmcore.0"), Arc::new(bytes))?;
//! let elf = target::of(&input, Target::Elf, &target::Options::default())?;
//! assert!(elf.losses.is_empty());
//!
//! let core = ElfCore::open(Arc::new(elf))?;
//! assert_eq!(core.memory_bytes(), 8 << 20);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod ahead;
pub mod archive;
mod behind;
pub mod container;
pub mod error;
mod extents;
pub mod forward;
mod gather;
pub mod input;
pub mod output;
pub mod restore;
pub mod stream;
pub mod view;
mod watched;

pub use error::{Error, Result, TextDump};
pub use input::{Dump, Input};
pub use output::OutputFile;
pub use view::View;
pub use view::target::Target;

/// A thread that panicked has left nothing half-done under this crate's locks.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
