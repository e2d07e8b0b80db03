//! One file a subcommand.

pub mod convert;
pub mod demo;
pub mod generate;
pub mod info;
pub mod read;
pub mod recover;
pub mod verify;

use vmcask_convert::{Dump, Input};

use crate::warn;

/// Tells what is odd about an input that can be read all the same.
fn print_warnings(input: &Input) {
    match &input.dump {
        Dump::Minidump(d) => {
            for w in d.warnings() {
                warn(&input.path, w);
            }
        }
    }
}
