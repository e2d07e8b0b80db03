//! `vmcask convert`: any dump to any format.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use vmcask_archive::{Plan, WriteOptions};
use vmcask_convert::view::prstatus::Prstatus;
use vmcask_convert::view::target;
use vmcask_convert::{Error, Input, OutputFile, Target, View, archive, forward, input, restore};
use vmcask_dump::{Arch, KernelImage, ReadAt};
use vmcask_inspect::{Kernel, Registers, Thread};

use super::{print_warnings, same_file, use_kernel};
use crate::args::{ConvertArgs, To};
use crate::progress::{Progress, spin};
use crate::size::human;
use crate::{Outcome, interrupt, remark, warn};

pub fn run(args: &ConvertArgs, quiet: bool) -> Result<Outcome> {
    let Some(to) = args.to.or_else(|| by_suffix(&args.output)) else {
        bail!(
            "{}: its suffix names no format; say --to archive, minidump, elf or kernel-view",
            args.output.display()
        )
    };
    if (args.plain || args.level != 3) && to != To::Archive {
        bail!("--plain and --level are for archives");
    }
    if args.minidump_version.is_some() && to != To::Minidump {
        bail!("--minidump-version is for minidumps");
    }
    if args.drop_zero && to == To::Archive {
        bail!("--drop-zero is not for archives: a zero page costs them one bit");
    }
    let mut input = input::open_streams_too(&args.input)?;
    if args.drop_zero && input.stream.is_some() {
        bail!(
            "{}: --drop-zero reads a dump twice, and {} can be read once: convert it to an archive \
             first",
            args.input.display(),
            input.container.name()
        );
    }
    let kernel = use_kernel(&mut input, args.kernel.as_deref())?;
    print_warnings(&input);
    let threads = match &kernel {
        Some(image) if to == To::KernelView => threads_of(&input, image, quiet),
        _ => Vec::new(),
    };
    let options = target::Options {
        drop_zero: args.drop_zero,
        kernel: kernel.as_ref(),
        threads: &threads,
        ..target::Options::default()
    };
    if args.output == Path::new("-") {
        return to_pipe(&input, to, args, &options, quiet);
    }
    if same_file(&args.input, &args.output) {
        return Err(Error::SameFile { path: args.output.clone() }.into());
    }
    let out = args.output_args.create(&args.output)?;
    let start = Instant::now();
    let threads = args.output_args.threads();
    let losses = match (target(to, args), &input.stream) {
        (None, _) => {
            let plan = archive::plan(&input)?;
            to_archive(&input, &plan, &write_options(args, &plan), &out, quiet)?;
            Vec::new()
        }
        (Some(to), Some(stream)) => {
            let progress = Progress::new("converting", stream.len(), quiet);
            let set = |done| progress.set(done);
            forward::from_stream(&input, stream, to, &out, &set, interrupt::flag())?
        }
        (Some(to), None) => {
            let view = spin("planning", || target::of(&input, to, &options))?;
            write_view(&view, threads, &out, quiet)?;
            told(&view, quiet)
        }
    };
    input.check_source()?;
    let written = out.file().metadata().map_or(0, |m| m.len());
    out.commit()?;
    for loss in &losses {
        warn(&args.output, format!("incomplete: {loss}"));
    }
    if !quiet {
        let seconds = start.elapsed().as_secs_f64();
        writeln!(
            io::stdout(),
            "{}: {} from {} ({:.2}x) in {seconds:.1} s, {}/s",
            args.output.display(),
            human(written),
            human(input.source.len()),
            input.source.len() as f64 / written.max(1) as f64,
            human((input.source.len() as f64 / seconds.max(1e-9)) as u64),
        )?;
    }
    Ok(if losses.is_empty() { Outcome::Done } else { Outcome::Incomplete })
}

/// Registers of all threads, the crashed one first, so that a debugger shows
/// its stack. A kernel whose lists can't be followed gets a view without.
pub fn threads_of(input: &Input, image: &KernelImage, quiet: bool) -> Vec<Prstatus> {
    if input.stream.is_some() || input.dump.virt().arch() != Some(Arch::Amd64) {
        return Vec::new();
    }
    let list = Kernel::new(input.dump.virt(), image).and_then(|k| Ok((k.threads()?, k.memory())));
    let (list, memory) = match list {
        Ok(list) => list,
        Err(e) => {
            if !quiet {
                remark(format_args!("no threads are in the output: {e}"));
            }
            return Vec::new();
        }
    };
    let mut threads = list.threads;
    threads.sort_by_key(|t| !t.crashed);
    let prstatus = |thread: &Thread| {
        let registers = Registers::of(&memory, list.layout, thread).ok()?;
        let get = |name| registers.get(name).unwrap_or(0);
        Some(Prstatus {
            tid: thread.tid? as u32,
            r15: get("r15"),
            r14: get("r14"),
            r13: get("r13"),
            r12: get("r12"),
            rbp: get("rbp"),
            rsp: get("rsp"),
            rbx: get("rbx"),
            rip: get("rip"),
        })
    };
    threads.iter().filter_map(prstatus).collect()
}

/// The view to write; `None` for an archive.
fn target(to: To, args: &ConvertArgs) -> Option<Target> {
    match to {
        To::Archive => None,
        To::Minidump => Some(Target::Minidump { version: args.minidump_version }),
        To::Elf => Some(Target::Elf),
        To::KernelView => Some(Target::KernelView),
    }
}

fn write_options(args: &ConvertArgs, plan: &Plan) -> WriteOptions {
    // A plain archive has nothing to gain from smaller frames.
    let suited = if args.plain { WriteOptions::default() } else { WriteOptions::suited_to(plan) };
    WriteOptions {
        level: args.level,
        plain: args.plain,
        threads: args.output_args.threads(),
        ..suited
    }
}

/// Tells the remarks and gives back the losses.
fn told(view: &View, quiet: bool) -> Vec<String> {
    if !quiet {
        for remark in &view.remarks {
            crate::remark(remark);
        }
    }
    view.losses.clone()
}

fn to_pipe(
    input: &Input,
    to: To,
    args: &ConvertArgs,
    options: &target::Options<'_>,
    quiet: bool,
) -> Result<Outcome> {
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        bail!("standard output is a terminal; send it to a file or a pipe");
    }
    let Some(to) = target(to, args) else {
        let plan = archive::plan(input)?;
        let progress = progress_of(&plan, quiet);
        archive::write_to(
            input,
            &plan,
            &write_options(args, &plan),
            &mut stdout,
            &|done| progress.set(done),
            interrupt::flag(),
        )?;
        input.check_source()?;
        return Ok(Outcome::Done);
    };
    let losses = if let Some(stream) = &input.stream {
        let progress = Progress::new("converting", stream.len(), quiet);
        let set = |done| progress.set(done);
        forward::stream_to_pipe(input, stream, to, &mut stdout, &set, interrupt::flag())?
    } else {
        let view = spin("planning", || target::of(input, to, options))?;
        let progress = Progress::new("writing", view.len(), quiet);
        let threads = args.output_args.threads();
        let set = |done| progress.set(done);
        forward::to_pipe(&view, threads, &mut stdout, &set, interrupt::flag())?;
        drop(progress);
        told(&view, quiet)
    };
    input.check_source()?;
    for loss in &losses {
        warn(&args.output, format!("incomplete: {loss}"));
    }
    Ok(if losses.is_empty() { Outcome::Done } else { Outcome::Incomplete })
}

/// Fills `out` with an archive, not committed yet.
pub fn to_archive(
    input: &Input,
    plan: &Plan,
    options: &WriteOptions,
    out: &OutputFile,
    quiet: bool,
) -> Result<vmcask_archive::Written> {
    let progress = progress_of(plan, quiet);
    Ok(archive::write(input, plan, options, out, &|done| progress.set(done), interrupt::flag())?)
}

fn progress_of(plan: &Plan, quiet: bool) -> Progress {
    Progress::new("archiving", plan.extents.iter().map(|e| e.end - e.start).sum(), quiet)
}

/// Fills `out` with a view or with what an archive holds, not committed yet.
pub fn write_view(
    source: &dyn ReadAt,
    threads: usize,
    out: &OutputFile,
    quiet: bool,
) -> Result<()> {
    let progress = Progress::new("writing", source.len(), quiet);
    restore::restore(source, out, threads, &|done| progress.set(done), interrupt::flag())?;
    Ok(())
}

fn by_suffix(path: &Path) -> Option<To> {
    match path.extension()?.to_str()? {
        "cask" | "zst" => Some(To::Archive),
        "elf" => Some(To::Elf),
        "minidump" => Some(To::Minidump),
        _ => None,
    }
}
