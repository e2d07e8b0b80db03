//! `convert DIR/ OUTDIR/ --to archive`: a whole /var/crash at once.

mod common;
#[path = "s3/mod.rs"]
mod s3;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{fails, names, ok, stderr, stdout, vmcask};
use s3::S3;
use serde_json::Value;

/// A folder as savecore leaves it: two dumps, one of them compressed.
fn crash(dir: &Path) -> PathBuf {
    let crash = dir.join("crash");
    std::fs::create_dir(&crash).unwrap();
    for n in 0..2 {
        let seed = (n + 1).to_string();
        let dump = crash.join(format!("vmcore.{n}"));
        ok(vmcask()
            .args(["-q", "gen", "--ram", "256MiB", "--dump", "12MiB", "--seed", &seed])
            .arg(dump));
        std::fs::write(crash.join(format!("info.{n}")), format!("Dump header {n}\n")).unwrap();
    }
    ok(Command::new("gzip").arg(crash.join("vmcore.1")));
    std::os::unix::fs::symlink("vmcore.1.gz", crash.join("vmcore.last")).unwrap();
    std::fs::write(crash.join("bounds"), b"2\n").unwrap();
    std::fs::write(crash.join("core.txt.0"), b"text").unwrap();
    crash
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).expect("a line of JSON")).collect()
}

fn events<'a>(lines: &'a [Value], name: &str) -> Vec<&'a Value> {
    lines.iter().filter(|l| l["event"] == name).collect()
}

const WHOLE: [&str; 4] = ["info.0", "info.1", "vmcore.0.cask", "vmcore.1.gz.cask"];

#[test]
fn a_folder_of_dumps() {
    let dir = tempfile::tempdir().unwrap();
    let (crash, out) = (crash(dir.path()), dir.path().join("out/deep"));
    let convert = || {
        let mut command = vmcask();
        command.args(["convert", "--to", "archive"]).arg(&crash).arg(&out);
        command
    };
    let said = stdout(&ok(&mut convert()));
    assert!(said.contains(": 2 converted, 0 there already, 0 failed; "), "{said}");
    assert_eq!(names(&out), WHOLE);
    assert_eq!(std::fs::read(out.join("info.1")).unwrap(), b"Dump header 1\n");
    for name in ["vmcore.0.cask", "vmcore.1.gz.cask"] {
        ok(vmcask().args(["-q", "verify"]).arg(out.join(name)));
    }
    // The same bytes as one by one, whatever the number of threads.
    let one = dir.path().join("one.cask");
    ok(vmcask().args(["-q", "convert"]).arg(crash.join("vmcore.0")).arg(&one));
    common::assert_same(&one, &out.join("vmcore.0.cask"));

    // Once more: nothing to do, what is there isn't touched.
    let time = out.join("vmcore.0.cask").metadata().unwrap().modified().unwrap();
    let said = stdout(&ok(&mut convert()));
    assert!(said.contains(": 0 converted, 2 there already, 0 failed; "), "{said}");
    assert_eq!(out.join("vmcore.0.cask").metadata().unwrap().modified().unwrap(), time);

    // One is gone, one new dump isn't any, and a third is cut.
    std::fs::remove_file(out.join("vmcore.0.cask")).unwrap();
    std::fs::write(crash.join("vmcore.2"), b"not a dump at all").unwrap();
    let failed = convert().arg("--json").output().unwrap();
    assert_eq!(failed.status.code(), Some(3), "{}", stderr(&failed));
    let told = lines(&stdout(&failed));
    let [done] = events(&told, "done")[..] else { panic!("{told:?}") };
    assert!(done["input"].as_str().unwrap().ends_with("/vmcore.0"));
    assert_eq!(done["output_bytes"], out.join("vmcore.0.cask").metadata().unwrap().len());
    assert_eq!(done["dump_bytes"], crash.join("vmcore.0").metadata().unwrap().len());
    let [skipped] = events(&told, "skipped")[..] else { panic!("{told:?}") };
    assert!(skipped["output"].as_str().unwrap().ends_with("/vmcore.1.gz.cask"));
    let [failure] = events(&told, "failed")[..] else { panic!("{told:?}") };
    assert_eq!(failure["temporary"], false);
    assert!(failure["error"].as_str().unwrap().contains("not a dump"), "{failure}");
    let summary = told.last().unwrap();
    assert_eq!(summary["event"], "summary");
    for (count, n) in [("converted", 1), ("skipped", 1), ("failed", 1)] {
        assert_eq!(summary[count], n, "{summary}");
    }
    assert!(told.iter().all(|l| l["schema"] == 1));
    assert_eq!(names(&out), WHOLE);

    // Half an archive of somebody else's is not taken for done.
    let half = std::fs::read(out.join("vmcore.0.cask")).unwrap();
    std::fs::write(out.join("vmcore.0.cask"), &half[..half.len() / 2]).unwrap();
    std::fs::remove_file(crash.join("vmcore.2")).unwrap();
    let failed = convert().output().unwrap();
    assert_eq!(failed.status.code(), Some(3));
    assert!(
        stderr(&failed).contains("no whole archive; --force replaces it"),
        "{}",
        stderr(&failed)
    );
    ok(convert().arg("--force"));
    common::assert_same(&one, &out.join("vmcore.0.cask"));
}

#[test]
fn a_folder_into_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let crash = crash(dir.path());
    let s3 = S3::new(&dir.path().join("store"));
    let convert = |extra: &[&str]| {
        let mut command = vmcask();
        s3.env(&mut command);
        command
            .args(["convert", "--to", "archive"])
            .arg(&crash)
            .arg("s3://dumps/host7/")
            .args(extra);
        command
    };
    let said = stdout(&ok(&mut convert(&[])));
    assert!(said.contains(": 2 converted, 0 there already, 0 failed; "), "{said}");
    let folder = dir.path().join("store/dumps/host7");
    assert_eq!(names(&folder), WHOLE);
    let said = stdout(&ok(&mut convert(&[])));
    assert!(said.contains(": 0 converted, 2 there already, 0 failed; "), "{said}");
    // The store fails: what isn't there yet may be the next time.
    std::fs::remove_file(folder.join("vmcore.0.cask")).unwrap();
    s3.fail(|_, method, path| {
        (*method == hyper::Method::PUT && path.contains("vmcore.0")).then_some(503)
    });
    let failed = convert(&["--json"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(3));
    let told = lines(&stdout(&failed));
    assert_eq!(events(&told, "failed")[0]["temporary"], true, "{told:?}");
    s3.fail(|_, _, _| None);
    ok(&mut convert(&[]));
    assert_eq!(names(&folder), WHOLE);
}

#[test]
fn what_a_folder_cannot_be_converted_to() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let err = fails(vmcask().args(["convert", "--to", "archive"]).arg(dir.path()).arg(&out), 1);
    assert!(err.contains("no dumps"), "{err}");
    let crash = crash(dir.path());
    let err = fails(vmcask().args(["convert", "--to", "elf"]).arg(&crash).arg(&out), 1);
    assert!(err.contains("archives only"), "{err}");
    let err = fails(vmcask().args(["convert", "--memory", "1MiB"]).arg(&crash).arg(&out), 2);
    assert!(err.contains("64 MiB"), "{err}");
}

/// Less memory, the same content.
#[test]
fn memory_is_bounded_by_a_flag() {
    let dir = tempfile::tempdir().unwrap();
    let dump = common::gen_dump(dir.path(), "vmcore.0");
    let peak = |memory: &str| {
        let out = dir.path().join(format!("{memory}.cask"));
        let mut time = Command::new("sh");
        // Address space: what is reserved, more than what is used.
        time.args(["-c", "ulimit -v \"$1\" && shift && exec \"$@\"", "sh", "700000"]);
        time.arg(env!("CARGO_BIN_EXE_vmcask"))
            .args(["-q", "convert", "--threads", "1", "--memory", memory])
            .args([&dump, &out]);
        ok(&mut time);
        ok(vmcask().args(["-q", "verify"]).arg(&out));
        out.metadata().unwrap().len()
    };
    let (little, much) = (peak("64MiB"), peak("256MiB"));
    assert!(little <= much * 11 / 10, "{little} {much}");
}
