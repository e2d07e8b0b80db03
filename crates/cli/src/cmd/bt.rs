//! `vmcask bt`: registers and backtraces.

use std::io::{self, BufWriter, Write};
use std::num::NonZero;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use vmcask_inspect::{Losses, Thread, backtrace};

use super::kernel::{
    LossJson, TraceJson, check_image, kernel_of, losses_json, open_image, tell_losses, trace_text,
};
use super::print_warnings;
use crate::args::{self, BtArgs};
use crate::progress::spin;
use crate::{Outcome, json};

#[derive(Serialize)]
struct Bt {
    schema: u32,
    file: String,
    kernel: String,
    machine: &'static str,
    threads: Vec<TraceJson>,
    losses: Vec<LossJson>,
    losses_not_listed: u64,
}

pub fn run(args: &BtArgs) -> Result<Outcome> {
    let mut input = args.file.open()?;
    print_warnings(&input);
    let image = open_image(&mut input, &args.kernel)?;
    let context = || args.file.display().to_string();
    let kernel = kernel_of(&input, &image)?;
    check_image(&input, &kernel);
    let list = spin("listing threads", || kernel.threads()).with_context(context)?;
    let threads: Vec<Thread> = list.threads.iter().filter(|t| wanted(args, t)).cloned().collect();
    if threads.is_empty() {
        // Losses may be why.
        tell_losses(&args.file, &list.losses);
        let file = args.file.display();
        match args.tid {
            Some(tid) => bail!("{file}: no thread has tid {tid}; `vmcask ps` lists them"),
            None if args.all => bail!("{file}: no threads"),
            None => bail!("{file}: no thread crashed; ask for one with --tid, or for --all"),
        }
    }
    let workers = NonZero::new(args::threads(args.threads)).unwrap_or(NonZero::<usize>::MIN);
    let traces =
        spin("following stacks", || backtrace::all(&kernel, list.layout, &threads, workers));
    let mut losses = Losses::default();
    if args.all {
        losses.append(list.losses);
    }
    for (thread, trace) in threads.iter().zip(&traces) {
        if !trace.end.is_whole() {
            let after = trace.frames.len();
            let name = thread.name();
            losses.add(format!("frames after the first {after} of {name}"), &trace.end);
        }
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let both = || threads.iter().zip(&traces);
    if args.json {
        let bt = Bt {
            schema: 1,
            file: args.file.display().to_string(),
            kernel: args.kernel.display().to_string(),
            machine: kernel.machine().arch.name(),
            threads: both().map(|(t, trace)| TraceJson::new(&kernel, t, trace)).collect(),
            losses: losses_json(&losses),
            losses_not_listed: losses.more(),
        };
        json::write(&mut out, &bt)?;
    } else {
        for (i, (thread, trace)) in both().enumerate() {
            let gap = if i > 0 { "\n" } else { "" };
            write!(out, "{gap}{}", trace_text(&kernel, thread, trace))?;
        }
    }
    out.flush()?;
    input.check_unchanged()?;
    Ok(tell_losses(&args.file, &losses))
}

fn wanted(args: &BtArgs, thread: &Thread) -> bool {
    match args.tid {
        Some(tid) => thread.tid == Some(tid),
        None => args.all || thread.crashed,
    }
}
