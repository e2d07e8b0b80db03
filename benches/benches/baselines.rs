//! Do the baselines cost what the C code costs? Both of libkvm's tables in
//! Rust and in C (`benches/c/libkvm.c`, `-O2`), in turn: the record
//! `baselines`.
//!
//! ```text
//! cargo bench -p vmcask-benches --bench baselines [-- quick]
//! ```
//!
//! Where the system puts a table in memory decides about tens of per cent. So
//! each pass is a new pair of processes, one of either language, and in each
//! turn of a pair both make the population counts anew, with a new copy of the
//! bitmap; the hash table, which takes a second to make, stays. The loops of a
//! pair alternate, as a machine's speed drifts.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use vmcask_benches::program::have;
use vmcask_benches::quick::Extent;
use vmcask_benches::record::{Record, Spread, Table, output};
use vmcask_benches::{Dump, PAGE_SHIFT, Shape, dump};
use vmcask_measure::Lookup;
use vmcask_measure::lookup::{Asked, Queries, dependent, independent, ordinal};
use vmcask_rank::{AvailRanges, ChainedHash, PageBitmap, PageLookup, Pfn, Popcount1024};

const QUERIES: usize = 1 << 18;
const HASH_QUERIES: usize = 64;
/// How often the loops of a pair of processes alternate, each time on new
/// population counts.
const TURNS: usize = 5;
/// Farther apart than this, a baseline would not be faithful.
const WITHIN: f64 = 0.15;
/// The first argument of this program as what `libkvm` is in C.
const IN_RUST: &str = "in-rust";

/// A range's first physical address, and the one behind its last.
fn addresses((first, n): (Pfn, u64)) -> [u64; 2] {
    [first.0, first.0 + n].map(|page| page << PAGE_SHIFT)
}

/// The files that both programs read: bitmap, ranges, queries.
struct Files([PathBuf; 3]);

impl Files {
    fn write(dir: &Path, dump: &Dump, queries: &Queries) -> Self {
        let file = |name: &str, words: &mut dyn Iterator<Item = u64>| {
            let path = dir.join(name);
            let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
            std::fs::write(&path, bytes).expect("room");
            path
        };
        Self([
            file("bitmap", &mut dump.bitmap.words().iter().copied()),
            file("ranges", &mut dump.avail.iter().flat_map(addresses)),
            file("queries", &mut queries.pfns.iter().map(|p| p.0)),
        ])
    }
}

/// One of the two programs, running.
struct Running {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut program: Command, files: &Files) -> Self {
        let mut child = program
            .args(&files.0)
            .arg((1u64 << PAGE_SHIFT).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a program that runs");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut running = Self { child, answers };
        // It answers once its hash table is built: the other program's doesn't
        // compete for memory meanwhile.
        running.run(Lookup::Hash, "build", 0);
        running
    }

    /// Nanoseconds and checksum.
    fn run(&mut self, lookup: Lookup, what: &str, n: usize) -> (f64, u64) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        writeln!(stdin, "{} {what} {n}", lookup.name()).expect("it reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        let (ns, sum) = line.trim().split_once(' ').expect("two numbers");
        (ns.parse().expect("a number"), sum.parse().expect("a number"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// FreeBSD's own compiler is clang, and rustc shares its back end: gcc's code
/// for the same loop can take a sixth more.
fn compiler() -> String {
    let known = || if have("clang") { "clang" } else { "cc" }.into();
    std::env::var("CC").unwrap_or_else(|_| known())
}

fn version(cc: &str) -> String {
    output(cc, &["--version"]).lines().next().unwrap_or_default().to_owned()
}

/// What `libkvm.c` does, with the tables in Rust.
fn in_rust(files: &[String]) -> ! {
    let load = |path: &str| -> Vec<u64> {
        let bytes = std::fs::read(path).expect("written by the bench");
        bytes.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().expect("8"))).collect()
    };
    let [bitmap, ranges, queries, _] = files else { panic!("three files") };
    let (words, pfns) = (load(bitmap), load(queries));
    let pairs: Vec<(u64, u64)> = load(ranges).chunks_exact(2).map(|r| (r[0], r[1])).collect();
    let avail = AvailRanges::new(&pairs, PAGE_SHIFT).expect("ascending ranges");
    let bitmap = PageBitmap::from_words(words, avail.total_pages());
    let pfns: Vec<Pfn> = pfns.into_iter().map(Pfn).collect();

    let start = Instant::now();
    let hash = ChainedHash::build(&bitmap, &avail, PAGE_SHIFT);
    let hash_took = start.elapsed();
    // All that were made: of one that was freed, the next would get the place.
    let mut popcounts = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line.expect("text");
        let words: Vec<&str> = line.split(' ').collect();
        let n: usize = words[2].parse().expect("a number");
        let (took, sum) = match words[0] {
            "hash" if words[1] == "build" => (hash_took, 0),
            "hash" => timed(&hash, words[1], &pfns[..n]),
            _ if words[1] == "build" => {
                let bitmap = bitmap.clone();
                let start = Instant::now();
                let popcount = Popcount1024::build(bitmap, &avail, PAGE_SHIFT);
                popcounts.push(popcount.expect("fits 32 bits"));
                (start.elapsed(), 0)
            }
            _ => timed(popcounts.last().expect("built before"), words[1], &pfns[..n]),
        };
        println!("{} {sum}", took.as_nanos());
    }
    // As C does: freeing the nodes one by one would take seconds.
    std::process::exit(0);
}

fn timed(table: &impl PageLookup, what: &str, pfns: &[Pfn]) -> (std::time::Duration, u64) {
    let find = |pfn| ordinal(table, pfn);
    let start = Instant::now();
    let sum = if what == "dependent" { dependent(pfns, find) } else { independent(pfns, find) };
    (start.elapsed(), sum)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == IN_RUST) {
        in_rust(&args[1..]);
    }
    let Some(extent) = Extent::asked() else { return };
    let passes = extent.either(4, 6);
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
    let cc = compiler();
    let program = dir.path().join("libkvm");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c/libkvm.c");
    let status = Command::new(&cc).args(["-O2", "-o"]).arg(&program).arg(source).status();
    assert!(status.expect("a C compiler").success(), "{cc} failed");
    let this = std::env::current_exe().expect("a name");
    for &(ram, dumped) in machines {
        let d = dump(ram * 1024, dumped * 1024, Shape::Mixed);
        let queries = Queries::new(&d.bitmap, &d.avail, Asked::HalfAbsent, QUERIES).expect("pages");
        let files = Files::write(dir.path(), &d, &queries);
        drop(d);
        let rows: Vec<(Lookup, &str)> = [Lookup::Hash, Lookup::Popcount]
            .into_iter()
            .flat_map(|l| ["build", "dependent", "independent"].map(|what| (l, what)))
            .collect();
        let mut times = vec![(Vec::new(), Vec::new(), Vec::new()); rows.len()];
        for pass in 0..passes {
            let rust = || {
                let mut program = Command::new(&this);
                program.arg(IN_RUST);
                Running::start(program, &files)
            };
            let in_c = || Running::start(Command::new(&program), &files);
            // The first of a pair gets the memory that the last pair has left.
            let (mut rust, mut in_c) = if pass % 2 == 0 {
                let rust = rust();
                (rust, in_c())
            } else {
                let in_c = in_c();
                (rust(), in_c)
            };
            for turn in 0..TURNS {
                for (&(lookup, what), times) in rows.iter().zip(&mut times) {
                    if (lookup, what) == (Lookup::Hash, "build") && turn > 0 {
                        continue;
                    }
                    let n = if lookup == Lookup::Hash { HASH_QUERIES } else { QUERIES };
                    let run = |running: &mut Running| {
                        if what == "build" {
                            return running.run(lookup, what, n).0;
                        }
                        // Once to fill the caches, which the other has used.
                        let (_, first) = running.run(lookup, what, n);
                        let (ns, sum) = running.run(lookup, what, n);
                        assert_eq!([first, sum], [queries.checksum(n); 2], "{what}");
                        ns / n as f64
                    };
                    let (r, c) = if turn % 2 == 0 {
                        let r = run(&mut rust);
                        (r, run(&mut in_c))
                    } else {
                        let c = run(&mut in_c);
                        (run(&mut rust), c)
                    };
                    times.0.push(r);
                    times.1.push(c);
                    times.2.push(r / c);
                }
            }
        }
        for ((lookup, what), (rust, in_c, ratios)) in rows.into_iter().zip(times) {
            let ratio = Spread::of(ratios);
            let within = (ratio.median - 1.0).abs() <= WITHIN;
            table.row([
                format!("{dumped} GiB of {ram} GiB, half absent").into(),
                lookup.name().into(),
                if what == "build" { "build, in all" } else { what }.into(),
                Spread::of(rust).into(),
                Spread::of(in_c).into(),
                ratio.into(),
                if within { "yes" } else { "NO" }.into(),
            ]);
        }
    }
    table.note(
        "Rust / C is the median of the turns' ratios. Each program waits while the \
         other runs, and runs each loop once untimed.",
    );
    Record::new(
        "baselines",
        "The baselines beside C",
        &extent.command("baselines").replace(" --features peers", ""),
    )
    .about(format!(
        "libkvm's hash table and population counts as the benches have them, and a transcription \
         of the same algorithms in C (benches/c/libkvm.c, {cc} -O2: {}; arithmetic bit counts as \
         FreeBSD's x86-64 build has them). {passes} pairs of processes, on the same bitmap and pages, \
         {TURNS} turns each, population counts made anew in every one; both use the system's malloc.",
        version(&cc)
    ))
    .table(table)
    .save()
    .expect("room for the record");
}
