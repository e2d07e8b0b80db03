//! `convert DIR/ OUTDIR/ --to archive`: all dumps of a folder, as savecore
//! leaves them in /var/crash.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use vmcask_convert::{archive, input};

use super::super::print_warnings;
use super::destination::{Destination, is_there};
use super::events::{Event, Events, Summary};
use super::{tell_losses, write_options};
use crate::args::{ConvertArgs, To};
use crate::named::Named;
use crate::progress::Progress;
use crate::size::{count, human};
use crate::{Outcome, interrupt, remark, temporary};

/// Suffixes of dumps that savecore or an operator has compressed.
const COMPRESSED: [&str; 3] = [".gz", ".zst", ".bz2"];
/// An info.N is a few hundred bytes.
const MOST_INFO: u64 = 1 << 20;

/// One dump of the folder.
struct Job {
    input: PathBuf,
    output: Named,
    /// What savecore has written about it, and where that is copied to.
    info: Option<(PathBuf, Named)>,
}

/// How a job ended that didn't fail.
enum Ended {
    Converted { dump_bytes: u64, output_bytes: u64, lacking: bool },
    Skipped(&'static str),
}

pub fn run(args: &ConvertArgs, quiet: bool) -> Result<Outcome> {
    if args.to.is_some_and(|to| to != To::Archive) {
        bail!("{}: a folder's dumps are converted to archives only", args.input.display());
    }
    let jobs = jobs(args)?;
    if jobs.is_empty() {
        bail!(
            "{}: no dumps in this directory: files whose name contains \"vmcore\" are looked for",
            args.input.display()
        );
    }
    if !args.output.is_remote() {
        std::fs::create_dir_all(&*args.output)
            .with_context(|| args.output.display().to_string())?;
    }
    let all = args.output_args.threads();
    let memory = args.memory.unwrap_or(super::FLEET_MEMORY);
    let at_once = (memory / super::JOB_MEMORY).clamp(1, all.min(jobs.len()) as u64) as usize;
    let each = Share { threads: (all / at_once).max(1), memory: memory / at_once as u64 };
    let events = Events::new(args.json);
    let began = Instant::now();
    let summary = Mutex::new(Summary::default());
    let progress = Progress::steps("archiving", jobs.len() as u64, quiet || args.json);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
                    && !interrupt::raised()
                {
                    work(job, args, &each, &events, quiet, &summary);
                    progress.step();
                }
            });
        }
    });
    drop(progress);
    interrupt::check()?;
    let mut summary = summary.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    summary.seconds = began.elapsed().as_secs_f64();
    events.tell(&Event::Summary(&summary))?;
    if !quiet && !args.json {
        let incomplete = match summary.incomplete {
            0 => String::new(),
            n => format!(" ({} incomplete)", count(n)),
        };
        writeln!(
            io::stdout(),
            "{}: {} converted{}, {} there already, {} failed; {} from {} in {:.1} s",
            args.output.display(),
            count(summary.converted),
            incomplete,
            count(summary.skipped),
            count(summary.failed),
            human(summary.output_bytes),
            human(summary.dump_bytes),
            summary.seconds,
        )?;
    }
    let all = summary.failed == 0 && summary.incomplete == 0;
    Ok(if all { Outcome::Done } else { Outcome::Incomplete })
}

/// What one job may use.
struct Share {
    threads: usize,
    memory: u64,
}

fn work(
    job: &Job,
    args: &ConvertArgs,
    share: &Share,
    events: &Events,
    quiet: bool,
    summary: &Mutex<Summary>,
) {
    let (input, output) = (job.input.display().to_string(), job.output.display().to_string());
    let result = convert(job, args, share, events).and_then(|ended| {
        copy_info(job, args)?;
        Ok(ended)
    });
    // A job that was interrupted has not failed.
    if result.is_err() && interrupt::raised() {
        return;
    }
    let mut summary = summary.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match result {
        Ok(Ended::Converted { dump_bytes, output_bytes, lacking }) => {
            summary.converted += 1;
            summary.incomplete += u64::from(lacking);
            summary.dump_bytes += dump_bytes;
            summary.output_bytes += output_bytes;
            if !quiet && !args.json {
                let (a, b) = (human(output_bytes), human(dump_bytes));
                let _ = writeln!(io::stdout(), "{output}: {a} from {b}");
            }
        }
        Ok(Ended::Skipped(reason)) => {
            summary.skipped += 1;
            let (input, output) = (&*input, &*output);
            let _ = events.tell(&Event::Skipped { input, output, reason });
        }
        Err(e) => {
            summary.failed += 1;
            let error = format!("{e:#}");
            remark(&error);
            let _ = events.tell(&Event::Failed {
                input: &input,
                output: &output,
                error: &error,
                temporary: temporary(&e),
            });
        }
    }
}

fn convert(job: &Job, args: &ConvertArgs, share: &Share, events: &Events) -> Result<Ended> {
    if !args.output_args.force && is_whole(&job.output)? {
        return Ok(Ended::Skipped("it is there already"));
    }
    let began = Instant::now();
    let input = input::open_streams_too(&job.input)?;
    print_warnings(&input);
    let plan = archive::plan(&input)?;
    let (name, output) = (job.input.display().to_string(), job.output.display().to_string());
    let dump_bytes = input.stream.is_none().then(|| input.source.len());
    events.tell(&Event::Started { input: &name, output: &output, dump_bytes })?;
    let done = (|| -> Result<_, vmcask_convert::Error> {
        let mut out = Destination::create(&job.output, input.source.len(), &args.output_args)?;
        let total = plan.extents.iter().map(|e| e.end - e.start).sum();
        let options = write_options(args, &input, &plan, share.threads, Some(share.memory));
        let written = out.archive(&input, &plan, &options, &events.progress(&name, total))?;
        Ok((out.commit()?, written))
    })();
    let (output_bytes, written) = match done {
        Ok(done) => done,
        // Another worker was faster; what it wrote is whole.
        Err(e) if is_there(&e) => return Ok(Ended::Skipped("another process has written it")),
        Err(e) => return Err(e.into()),
    };
    let dump_bytes = input.source.len();
    let losses = input.cut_short();
    tell_losses(&job.output, &losses);
    events.tell(&Event::Done {
        input: &name,
        output: &output,
        dump_bytes,
        output_bytes,
        seconds: began.elapsed().as_secs_f64(),
        digest_blake3: Some(written.digest.to_string()),
        losses: &losses,
    })?;
    Ok(Ended::Converted { dump_bytes, output_bytes, lacking: !losses.is_empty() })
}

/// Whether there is a whole archive at `output`. What is there and isn't one
/// is an error: somebody else's file.
pub fn is_whole(output: &Named) -> Result<bool> {
    if !output.exists()? {
        return Ok(false);
    }
    // The index, at the end, with its checksums.
    vmcask_archive::ArchiveReader::open(output.source()?).map(|_| true).with_context(|| {
        format!("{} exists and is no whole archive; --force replaces it", output.display())
    })
}

fn copy_info(job: &Job, args: &ConvertArgs) -> Result<()> {
    let Some((from, to)) = &job.info else { return Ok(()) };
    let name = || from.display().to_string();
    if from.metadata().with_context(name)?.len() > MOST_INFO {
        bail!("{}: longer than any info file of savecore's; not copied", from.display());
    }
    let bytes = std::fs::read(from).with_context(name)?;
    let copied =
        Destination::create(to, bytes.len() as u64, &args.output_args).and_then(|mut out| {
            out.copy(&bytes)?;
            out.commit()
        });
    match copied {
        Ok(_) => Ok(()),
        Err(e) if is_there(&e) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The dumps of the folder, in the order of their names.
fn jobs(args: &ConvertArgs) -> Result<Vec<Job>> {
    let dir: &Path = &args.input;
    let named = || dir.display().to_string();
    let mut jobs = Vec::new();
    for entry in dir.read_dir().with_context(named)? {
        let entry = entry.with_context(named)?;
        let name = entry.file_name();
        // savecore's vmcore.last is a link to one of the others.
        if !entry.file_type().with_context(named)?.is_file() || !is_dump(&name) {
            continue;
        }
        let mut archive = name.clone();
        archive.push(".cask");
        jobs.push(Job {
            input: entry.path(),
            output: args.output.join_name(&archive).map_err(anyhow::Error::msg)?,
            info: info_of(dir, &name)
                .map(|info| {
                    let to = args.output.join_name(&info).map_err(anyhow::Error::msg)?;
                    Ok::<_, anyhow::Error>((dir.join(info), to))
                })
                .transpose()?,
        });
    }
    jobs.sort_by(|a, b| a.input.cmp(&b.input));
    Ok(jobs)
}

/// By its name: `vmcore.0`, `web3-vmcore.17.zst`. Archives and what savecore
/// couldn't decrypt are none.
fn is_dump(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    name.contains("vmcore")
        && !name.contains("vmcore_encrypted")
        && !name.starts_with('.')
        && Path::new(name).extension().is_none_or(|e| e != "cask")
}

/// The info file beside a dump, if there is one: `info.3` of `vmcore.3.gz`.
fn info_of(dir: &Path, name: &OsStr) -> Option<std::ffi::OsString> {
    let name = name.to_str()?;
    let name = COMPRESSED.iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
    let info = name.replacen("vmcore", "info", 1);
    dir.join(&info).is_file().then(|| info.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_by_name() {
        for name in ["vmcore.0", "vmcore.12.gz", "web3-vmcore.1.zst", "vmcore_full.1"] {
            assert!(is_dump(OsStr::new(name)), "{name}");
        }
        for name in
            ["info.0", "bounds", "core.txt.0", "vmcore.0.cask", ".vmcore.0.x", "vmcore_encrypted.1"]
        {
            assert!(!is_dump(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn the_info_file_beside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("info.3"), b"x").unwrap();
        for name in ["vmcore.3", "vmcore.3.gz", "vmcore.3.zst"] {
            assert_eq!(info_of(dir.path(), OsStr::new(name)), Some("info.3".into()), "{name}");
        }
        assert_eq!(info_of(dir.path(), OsStr::new("vmcore.4")), None);
    }
}
