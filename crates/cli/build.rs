//! Tells the binary which commit and target it is built from, for
//! `--version`. Without git, or in a tree that git doesn't know, the commit
//! is left out.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=VMCASK_TARGET={target}");
    let commit = commit().unwrap_or_default();
    println!("cargo::rustc-env=VMCASK_COMMIT={commit}");
}

fn commit() -> Option<String> {
    // A source tree unpacked inside another project's repository is not that
    // project's commit.
    if git(&["rev-parse", "--show-prefix"])? != "crates/cli/" {
        return None;
    }
    // HEAD changes when another branch is checked out, its log with each commit.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// What git says, in this crate's folder.
fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok()?;
    out.status.success().then_some(())?;
    Some(String::from_utf8(out.stdout).ok()?.trim_end().to_owned())
}
