//! What crash tools do to a dump, with each lookup, beside the reference
//! timings of 2016: `vmcask bench` on a synthetic dump of 8 GiB of a 128 GiB
//! machine. Records `reference` and `workloads`.
//!
//! ```text
//! cargo bench -p vmcask-benches --bench workloads [-- quick]
//! ```
//!
//! The dump is kept in `target/bench/data` for the next run.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use vmcask_benches::program::vmcask;
use vmcask_benches::quick::Extent;
use vmcask_benches::record::{self, Axis, Cell, Chart, Record, Spread, Table};
use vmcask_benches::reference::r302976;
use vmcask_measure::workload::crashinfo;

/// What is read of `vmcask bench --json`.
#[derive(Deserialize)]
struct Report {
    passes: u32,
    lookups: Vec<LookupRow>,
    workloads: Vec<Row>,
}

#[derive(Deserialize)]
struct LookupRow {
    lookup: String,
    memory_bytes: u64,
}

#[derive(Deserialize)]
struct Row {
    workload: String,
    lookup: String,
    reading: String,
    opens: u64,
    lookups: u64,
    wall_seconds: Spread,
    user_seconds: Spread,
    sys_seconds: Spread,
    max_rss_bytes: u64,
    lookup_bytes: u64,
}

impl Report {
    fn row(&self, workload: &str, lookup: &str, reading: &str) -> &Row {
        let wanted =
            |r: &&Row| r.workload == workload && r.lookup == lookup && r.reading == reading;
        self.workloads.iter().find(wanted).expect("a row of the report")
    }
}

const MIB: f64 = 1048576.0;
/// The published figures' unit, taken as 10^6 bytes.
const MB: f64 = 1e6;

fn main() {
    let Some(extent) = Extent::asked() else { return };
    let (ram, dumped, procs) = extent.either((16, 1, 100), (128, 8, 500));
    let vmcask = vmcask();
    let (dump, kernel) = dump(&vmcask, ram, dumped, procs);
    let passes = extent.either("1", "3");
    let out = Command::new(&vmcask)
        .arg("bench")
        .arg(&dump)
        .arg("--kernel")
        .arg(&kernel)
        .args(["--json", "--passes", passes, "--scan-pages", "8192"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .expect("vmcask runs");
    assert!(out.status.success(), "vmcask bench failed");
    let report: Report = serde_json::from_slice(&out.stdout).expect("its JSON");
    let command = extent.command("workloads").replace(" --features peers", "");
    let what = format!(
        "a synthetic minidump of {dumped} GiB of a {ram} GiB machine, {procs} processes besides \
         the kernel's own, sparse, files cached"
    );
    reference(&report, &what, &command).save().expect("room for the record");
    workloads(&report, &what, &command).save().expect("room for the record");
}

/// The dump and its kernel, made if they aren't there.
fn dump(vmcask: &Path, ram: u64, dumped: u64, procs: u64) -> (PathBuf, PathBuf) {
    let dir = record::dir().join("data");
    std::fs::create_dir_all(&dir).expect("room");
    let path = |what: &str| dir.join(format!("{what}-{dumped}G-of-{ram}G-{procs}"));
    let (dump, kernel) = (path("vmcore"), path("kernel"));
    if !(dump.exists() && kernel.exists()) {
        let status = Command::new(vmcask)
            .args(["-q", "gen", "--force", "--sparse", "--ram"])
            .arg(format!("{ram}GiB"))
            .arg(format!("--dump={dumped}GiB"))
            .arg(format!("--procs={procs}"))
            .arg("--kernel")
            .arg(&kernel)
            .arg(&dump)
            .status()
            .expect("vmcask runs");
        assert!(status.success(), "vmcask gen failed");
    }
    (dump, kernel)
}

fn ratio(a: f64, b: f64) -> Cell {
    (a / b).into()
}

fn reference(report: &Report, what: &str, command: &str) -> Record {
    let published = r302976().expect("reference/r302976.toml");
    let mut table = Table::new(
        "2016 and here",
        &[
            ("measure", ""),
            ("unit", ""),
            ("2016: hash", ""),
            ("popcount", ""),
            ("ratio", ""),
            ("here: hash, pread", ""),
            ("popcount, mmap", ""),
            ("ratio", ""),
            ("rank, mmap", ""),
            ("hash / rank", ""),
            ("popcount / rank", ""),
        ],
    );
    let old = |w: &str| report.row(w, "hash", "pread");
    let new = |w: &str| report.row(w, "popcount", "mmap");
    let ours = |w: &str| report.row(w, "rank", "mmap");
    let three = |w: &str, f: &dyn Fn(&Row) -> f64| [f(old(w)), f(new(w)), f(ours(w))];
    for m in &published.measure {
        let here = match m.name.as_str() {
            "crashinfo, wall" => three("crashinfo", &|r| r.wall_seconds.median),
            "crashinfo, user" => three("crashinfo", &|r| r.user_seconds.median),
            "crashinfo, sys" => three("crashinfo", &|r| r.sys_seconds.median),
            "crashinfo, max RSS" => three("crashinfo", &|r| r.max_rss_bytes as f64 / MB),
            "kgdb thread apply all bt, wall" => three("bt-all", &|r| r.wall_seconds.median),
            "lookup memory" => {
                let memory = |name: &str| {
                    let row = report.lookups.iter().find(|l| l.lookup == name);
                    row.map_or(f64::NAN, |l| l.memory_bytes as f64 / MB)
                };
                ["hash", "popcount", "rank"].map(memory)
            }
            other => panic!("{other}: no workload measures it"),
        };
        let [hash, popcount, rank] = here;
        table.row([
            m.name.clone().into(),
            m.unit.clone().into(),
            m.hash.into(),
            m.popcount.into(),
            m.ratio().into(),
            hash.into(),
            popcount.into(),
            ratio(hash, popcount),
            rank.into(),
            ratio(hash, rank),
            ratio(popcount, rank),
        ]);
    }
    table.note(format!("Published: {}; {}.", published.source, published.dump));
    table.note(
        "The change of 2016 replaced table and pread together, so hash with pread is set beside \
         popcount with mmap; the workloads' tables have each alone.",
    );
    table.note(
        "Published times hold what real tools do besides: kgdb reads a kernel's debugging \
         information, twenty programs start on the hardware of then. Here that part is missing, so \
         ratios of times here are those of the lookups and of reading; they are no claim about the \
         tools as a whole. The lookup memory alone is the same quantity on both sides. Its \
         published unit may be 10^6 or 2^20 bytes.",
    );
    Record::new("reference", "The speed-up of 2016, and beyond", command)
        .about(format!("Measured on {what}; medians of {} passes in turn.", report.passes))
        .about(
            "Model: which tools crashinfo runs, that each opens the dump anew, and how many \
             objects each reads (listed with the workloads). Measured: everything else; processes, \
             threads, stacks, symbols and messages are walked in the dump as they are. Nothing in \
             the model was fitted to the published figures.",
        )
        .table(table)
}

fn workloads(report: &Report, what: &str, command: &str) -> Record {
    let mut record = Record::new("workloads", "What crash tools do to a dump", command).about(format!(
        "On {what}. Every tool run is a process of its own that opens the dump, builds its table \
         and ends without freeing it; lookups and ways of reading take turns. Digests of all \
         output are compared: they are the same whatever the lookup. Medians of {} passes.",
        report.passes
    ));
    let mut names: Vec<&str> = Vec::new();
    for r in &report.workloads {
        if !names.contains(&r.workload.as_str()) {
            names.push(&r.workload);
        }
    }
    let mut chart_rows = Vec::new();
    for &name in &names {
        let mut table = Table::new(
            name,
            &[
                ("reading", ""),
                ("lookup", ""),
                ("wall", "s"),
                ("user", "s"),
                ("sys", "s"),
                ("max RSS", "MiB"),
                ("table", "MiB"),
                ("first / this, wall", ""),
                ("user", ""),
            ],
        );
        let rows = || report.workloads.iter().filter(|r| r.workload == name);
        for r in rows() {
            let first = rows().find(|f| f.reading == r.reading).unwrap_or(r);
            table.row([
                r.reading.clone().into(),
                r.lookup.clone().into(),
                r.wall_seconds.into(),
                r.user_seconds.into(),
                r.sys_seconds.into(),
                (r.max_rss_bytes as f64 / MIB).into(),
                (r.lookup_bytes as f64 / MIB).into(),
                ratio(first.wall_seconds.median, r.wall_seconds.median),
                ratio(first.user_seconds.median, r.user_seconds.median),
            ]);
            chart_rows.push(format!("{name}, {}", r.reading));
        }
        if let Some(r) = rows().next() {
            table.note(format!("{} opens, {} pages looked up.", r.opens, r.lookups));
        }
        record = record.table(table);
    }
    chart_rows.dedup();
    let rows: Vec<&str> = chart_rows.iter().map(String::as_str).collect();
    let mut chart = Chart::dots("Wall time", Axis::log("wall time", "s"), &rows);
    for lookup in ["hash", "popcount", "rank"] {
        chart.dots_of(
            lookup,
            rows.iter().map(|row| {
                let (workload, reading) = row.rsplit_once(", ")?;
                let is =
                    |r: &&Row| r.workload == workload && r.reading == reading && r.lookup == lookup;
                report.workloads.iter().find(is).map(|r| r.wall_seconds)
            }),
        );
    }
    let mut model = Table::new(
        "The model of crashinfo",
        &[("tool", ""), ("walks", ""), ("objects", ""), ("objects of each process", "")],
    );
    for tool in &crashinfo::TOOLS {
        let mut walks = Vec::new();
        for (does, what) in [
            (tool.threads, "processes and threads"),
            (tool.backtrace, "the crashed thread's stack"),
            (tool.messages, "messages"),
        ] {
            if does {
                walks.push(what);
            }
        }
        model.row([
            tool.name.into(),
            walks.join(", ").into(),
            (tool.objects as f64).into(),
            (tool.objects_per_process as f64).into(),
        ]);
    }
    model.note(format!(
        "Objects lie in random dumped pages, {} to a page, and are read in random order, 256 bytes \
         each. Structures that are walked are read field by field, uncached, as libkvm reads them: \
         a field in the kernel map costs two lookups, of the page table and of the page. The \
         machine of the model: 32 CPUs, 200 zones, 400 malloc types, 1,000 sockets, 10 open files \
         a process.",
        crashinfo::OBJECTS_PER_PAGE
    ));
    record.chart(chart).table(model)
}
