//! What is timed of page lookups, for `vmcask bench` and for the benches: the
//! loops over random pages ([`lookup`]), and what crash tools ask of a dump
//! ([`workload`]), with the table that finds pages and the way of reading as
//! parameters.
//!
//! Nothing here takes the time; that is the caller's. Everything returns what
//! it found, so that the caller can compare answers before it compares times.

#![forbid(unsafe_code)]

mod error;
pub mod lookup;
mod open;
mod spread;
pub mod workload;

pub use error::{Error, Result};
pub use lookup::Lookup;
pub use open::{Opened, Reading, open};
pub use spread::Spread;
