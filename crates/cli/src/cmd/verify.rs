//! `vmcask verify`: an archive against its checksums, a dump against its
//! size.

use std::io::{self, Write};

use anyhow::{Result, bail};
use serde::Serialize;
use vmcask_archive::{ArchiveReader, Report};
use vmcask_convert::{Dump, Input};

use super::print_warnings;
use crate::args::{VerifyArgs, threads};
use crate::progress::Progress;
use crate::size::{count, human};
use crate::{Outcome, interrupt, json};

#[derive(Serialize)]
struct Verdict {
    schema: u32,
    file: String,
    intact: bool,
    cells_checked: u64,
    cells_damaged: u64,
    damages: Vec<DamageInfo>,
    /// Parts of the archive that aren't data frames.
    damaged_parts: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct DamageInfo {
    offset: u64,
    bytes: u64,
    error: String,
}

pub fn run(args: &VerifyArgs, quiet: bool) -> Result<Outcome> {
    let input = args.file.open()?;
    if !args.json {
        print_warnings(&input);
    }
    let Some(archive) = &input.archive else { return dump(&input, args) };
    let report = check(archive, threads(args.threads), quiet)?;
    // A verdict on bytes of two files is none.
    input.check_source()?;
    if args.json {
        let damages = report.damages.iter().map(|d| DamageInfo {
            offset: d.range.start,
            bytes: d.range.end - d.range.start,
            error: d.error.to_string(),
        });
        let verdict = verdict(&input, &report, damages.collect());
        json::write(&mut std::io::stdout().lock(), &verdict)?;
    }
    let mut out = io::stdout().lock();
    if report.is_intact() {
        if !quiet && !args.json {
            let stats = archive.stats();
            writeln!(
                out,
                "{}: intact: {} cells, {} frames, digest {}",
                args.file.display(),
                count(stats.cells),
                count(stats.frames),
                archive.digest()
            )?;
        }
        return Ok(Outcome::Done);
    }
    if !args.json {
        for e in report.index.iter().chain(&report.others) {
            writeln!(out, "{e}")?;
        }
        for d in &report.damages {
            writeln!(
                out,
                "offset {:#x}, {} bytes: {}",
                d.range.start,
                d.range.end - d.range.start,
                d.error
            )?;
        }
    }
    if report.damaged_cells > 0 {
        bail!(
            "{}: damaged: {} of its cells ({}) can't be read; vmcask recover gets back the rest",
            args.file.display(),
            count(report.damaged_cells),
            human(report.damaged_cells * vmcask_archive::CELL_SIZE as u64)
        );
    }
    match report.digest_mismatch.or(report.index.into_iter().chain(report.others).next()) {
        Some(e) => bail!("{}: {e}", args.file.display()),
        None => bail!("{}: damaged", args.file.display()),
    }
}

fn verdict(input: &Input, report: &Report, damages: Vec<DamageInfo>) -> Verdict {
    Verdict {
        schema: 1,
        file: input.path.display().to_string(),
        intact: report.is_intact(),
        cells_checked: report.intact_cells,
        cells_damaged: report.damaged_cells,
        damages,
        damaged_parts: report.index.iter().chain(&report.others).map(ToString::to_string).collect(),
        warnings: input.warnings().map(ToString::to_string).collect(),
    }
}

/// Reads and checks all of an archive.
pub fn check(archive: &ArchiveReader, threads: usize, quiet: bool) -> Result<Report> {
    let total = archive.stats().cells * vmcask_archive::CELL_SIZE as u64;
    let progress = Progress::new("verifying", total, quiet);
    Ok(vmcask_archive::verify(archive, threads, &|done| progress.set(done), interrupt::flag())?)
}

/// A dump has no checksums: only its structure can be told from wrong.
fn dump(input: &Input, args: &VerifyArgs) -> Result<Outcome> {
    let (lost, holds) = match &input.dump {
        Dump::Minidump(d) => {
            (d.pages_promised() - d.pages_present(), format!("{} pages", count(d.pages_present())))
        }
        Dump::Elf(c) => {
            let bytes = c.phys_runs().map(|(_, _, len)| len).sum();
            (c.lost_bytes(), format!("{} of memory", human(bytes)))
        }
    };
    input.check_source()?;
    if args.json {
        let report = Report::default();
        let verdict = Verdict { intact: lost == 0, ..verdict(input, &report, Vec::new()) };
        json::write(&mut std::io::stdout().lock(), &verdict)?;
    }
    if lost > 0 {
        bail!(
            "{}: truncated: only {holds} are there, {} {} are lost",
            args.file.display(),
            count(lost),
            if matches!(input.dump, Dump::Minidump(_)) { "pages" } else { "bytes" },
        );
    }
    if !args.json {
        writeln!(
            io::stdout(),
            "{}: {}: complete, {holds} (it has no checksums: its structure was checked)",
            args.file.display(),
            input.dump.name(),
        )?;
    }
    Ok(Outcome::Done)
}
