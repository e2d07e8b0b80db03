//! `vmcask demo`: the main job from end to end, on a dump made here.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table};
use rand::{Rng, RngExt, SeedableRng};
use vmcask_archive::WriteOptions;
use vmcask_convert::{Dump, OutputFile, input};
use vmcask_dump::source::MapSource;
use vmcask_dump::{Minidump, PhysMem, ReadAt};
use vmcask_rank::{ChainedHash, OwnedRankIndex, PageBitmap, PageLookup, Pfn, Popcount1024};
use vmcask_synth::{Spec, SynthDump};

use super::{convert, generate, verify};
use crate::args::{DemoArgs, threads};
use crate::size::{count, human};
use crate::{Outcome, interrupt, terminal};

/// The machine: 64 GiB, of which half a GiB is dumped.
const RAM: u64 = 64 << 30;
const DUMP: u64 = 512 << 20;
/// Pages read through the archive.
const READS: usize = 10_000;
/// The hash table takes microseconds for each; more would only take longer.
const LOOKUPS: usize = 20_000;

pub fn run(args: &DemoArgs, quiet: bool) -> Result<Outcome> {
    if let Some(dir) = &args.keep {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        return demo(dir, true, quiet);
    }
    // Removed when it goes out of scope, after an interrupt too.
    let dir = tempfile::Builder::new().prefix("vmcask-demo-").tempdir()?;
    demo(dir.path(), false, quiet)
}

fn demo(dir: &Path, kept: bool, quiet: bool) -> Result<Outcome> {
    let dump = dir.join("vmcore");
    let cask = dir.join("vmcore.cask");
    let back = dir.join("vmcore.minidump");
    let threads = threads(None);
    let mut report = Report::new();

    let spec = Spec { ram: RAM, dump: DUMP, ..Spec::default() };
    let start = Instant::now();
    let out = OutputFile::create(&dump, kept)?;
    generate::write(&SynthDump::new(spec)?, &out, true, threads, quiet)?;
    out.commit()?;
    let took = start.elapsed();
    let dump_len = dump.metadata()?.len();
    report.row(
        "generate",
        format!("amd64 minidump of a {} machine, {}", human(RAM), human(dump_len)),
        took,
        rate(dump_len, took),
    );

    let original = input::open(&dump)?;
    let start = Instant::now();
    let out = OutputFile::create(&cask, kept)?;
    let plan = vmcask_convert::archive::plan(&original)?;
    let options =
        WriteOptions { threads, ..WriteOptions::suited_to(&plan, Some(&*original.source)) };
    let written = convert::to_archive(&original, &plan, &options, &out, quiet)?;
    out.commit()?;
    let took = start.elapsed();
    report.row(
        "archive",
        format!(
            "{}: ratio {:.2}; {} cells zero, {} duplicates",
            human(written.bytes),
            dump_len as f64 / written.bytes as f64,
            count(written.zero_cells),
            count(written.duplicate_cells)
        ),
        took,
        rate(dump_len, took),
    );

    let archived = input::open(&cask)?;
    let archive = archived.archive.as_ref().context("the demo's archive is not one")?;
    let start = Instant::now();
    let verdict = verify::check(archive, threads, quiet)?;
    if !verdict.is_intact() {
        bail!("{}: damaged as soon as written", cask.display());
    }
    let took = start.elapsed();
    let what = format!("all frames and the digest, {} cells", count(verdict.intact_cells));
    report.row("verify", what, took, rate(dump_len, took));

    let start = Instant::now();
    let out = OutputFile::create(&back, kept)?;
    convert::write_view(&*archived.source, threads, &out, quiet)?;
    out.commit()?;
    let took = start.elapsed();
    compare(&dump, &back)?;
    report.row("restore", "identical to the original".into(), took, rate(dump_len, took));

    let took = read_pages(&original.dump, &archived.dump)?;
    report.row(
        "read",
        format!("{} random pages through the archive, all equal", count(READS as u64)),
        took,
        format!("{:.1} µs a page", took.as_secs_f64() * 1e6 / READS as f64),
    );

    let Dump::Minidump(minidump) = &original.dump else { bail!("the dump made is no minidump") };
    lookups(minidump, &mut report)?;

    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{report}")?;
    if kept {
        writeln!(stdout, "\nThe files are in {}. Try:", dir.display())?;
        writeln!(stdout, "  vmcask info {}", cask.display())?;
        writeln!(stdout, "  vmcask read {} --va 0xffffffff80200000 64", cask.display())?;
    } else {
        writeln!(stdout, "\nNothing is left behind. Try next:")?;
        writeln!(stdout, "  vmcask demo --keep DIR         the same, files kept")?;
        writeln!(stdout, "  vmcask info /var/crash/vmcore.0")?;
        writeln!(stdout, "  vmcask convert /var/crash/vmcore.0 vmcore.0.cask")?;
    }
    Ok(Outcome::Done)
}

/// Looks the same pages up in both, and compares their bytes. The time is
/// that of the archive alone.
fn read_pages(original: &Dump, archived: &Dump) -> Result<Duration> {
    let Dump::Minidump(original) = original else { bail!("the dump made is no minidump") };
    let mut rng = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(1);
    let mut took = Duration::ZERO;
    let (mut a, mut b) = ([0; 4096], [0; 4096]);
    for _ in 0..READS {
        let ordinal = rng.random_range(0..original.pages_present());
        let pa = original.page_address(ordinal)?.context("a page without an address")?;
        original.read_phys(pa, &mut a)?;
        let start = Instant::now();
        archived.phys().read_phys(pa, &mut b)?;
        took += start.elapsed();
        if a != b {
            bail!("the page at {pa} differs between the dump and its archive");
        }
        interrupt::check()?;
    }
    Ok(took)
}

/// Times the three lookups on the dump's own bitmap, half of the pages asked
/// for absent, in no order that a processor could learn.
fn lookups(dump: &Minidump, report: &mut Report) -> Result<()> {
    let index: &OwnedRankIndex = dump.index()?;
    let avail = index.avail();
    let bitmap = PageBitmap::from_words(index.words().to_vec(), avail.total_pages());
    let start = Instant::now();
    let hash = ChainedHash::build(&bitmap, avail, dump.header().page_shift());
    let hash_built = start.elapsed();
    let copy = bitmap.clone();
    let start = Instant::now();
    let popcount = Popcount1024::build(copy, avail, dump.header().page_shift())?;
    let popcount_built = start.elapsed();
    let start = Instant::now();
    let rank = OwnedRankIndex::build(bitmap, avail.clone());
    let rank_built = start.elapsed();

    let mut rng = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(2);
    let pages: Vec<Pfn> = (0..LOOKUPS)
        .map(|_| {
            if rng.next_u64() % 2 == 0 {
                index.select(rng.next_u64() % index.total()).unwrap_or_default()
            } else {
                avail.pfn_of(rng.next_u64() % avail.total_pages()).unwrap_or_default()
            }
        })
        .collect();
    let tables: [(&str, &dyn PageLookup, Duration); 3] = [
        ("hash table (libkvm to 2016)", &hash, hash_built),
        ("popcounts (libkvm since)", &popcount, popcount_built),
        ("rank index (vmcask)", &rank, rank_built),
    ];
    let mut answers = Vec::new();
    let mut first = None;
    for (name, table, built) in tables {
        let find_all = || {
            pages.iter().fold(0u64, |sum, &pfn| {
                sum.wrapping_mul(31).wrapping_add(table.find(pfn).unwrap_or(7))
            })
        };
        // Once before it is timed: of what was built last, the most is cached.
        answers.push(find_all());
        let start = Instant::now();
        answers.push(find_all());
        let took = start.elapsed();
        let each = took.as_secs_f64() * 1e9 / LOOKUPS as f64;
        let faster = *first.get_or_insert(each) / each;
        report.row(
            "lookup",
            format!(
                "{name}: {}, built in {:.1} ms",
                human(table.memory() as u64),
                built.as_secs_f64() * 1e3
            ),
            took,
            format!("{each:.0} ns each, {faster:.0}x"),
        );
        interrupt::check()?;
    }
    if answers.iter().any(|&a| a != answers[0]) {
        bail!("the lookups don't agree");
    }
    Ok(())
}

/// Byte for byte, holes not read.
fn compare(a: &Path, b: &Path) -> Result<()> {
    let (left, right) = (Arc::new(MapSource::open(a)?), MapSource::open(b)?);
    if left.len() != right.len() {
        bail!("{} and {} have different lengths", a.display(), b.display());
    }
    let mut at = 0;
    let step = 1 << 20;
    while at < left.len() {
        let n = step.min(left.len() - at) as usize;
        if left.slice(at, n) != right.slice(at, n) {
            bail!("{} and {} differ near offset {at:#x}", a.display(), b.display());
        }
        at += n as u64;
        interrupt::check()?;
    }
    Ok(())
}

fn rate(bytes: u64, took: Duration) -> String {
    format!("{}/s", human((bytes as f64 / took.as_secs_f64().max(1e-9)) as u64))
}

/// The table at the end.
struct Report(Table);

impl Report {
    fn new() -> Self {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["step", "what", "time", "speed"]);
        Self(table)
    }

    fn row(&mut self, step: &str, what: String, took: Duration, speed: String) {
        let time = if took.as_secs_f64() < 1.0 {
            format!("{:.1} ms", took.as_secs_f64() * 1e3)
        } else {
            format!("{:.2} s", took.as_secs_f64())
        };
        self.0.add_row([step.to_owned(), what, time, speed]);
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut table = self.0.clone();
        for column in 2..4 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        // On a narrow terminal the sentences are broken, the figures aren't.
        if let Some(width) = terminal::width() {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width as u16);
            for column in [0, 2, 3] {
                if let Some(column) = table.column_mut(column) {
                    column.set_constraint(ColumnConstraint::ContentWidth);
                }
            }
        }
        write!(f, "{table}")
    }
}
