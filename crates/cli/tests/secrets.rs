//! A dump holds passwords and keys. Errors and warnings go to logs, terminals
//! and bug reports: they name places and reasons, and quote nothing of memory.

mod common;

use std::ops::Range;
use std::path::Path;

use common::{ok, stderr, vmcask};

/// What memory is full of.
const SECRET: &[u8; 8] = b"hunter2!";

/// How eight bytes of memory might be told: as text, or as numbers.
fn told() -> Vec<String> {
    let long = u64::from_le_bytes(*SECRET);
    let halves = [long & 0xffff_ffff, long >> 32];
    let big = u64::from_be_bytes(*SECRET);
    let mut told = vec!["hunter".into(), "unter2".into()];
    for n in [long, halves[0], halves[1], big, big >> 32, long & 0xffff_ffff_ffff] {
        told.extend([format!("{n:x}"), format!("{n}"), format!("{n:X}")]);
    }
    told
}

/// Runs everything on `file`; nothing of the secret is on standard error.
fn silent(what: &str, file: &Path, kernel: &Path) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let kernel = ["--kernel", kernel.to_str().unwrap()];
    let mut lines = 0;
    for (words, writes, image) in [
        (&["info"][..], false, false),
        (&["info"], false, true),
        (&["verify"], false, false),
        (&["pages"], false, false),
        (&["dmesg"], false, false),
        (&["dmesg"], false, true),
        (&["triage"], false, true),
        (&["ps"], false, true),
        (&["bt", "--all"], false, true),
        (&["read", "--va", "0xffffffff80200000", "8KiB"], false, true),
        (&["read", "--symbol", "allproc"], false, true),
        (&["read", "--pa", "0x1000", "64"], false, false),
        (&["convert", "--to", "archive"], true, false),
        (&["convert", "--to", "elf"], true, false),
        (&["convert", "--to", "kernel-view"], true, true),
        (&["convert", "--to", "minidump", "--minidump-version", "2"], true, true),
        (&["recover"], true, false),
    ] {
        let mut command = vmcask();
        command.args(words).arg(file);
        if writes {
            command.arg(&out);
        }
        if image {
            command.args(kernel);
        }
        let ended = command.output().unwrap();
        let err = stderr(&ended);
        assert!(ended.status.code().is_some_and(|c| matches!(c, 0 | 1 | 3)), "{words:?}: {err}");
        for secret in told() {
            assert!(!err.contains(&secret), "{what}: {words:?} tells {secret}: {err}");
        }
        lines += err.lines().count();
        let _ = std::fs::remove_file(&out);
    }
    lines
}

/// A copy of `bytes` with `range` full of the secret.
fn filled(bytes: &[u8], range: Range<usize>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let end = range.end.min(bytes.len());
    for (byte, secret) in bytes[range.start..end].iter_mut().zip(SECRET.iter().cycle()) {
        *byte = *secret;
    }
    bytes
}

#[test]
fn memory_is_not_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (dump, kernel, bad) = (path("dump"), path("kernel"), path("bad"));
    let spec = ["-q", "gen", "--ram", "64MiB", "--dump", "8MiB", "--procs", "2", "--kernel"];
    ok(vmcask().args(spec).arg(&kernel).arg(&dump));
    let bytes = std::fs::read(&dump).unwrap();
    let info = ok(vmcask().args(["info", "--json"]).arg(&dump));
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    let mut lines = 0;
    let mut try_it = |what: &str, bytes: &[u8]| {
        std::fs::write(&bad, bytes).unwrap();
        lines += silent(what, &bad, &kernel);
    };
    // Not a dump at all.
    try_it("text", &SECRET.repeat(12_500));
    let mut pages = 0..0;
    for part in info["minidump"]["parts"].as_array().unwrap() {
        let number = |key: &str| part[key].as_u64().unwrap() as usize;
        let range = number("offset")..number("offset") + number("bytes");
        let name = part["part"].as_str().unwrap();
        // What the header says of itself is told; it is no memory.
        if name == "header" {
            continue;
        }
        try_it(name, &filled(&bytes, range.clone()));
        if name == "pages" {
            pages = range;
        }
    }
    // Here and there in memory: lists and stacks that lead somewhere, and then
    // to the secret.
    let mut mixed = bytes.clone();
    for at in pages.clone().step_by(4096 * 3) {
        mixed = filled(&mixed, at..at + 4096);
    }
    try_it("every third page", &mixed);
    let mut mixed = bytes.clone();
    for at in pages.clone().step_by(512) {
        mixed[at..at + 8].copy_from_slice(SECRET);
    }
    try_it("every 64th word", &mixed);
    // An archive of memory full of it, damaged.
    std::fs::write(&bad, filled(&bytes, pages.start + 100..pages.end)).unwrap();
    let archive = path("archive");
    ok(vmcask().args(["-q", "convert", "--plain", "--to", "archive"]).arg(&bad).arg(&archive));
    let packed = std::fs::read(&archive).unwrap();
    for at in [0, 64, packed.len() / 2, packed.len() - 200] {
        let mut damaged = packed.clone();
        damaged[at] ^= 0x55;
        try_it("damaged archive", &damaged);
        try_it("archive with the secret in it", &filled(&packed, at..at + 32));
        try_it("cut archive", &packed[..at]);
    }
    println!("{lines} lines on standard error, none of which tells");
    assert!(lines > 100);
}
