//! The command line: exit codes, reading memory, JSON.

mod common;

use common::{fails, gen_dump, ok, stderr, stdout, vmcask};
use vmcask_synth::{Spec, SynthDump};

#[test]
fn wrong_usage_is_2() {
    for words in [
        &["frobnicate"][..],
        &["read", "file"],
        &["read", "file", "--va", "zzz"],
        &["gen", "--ram", "lots", "file"],
        &["convert", "onlyone"],
    ] {
        let out = vmcask().args(words).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{words:?}: {}", stderr(&out));
    }
    ok(vmcask().arg("--help"));
    ok(vmcask().arg("--version"));
    for command in ["info", "convert", "verify", "read", "gen", "demo"] {
        let help = stdout(&ok(vmcask().args([command, "--help"])));
        assert!(help.contains("Example"), "{command}: {help}");
    }
}

/// What the generator knows and what the reader finds, by every kind of
/// mapping, in all versions, on the dump and on its archive.
#[test]
fn memory_is_read_as_it_was_made() {
    let dir = tempfile::tempdir().unwrap();
    for version in [1, 2, 3] {
        let spec = Spec { version, ram: 1 << 30, dump: 24 << 20, seed: 42, ..Spec::default() };
        let synth = SynthDump::new(spec).unwrap();
        let dump = dir.path().join(format!("v{version}"));
        ok(vmcask()
            .args(["gen", "--ram", "1GiB", "--dump", "24MiB", "--seed", "42", "--version"])
            .arg(version.to_string())
            .arg(&dump));
        let cask = dump.with_extension("cask");
        ok(vmcask().arg("convert").arg(&dump).arg(&cask));
        let truth = synth.truth();
        for file in [&dump, &cask] {
            for page in &truth.mapped {
                for (flag, addr) in [("--va", page.va), ("--pa", page.pa)] {
                    let out = ok(vmcask().arg("read").arg(file).args([
                        flag,
                        &format!("{addr:#x}"),
                        &page.bytes.len().to_string(),
                        "--raw",
                    ]));
                    assert_eq!(out.stdout, page.bytes, "version {version}: {flag} {page:x?}");
                }
            }
            for va in &truth.unmapped {
                let err =
                    fails(vmcask().arg("read").arg(file).args(["--va", &format!("{va:#x}")]), 1);
                assert!(err.contains("not mapped"), "{err}");
            }
        }
    }
}

#[test]
fn absent_memory_is_told_not_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let synth = SynthDump::new(Spec { ram: 1 << 30, dump: 32 << 20, ..Spec::default() }).unwrap();
    let (pa, pages) = synth.truth().runs[1];
    let end = pa + pages * 4096;
    // From the last page of a run into the gap behind it.
    let from = format!("{:#x}", end - 16);
    let out = vmcask().arg("read").arg(&dump).args(["--pa", &from, "32"]).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert!(stdout(&out).contains("16 bytes not in the dump"), "{}", stdout(&out));
    // Bytes alone can't say so.
    let out =
        vmcask().arg("read").arg(&dump).args(["--pa", &from, "32", "--raw"]).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    // The legacy hole below 1 MiB has no bit at all.
    let err = fails(vmcask().arg("read").arg(&dump).args(["--pa", "0xa0000", "16"]), 1);
    assert!(err.contains("not in the dump"), "{err}");
}

#[test]
fn lengths_in_any_place() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let dump = dump.to_str().unwrap();
    let va = "0xffffffff80200000";
    let want = stdout(&ok(vmcask().args(["read", dump, "--va", va, "4"])));
    assert_eq!(stdout(&ok(vmcask().args(["read", "--va", va, "4", dump]))), want);
    assert_eq!(stdout(&ok(vmcask().args(["read", dump, "--va", va, "--length", "4"]))), want);
    assert!(want.starts_with("ffffffff80200000  76 6d 63 61"), "{want}");
    let lines = stdout(&ok(vmcask().args(["read", dump, "--va", va]))).lines().count();
    assert_eq!(lines, 16);
    fails(vmcask().args(["read", dump, "--va", "0xffffffffffffffff", "2"]), 1);
}

#[test]
fn info_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let cask = dir.path().join("c.cask");
    ok(vmcask().arg("convert").arg(&dump).arg(&cask));
    for file in [&dump, &cask] {
        let out = ok(vmcask().args(["info", "--json"]).arg(file));
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["format"], "minidump");
        assert_eq!(json["minidump"]["pages_present"], 8192);
        assert_eq!(json["minidump"]["kernbase"], "0xfffffe0000000000");
        assert_eq!(json["archive"].is_null(), file == &dump);
    }
    let out = ok(vmcask().args(["verify", "--json"]).arg(&cask));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["intact"], true);
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let mut sh = std::process::Command::new("sh");
    sh.args(["-c", "\"$0\" read \"$1\" --va 0xffffffff80200000 2M | head -1"]);
    let out = ok(sh.arg(env!("CARGO_BIN_EXE_vmcask")).arg(&dump));
    assert_eq!(stderr(&out), "");
}

/// SIGUSR1 has one line of progress printed, terminal or not, and ends
/// nothing.
#[test]
fn progress_is_told_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    ok(std::process::Command::new("mkfifo").arg(&fifo));
    let mut child = vmcask()
        .args(["-q", "convert"])
        .arg(&fifo)
        .arg(dir.path().join("out.elf"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let dump = std::fs::read(gen_dump(dir.path(), "dump")).unwrap();
    let mut pipe = std::fs::File::options().write(true).open(&fifo).unwrap();
    // More than the pipe holds: when this returns, most of it has been read.
    std::io::Write::write_all(&mut pipe, &dump[..dump.len() - 4096]).unwrap();
    ok(std::process::Command::new("kill").arg("-USR1").arg(child.id().to_string()));
    let mut err = child.stderr.take().unwrap();
    let mut line = vec![0; 200];
    let n = std::io::Read::read(&mut err, &mut line).unwrap();
    let line = String::from_utf8_lossy(&line[..n]);
    assert!(line.starts_with("vmcask: converting: ") && line.ends_with(" left\n"), "{line}");
    std::io::Write::write_all(&mut pipe, &dump[dump.len() - 4096..]).unwrap();
    drop(pipe);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Bytes on a terminal help nobody; colours only where they are wanted.
#[test]
fn manners_on_a_terminal() {
    if !common::have("script") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let on_terminal = |words: &str, no_color: bool| {
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &format!("{} {words}", env!("CARGO_BIN_EXE_vmcask")), "/dev/null"]);
        script.env("TERM", "xterm").env_remove("NO_COLOR");
        if no_color {
            script.env("NO_COLOR", "1");
        }
        let out = script.output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (status, said) = on_terminal(&format!("convert --to elf {} -", dump.display()), false);
    assert_eq!(status, Some(1));
    assert!(said.contains("standard output is a terminal"), "{said}");
    assert!(on_terminal("frobnicate", false).1.contains("\x1b["));
    assert!(!on_terminal("frobnicate", true).1.contains("\x1b["));
}
