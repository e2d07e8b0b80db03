//! `vmcask pages`: which physical memory a dump holds. `--json` is described
//! in SCHEMA.md.

use std::io::{self, BufWriter, Write};

use anyhow::Result;
use serde::Serialize;
use vmcask_convert::view::Runs;
use vmcask_convert::{Dump, Input};

use super::print_warnings;
use crate::args::PagesArgs;
use crate::size::{count, human};
use crate::{Outcome, interrupt};

#[derive(Serialize)]
struct Totals {
    page_bytes: u64,
    runs: u64,
    present_bytes: u64,
    /// Memory that the dump could hold: dump_avail, or the segments' p_memsz.
    memory_bytes: u64,
    /// In the dump's bitmap or segments, but past the end of a cut file.
    lost_bytes: u64,
    /// Memory that was not dumped.
    absent_bytes: u64,
}

/// One run of present memory.
#[derive(Serialize)]
struct RunInfo {
    start: String,
    end: String,
    bytes: u64,
    offset: u64,
}

pub fn run(args: &PagesArgs) -> Result<Outcome> {
    let input = args.file.open()?;
    if !args.json {
        print_warnings(&input);
    }
    let runs = match &input.dump {
        Dump::Minidump(d) => Runs::of_minidump(d)?,
        Dump::Elf(c) => Runs::of_elf(c),
    };
    let totals = totals(&input, &runs);
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        json(&input, &runs, &totals, &mut out)?;
    } else {
        text(&runs, &totals, &mut out)?;
    }
    out.flush()?;
    interrupt::check()?;
    input.check_source()?;
    Ok(Outcome::Done)
}

fn totals(input: &Input, runs: &Runs) -> Totals {
    let (page_bytes, memory_bytes, lost_bytes) = match &input.dump {
        Dump::Minidump(d) => {
            let page = d.page_size();
            let memory = d.pages_of_memory() * page;
            (page, memory, (d.pages_promised() - d.pages_present()) * page)
        }
        Dump::Elf(c) => {
            let lost = c.lost_bytes();
            (4096, c.memory_bytes().max(runs.bytes().saturating_add(lost)), lost)
        }
    };
    let present_bytes = runs.bytes();
    Totals {
        page_bytes,
        runs: runs.len() as u64,
        present_bytes,
        memory_bytes,
        lost_bytes,
        absent_bytes: memory_bytes.saturating_sub(present_bytes).saturating_sub(lost_bytes),
    }
}

fn text(runs: &Runs, totals: &Totals, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:<18} {:<18} {:>12}", "start", "end", "pages")?;
    for run in runs.iter() {
        if interrupt::raised() {
            return Ok(());
        }
        let pages = run.len as f64 / totals.page_bytes as f64;
        writeln!(out, "{:<#18x} {:<#18x} {pages:>12}", run.pa, run.pa + run.len)?;
    }
    writeln!(
        out,
        "{} runs, {} present; of {} of memory {} are absent and {} lost",
        count(totals.runs),
        human(totals.present_bytes),
        human(totals.memory_bytes),
        human(totals.absent_bytes),
        human(totals.lost_bytes)
    )
}

/// Runs may be millions: they are written as they come.
fn json(input: &Input, runs: &Runs, totals: &Totals, out: &mut impl Write) -> Result<()> {
    let file = serde_json::to_string(&input.path.display().to_string())?;
    write!(out, "{{\n  \"schema\": 1,\n  \"file\": {file},\n  \"totals\": ")?;
    serde_json::to_writer(&mut *out, totals)?;
    write!(out, ",\n  \"runs\": [")?;
    for (i, run) in runs.iter().enumerate() {
        interrupt::check()?;
        write!(out, "{}\n    ", if i == 0 { "" } else { "," })?;
        let info = RunInfo {
            start: format!("{:#x}", run.pa),
            end: format!("{:#x}", run.pa + run.len),
            bytes: run.len,
            offset: run.off,
        };
        serde_json::to_writer(&mut *out, &info)?;
    }
    writeln!(out, "\n  ]\n}}")?;
    Ok(())
}
