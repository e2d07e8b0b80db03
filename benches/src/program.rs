//! The program itself, for benches that run it.

use std::path::PathBuf;
use std::process::Command;

use crate::record;

/// Where `vmcask` is, built if need be.
pub fn vmcask() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "-p", "vmcask"]);
    // What cargo has told this bench about itself would make build scripts run
    // again (ring's looks at all of it), and minutes of building follow.
    let of_this_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    for (name, _) in std::env::vars_os() {
        if of_this_package.iter().any(|p| name.to_string_lossy().starts_with(p)) {
            build.env_remove(name);
        }
    }
    let status = build.status().expect("cargo runs");
    assert!(status.success(), "vmcask can't be built");
    record::dir().with_file_name("release").join("vmcask")
}

/// Whether a program is installed.
pub fn have(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success())
}
