//! `vmcask convert`: any dump to any format.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use vmcask_archive::WriteOptions;
use vmcask_convert::{Error, Input, OutputFile, archive, input, restore};

use super::print_warnings;
use crate::args::{ConvertArgs, To};
use crate::progress::Progress;
use crate::size::human;
use crate::{Outcome, interrupt};

pub fn run(args: &ConvertArgs, quiet: bool) -> Result<Outcome> {
    let Some(to) = args.to.or_else(|| by_suffix(&args.output)) else {
        bail!(
            "{}: its suffix names no format; say --to archive or --to minidump",
            args.output.display()
        )
    };
    if (args.plain || args.level != 3) && to != To::Archive {
        bail!("--plain and --level are for archives");
    }
    let input = input::open(&args.input)?;
    print_warnings(&input);
    if same_file(&args.input, &args.output) {
        return Err(Error::SameFile { path: args.output.clone() }.into());
    }
    let out = OutputFile::create(&args.output, args.output_args.force)?;
    let start = Instant::now();
    let threads = args.output_args.threads();
    match to {
        To::Archive => {
            let options = WriteOptions {
                level: args.level,
                plain: args.plain,
                threads,
                ..WriteOptions::default()
            };
            to_archive(&input, &options, &out, quiet)?;
        }
        To::Minidump => to_minidump(&input, threads, &out, quiet)?,
    }
    let written = out.file().metadata().map_or(0, |m| m.len());
    out.commit()?;
    if !quiet {
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{}: {} from {} ({:.2}x) in {seconds:.1} s, {}/s",
            args.output.display(),
            human(written),
            human(input.source.len()),
            input.source.len() as f64 / written.max(1) as f64,
            human((input.source.len() as f64 / seconds.max(1e-9)) as u64),
        );
    }
    Ok(Outcome::Done)
}

/// Fills `out` with an archive, not committed yet.
pub fn to_archive(
    input: &Input,
    options: &WriteOptions,
    out: &OutputFile,
    quiet: bool,
) -> Result<vmcask_archive::Written> {
    let plan = archive::plan(input)?;
    let total = plan.extents.iter().map(|e| e.end - e.start).sum();
    let progress = Progress::new("archiving", total, quiet);
    Ok(archive::write(input, &plan, options, out, &|done| progress.set(done), interrupt::flag())?)
}

/// Fills `out` with the minidump that `input` is or holds, not committed yet.
pub fn to_minidump(input: &Input, threads: usize, out: &OutputFile, quiet: bool) -> Result<()> {
    let progress = Progress::new("restoring", input.source.len(), quiet);
    restore::restore(&*input.source, out, threads, &|done| progress.set(done), interrupt::flag())?;
    Ok(())
}

fn by_suffix(path: &Path) -> Option<To> {
    match path.extension()?.to_str()? {
        "cask" | "zst" => Some(To::Archive),
        "minidump" => Some(To::Minidump),
        _ => None,
    }
}

/// The rename at the end would put the output in the place of its input.
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
