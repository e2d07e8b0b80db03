//! What the fuzzers do with their input. libFuzzer's wrappers are in
//! `tools/fuzz`; the test `smoke` calls the same functions on the stable
//! toolchain.
//!
//! A target takes any bytes and must come back: no panic, no endless loop, no
//! memory beyond what the input justifies, no answer that contradicts another.

#![forbid(unsafe_code)]

mod archives;
mod base;
mod chains;
mod containers;
mod dumps;
mod kernels;
mod model;
mod mutant;
mod ranks;

#[allow(missing_docs, clippy::pedantic)]
#[path = "../../../crates/convert/tests/build/mod.rs"]
mod build;
#[allow(missing_docs, clippy::pedantic)]
#[path = "../../../crates/archive/tests/common/seal.rs"]
mod seal;

use std::fmt::Display;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name in `tools/fuzz`.
    pub name: &'static str,
    /// Takes one input.
    pub run: fn(&[u8]),
    /// Makes the inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 10] = [
    Target { name: "minidump", run: dumps::minidump, seeds: dumps::minidump_seeds },
    Target { name: "elf_core", run: dumps::elf_core, seeds: dumps::elf_core_seeds },
    Target { name: "device", run: dumps::device, seeds: dumps::device_seeds },
    Target { name: "kernel", run: kernels::kernel, seeds: kernels::seeds },
    Target { name: "container", run: containers::container, seeds: containers::seeds },
    Target { name: "archive", run: archives::archive, seeds: archives::seeds },
    Target { name: "recover", run: archives::recover, seeds: archives::seeds },
    Target { name: "convert", run: chains::convert, seeds: chains::seeds },
    Target { name: "model", run: model::model, seeds: model::seeds },
    Target { name: "rank", run: ranks::rank, seeds: ranks::seeds },
];

/// The target called `name`.
///
/// # Panics
/// Where there is none.
pub fn target(name: &str) -> Target {
    TARGETS.into_iter().find(|t| t.name == name).expect("a target of this name")
}

/// What a user would see of a dump's content in a message must not move the
/// cursor.
fn shown(what: &dyn Display) {
    let text = what.to_string();
    assert!(!text.chars().any(char::is_control), "a message with control characters: {text:?}");
}

/// The numbers that an input is made of, to ask questions with.
fn words(data: &[u8]) -> impl Iterator<Item = u64> + '_ {
    data.chunks(8).take(32).map(|chunk| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(bytes)
    })
}
