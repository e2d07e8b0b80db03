//! One file a subcommand.

pub mod bench;
pub mod bt;
pub mod convert;
pub mod demo;
pub mod dmesg;
pub mod generate;
pub mod info;
mod kernel;
pub mod manual;
pub mod mount;
pub mod pages;
pub mod ps;
pub mod read;
pub mod recover;
pub mod triage;
pub mod verify;

use std::path::Path;

use anyhow::Result;
use vmcask_convert::Input;
use vmcask_dump::KernelImage;

use crate::named::Named;
use crate::progress::spin;
use crate::warn;

/// Tells what is odd about an input that can be read all the same.
fn print_warnings(input: &Input) {
    for w in input.warnings() {
        warn(&input.path, w);
    }
}

/// Opens the kernel image, where one is named, and tells the dump.
fn use_kernel(input: &mut Input, path: Option<&Named>) -> Result<Option<KernelImage>> {
    let open = |path| spin("looking for page tables", || kernel::open_image(input, path));
    path.map(open).transpose()
}

/// The rename at the end would put the output in the place of its input.
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
