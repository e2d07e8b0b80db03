//! `vmcask bench`: lookups and workloads on the user's own dump. Whatever is
//! timed runs in a process of its own, so that memory and cache of one lookup
//! are not the other's; this one starts them in turn.

mod child;
mod show;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use vmcask_measure::workload::crashinfo;
use vmcask_measure::{Lookup, Reading, Spread, workload};

use crate::args::{BenchArgs, BenchReading, Run};
use crate::progress::Progress;
use crate::{Outcome, interrupt, warn};
use child::Child;

/// What everything measured comes to.
#[derive(Serialize)]
struct Report {
    schema: u32,
    file: String,
    kernel: Option<String>,
    passes: u32,
    machine_pages: u64,
    dumped_pages: u64,
    lookups: Vec<LookupRow>,
    workloads: Vec<WorkloadRow>,
}

/// A table that finds pages.
#[derive(Clone, Serialize, Deserialize)]
struct LookupRow {
    lookup: String,
    /// Each page asked for once the one before is found.
    dependent_nanoseconds: Spread,
    /// One after the other, without waiting.
    independent_nanoseconds: Spread,
    /// Slices of pages; the rank index alone.
    batched_nanoseconds: Option<Spread>,
    half_absent_dependent_nanoseconds: Spread,
    build_milliseconds: Spread,
    memory_bytes: u64,
    queries: usize,
}

/// A workload with one lookup and one way of reading.
#[derive(Clone, Serialize)]
struct WorkloadRow {
    workload: String,
    lookup: &'static str,
    reading: &'static str,
    /// Processes: how often the dump is opened.
    opens: usize,
    /// Pages looked up, counted in a run of its own.
    lookups: u64,
    wall_seconds: Spread,
    user_seconds: Spread,
    sys_seconds: Spread,
    max_rss_bytes: u64,
    lookup_bytes: u64,
    /// The same for every lookup.
    digest: String,
}

/// A workload and its parameter.
struct Workload {
    run: Run,
    name: String,
    /// Of a scan.
    every: u64,
    lookups: &'static [Lookup],
}

pub fn run(args: &BenchArgs, quiet: bool) -> Result<Outcome> {
    if let Some(what) = args.run {
        return child::run(args, what);
    }
    if args.dump_kernel().is_none() && !quiet {
        eprintln!(
            "vmcask: without --kernel neither crashinfo nor bt-all: they follow the kernel's symbols"
        );
    }
    let dir = tempfile::Builder::new().prefix("vmcask-bench-").tempdir()?;
    let parent = Parent { args, objects: dir.path().join("objects") };
    let facts = child::facts(&parent.child(Run::Objects, Lookup::Rank, Reading::Mmap))?;
    for warning in &facts.warnings {
        warn(&args.file, warning);
    }
    let workloads = parent.workloads(&facts);

    let passes = u64::from(args.passes);
    let runs = workloads.iter().map(|w| w.lookups.len() as u64 * 2).sum::<u64>() * (passes + 1) + 1;
    let progress = Progress::steps("measuring", runs, quiet);
    let lookups = child::lookups(&parent.child(Run::Lookups, Lookup::Rank, Reading::Mmap))?;
    progress.step();
    let mut rows = Vec::new();
    for w in &workloads {
        rows.extend(parent.measure(w, &progress)?);
    }
    drop(progress);

    let report = Report {
        schema: 1,
        file: args.file.display().to_string(),
        kernel: args.dump_kernel().map(|k| k.display().to_string()),
        passes: args.passes,
        machine_pages: facts.machine_pages,
        dumped_pages: facts.dumped_pages,
        lookups,
        workloads: rows,
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        show::print(&report, &mut out)?;
    }
    Ok(Outcome::Done)
}

struct Parent<'a> {
    args: &'a BenchArgs,
    objects: PathBuf,
}

impl Parent<'_> {
    fn child(&self, run: Run, lookup: Lookup, reading: Reading) -> Child<'_> {
        Child {
            file: &self.args.file,
            kernel: self.args.dump_kernel(),
            objects: &self.objects,
            run,
            lookup,
            reading,
            tool: 0,
            every: 1,
            count: false,
        }
    }

    fn workloads(&self, facts: &child::Facts) -> Vec<Workload> {
        let every = facts.dumped_pages.div_ceil(self.args.scan_pages.max(1)).max(1);
        let of =
            |run, name: &str| Workload { run, name: name.into(), every: 1, lookups: &Lookup::ALL };
        let mut all = Vec::new();
        if self.args.dump_kernel().is_some() {
            all.push(of(Run::Crashinfo, "crashinfo"));
            all.push(of(Run::BtAll, "bt-all"));
        }
        if every == 1 {
            all.push(of(Run::Scan, "scan"));
        } else {
            let name = format!("scan, 1 page in {every}");
            all.push(Workload { every, ..of(Run::Scan, &name) });
            // The hash table would take minutes or hours.
            let lookups = &[Lookup::Popcount, Lookup::Rank];
            all.push(Workload { lookups, ..of(Run::Scan, "scan") });
        }
        all.retain(|w| self.args.only.is_empty() || self.args.only.contains(&w.run));
        all
    }

    /// All lookups and ways of reading in turn, pass after pass. A first one,
    /// not timed, counts the lookups and fills the page cache.
    fn measure(&self, w: &Workload, progress: &Progress) -> Result<Vec<WorkloadRow>> {
        let readings: Vec<Reading> = match self.args.reading {
            None => Reading::ALL.to_vec(),
            Some(BenchReading::Pread) => vec![Reading::Pread],
            Some(BenchReading::Mmap) => vec![Reading::Mmap],
        };
        let variants: Vec<_> = readings
            .iter()
            .flat_map(|&reading| w.lookups.iter().map(move |&lookup| (lookup, reading)))
            .collect();
        let mut counted = Vec::new();
        for &(lookup, reading) in &variants {
            // Counting with the hash table would only take longer.
            let quick = if lookup == Lookup::Hash { Lookup::Rank } else { lookup };
            counted.push(self.once(w, quick, reading, true)?);
            progress.step();
        }
        let mut passes = vec![Vec::new(); variants.len()];
        for _ in 0..self.args.passes {
            for (passes, &(lookup, reading)) in passes.iter_mut().zip(&variants) {
                passes.push(self.once(w, lookup, reading, false)?);
                progress.step();
            }
        }
        let mut rows = Vec::new();
        for ((&(lookup, reading), passes), counted) in variants.iter().zip(&passes).zip(&counted) {
            if passes.iter().any(|p| p.digest != counted.digest) {
                bail!("{} with {}: the answers differ from pass to pass", w.name, lookup.name());
            }
            let spread = |value: fn(&Pass) -> f64| Spread::of(passes.iter().map(value).collect());
            rows.push(WorkloadRow {
                workload: w.name.clone(),
                lookup: lookup.name(),
                reading: reading.name(),
                opens: passes[0].opens,
                lookups: counted.lookups,
                wall_seconds: spread(|p| p.wall),
                user_seconds: spread(|p| p.user),
                sys_seconds: spread(|p| p.sys),
                max_rss_bytes: passes.iter().map(|p| p.max_rss).max().unwrap_or(0),
                lookup_bytes: passes[0].lookup_bytes,
                digest: format!("{:016x}", counted.digest),
            });
        }
        if rows.iter().any(|r| r.digest != rows[0].digest) {
            bail!("{}: the lookups don't agree", w.name);
        }
        Ok(rows)
    }

    fn once(&self, w: &Workload, lookup: Lookup, reading: Reading, count: bool) -> Result<Pass> {
        let tools = if w.run == Run::Crashinfo { crashinfo::TOOLS.len() } else { 1 };
        let mut pass = Pass::default();
        for tool in 0..tools {
            interrupt::check()?;
            let child = Child { tool, every: w.every, count, ..self.child(w.run, lookup, reading) };
            let start = Instant::now();
            let (answer, used) = child.start()?;
            pass.wall += start.elapsed().as_secs_f64();
            pass.user += used.user;
            pass.sys += used.sys;
            pass.max_rss = pass.max_rss.max(answer.max_rss_bytes);
            pass.lookup_bytes = pass.lookup_bytes.max(answer.lookup_bytes);
            pass.lookups += answer.lookups.unwrap_or(0);
            pass.digest = pass.digest.rotate_left(7) ^ answer.digest;
            pass.opens += 1;
        }
        Ok(pass)
    }
}

/// A workload, once.
#[derive(Clone, Default)]
struct Pass {
    wall: f64,
    user: f64,
    sys: f64,
    max_rss: u64,
    lookup_bytes: u64,
    lookups: u64,
    digest: u64,
    opens: usize,
}

/// What a child needs of the objects' file: their addresses in 8 bytes each.
fn read_objects(path: &Path) -> Result<Vec<vmcask_dump::PhysAddr>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(words.iter().map(|w| vmcask_dump::PhysAddr(u64::from_le_bytes(*w))).collect())
}

fn write_objects(args: &BenchArgs, path: &Path) -> Result<()> {
    let objects = workload::objects(&args.file, crashinfo::OBJECTS, crashinfo::OBJECTS_PER_PAGE)?;
    let bytes: Vec<u8> = objects.iter().flat_map(|pa| pa.0.to_le_bytes()).collect();
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}
