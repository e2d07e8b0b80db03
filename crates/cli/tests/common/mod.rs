//! What the tests of the binary share.

#![allow(dead_code)] // each test file uses its own part of this

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A command line of the binary under test.
pub fn vmcask() -> Command {
    Command::new(env!("CARGO_BIN_EXE_vmcask"))
}

/// The same with its address space limited, so that an allocation of what a
/// hostile header asks for fails instead of going unnoticed.
pub fn vmcask_within(mebibytes: u64) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v \"$1\" && shift && exec \"$@\"", "sh"]);
    command.arg((mebibytes * 1024).to_string()).arg(env!("CARGO_BIN_EXE_vmcask"));
    command
}

/// Runs to the end; panics with everything it printed if it didn't succeed.
#[track_caller]
pub fn ok(command: &mut Command) -> Output {
    let out = command.output().expect("the binary runs");
    assert!(
        out.status.success(),
        "{command:?}: {}\nstdout: {}\nstderr: {}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        stderr(&out)
    );
    out
}

/// Runs to the end; panics unless it failed with `code` and one line.
#[track_caller]
pub fn fails(command: &mut Command, code: i32) -> String {
    let out = command.output().expect("the binary runs");
    let err = stderr(&out);
    assert_eq!(out.status.code(), Some(code), "{command:?}\nstderr: {err}");
    assert!(!err.contains("panicked"), "{command:?}\nstderr: {err}");
    if code == 1 {
        let errors = err.lines().filter(|l| !l.starts_with("vmcask: warning: "));
        assert_eq!(errors.count(), 1, "{command:?}: one line\nstderr: {err}");
        assert!(err.lines().all(|l| l.starts_with("vmcask: ")), "stderr: {err}");
    }
    err
}

pub fn stdout(out: &Output) -> String {
    String::from_utf8(out.stdout.clone()).expect("UTF-8")
}

pub fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A small synthetic dump at `dir/name`.
pub fn gen_dump(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    ok(vmcask().args(["-q", "gen", "--ram", "1GiB", "--dump", "32MiB"]).arg(&path));
    path
}

/// A real file of `shared/vmcores` unpacked, or `None` with a remark where it
/// isn't there or the unpacker isn't.
pub fn real(dir: &Path, packed: &str, unpacker: &str) -> Option<PathBuf> {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut paths = folders.map(|folder| folder.join("shared/vmcores").join(packed));
    let Some(packed_path) = paths.find(|path| path.exists()) else {
        eprintln!("skipped: {packed} is not there");
        return None;
    };
    let out = Command::new(unpacker).arg("-dc").arg(&packed_path).output();
    match out {
        Ok(out) if out.status.success() => {
            let path = dir.join(Path::new(packed).file_stem()?);
            std::fs::write(&path, out.stdout).expect("room for an unpacked dump");
            Some(path)
        }
        _ => {
            eprintln!("skipped: {unpacker} can't be run");
            None
        }
    }
}

/// Whether `program` can be run; says `skipped` where not.
pub fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Whether two files hold the same bytes.
#[track_caller]
pub fn assert_same(a: &Path, b: &Path) {
    let (a_bytes, b_bytes) = (std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    assert_eq!(a_bytes.len(), b_bytes.len(), "{} and {}", a.display(), b.display());
    if a_bytes != b_bytes {
        let at = a_bytes.iter().zip(&b_bytes).position(|(x, y)| x != y);
        panic!("{} and {} differ at offset {at:#x?}", a.display(), b.display());
    }
}

/// The names in a folder, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = dir
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
