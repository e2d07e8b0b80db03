//! From any dump to any format, by plans and pipelines with bounded memory.

#![forbid(unsafe_code)]

mod ahead;
pub mod archive;
pub mod container;
pub mod error;
mod extents;
pub mod forward;
pub mod input;
pub mod output;
pub mod restore;
pub mod stream;
pub mod view;

pub use error::{Error, Result, TextDump};
pub use input::{Dump, Input};
pub use output::OutputFile;
pub use view::View;
pub use view::target::Target;
