//! minidump -> ELF and ELF -> minidump beside `cp` of the same bytes, whole
//! files written and fsync in both. A program, not a statistic:
//! `cargo bench -p vmcask-benches --bench convert`; VMCASK_BENCH_DIR names the
//! folder (4 copies of 1 GiB), else it is the system's temporary one.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use vmcask_benches::record::{Record, Spread, Table};
use vmcask_benches::scratch;
use vmcask_convert::view::target::{self, Options};
use vmcask_convert::{OutputFile, Target, input, restore};

const DUMP_MIB: u64 = 1 << 10;
const PASSES: usize = 5;

fn main() {
    // `cargo test --all-targets` runs this too; only `cargo bench` asks.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let dir = scratch::folder();
    let path = |name: &str| dir.path().join(name);
    let (minidump, elf, copy) = (path("vmcore"), path("core"), path("copy"));

    scratch::synthetic(&minidump, 16, DUMP_MIB, false);

    let mut table = Table::new(
        "1 GiB converted, and copied",
        &[("conversion", ""), ("vmcask", "s"), ("cp", "s"), ("vmcask / cp", "")],
    );
    for (name, from, to, target) in [
        ("minidump -> ELF", &minidump, &elf, Target::Elf),
        ("ELF -> minidump", &elf, &path("back"), Target::Minidump { version: None }),
    ] {
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..PASSES {
            ours.push(seconds(|| convert(from, to, target)));
            theirs.push(seconds(|| cp(from, &copy)));
            ratios.push(ours[ours.len() - 1] / theirs[theirs.len() - 1]);
        }
        let [ours, theirs, ratios] = [ours, theirs, ratios].map(|v| Spread::of(v).into());
        table.row([name.into(), ours, theirs, ratios]);
    }
    table.note(format!("Medians of {PASSES} passes in turn, with least and most."));
    // The answer, not only the time.
    let same = Command::new("cmp").args([&minidump, &path("back")]).status().expect("cmp runs");
    assert!(same.success(), "the way back differs");

    Record::new(
        "convert",
        "Conversions beside cp",
        "cargo bench -p vmcask-benches --bench convert",
    )
    .about("A synthetic dump, 1 GiB of a 16 GiB machine; both sides write whole files and fsync.")
    .table(table)
    .save()
    .expect("room for the record");
}

fn convert(from: &Path, to: &Path, target: Target) {
    let input = input::open(from).expect("a dump");
    let view = target::of(&input, target, &Options::default()).expect("a view");
    assert!(view.losses.is_empty(), "{:?}", view.losses);
    let out = OutputFile::create(to, true).expect("a file to write to");
    restore::restore(&view, &out, 2, &|_| {}, &AtomicBool::new(false)).expect("room");
    // fsync and rename.
    out.commit().expect("room");
}

fn cp(from: &Path, to: &Path) {
    let _ = std::fs::remove_file(to);
    assert!(Command::new("cp").args([from, to]).status().expect("cp runs").success());
    File::open(to).and_then(|f| f.sync_all()).expect("fsync");
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}
