//! Do the baselines cost what the C code costs? Both of libkvm's tables in
//! Rust and in C (`benches/c/libkvm.c`, compiled by `cc -O2`), in turn: the
//! record `baselines`.
//!
//! ```text
//! cargo bench -p vmcask-benches --bench baselines [-- quick]
//! ```

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use vmcask_benches::engines::{self, Engine, nanoseconds};
use vmcask_benches::quick::Extent;
use vmcask_benches::record::{Record, Spread, Table};
use vmcask_benches::{Dump, PAGE_SHIFT, Shape, dump};
use vmcask_measure::Lookup;
use vmcask_measure::lookup::{Asked, Queries};

const QUERIES: usize = 1 << 20;
const HASH_QUERIES: usize = 256;
/// Farther apart than this, a baseline would not be faithful.
const WITHIN: f64 = 0.15;

/// The C program, running.
struct InC {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl InC {
    fn start(dir: &Path, dump: &Dump, queries: &Queries) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c/libkvm.c");
        let program = dir.join("libkvm");
        let cc = std::env::var("CC").unwrap_or("cc".into());
        let status =
            Command::new(cc).args(["-O2", "-o"]).arg(&program).arg(source).status().expect("cc");
        assert!(status.success(), "cc failed");
        let file = |name: &str, words: &mut dyn Iterator<Item = u64>| {
            let path = dir.join(name);
            let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
            std::fs::write(&path, bytes).expect("room");
            path
        };
        let bitmap = file("bitmap", &mut dump.bitmap.words().iter().copied());
        let ranges = file("ranges", &mut dump.avail.iter().flat_map(|(first, n)| [first.0, n]));
        let pages = file("queries", &mut queries.pfns.iter().map(|p| p.0));
        let mut child = Command::new(program)
            .args([bitmap, ranges, pages])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the C program");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, answers }
    }

    /// Nanoseconds and checksum.
    fn run(&mut self, table: &str, what: &str, n: usize) -> (f64, u64) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        writeln!(stdin, "{table} {what} {n}").expect("it reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        let (ns, sum) = line.trim().split_once(' ').expect("two numbers");
        (ns.parse().expect("a number"), sum.parse().expect("a number"))
    }
}

impl Drop for InC {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn main() {
    let Some(extent) = Extent::asked() else { return };
    let passes = extent.either(5, 7);
    let machines: &[(u64, u64)] = extent.either(&[(128, 8)], &[(128, 8), (512, 32)]);
    let mut table = Table::new(
        "Rust beside C",
        &[
            ("machine", ""),
            ("table", ""),
            ("what", ""),
            ("Rust", "ns"),
            ("C", "ns"),
            ("Rust / C", ""),
            ("within 15 %", ""),
        ],
    );
    let dir = tempfile::tempdir().expect("room");
    for &(ram, dumped) in machines {
        let d = dump(ram * 1024, dumped * 1024, Shape::Mixed);
        let queries = Queries::new(&d.bitmap, &d.avail, Asked::HalfAbsent, QUERIES).expect("pages");
        let engines = [engines::hash(&d), engines::popcount(&d)];
        let mut c = InC::start(dir.path(), &d, &queries);
        let place = format!("{dumped} GiB of {ram} GiB, half absent");
        for (lookup, engine) in [Lookup::Hash, Lookup::Popcount].into_iter().zip(&engines) {
            let n = if lookup == Lookup::Hash { HASH_QUERIES } else { QUERIES };
            engine.check(&queries, n);
            for what in ["dependent", "independent", "build"] {
                let passes = if what == "build" { 5 } else { passes };
                let (mut rust, mut in_c) = (Vec::new(), Vec::new());
                for _ in 0..passes {
                    if what == "build" {
                        rust.push(build(lookup, &d));
                        in_c.push(c.run(lookup.name(), what, 0).0);
                    } else {
                        rust.push(time(engine, what, &queries, n));
                        let (ns, sum) = c.run(lookup.name(), what, n);
                        assert_eq!(sum, queries.checksum(n), "C, {what}");
                        in_c.push(ns / n as f64);
                    }
                }
                let ratios = rust.iter().zip(&in_c).map(|(r, c)| r / c).collect();
                let ratio = Spread::of(ratios);
                let within = (ratio.median - 1.0).abs() <= WITHIN;
                table.row([
                    place.clone().into(),
                    lookup.name().into(),
                    if what == "build" { "build, in all" } else { what }.into(),
                    Spread::of(rust).into(),
                    Spread::of(in_c).into(),
                    ratio.into(),
                    if within { "yes" } else { "NO" }.into(),
                ]);
            }
        }
    }
    table.note(
        "Below 1 the Rust baseline is the faster one: then comparing with it understates what the \
         rank index gains.",
    );
    Record::new(
        "baselines",
        "The baselines beside C",
        &extent.command("baselines").replace(" --features peers", ""),
    )
    .about(
        "libkvm's hash table and population counts as the benches have them, and a transcription \
         of the same algorithms in C (benches/c/libkvm.c, cc -O2, arithmetic bit counts as \
         FreeBSD's x86-64 build has them). One process each, on the same bitmap and pages, in \
         turn; both use the system's malloc.",
    )
    .table(table)
    .save()
    .expect("room for the record");
}

fn time(engine: &Engine, what: &str, queries: &Queries, n: usize) -> f64 {
    let run = if what == "dependent" { &engine.dependent } else { &engine.independent };
    nanoseconds(run, &queries.pfns[..n])
}

/// Without copying the bitmap: the C program has its own, too.
fn build(lookup: Lookup, d: &Dump) -> f64 {
    let (bitmap, avail) = (d.bitmap.clone(), d.avail.clone());
    let start = Instant::now();
    let table = lookup.build(bitmap, avail, PAGE_SHIFT).expect("fits 32 bits");
    let took = start.elapsed().as_secs_f64() * 1e9;
    drop(table);
    took
}
