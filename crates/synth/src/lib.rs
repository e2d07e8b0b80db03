//! Synthetic FreeBSD kernel dumps, reproducible from a line of text.
//!
//! A [`SynthDump`] is a pure function from [`Spec`] to bytes: any byte of the
//! dump can be had without making the rest, and the same spec gives the same
//! bytes on every machine and with any number of threads. A page's content
//! depends on nothing but the seed and its physical address.
//!
//! Layouts stand here once more, written from FreeBSD's headers: this crate
//! shares no code with the readers it tests, so that one mistake can't hide
//! in both.
//!
//! ```
//! use vmcask_synth::{Spec, SynthDump};
//!
//! let dump = SynthDump::new(Spec { ram: 64 << 20, dump: 8 << 20, ..Spec::default() })?;
//! let mut magic = [0; 22];
//! dump.read_at(0, &mut magic);
//! assert_eq!(&magic, b"minidump FreeBSD/amd64");
//! # Ok::<(), vmcask_synth::Error>(())
//! ```

#![forbid(unsafe_code)]

mod arch;
mod content;
mod defect;
mod device;
mod dump;
mod elf;
mod error;
mod kernel;
mod msgbuf;
mod program;
mod ranges;
mod runs;
mod spec;
mod truth;
mod write;

pub use arch::Arch;
pub use defect::Defect;
pub use device::{Compression, DeviceSpec};
pub use dump::SynthDump;
pub use error::Error;
pub use program::{Frame, Thread};
pub use spec::{Format, Profile, Spec};
pub use truth::{MappedPage, Truth};
pub use write::WriteOptions;
