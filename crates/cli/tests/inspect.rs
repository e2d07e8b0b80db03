//! Questions asked of a dump and its kernel image: dmesg, ps, bt, triage,
//! read --symbol.

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use common::{fails, gen_dump, ok, real, stderr, stdout, vmcask};
use serde_json::Value;
use vmcask_synth::{Spec, SynthDump};

fn json(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(out)))
}

/// The real dump, its kernel image, and what lldb finds in them.
fn real_pair(dir: &Path) -> Option<(PathBuf, PathBuf, Value)> {
    let dump = real(dir, "amd64-minidump.vmcore.bz2", "bzip2")?;
    let kernel = real(dir, "amd64-kernel.xz", "xz")?;
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut paths = folders.map(|folder| folder.join("shared/vmcores/expected.json"));
    let expected = std::fs::read(paths.find(|path| path.exists())?).ok()?;
    Some((dump, kernel, serde_json::from_slice(&expected).unwrap()))
}

#[test]
fn the_real_pair_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let Some((dump, kernel, expected)) = real_pair(dir.path()) else { return };
    let cask = dir.path().join("dump.cask");
    let physical = dir.path().join("physical.elf");
    let view = dir.path().join("view.elf");
    let physical_cask = dir.path().join("physical.cask");
    for (from, to, format) in [
        (&dump, &cask, "archive"),
        (&dump, &physical, "elf"),
        (&dump, &view, "kernel-view"),
        (&physical, &physical_cask, "archive"),
    ] {
        let out = vmcask().args(["-q", "convert", "--to", format]).args([from, to]).output();
        // 3: the dump is truncated, which a core can't promise to keep.
        let code = out.unwrap().status.code();
        assert!(matches!(code, Some(0 | 3)), "{format}: {code:?}");
    }
    for file in [&dump, &cask, &physical, &view, &physical_cask] {
        let what = file.display();
        let ask = |command: &str, more: &[&str]| {
            let mut command_line = vmcask();
            command_line.arg(command).arg(file).arg("--kernel").arg(&kernel).args(more);
            command_line
        };
        let ps = json(&ok(&mut ask("ps", &["--json"])));
        let threads = ps["threads"].as_array().unwrap();
        assert_eq!(Value::from(threads.len()), expected["threads"], "{what}");
        assert_eq!(ps["losses"], Value::Array(Vec::new()), "{what}");

        // The stacks that idle CPUs were interrupted on were not kept.
        let out = ask("bt", &["--all", "--json"]).output().unwrap();
        assert_eq!(out.status.code(), Some(3), "{what}: {}", stderr(&out));
        let bt = json(&out);
        let traces = bt["threads"].as_array().unwrap();
        assert_eq!(traces.len(), threads.len());
        for thread in expected["thread"].as_array().unwrap() {
            let name = &thread["name"];
            assert!(threads.iter().any(|t| t["name"] == *name), "{what}: {name}");
            let trace = traces.iter().find(|t| t["name"] == *name).unwrap();
            let frames = trace["frames"].as_array().unwrap();
            let addresses: Vec<_> = frames.iter().map(|f| f["address"].clone()).collect();
            assert_eq!(Value::from(addresses), thread["bt"], "{what}: {name}");
            for (register, value) in thread["regs"].as_object().unwrap() {
                assert_eq!(trace["registers"][register], *value, "{what}: {name} {register}");
            }
            assert_eq!(trace["whole"], true, "{what}: {name}");
        }
        // One thread alone has nothing to do with the others' losses.
        let crashed = json(&ok(&mut ask("bt", &["--json"])));
        assert_eq!(crashed["threads"], Value::Array(vec![traces[0].clone()]), "{what}");
        let text = stdout(&ok(&mut ask("bt", &["--tid", "100214"])));
        assert!(text.starts_with("(pid 28) pagedaemon/laundry: dom0, tid 100214\n"), "{text}");
        assert!(text.contains("#4   0xffffffff80bc7c5e\n"), "{text}");

        let hz = ok(&mut ask("read", &["--symbol", "hz", "--raw"]));
        assert_eq!(hz.stdout, [100, 0, 0, 0], "{what}");

        // No msgbufp, and a message buffer that reads as zeros.
        let out = ask("triage", &["--json"]).output().unwrap();
        assert_eq!(out.status.code(), Some(3), "{what}: {}", stderr(&out));
        let triage = json(&out);
        assert_eq!(triage["crashed"][0]["name"], expected["thread"][0]["name"]);
        assert_eq!((&triage["threads"], &triage["hz"]), (&16.into(), &100.into()));
        assert!(triage["missing"].to_string().contains("the message buffer"), "{triage:#}");
        assert_eq!(triage["kernel_matches"], Value::Null);
    }
}

#[test]
fn messages_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let cask = dir.path().join("dump.cask");
    ok(vmcask().args(["-q", "convert"]).args([&dump, &cask]));
    let spec = Spec { ram: 1 << 30, dump: 32 << 20, ..Spec::default() };
    let truth = SynthDump::new(spec).unwrap().truth();
    for file in [&dump, &cask] {
        let out = ok(vmcask().arg("dmesg").arg(file));
        assert_eq!(stdout(&out), truth.msgbuf);
        // Without a kernel image the order is found, and that is said.
        assert!(stderr(&out).contains("messages in order by"), "{}", stderr(&out));
        let out = ok(vmcask().args(["-q", "dmesg"]).arg(file));
        assert_eq!(stderr(&out), "");
        let dmesg = json(&ok(vmcask().args(["dmesg", "--json"]).arg(file)));
        assert_eq!(dmesg["order"], "gap");
        let lines = dmesg["lines"].as_array().unwrap();
        let text: Vec<_> = lines.iter().map(|l| l["text"].as_str().unwrap()).collect();
        assert_eq!(text, truth.msgbuf.lines().collect::<Vec<_>>());
    }
    let triage = json(&ok(vmcask().args(["triage", "--json"]).arg(&cask)));
    assert_eq!(triage["panic"], "vmcask: page fault while in kernel mode");
    assert_eq!(triage["time_utc"], "2023-11-14 22:13:20 UTC");
    assert_eq!(triage["uptime"], "1h2m3s");
    assert_eq!(triage["crashed"], Value::Array(Vec::new()));
    let page = stdout(&ok(vmcask().arg("triage").arg(&cask)));
    assert!(page.contains("no kernel image was given"), "{page}");
    assert!(page.contains("  Uptime: 1h2m3s\n"), "{page}");
}

/// A ring of a dump is whatever somebody wrote to the console.
#[test]
fn messages_do_nothing_to_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let mut bytes = std::fs::read(&dump).unwrap();
    let line = b"<118>\x1b]0;title\x07\x9b2J\xff\n";
    let ring = 4096..4096 + 0x17fb8;
    bytes[ring.clone()].fill(0);
    bytes[ring.start + 100..][..line.len()].copy_from_slice(line);
    std::fs::write(&dump, bytes).unwrap();
    let text = stdout(&ok(vmcask().arg("dmesg").arg(&dump)));
    assert_eq!(text, "\\x1b]0;title\\x07\\x9b2J\\xff\n");
    let dmesg = json(&ok(vmcask().args(["dmesg", "--json"]).arg(&dump)));
    assert_eq!(dmesg["lines"][0]["priority"], 118);
}

#[test]
fn a_full_ring_without_seam_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let mut bytes = std::fs::read(&dump).unwrap();
    for (i, b) in bytes[4096..4096 + 0x17fb8].iter_mut().enumerate() {
        *b = if i % 50 == 0 { b'\n' } else { b'x' };
    }
    std::fs::write(&dump, bytes).unwrap();
    let out = vmcask().arg("dmesg").arg(&dump).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert!(stderr(&out).contains("no seam was found"), "{}", stderr(&out));
}

#[test]
fn what_is_asked_wrongly() {
    for words in [
        &["ps", "file"][..],
        &["bt", "file"],
        &["bt", "file", "--kernel", "k", "--all", "--tid", "1"],
        &["read", "file", "--symbol", "hz"],
        &["read", "file", "--symbol", "hz", "--va", "1", "--kernel", "k"],
    ] {
        let out = vmcask().args(words).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{words:?}: {}", stderr(&out));
    }
    for command in ["dmesg", "ps", "bt", "triage"] {
        let help = stdout(&ok(vmcask().args([command, "--help"])));
        assert!(help.contains("Example"), "{command}: {help}");
    }
}

#[test]
fn images_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    for (content, why) in [
        (&b"no kernel"[..], "no ELF magic"),
        (b"", "no ELF magic"),
        (b"\x1f\x8b\x08", "it is gzip data: unpack it first"),
        (b"\xfd7zXZ\0\0\x04", "it is xz data, which isn't read here: unpack it first (`xz -d`)"),
        (b"minidump FreeBSD/amd64\0\0", "it is a minidump"),
        (b"\x7fELF\x02\x01\x01", "kernel image"),
    ] {
        let image = dir.path().join("image");
        std::fs::write(&image, content).unwrap();
        for command in ["ps", "bt", "dmesg", "triage"] {
            let err = fails(vmcask().arg(command).arg(&dump).arg("--kernel").arg(&image), 1);
            assert!(err.contains(why), "{command}: {err}");
        }
    }
    // This test is an ELF file of this machine, but no kernel.
    let image = std::env::current_exe().unwrap();
    let err = fails(vmcask().arg("ps").arg(&dump).arg("--kernel").arg(&image), 1);
    assert!(err.contains("no symbol allproc") || err.contains("kernel image is for"), "{err}");
    let err =
        fails(vmcask().arg("read").arg(&dump).args(["--symbol", "hz", "--kernel"]).arg(&image), 1);
    assert!(err.contains("no symbol hz") || err.contains("kernel image is for"), "{err}");
}

/// What the generator says of its own dump, on every machine, in every format.
#[test]
fn synthetic_kernels() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for arch in ["amd64", "arm64", "riscv", "i386"] {
        let (dump, kernel) = (path(arch), path(&format!("{arch}.kernel")));
        let out = ok(vmcask()
            .args(["-q", "gen", "--arch", arch, "--ram", "1GiB", "--dump", "16MiB", "--procs", "9"])
            .args(["--print-truth", "--kernel"])
            .args([&kernel, &dump]));
        let truth = json(&out);
        let (cask, core) = (path(&format!("{arch}.cask")), path(&format!("{arch}.elf")));
        ok(vmcask().args(["-q", "convert", "--to", "archive"]).args([&dump, &cask]));
        ok(vmcask().args(["-q", "convert", "--to", "elf"]).args([&dump, &core]));
        for file in [&dump, &cask, &core] {
            let what = file.display();
            let ask = |command: &str, more: &[&str]| {
                ok(vmcask()
                    .arg("-q")
                    .arg(command)
                    .arg(file)
                    .arg("--kernel")
                    .arg(&kernel)
                    .args(more))
            };
            assert_eq!(stdout(&ask("dmesg", &[])), truth["msgbuf"].as_str().unwrap(), "{what}");
            let triage = json(&ask("triage", &["--json"]));
            assert_eq!(triage["kernel_matches"], true, "{what}");
            assert_eq!(triage["crashed"].as_array().unwrap().len(), 1, "{what}");

            let bt = json(&ask("bt", &["--all", "--json"]));
            let traces = bt["threads"].as_array().unwrap();
            let threads = truth["threads"].as_array().unwrap();
            assert_eq!(traces.len(), threads.len(), "{what}");
            for thread in threads {
                let trace = traces.iter().find(|t| t["tid"] == thread["tid"]).unwrap();
                for (ours, theirs) in [
                    ("pid", "pid"),
                    ("comm", "comm"),
                    ("thread_name", "name"),
                    ("crashed", "crashed"),
                ] {
                    assert_eq!(trace[ours], thread[theirs], "{what}: {ours}");
                }
                let cpu = trace["cpu"].as_i64().unwrap_or(-1);
                assert_eq!(Value::from(cpu), thread["oncpu"], "{what}");
                for (register, value) in thread["registers"].as_object().unwrap() {
                    let found = number(&trace["registers"][register]);
                    assert_eq!(found, number(value), "{what}: {register}");
                }
                let found: Vec<_> = trace["frames"].as_array().unwrap().iter().map(frame).collect();
                let want: Vec<_> =
                    thread["backtrace"].as_array().unwrap().iter().map(frame).collect();
                // Like lldb, vmcask doesn't count the trampoline as a frame.
                assert_eq!(found, want, "{what}: {trace:#}");
                let started_by =
                    |v: &Value| Some(&v["started_by"]).filter(|f| !f.is_null()).map(frame);
                assert_eq!(started_by(trace), started_by(thread), "{what}: {trace:#}");
            }
        }
    }
}

fn number(hex: &Value) -> u64 {
    let digits = hex.as_str().and_then(|h| h.strip_prefix("0x")).unwrap_or_else(|| panic!("{hex}"));
    u64::from_str_radix(digits, 16).unwrap()
}

/// Address, function and offset, by either program's keys.
fn frame(frame: &Value) -> (u64, Value, Value) {
    let either = |a: &str, b: &str| frame.get(a).unwrap_or(&frame[b]).clone();
    (
        number(&either("pc", "address")),
        either("function", "symbol"),
        either("offset", "offset_bytes"),
    )
}
