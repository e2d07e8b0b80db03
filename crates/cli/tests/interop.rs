//! Files written here, read by programs that others wrote: readelf,
//! eu-elflint, gdb, drgn, pyelftools; plain archives, by pyzstd. Where one isn't installed the test says
//! `skipped`; `.ci/run` installs all.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{have, ok, stderr, stdout, vmcask};
use serde_json::Value;

/// Those whose kernel map can be followed.
const WITH_KERNEL_VIEW: [&str; 5] = ["amd64", "arm64", "arm64-16k", "riscv", "i386"];
const WITHOUT: [&str; 3] = ["arm", "powerpc64", "powerpc64le"];

/// A dump, its kernel image, and what must be found in it.
fn make(dir: &Path, arch: &str) -> (PathBuf, PathBuf, Value) {
    let (dump, kernel) = (dir.join("vmcore"), dir.join("kernel"));
    let mut command = vmcask();
    command.args(["-q", "gen", "--arch", arch, "--ram", "1GiB", "--dump", "32MiB"]);
    command.args(["--force", "--print-truth"]).arg(&dump);
    if WITH_KERNEL_VIEW.contains(&arch) && arch != "arm64-16k" {
        command.arg("--kernel").arg(&kernel);
    }
    let truth = serde_json::from_str(&stdout(&ok(&mut command))).unwrap();
    (dump, kernel, truth)
}

fn convert(from: &Path, to: &Path, format: &str) {
    ok(vmcask().args(["-q", "convert", "--force", "--to", format]).arg(from).arg(to));
}

#[test]
fn readelf_accepts_every_core() {
    let dir = tempfile::tempdir().unwrap();
    let elf = dir.path().join("core");
    for arch in WITH_KERNEL_VIEW.iter().chain(&WITHOUT) {
        let (dump, _, _) = make(dir.path(), arch);
        let views: &[&str] =
            if WITH_KERNEL_VIEW.contains(arch) { &["elf", "kernel-view"] } else { &["elf"] };
        for view in views {
            convert(&dump, &elf, view);
            for program in ["readelf", "eu-readelf"] {
                if have(program) {
                    let out = ok(Command::new(program).arg("-hlW").arg(&elf).env("LC_ALL", "C"));
                    assert_eq!(stderr(&out), "", "{program} on {arch} {view}");
                    assert!(stdout(&out).contains("LOAD"), "{program} on {arch} {view}");
                }
            }
            // The physical view has the kernel's own EI_OSABI, 255, which
            // eu-elflint doesn't know; nothing else may be wrong.
            if have("eu-elflint") {
                let out = Command::new("eu-elflint").arg("--gnu-ld").arg(&elf).output().unwrap();
                let said = stdout(&out) + &stderr(&out);
                let wanted = if *view == "elf" { "OS ABI" } else { "No errors" };
                assert!(said.lines().all(|l| l.contains(wanted)), "{arch} {view}: {said}");
            }
        }
    }
}

/// More segments than 16 bits count: PN_XNUM.
#[test]
fn seventy_thousand_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, elf, back) =
        (dir.path().join("vmcore"), dir.path().join("core"), dir.path().join("back"));
    ok(vmcask()
        .args(["-q", "gen", "--ram", "4GiB", "--dump", "512MiB", "--run-pages", "1"])
        .args(["--profile", "zeros"])
        .arg(&dump));
    convert(&dump, &elf, "elf");
    let pages = stdout(&ok(vmcask().args(["pages", "--json"]).arg(&dump)));
    let pages: Value = serde_json::from_str(&pages).unwrap();
    let runs = pages["runs"].as_array().unwrap().len();
    assert!(runs > 70_000, "{runs} runs");
    if have("readelf") {
        let out = ok(Command::new("readelf").arg("-lW").arg(&elf).env("LC_ALL", "C"));
        assert_eq!(stdout(&out).lines().filter(|l| l.starts_with("  LOAD")).count(), runs);
    }
    convert(&elf, &back, "minidump");
    common::assert_same(&dump, &back);
    // The last page is found through as many headers.
    let last = pages["runs"][runs - 1]["start"].as_str().unwrap();
    for file in [&dump, &elf] {
        ok(vmcask().args(["read", "--raw", "--pa", last, "16"]).arg(file));
    }
}

/// gdb's view of kernel memory, through the kernel's own symbols.
#[test]
fn gdb_reads_kernel_memory() {
    if !have("gdb") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let elf = dir.path().join("kernel-view");
    for view_of in ["minidump", "full core", "archive"] {
        let (dump, kernel, truth) = make(dir.path(), "amd64");
        let mut from = dump.clone();
        match view_of {
            "full core" => {
                // Without vmcask's note: page tables are all there is.
                from = dir.path().join("full");
                ok(vmcask()
                    .args(["-q", "gen", "--force", "--format", "elf", "--ram", "64MiB"])
                    .arg("--kernel")
                    .args([&kernel, &from]));
                let out = gdb(&kernel, &from, &elf, &["p *(int*)&hz".into()]);
                assert!(out.ends_with("$1 = 100"), "{out}");
                continue;
            }
            "archive" => {
                from = dir.path().join("cask");
                convert(&dump, &from, "archive");
            }
            _ => {}
        }
        let places: Vec<&Value> = truth["virtual_addresses"].as_array().unwrap().iter().collect();
        for mapping in ["4k", "2m", "direct"] {
            assert!(places.iter().any(|p| p["mapping"] == mapping), "none is mapped by {mapping}");
        }
        let asked = places
            .iter()
            .map(|p| format!("x/{}xb {}", hex(p).len(), p["va"].as_str().unwrap()))
            .chain(["p *(int*)&hz".into()])
            .collect::<Vec<_>>();
        let out = gdb(&kernel, &from, &elf, &asked);
        assert!(out.ends_with("$1 = 100"), "{out}");
        // `ADDRESS <symbol+offset>:	0x00	0x01 ...`, 8 a line.
        let words =
            out.lines().filter_map(|l| l.split_once(":\t")).flat_map(|(_, w)| w.split('\t'));
        let found: Vec<&str> = words.collect();
        let want: Vec<String> = places.iter().flat_map(|p| hex(p)).collect();
        assert_eq!(found, want, "{view_of}: {out}");
    }
}

/// With the kernel image named, the view has the threads' registers: gdb shows
/// the crashed thread and walks its stack, through archives too.
#[test]
fn gdb_shows_the_crashed_thread() {
    if !have("gdb") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (elf, cask) = (dir.path().join("kernel-view"), dir.path().join("cask"));
    let (dump, kernel, truth) = make(dir.path(), "amd64");
    convert(&dump, &cask, "archive");
    let threads = truth["threads"].as_array().unwrap();
    let crashed = threads.iter().find(|t| t["crashed"] == true).unwrap();
    let want: Vec<&str> = crashed["backtrace"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["function"].as_str().unwrap())
        .collect();
    assert!(want.len() > 5);
    for from in [&dump, &cask] {
        let out = gdb(&kernel, from, &elf, &["bt".into(), "info threads".into()]);
        // `#1  0xffffffff80204d25 in kern_reboot ()`
        let frames: Vec<&str> = out
            .lines()
            .skip_while(|l| !l.starts_with("[Current thread"))
            .filter(|l| l.starts_with('#'))
            .filter_map(|l| l.split(" in ").nth(1)?.split(' ').next())
            .collect();
        // gdb counts the frame that has no caller, too.
        assert_eq!(frames.get(..want.len()), Some(&want[..]), "{out}");
        let listed = out.lines().filter(|l| l.contains("LWP") && l.contains(" in ")).count();
        assert_eq!(listed, threads.len(), "{out}");
        assert!(out.contains(&format!("LWP {}", crashed["tid"])), "{out}");
    }
}

/// Runs gdb with a kernel image on the kernel view of a dump.
fn gdb(kernel: &Path, dump: &Path, elf: &Path, commands: &[String]) -> String {
    let mut command = vmcask();
    command.args(["-q", "convert", "--force", "--to", "kernel-view", "--kernel"]).arg(kernel);
    ok(command.arg(dump).arg(elf));
    // Debian's gdb takes FreeBSD's EI_OSABI for a 32-bit kernel.
    let image = kernel.with_extension("osabi0");
    let mut bytes = std::fs::read(kernel).unwrap();
    bytes[7] = 0;
    std::fs::write(&image, bytes).unwrap();
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch"]).env("LC_ALL", "C");
    for c in commands {
        gdb.args(["-ex", c]);
    }
    stdout(&ok(gdb.arg(&image).arg(elf))).trim_end().to_owned()
}

fn hex(place: &Value) -> Vec<String> {
    let bytes = place["bytes"].as_str().unwrap().as_bytes();
    bytes.chunks(2).map(|b| format!("0x{}", std::str::from_utf8(b).unwrap())).collect()
}

/// Reads truth's addresses: by p_vaddr and p_paddr with pyelftools, and the
/// same with drgn. Prints how many bytes agreed.
const PYTHON: &str = r"
import json, sys
which, path, truth, view = sys.argv[1:]
places = json.load(open(truth))['virtual_addresses']
if which == 'drgn':
    import drgn
    program = drgn.Program()
    program.set_core_dump(path)
    read = lambda address, n, physical: program.read(address, n, physical)
else:
    from elftools.elf.elffile import ELFFile
    core = open(path, 'rb')
    segments = [s.header for s in ELFFile(core).iter_segments('PT_LOAD')]
    def read(address, n, physical):
        for s in segments:
            start = s.p_paddr if physical else s.p_vaddr
            if start <= address and address + n <= start + s.p_filesz:
                core.seek(s.p_offset + address - start)
                return core.read(n)
        raise Exception(hex(address) + ' is in no segment')
agreed = 0
for p in places:
    want = bytes.fromhex(p['bytes'])
    ways = [(int(p['pa'], 16), True)]
    if view == 'kernel-view':
        ways.append((int(p['va'], 16), False))
    for address, physical in ways:
        got = read(address, len(want), physical)
        assert got == want, (hex(address), physical, got, want)
        agreed += len(want)
print(agreed)
";

fn python() -> String {
    std::env::var("VMCASK_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// Whether Python has a module; says `skipped` if not.
fn python_has(module: &str) -> bool {
    let import = Command::new(python()).args(["-c", &format!("import {module}")]).output();
    let has = import.is_ok_and(|out| out.status.success());
    if !has {
        eprintln!("skipped: {module} is not installed for {}", python());
    }
    has
}

/// Reads here and there through pyzstd's seekable reader; prints the bytes.
const SEEK: &str = "
import random, sys, pyzstd
archive, original = sys.argv[1:]
want, read = open(original, 'rb').read(), 0
random.seed(1)
with pyzstd.SeekableZstdFile(archive, 'r') as f:
    for _ in range(200):
        at, n = random.randrange(len(want)), random.choice([1, 100, 4096, 70000])
        f.seek(at)
        assert f.read(n) == want[at:at + n], (at, n)
        read += n
    assert f.seek(0, 2) == len(want)
print(read)
";

#[test]
fn pyzstd_seeks_in_plain_archives() {
    if !python_has("pyzstd") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (dump, archive) = (dir.path().join("vmcore"), dir.path().join("vmcore.zst"));
    ok(vmcask().args(["-q", "gen", "--ram", "1GiB", "--dump", "16MiB"]).arg(&dump));
    ok(vmcask().args(["-q", "convert", "--plain"]).args([&dump, &archive]));
    let read = stdout(&ok(Command::new(python()).args(["-c", SEEK]).args([&archive, &dump])));
    assert!(read.trim().parse::<u64>().unwrap() > 1 << 20, "{read}");
}

#[test]
fn python_readers_agree() {
    let dir = tempfile::tempdir().unwrap();
    let (elf, json) = (dir.path().join("core"), dir.path().join("truth"));
    for (reader, module) in [("drgn", "drgn"), ("pyelftools", "elftools")] {
        if !python_has(module) {
            continue;
        }
        for arch in WITH_KERNEL_VIEW {
            // drgn knows of these two no more than that they are ELF.
            if reader == "drgn" && matches!(arch, "riscv" | "arm64-16k") {
                continue;
            }
            let (dump, _, truth) = make(dir.path(), arch);
            std::fs::write(&json, truth.to_string()).unwrap();
            for view in ["elf", "kernel-view"] {
                convert(&dump, &elf, view);
                let mut command = Command::new(python());
                command.args(["-c", PYTHON, reader]).args([&elf, &json]).arg(view);
                let agreed = stdout(&ok(&mut command));
                assert!(agreed.trim().parse::<u32>().unwrap() > 100, "{agreed}");
            }
        }
    }
}
