//! `gen --check`: whether a dump's pages are those it was made with. It is
//! opened with the readers, so that both are tested.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use rand::{RngExt, SeedableRng};
use vmcask_convert::Dump;
use vmcask_dump::PhysAddr;
use vmcask_synth::{Spec, SynthDump};

use crate::args::GenArgs;
use crate::named::Named;
use crate::progress::Progress;
use crate::size::count;
use crate::{Outcome, interrupt};

/// Kernels are loaded at multiples of this.
const LOAD_STEP: u64 = 1 << 20;
/// Pages that a thread takes at a time.
const CHUNK: u64 = 1024;
/// The longest line of text: 255 ranges, and all else.
const LINE: usize = 16384;

/// A dump of any kind.
struct Subject {
    dump: Dump,
    /// Physical ranges, start and end.
    ranges: Vec<(u64, u64)>,
    bytes: u64,
}

pub fn run(path: &Named, args: &GenArgs, quiet: bool) -> Result<Outcome> {
    let subject = open(path)?;
    let spec = find_spec(&subject).with_context(|| path.display().to_string())?;
    if let Some(seed) = args.seed
        && seed != spec.seed
    {
        bail!("{}: made with seed {}, not {seed}", path.display(), spec.seed);
    }
    let synth = SynthDump::new(spec).with_context(|| path.display().to_string())?;
    let page = synth.spec().page_size;
    let verdict = match args.sample {
        Some(n) => sample(&subject, &synth, n)?,
        None => all(&subject, &synth, args.output_args.threads(), quiet)?,
    };
    let promised = synth.pages() * page;
    if subject.bytes > promised {
        bail!(
            "{}: {} bytes of memory more than it was made with",
            path.display(),
            subject.bytes - promised
        );
    }
    if let Some(pa) = verdict.first_wrong {
        bail!(
            "{}: {} of {} pages differ from what was made, the first at {pa}",
            path.display(),
            count(verdict.wrong),
            count(verdict.checked)
        );
    }
    if !quiet {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}: {} pages as they were made", path.display(), count(verdict.checked))?;
        writeln!(out, "{}", synth.spec())?;
    }
    if verdict.missing > 0 {
        crate::warn(path, format!("{} pages are missing", count(verdict.missing)));
        return Ok(Outcome::Incomplete);
    }
    Ok(Outcome::Done)
}

fn open(path: &Named) -> Result<Subject> {
    let dump = path.open()?.dump;
    let (ranges, bytes) = match &dump {
        Dump::Elf(core) => {
            let runs: Vec<_> = core.phys_runs().map(|(pa, _, n)| (pa.0, n)).collect();
            let bytes = runs.iter().map(|r| r.1).sum();
            (runs.into_iter().map(|(pa, n)| (pa, pa.saturating_add(n))).collect(), bytes)
        }
        Dump::Minidump(dump) => {
            let mut ranges = dump.dump_avail().to_vec();
            if ranges.is_empty() {
                ranges.push((0, dump.pages_of_memory() * dump.page_size()));
            }
            (ranges, dump.pages_present() * dump.page_size())
        }
    };
    Ok(Subject { dump, ranges, bytes })
}

/// The line of text at the beginning of the kernel image.
fn find_spec(subject: &Subject) -> Result<Spec> {
    let magic = b"vmcask-synth ";
    let mut start = [0; 13];
    for &(from, to) in &subject.ranges {
        for pa in (from.next_multiple_of(LOAD_STEP)..to).step_by(LOAD_STEP as usize) {
            let there = subject.dump.phys().read_phys(PhysAddr(pa), &mut start).is_ok();
            if there && &start == magic {
                let mut line = vec![0; LINE];
                subject.dump.phys().read_phys(PhysAddr(pa), &mut line)?;
                return Ok(String::from_utf8_lossy(&line).parse()?);
            }
        }
        interrupt::check()?;
    }
    bail!("no line of text in its memory: not made by `gen`, or cut off before its kernel")
}

struct Verdict {
    checked: u64,
    missing: u64,
    wrong: u64,
    first_wrong: Option<PhysAddr>,
}

/// Counts that threads share.
struct Tally {
    checked: AtomicU64,
    missing: AtomicU64,
    wrong: AtomicU64,
    first_wrong: AtomicU64,
}

impl Tally {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            checked: zero(),
            missing: zero(),
            wrong: zero(),
            first_wrong: AtomicU64::new(u64::MAX),
        }
    }

    /// Compares the page at `pa`, 4 KiB at a time.
    fn page(&self, subject: &Subject, synth: &SynthDump, pa: u64) {
        let (mut want, mut found) = ([0; 4096], [0; 4096]);
        for pa in (pa..pa + synth.spec().page_size).step_by(4096) {
            let made = synth.page(pa, &mut want);
            match subject.dump.phys().read_phys(PhysAddr(pa), &mut found) {
                Err(_) => {
                    self.missing.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Ok(()) if made && want == found => {}
                Ok(()) => {
                    self.wrong.fetch_add(1, Ordering::Relaxed);
                    self.first_wrong.fetch_min(pa, Ordering::Relaxed);
                    break;
                }
            }
        }
        self.checked.fetch_add(1, Ordering::Relaxed);
    }

    fn verdict(&self) -> Verdict {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Verdict {
            checked: get(&self.checked),
            missing: get(&self.missing),
            wrong: get(&self.wrong),
            first_wrong: (get(&self.wrong) > 0).then(|| PhysAddr(get(&self.first_wrong))),
        }
    }
}

fn sample(subject: &Subject, synth: &SynthDump, n: u64) -> Result<Verdict> {
    let mut rng = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(synth.spec().seed);
    let tally = Tally::new();
    for _ in 0..n {
        interrupt::check()?;
        if let Some((pa, _)) = synth.run_at(rng.random_range(0..synth.pages())) {
            tally.page(subject, synth, pa);
        }
    }
    Ok(tally.verdict())
}

fn all(subject: &Subject, synth: &SynthDump, threads: usize, quiet: bool) -> Result<Verdict> {
    let page = synth.spec().page_size;
    let pages = synth.pages();
    let tally = Tally::new();
    let next = AtomicU64::new(0);
    let progress = Progress::new("checking", pages * page, quiet);
    let work = || {
        while !interrupt::raised() {
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            let end = pages.min(first.saturating_add(CHUNK));
            let mut ordinal = first;
            while ordinal < end
                && let Some((pa, run)) = synth.run_at(ordinal)
            {
                let n = run.min(end - ordinal);
                for i in 0..n {
                    tally.page(subject, synth, pa + i * page);
                }
                ordinal += n;
            }
            if first >= pages {
                return;
            }
            progress.set(end * page);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(64) {
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    interrupt::check()?;
    Ok(tally.verdict())
}
