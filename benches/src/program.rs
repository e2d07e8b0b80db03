//! The program itself, for benches that run it.

use std::path::PathBuf;
use std::process::Command;

use crate::record;

/// Where `vmcask` is, built if need be.
pub fn vmcask() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "-p", "vmcask"])
        .status()
        .expect("cargo runs");
    assert!(status.success(), "vmcask can't be built");
    record::dir().with_file_name("release").join("vmcask")
}
