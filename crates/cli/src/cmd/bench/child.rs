//! The processes that do what is timed.

use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};
use vmcask_measure::lookup::{Asked, Queries, batched, dependent, independent, ordinal};
use vmcask_measure::workload::{self, Done, Setup, crashinfo};
use vmcask_measure::{Lookup, Reading, Spread};
use vmcask_rank::{ChainedHash, OwnedRankIndex, PageBitmap, PageLookup, Popcount1024};

use super::LookupRow;
use crate::args::{BenchArgs, BenchLookup, BenchReading, Run};
use crate::{Outcome, interrupt};

/// Pages asked for in a pass. Of the hash table fewer, as a chain has the more
/// nodes the more pages the dump has: their product, but no fewer than the least.
const QUERIES: usize = 1 << 20;
const HASH_QUERIES_TIMES_PAGES: u64 = 1 << 28;
const LEAST_HASH_QUERIES: usize = 256;

/// Arguments of a child.
pub struct Child<'a> {
    pub file: &'a Path,
    pub kernel: Option<&'a Path>,
    pub objects: &'a Path,
    pub run: Run,
    pub lookup: Lookup,
    pub reading: Reading,
    pub tool: usize,
    pub every: u64,
    pub count: bool,
}

/// What a workload's child prints.
#[derive(Serialize, Deserialize)]
pub struct Answer {
    pub digest: u64,
    pub lookup_bytes: u64,
    pub lookups: Option<u64>,
    pub max_rss_bytes: u64,
}

/// What the child that chooses objects prints.
#[derive(Serialize, Deserialize)]
pub struct Facts {
    pub machine_pages: u64,
    pub dumped_pages: u64,
    /// What is odd about the dump, though it can be read.
    pub warnings: Vec<String>,
}

/// Seconds that a child used.
pub struct Used {
    pub user: f64,
    pub sys: f64,
}

impl Child<'_> {
    /// Runs it to its end; what it says goes to standard error.
    pub fn start(&self) -> Result<(Answer, Used)> {
        let before = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let answer = self.ask()?;
        let after = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let seconds = |time: fn(&Usage) -> i64| (time(&after) - time(&before)) as f64 / 1e6;
        let user = seconds(|u| u.user_time().num_microseconds());
        let sys = seconds(|u| u.system_time().num_microseconds());
        Ok((answer, Used { user, sys }))
    }

    fn ask<T: for<'de> Deserialize<'de>>(&self) -> Result<T> {
        let me = std::env::current_exe().context("this program's own file")?;
        let mut command = Command::new(me);
        command.args(["bench", "--run", self.run.name(), "--lookup", self.lookup.name()]);
        command.args(["--reading", self.reading.name(), "--objects"]).arg(self.objects);
        command.arg(format!("--tool={}", self.tool)).arg(format!("--every={}", self.every));
        if let Some(kernel) = self.kernel {
            command.arg("--kernel").arg(kernel);
        }
        if self.count {
            command.arg("--count");
        }
        let out = command.arg("--").arg(self.file).stdin(Stdio::null()).output()?;
        interrupt::check()?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            bail!("{}", said.trim().trim_start_matches("vmcask: "));
        }
        let name = self.run.name();
        serde_json::from_slice(&out.stdout).with_context(|| format!("what {name} printed"))
    }
}

/// Lets a child choose the objects that crashinfo's tools read.
pub fn facts(child: &Child<'_>) -> Result<Facts> {
    child.ask()
}

/// Lets a child time the bare lookups.
pub fn lookups(child: &Child<'_>) -> Result<Vec<LookupRow>> {
    child.ask()
}

/// The child's side.
pub fn run(args: &BenchArgs, what: Run) -> Result<Outcome> {
    let lookup = match args.lookup {
        BenchLookup::Hash => Lookup::Hash,
        BenchLookup::Popcount => Lookup::Popcount,
        BenchLookup::Rank => Lookup::Rank,
    };
    let reading = match args.reading {
        Some(BenchReading::Mmap) | None => Reading::Mmap,
        Some(BenchReading::Pread) => Reading::Pread,
    };
    let no_kernel = || format!("{} needs --kernel", what.name());
    let kernel = args.dump_kernel().with_context(no_kernel);
    let setup = |kernel| Setup { file: &args.file, kernel, lookup, reading, count: args.count };
    let done = match what {
        Run::Objects => return objects(args),
        Run::Lookups => return print(&bare(args)?),
        Run::Crashinfo => {
            let objects = match &args.objects {
                Some(path) => super::read_objects(path)?,
                None => {
                    workload::objects(&args.file, crashinfo::OBJECTS, crashinfo::OBJECTS_PER_PAGE)?
                }
            };
            let tool = crashinfo::TOOLS.get(args.tool).context("no such tool")?;
            crashinfo::run(&setup(kernel?), tool, &objects)?
        }
        Run::BtAll => workload::bt_all(&setup(kernel?))?,
        Run::Scan => workload::scan(&setup(Path::new("")), args.every)?,
    };
    print(&answer(done))
}

fn print(what: &impl Serialize) -> Result<Outcome> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, what)?;
    writeln!(out)?;
    Ok(Outcome::Done)
}

fn answer(done: Done) -> Answer {
    Answer {
        digest: done.digest,
        lookup_bytes: done.lookup_bytes,
        lookups: done.lookups,
        max_rss_bytes: max_rss(),
    }
}

/// The most memory this process has had resident. Linux's getrusage has what
/// the parent had before exec in it, too: there, /proc tells.
fn max_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    if let Some(kib) = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()) {
        return kib * 1024;
    }
    // KiB, but bytes on macOS.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |u| u.max_rss() as u64 * unit)
}

fn objects(args: &BenchArgs) -> Result<Outcome> {
    let path = args.objects.as_deref().context("--objects is missing")?;
    let opened = vmcask_measure::open(&args.file, Lookup::Rank, Reading::Mmap, false)?;
    super::write_objects(args, path)?;
    print(&Facts {
        machine_pages: opened.dump.pages_of_memory(),
        dumped_pages: opened.dump.pages_present(),
        warnings: opened.dump.warnings().iter().map(ToString::to_string).collect(),
    })
}

/// The three tables in turn on the dump's bitmap.
fn bare(args: &BenchArgs) -> Result<Vec<LookupRow>> {
    let opened = vmcask_measure::open(&args.file, Lookup::Rank, Reading::Mmap, false)?;
    let index = opened.dump.index()?;
    let (avail, shift) = (index.avail(), opened.dump.header().page_shift());
    let bitmap = PageBitmap::from_words(index.words().to_vec(), avail.total_pages());
    let passes = args.passes as usize;

    let mut built = [const { Vec::new() }; 3];
    for _ in 0..passes {
        for (i, built) in built.iter_mut().enumerate() {
            let (bitmap, avail) = (bitmap.clone(), avail.clone());
            let start = Instant::now();
            let table = Lookup::ALL[i].build(bitmap, avail, shift)?;
            built.push(start.elapsed().as_secs_f64() * 1e3);
            drop(table);
            interrupt::check()?;
        }
    }
    let hash = ChainedHash::build(&bitmap, avail, shift);
    let popcount = Popcount1024::build(bitmap.clone(), avail, shift)?;
    let rank = OwnedRankIndex::build(bitmap.clone(), avail.clone());
    let queries = |asked| {
        Queries::new(&bitmap, avail, asked, QUERIES).context("the dump has no pages to look up")
    };
    let of_pages = HASH_QUERIES_TIMES_PAGES / rank.total().max(1);
    let hash_queries = (of_pages as usize).clamp(LEAST_HASH_QUERIES, QUERIES);
    let (present, half) = (queries(Asked::Present)?, queries(Asked::HalfAbsent)?);
    for q in [&present, &half] {
        q.check("hash", &hash, hash_queries);
        q.check("popcount", &popcount, QUERIES);
        q.check("rank", &rank, QUERIES);
    }

    // Three kinds of loops for each table, and batches.
    let mut times = [const { Vec::new() }; 10];
    for _ in 0..passes {
        let loops: [&dyn Fn() -> Result<f64>; 10] = [
            &|| timed(&present, hash_queries, |p| dependent(p, |p| ordinal(&hash, p))),
            &|| timed(&present, hash_queries, |p| independent(p, |p| ordinal(&hash, p))),
            &|| timed(&half, hash_queries, |p| dependent(p, |p| ordinal(&hash, p))),
            &|| timed(&present, QUERIES, |p| dependent(p, |p| ordinal(&popcount, p))),
            &|| timed(&present, QUERIES, |p| independent(p, |p| ordinal(&popcount, p))),
            &|| timed(&half, QUERIES, |p| dependent(p, |p| ordinal(&popcount, p))),
            &|| timed(&present, QUERIES, |p| dependent(p, |p| ordinal(&rank, p))),
            &|| timed(&present, QUERIES, |p| independent(p, |p| ordinal(&rank, p))),
            &|| timed(&half, QUERIES, |p| dependent(p, |p| ordinal(&rank, p))),
            &|| timed(&present, QUERIES, |p| batched(p, |p, out| rank.find_batch(p, out))),
        ];
        for (times, run) in times.iter_mut().zip(loops) {
            times.push(run()?);
            interrupt::check()?;
        }
    }
    let memory = [hash.memory(), popcount.memory(), rank.memory()];
    let times = times.map(Spread::of);
    let built = built.map(Spread::of);
    let row = |i: usize| LookupRow {
        lookup: Lookup::ALL[i].name().into(),
        dependent_nanoseconds: times[i * 3],
        independent_nanoseconds: times[i * 3 + 1],
        half_absent_dependent_nanoseconds: times[i * 3 + 2],
        batched_nanoseconds: (i == 2).then_some(times[9]),
        build_milliseconds: built[i],
        memory_bytes: memory[i] as u64,
        queries: if i == 0 { hash_queries } else { QUERIES },
    };
    Ok((0..3).map(row).collect())
}

/// Nanoseconds for each of the first `n`, once the caches have seen them: the
/// table that was timed before has driven this one out.
fn timed(queries: &Queries, n: usize, run: impl Fn(&[vmcask_rank::Pfn]) -> u64) -> Result<f64> {
    let pfns = &queries.pfns[..n];
    let first = run(black_box(pfns));
    let start = Instant::now();
    let sum = run(black_box(pfns));
    let took = start.elapsed();
    if [first, sum] != [queries.checksum(n); 2] {
        bail!("the lookups don't agree");
    }
    Ok(took.as_secs_f64() * 1e9 / n as f64)
}
