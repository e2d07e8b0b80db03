//! `vmcask ps`: processes and threads.

use std::io::{self, BufWriter, Write};

use anyhow::{Context, Result};
use serde::Serialize;

use super::kernel::{
    LossJson, ThreadJson, check_image, kernel_of, losses_json, open_image, tell_losses,
};
use super::print_warnings;
use crate::args::PsArgs;
use crate::progress::spin;
use crate::{Outcome, json};

#[derive(Serialize)]
struct Ps {
    schema: u32,
    file: String,
    kernel: String,
    machine: &'static str,
    processes: usize,
    threads: Vec<ThreadJson>,
    losses: Vec<LossJson>,
    losses_not_listed: u64,
}

pub fn run(args: &PsArgs) -> Result<Outcome> {
    let mut input = args.file.open()?;
    print_warnings(&input);
    let image = open_image(&mut input, &args.kernel)?;
    let kernel = kernel_of(&input, &image)?;
    check_image(&input, &kernel);
    let list = spin("listing threads", || kernel.threads())
        .with_context(|| args.file.display().to_string())?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        let ps = Ps {
            schema: 1,
            file: args.file.display().to_string(),
            kernel: args.kernel.display().to_string(),
            machine: kernel.machine().arch.name(),
            processes: list.processes,
            threads: list.threads.iter().map(|t| ThreadJson::new(&kernel, t)).collect(),
            losses: losses_json(&list.losses),
            losses_not_listed: list.losses.more(),
        };
        json::write(&mut out, &ps)?;
    } else {
        let or_dash = |n: Option<String>| n.unwrap_or_else(|| "-".into());
        writeln!(out, "    PID     TID  CPU  STATE    NAME")?;
        for t in &list.threads {
            writeln!(
                out,
                "{:>7} {:>7} {:>4}  {:<8} {}",
                or_dash(t.pid.map(|n| n.to_string())),
                or_dash(t.tid.map(|n| n.to_string())),
                or_dash(t.cpu.map(|n| n.to_string())),
                t.state(),
                t.name()
            )?;
        }
    }
    out.flush()?;
    input.check_unchanged()?;
    Ok(tell_losses(&args.file, &list.losses))
}
