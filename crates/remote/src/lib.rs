//! Dumps and archives that lie in an object store or on a web server.
//!
//! [`Location`] is a parsed URL, [`RemoteSource`] its bytes as a
//! [`ReadAt`](vmcask_dump::ReadAt): whoever parses dumps or archives needn't
//! know. [`Upload`] writes an object that appears whole or not at all.
//!
//! Credentials come from the environment, or from the files that the stores'
//! own tools read; no error and no `Display` of this crate holds any, nor the
//! query of a signed URL.
//!
//! Calls block: they may be made from any thread but those of an asynchronous
//! runtime.
//!
//! ```no_run
//! use vmcask_dump::ReadAt;
//! use vmcask_remote::{Location, Options, RemoteSource};
//!
//! let at = Location::parse("s3://dumps/vmcore.0.cask").expect("a URL")?;
//! let source = RemoteSource::open(&at, &Options::default())?;
//! let mut magic = [0; 8];
//! source.read_exact_at(0, &mut magic)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod blocks;
mod error;
mod location;
mod meter;
mod profile;
mod runtime;
mod source;
mod store;
mod upload;

pub use error::{Error, Result};
pub use location::Location;
pub use meter::{Stats, stats};
pub use source::RemoteSource;
pub use store::{Options, exists, length};
pub use upload::Upload;
