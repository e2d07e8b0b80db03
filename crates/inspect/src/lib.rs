//! Questions asked of a FreeBSD kernel dump and the image of the kernel that
//! was running: messages, processes, threads, registers, backtraces.
//!
//! What a crashed kernel left is not to be trusted: lists loop, pointers
//! point anywhere, pages are missing. Every walk is bounded and remembers
//! where it was; an answer that isn't whole comes with the reasons
//! ([`Losses`]).
//!
//! ```no_run
//! use vmcask_dump::{KernelImage, VirtMem};
//! use vmcask_inspect::{Kernel, backtrace};
//!
//! fn crash(dump: &dyn VirtMem, image: &KernelImage) -> vmcask_inspect::Result<()> {
//!     let kernel = Kernel::new(dump, image)?;
//!     let list = kernel.threads()?;
//!     for thread in list.threads.iter().filter(|t| t.crashed) {
//!         println!("{}", thread.name());
//!         for frame in backtrace::of(&kernel, list.layout, thread).frames {
//!             println!("{}", frame.address);
//!         }
//!     }
//!     Ok(())
//! }
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
