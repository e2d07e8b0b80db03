//! One file a subcommand.

pub mod bt;
pub mod convert;
pub mod demo;
pub mod dmesg;
pub mod generate;
pub mod info;
mod kernel;
pub mod pages;
pub mod ps;
pub mod read;
pub mod recover;
pub mod triage;
pub mod verify;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use vmcask_convert::Input;
use vmcask_dump::KernelImage;
use vmcask_dump::ReadAt;
use vmcask_dump::source::FileSource;

use crate::warn;

/// Tells what is odd about an input that can be read all the same.
fn print_warnings(input: &Input) {
    for w in input.warnings() {
        warn(&input.path, w);
    }
}

/// Opens the kernel image and tells the dump, which may need it to find its
/// page tables.
fn use_kernel(input: &mut Input, path: Option<&Path>) -> Result<Option<KernelImage>> {
    let Some(path) = path else { return Ok(None) };
    let file: Arc<dyn ReadAt> =
        Arc::new(FileSource::open(path).with_context(|| path.display().to_string())?);
    let kernel = KernelImage::open(&file).with_context(|| path.display().to_string())?;
    if input.stream.is_none() {
        input.dump.use_kernel(&kernel).with_context(|| path.display().to_string())?;
    }
    Ok(Some(kernel))
}
