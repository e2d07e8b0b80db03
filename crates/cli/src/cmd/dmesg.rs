//! `vmcask dmesg`: the kernel's messages.

use std::io::{self, BufWriter, Write};

use anyhow::Result;
use serde::Serialize;
use vmcask_inspect::msgbuf::{Line, Order};
use vmcask_inspect::text::printable;
use vmcask_inspect::{Kernel, MessageBuffer};

use super::kernel::{
    LossJson, check_image, kernel_of, losses_json, messages, open_image, tell_losses,
};
use super::print_warnings;
use crate::args::DmesgArgs;
use crate::progress::spin;
use crate::{Outcome, json, remark, warn};

#[derive(Serialize)]
struct Dmesg {
    schema: u32,
    file: String,
    order: &'static str,
    wrapped: bool,
    lines: Vec<LineJson>,
    losses: Vec<LossJson>,
}

/// A line of `dmesg --json` and `triage --json`.
#[derive(Serialize)]
pub struct LineJson {
    priority: Option<u32>,
    text: String,
}

impl LineJson {
    pub fn new(line: Line<'_>) -> Self {
        Self { priority: line.priority, text: printable(line.text) }
    }
}

/// How the order is known, for JSON.
pub fn order_name(order: Order) -> &'static str {
    match order {
        Order::Exact => "exact",
        Order::Found => "found",
        Order::Gap => "gap",
        Order::DumpMessage => "dump-message",
        Order::Unknown => "unknown",
    }
}

pub fn run(args: &DmesgArgs, quiet: bool) -> Result<Outcome> {
    let mut input = args.file.open()?;
    print_warnings(&input);
    let image = args.kernel.get().map(|path| open_image(&mut input, path)).transpose()?;
    let kernel = image.as_ref().map(|image| kernel_of(&input, image)).transpose()?;
    if let Some(kernel) = &kernel {
        check_image(&input, kernel);
    }
    let memory = kernel.as_ref().map(Kernel::memory);
    let both = kernel.as_ref().zip(memory.as_ref());
    let (messages, in_vain) = spin("looking for messages", || messages(&input, both))?;
    if let Some(why) = in_vain {
        warn(&args.file, format!("the order isn't exact: {why}"));
    }
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        let dmesg = Dmesg {
            schema: 1,
            file: args.file.display().to_string(),
            order: order_name(messages.order),
            wrapped: messages.wrapped,
            lines: messages.lines().map(LineJson::new).collect(),
            losses: losses_json(&messages.losses),
        };
        json::write(&mut out, &dmesg)?;
    } else {
        if messages.order != Order::Exact && !quiet {
            let how = messages.order.explain();
            remark(format_args!("{}: messages in order {how}", args.file.display()));
        }
        write(&messages, &mut out)?;
    }
    out.flush()?;
    input.check_unchanged()?;
    Ok(tell_losses(&args.file, &messages.losses))
}

/// The messages as lines.
pub fn write(messages: &MessageBuffer, out: &mut impl Write) -> io::Result<()> {
    for line in messages.lines() {
        writeln!(out, "{}", printable(line.text))?;
    }
    Ok(())
}
