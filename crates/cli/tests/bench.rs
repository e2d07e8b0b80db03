//! `vmcask bench` on dumps made here: what it prints, not how long it took.

mod common;

use std::path::{Path, PathBuf};

use common::{fails, ok, real, stderr, stdout, vmcask};
use serde_json::Value;

/// A dump and its kernel.
fn dump(dir: &Path) -> (PathBuf, PathBuf) {
    let (dump, kernel) = (dir.join("vmcore"), dir.join("kernel"));
    let generate = ["-q", "gen", "--ram", "1GiB", "--dump", "16MiB", "--procs", "20", "--kernel"];
    ok(vmcask().args(generate).args([&kernel, &dump]));
    (dump, kernel)
}

fn json(args: &[&str], files: &[&Path]) -> Value {
    let out = ok(vmcask().args(["-q", "bench", "--json", "--passes", "1"]).args(args).args(files));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn every_lookup_does_the_same_work() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, kernel) = dump(dir.path());
    let report = json(&["--kernel"], &[&kernel, &dump]);
    assert_eq!(report["dumped_pages"], 4096);
    let names: Vec<_> =
        report["lookups"].as_array().unwrap().iter().map(|l| l["lookup"].as_str()).collect();
    assert_eq!(names, ["hash", "popcount", "rank"].map(Some));
    let rows = report["workloads"].as_array().unwrap();
    // Three workloads, three lookups, two ways of reading.
    assert_eq!(rows.len(), 18);
    for row in rows {
        let same: Vec<_> = rows.iter().filter(|r| r["workload"] == row["workload"]).collect();
        assert_eq!(same.len(), 6);
        for other in same {
            assert_eq!((&other["digest"], &other["lookups"]), (&row["digest"], &row["lookups"]));
        }
        assert!(row["lookups"].as_u64() > Some(0));
        assert!(row["max_rss_bytes"].as_u64() > row["lookup_bytes"].as_u64());
        assert_eq!(row["opens"], if row["workload"] == "crashinfo" { 20 } else { 1 });
    }

    // An archive has the same pages in it.
    let cask = dir.path().join("vmcore.cask");
    ok(vmcask().args(["-q", "convert"]).args([&dump, &cask]));
    let archived = json(&["--only", "scan", "--reading", "pread"], &[&cask]);
    let scans = archived["workloads"].as_array().unwrap();
    assert_eq!(scans.len(), 3);
    let of_dump = rows.iter().find(|r| r["workload"] == "scan").unwrap();
    assert!(scans.iter().all(|r| r["digest"] == of_dump["digest"]));
}

/// Cut short, its messages all zeros, and of a kernel image with a dozen
/// symbols, `msgbufp` not among them.
#[test]
fn a_real_dump() {
    let dir = tempfile::tempdir().unwrap();
    let Some(dump) = real(dir.path(), "amd64-minidump.vmcore.bz2", "bzip2") else { return };
    let Some(kernel) = real(dir.path(), "amd64-kernel.xz", "xz") else { return };
    let report = json(&["--reading", "pread", "--kernel"], &[&kernel, &dump]);
    assert_eq!(report["dumped_pages"], 22_751);
    let out = ok(vmcask().args(["bench", "--passes", "1", "--only", "scan"]).arg(&dump));
    assert!(stderr(&out).contains("truncated: 22751 of 24144 pages"), "{}", stderr(&out));
    for workload in ["crashinfo", "bt-all", "scan"] {
        let rows = report["workloads"].as_array().unwrap();
        let rows: Vec<_> = rows.iter().filter(|r| r["workload"] == workload).collect();
        assert_eq!(rows.len(), 3, "{workload}");
        let same = |key: &str| rows.iter().all(|r| r[key] == rows[0][key]);
        assert!(same("digest") && same("lookups"), "{workload}: {rows:?}");
        assert!(rows[0]["lookups"].as_u64() > Some(100), "{workload}");
    }
}

#[test]
fn without_a_kernel_what_needs_none() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, _) = dump(dir.path());
    let out = ok(vmcask().args(["bench", "--passes", "1", "--scan-pages", "64"]).arg(&dump));
    assert!(stderr(&out).contains("without --kernel"));
    assert!(stdout(&out).contains("scan, 1 page in 64") && !stdout(&out).contains("crashinfo  "));
}

#[test]
fn what_has_no_bitmap_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, _) = dump(dir.path());
    let elf = dir.path().join("core");
    ok(vmcask().args(["-q", "convert", "--to", "elf"]).args([&dump, &elf]));
    let error = fails(vmcask().args(["-q", "bench"]).arg(&elf), 1);
    assert!(error.contains("core: only minidumps"), "{error}");
    let packed = dir.path().join("packed");
    std::fs::write(&packed, zstd::encode_all(&*std::fs::read(&dump).unwrap(), 1).unwrap()).unwrap();
    let error = fails(vmcask().args(["-q", "bench"]).arg(&packed), 1);
    assert!(error.contains("packed: zstd data can't be read here and there"), "{error}");
    let error = fails(vmcask().args(["-q", "bench"]).arg(dir.path().join("nothing")), 1);
    assert!(error.contains("nothing: No such file"), "{error}");
    fails(vmcask().args(["bench", "--passes", "0"]).arg(&dump), 2);
}
