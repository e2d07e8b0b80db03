//! Questions asked of a FreeBSD kernel dump and the image of the kernel that
//! was running: messages, processes, threads, registers, backtraces.
//!
//! What a crashed kernel left is not to be trusted: lists loop, pointers
//! point anywhere, pages are missing. Every walk is bounded and remembers
//! where it was; an answer that isn't whole comes with the reasons
//! ([`Losses`]).
//!
//! ```
//! use std::sync::Arc;
//! use vmcask_dump::{KernelImage, Minidump, ReadAt};
//! use vmcask_inspect::{Kernel, backtrace};
//! # use vmcask_synth::{Spec, SynthDump};
//! # let synth = SynthDump::new(Spec { ram: 64 << 20, dump: 8 << 20, ..Spec::default() })?;
//! # let mut bytes = vec![0; synth.len() as usize];
//! # synth.read_at(0, &mut bytes);
//! # let (dump, image) = (Arc::new(bytes), Arc::new(synth.kernel_image().unwrap()));
//!
//! // `dump` and `image` are files, archives, or bytes in memory.
//! let dump = Minidump::open(dump)?;
//! let image: Arc<dyn ReadAt> = image;
//! let image = KernelImage::open(&image)?;
//! let kernel = Kernel::new(&dump, &image)?;
//! let list = kernel.threads()?;
//! let crashed = list.threads.iter().find(|t| t.crashed).unwrap();
//! let trace = backtrace::of(&kernel, list.layout, crashed);
//! assert!(trace.end.is_whole());
//! for frame in &trace.frames {
//!     println!("{}", frame.address);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod backtrace;
pub mod check;
pub mod error;
mod kernel;
mod machine;
mod memory;
pub mod msgbuf;
mod offsets;
pub mod registers;
pub mod text;
pub mod threads;
pub mod triage;

pub use backtrace::{Backtrace, Frame};
pub use check::ImageCheck;
pub use error::{Error, Loss, Losses, Result};
pub use kernel::Kernel;
pub use machine::Machine;
pub use memory::Memory;
pub use msgbuf::MessageBuffer;
pub use offsets::Offsets;
pub use registers::Registers;
pub use threads::{Thread, ThreadList};
