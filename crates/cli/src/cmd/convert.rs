//! `vmcask convert`: any dump to any format.

mod destination;
mod events;
mod fleet;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use vmcask_archive::{Plan, WriteOptions};
use vmcask_convert::view::prstatus::Prstatus;
use vmcask_convert::view::target;
use vmcask_convert::{Error, Input, OutputFile, Target, View, archive, forward, restore};
use vmcask_dump::{Arch, KernelImage, ReadAt};
use vmcask_inspect::{Kernel, Registers, Thread};

use destination::{Destination, is_there};
use events::{Event, Events};

use super::{print_warnings, same_file, use_kernel};
use crate::args::{ConvertArgs, To};
use crate::named::Named;
use crate::progress::{Progress, spin};
use crate::size::human;
use crate::{Outcome, interrupt, remark, warn};

/// Memory that a conversion to an archive takes unless `--memory` says
/// otherwise, in bytes.
const JOB_MEMORY: u64 = 256 << 20;
/// The same of a folder's conversions, all that run at a time together.
const FLEET_MEMORY: u64 = 1 << 30;

pub fn run(args: &ConvertArgs, quiet: bool) -> Result<Outcome> {
    if !args.input.is_remote() && args.input.is_dir() {
        check_flags(args, To::Archive)?;
        return fleet::run(args, quiet);
    }
    let Some(to) = args.to.or_else(|| by_suffix(&args.output)) else {
        bail!(
            "{}: its suffix names no format; say --to archive, minidump, elf or kernel-view",
            args.output.display()
        )
    };
    check_flags(args, to)?;
    let events = Events::new(args.json);
    let names = (args.input.display().to_string(), args.output.display().to_string());
    let (input_name, output_name) = (&*names.0, &*names.1);
    if args.skip_existing && is_there_already(args, to)? {
        let reason = "it is there already";
        events.tell(&Event::Skipped { input: input_name, output: output_name, reason })?;
        if !quiet && !args.json {
            writeln!(io::stdout(), "{output_name}: {reason}")?;
        }
        return Ok(Outcome::Done);
    }
    let mut input = args.input.open_streams_too()?;
    if args.drop_zero && input.stream.is_some() {
        bail!(
            "{}: --drop-zero reads a dump twice, and {} can be read once: convert it to an archive \
             first",
            args.input.display(),
            input.container.name()
        );
    }
    let kernel = use_kernel(&mut input, args.kernel.get())?;
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
    if &*args.output == Path::new("-") {
        let mut stdout = io::stdout().lock();
        if stdout.is_terminal() {
            bail!("standard output is a terminal; send it to a file or a pipe");
        }
        let written = in_order(&input, to, args, &options, quiet, &mut stdout)
            .map_err(|e| naming_input(e, args))?;
        return Ok(tell_losses(&args.output, &written.losses));
    }
    if same_file(&args.input, &args.output) {
        return Err(Error::SameFile { path: args.output.to_path_buf() }.into());
    }
    let start = Instant::now();
    let dump_bytes = input.stream.is_none().then(|| input.source.len());
    events.tell(&Event::Started { input: input_name, output: output_name, dump_bytes })?;
    let (done, output_bytes) = match write(&input, to, args, &options, quiet, &events) {
        Ok(written) => written,
        // Another worker was faster; what it wrote is whole.
        Err(e) if args.skip_existing && e.downcast_ref().is_some_and(is_there) => {
            let reason = "another process has written it";
            events.tell(&Event::Skipped { input: input_name, output: output_name, reason })?;
            return Ok(Outcome::Done);
        }
        Err(e) => return Err(naming_input(e, args)),
    };
    let outcome = tell_losses(&args.output, &done.losses);
    let seconds = start.elapsed().as_secs_f64();
    events.tell(&Event::Done {
        input: input_name,
        output: output_name,
        dump_bytes: input.source.len(),
        output_bytes,
        seconds,
        digest_blake3: done.archive.map(|w| w.digest.to_string()),
        losses: &done.losses,
    })?;
    if !quiet && !args.json {
        writeln!(
            io::stdout(),
            "{output_name}: {} from {} ({:.2}x) in {seconds:.1} s, {}/s",
            human(output_bytes),
            human(input.source.len()),
            input.source.len() as f64 / output_bytes.max(1) as f64,
            human((input.source.len() as f64 / seconds.max(1e-9)) as u64),
        )?;
    }
    Ok(outcome)
}

/// With the input's name, where `e` says but the offset.
fn naming_input(e: anyhow::Error, args: &ConvertArgs) -> anyhow::Error {
    match e.downcast_ref() {
        Some(Error::Read { .. }) => e.context(args.input.display().to_string()),
        _ => e,
    }
}

/// Flags that mean nothing for `to` are mistakes.
fn check_flags(args: &ConvertArgs, to: To) -> Result<()> {
    if (args.plain || args.level != 3 || args.memory.is_some()) && to != To::Archive {
        bail!("--plain, --level and --memory are for archives");
    }
    if args.minidump_version.is_some() && to != To::Minidump {
        bail!("--minidump-version is for minidumps");
    }
    if args.drop_zero && to == To::Archive {
        bail!("--drop-zero is not for archives: a zero page costs them one bit");
    }
    if args.json && &*args.output == Path::new("-") {
        bail!("--json prints on standard output, where the output is to go");
    }
    Ok(())
}

/// For `--skip-existing`: whether the output is there, whole if it is an archive.
fn is_there_already(args: &ConvertArgs, to: To) -> Result<bool> {
    if to == To::Archive { fleet::is_whole(&args.output) } else { Ok(args.output.exists()?) }
}

/// What was written, beside the bytes.
#[derive(Default)]
struct Done {
    archive: Option<vmcask_archive::Written>,
    losses: Vec<String>,
}

/// Writes the output whole; with it, its bytes.
fn write(
    input: &Input,
    to: To,
    args: &ConvertArgs,
    options: &target::Options<'_>,
    quiet: bool,
    events: &Events,
) -> Result<(Done, u64)> {
    let name = args.input.display().to_string();
    let mut out = Destination::create(&args.output, input.source.len(), &args.output_args)?;
    let threads = args.output_args.threads();
    let done = match (target(to, args), &mut out) {
        (None, out) => {
            let plan = archive::plan(input)?;
            let bar = progress_of(&plan, quiet || args.json);
            let total = plan.extents.iter().map(|e| e.end - e.start).sum();
            let line = events.progress(&name, total);
            let options = write_options(args, input, &plan, threads, args.memory);
            let set = |done| {
                bar.set(done);
                line(done);
            };
            let archive = out.archive(input, &plan, &options, &set)?;
            Done { archive: Some(archive), losses: input.cut_short() }
        }
        (Some(to), Destination::File(out)) => {
            let losses = if let Some(stream) = &input.stream {
                let progress = Progress::new("converting", stream.len(), quiet);
                let set = |done| progress.set(done);
                forward::from_stream(input, stream, to, out, &set, interrupt::flag())?
            } else {
                let view = spin("planning", || target::of(input, to, options))?;
                write_view(&view, threads, out, quiet)?;
                told(&view, quiet)
            };
            Done { archive: None, losses }
        }
        #[cfg(feature = "remote")]
        (Some(_), Destination::Object(out)) => {
            let written = in_order(input, to, args, options, quiet, &mut **out);
            written.map_err(|e| match e.downcast() {
                Ok(e) => destination::named(e).into(),
                Err(e) => e,
            })?
        }
    };
    input.check_source()?;
    Ok((done, out.commit()?))
}

fn tell_losses(output: &Named, losses: &[String]) -> Outcome {
    for loss in losses {
        warn(output, format!("incomplete: {loss}"));
    }
    if losses.is_empty() { Outcome::Done } else { Outcome::Incomplete }
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

fn write_options(
    args: &ConvertArgs,
    input: &Input,
    plan: &Plan,
    threads: usize,
    memory: Option<u64>,
) -> WriteOptions {
    // A second reading, be it of a sample, costs more over the network than it
    // saves.
    let again = (!args.input.is_remote()).then_some(&*input.source);
    // A plain archive has nothing to gain from smaller frames.
    let suited =
        if args.plain { WriteOptions::default() } else { WriteOptions::suited_to(plan, again) };
    let suited = match memory {
        Some(memory) => suited.within(memory),
        None => suited,
    };
    let cells_in_order = if again.is_some() { suited.cells_in_order } else { 0 };
    WriteOptions { level: args.level, plain: args.plain, threads, cells_in_order, ..suited }
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

/// Writes the output from front to back.
fn in_order(
    input: &Input,
    to: To,
    args: &ConvertArgs,
    options: &target::Options<'_>,
    quiet: bool,
    out: &mut dyn Write,
) -> Result<Done> {
    let threads = args.output_args.threads();
    let Some(to) = target(to, args) else {
        let plan = archive::plan(input)?;
        let progress = progress_of(&plan, quiet);
        let options = write_options(args, input, &plan, threads, args.memory);
        let set = |done| progress.set(done);
        let archive = archive::write_to(input, &plan, &options, out, &set, interrupt::flag())?;
        input.check_source()?;
        return Ok(Done { archive: Some(archive), losses: input.cut_short() });
    };
    let losses = if let Some(stream) = &input.stream {
        let progress = Progress::new("converting", stream.len(), quiet);
        let set = |done| progress.set(done);
        forward::stream_to_pipe(input, stream, to, out, &set, interrupt::flag())?
    } else {
        let view = spin("planning", || target::of(input, to, options))?;
        let progress = Progress::new("writing", view.len(), quiet);
        let set = |done| progress.set(done);
        forward::to_pipe(&view, threads, out, &set, interrupt::flag())?;
        drop(progress);
        told(&view, quiet)
    };
    Ok(Done { archive: None, losses })
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
