//! From any dump to any format, by plans and pipelines with bounded memory.

#![forbid(unsafe_code)]

pub mod archive;
pub mod error;
mod extents;
pub mod input;
pub mod output;
pub mod restore;

pub use error::{Error, Result};
pub use input::{Dump, Input};
pub use output::OutputFile;
