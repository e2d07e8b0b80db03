//! `vmcask triage`: the first facts of a crash on one page.

use std::io::{self, BufWriter, Write};

use anyhow::Result;
use serde::Serialize;
use vmcask_convert::{Dump, Input};
use vmcask_inspect::text::printable;
use vmcask_inspect::triage::{self, Facts};
use vmcask_inspect::{
    Backtrace, ImageCheck, Kernel, Losses, MessageBuffer, Thread, backtrace, check,
};

use super::dmesg::{LineJson, order_name};
use super::kernel::{
    LossJson, TraceJson, kernel_of, losses_json, messages, open_image, trace_text,
    warn_of_other_kernel,
};
use super::print_warnings;
use crate::Outcome;
use crate::args::TriageArgs;
use crate::progress::spin;
use crate::size::human;
use crate::terminal::{self, paragraph};

/// Messages shown: a panic with its backtrace and registers fits.
const LAST_LINES: usize = 40;

#[derive(Serialize)]
struct Triage {
    schema: u32,
    file: String,
    file_bytes: u64,
    dump_bytes: u64,
    format: String,
    kernel: Option<String>,
    kernel_check: Option<String>,
    kernel_matches: Option<bool>,
    hostname: Option<String>,
    version: Option<String>,
    panic: Option<String>,
    time_unix_seconds: Option<i64>,
    time_utc: Option<String>,
    uptime: Option<String>,
    cpus: Option<u32>,
    hz: Option<u32>,
    memory: MemoryJson,
    processes: Option<usize>,
    threads: Option<usize>,
    threads_on_cpu: Option<usize>,
    crashed: Vec<TraceJson>,
    messages_order: Option<&'static str>,
    last_messages: Vec<LineJson>,
    missing: Vec<LossJson>,
    warnings: Vec<String>,
}

#[derive(Clone, Copy, Serialize)]
#[allow(clippy::struct_field_names)] // units are in JSON keys
struct MemoryJson {
    promised_bytes: u64,
    present_bytes: u64,
    /// Of the machine, as far as the dump says.
    ram_bytes: Option<u64>,
}

/// What was found, before it is shown.
struct Found<'a> {
    input: &'a Input,
    kernel: Option<&'a Kernel<'a>>,
    check: Option<ImageCheck>,
    facts: Facts,
    counts: Option<(usize, usize, usize)>,
    crashed: Vec<(Thread, Backtrace)>,
    messages: Option<MessageBuffer>,
    memory: MemoryJson,
    losses: Losses,
}

pub fn run(args: &TriageArgs) -> Result<Outcome> {
    let mut input = args.file.open()?;
    if !args.json {
        print_warnings(&input);
    }
    let image = args.kernel.get().map(|path| open_image(&mut input, path)).transpose()?;
    let kernel = image.as_ref().map(|image| kernel_of(&input, image)).transpose()?;
    let found = spin("looking", || find(&input, kernel.as_ref()));
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        crate::json::write(&mut out, &json(args, &found))?;
    } else {
        if let Some(check) = &found.check {
            warn_of_other_kernel(&args.file, check);
        }
        print(&found, &mut out)?;
    }
    out.flush()?;
    input.check_unchanged()?;
    Ok(if found.losses.is_empty() { Outcome::Done } else { Outcome::Incomplete })
}

fn find<'a>(input: &'a Input, kernel: Option<&'a Kernel<'a>>) -> Found<'a> {
    let mut losses = Losses::default();
    let memory = kernel.map(Kernel::memory);
    let both = kernel.zip(memory.as_ref());
    let messages = match messages(input, both) {
        Ok((messages, in_vain)) => {
            if let Some(why) = in_vain {
                losses.add("the exact order of the messages", why);
            }
            losses.append(messages.losses.clone());
            Some(messages)
        }
        Err(e) => {
            losses.add("the messages", format!("{e:#}"));
            None
        }
    };
    let said = input.device.as_ref().map(|header| Facts {
        version: some_text(&header.versionstring),
        panic: some_text(&header.panicstring),
        time: i64::try_from(header.dumptime).ok().filter(|&t| t > 0),
        ..Facts::default()
    });
    let facts = triage::facts(both, messages.as_ref(), said.unwrap_or_default(), &mut losses);
    let mut crashed = Vec::new();
    let mut counts = None;
    match kernel.map(Kernel::threads) {
        None => {}
        Some(Err(e)) => losses.add("processes and threads", e),
        Some(Ok(list)) => {
            losses.append(list.losses);
            let on_cpu = list.threads.iter().filter(|t| t.cpu.is_some()).count();
            counts = Some((list.processes, list.threads.len(), on_cpu));
            for thread in list.threads.into_iter().filter(|t| t.crashed) {
                let Some(kernel) = kernel else { break };
                let trace = backtrace::of(kernel, list.layout, &thread);
                if !trace.end.is_whole() {
                    let after = trace.frames.len();
                    let what = format!("frames after the first {after} of {}", thread.name());
                    losses.add(what, &trace.end);
                }
                crashed.push((thread, trace));
            }
        }
    }
    Found {
        input,
        kernel,
        check: both.map(|(k, m)| check::image(k, m, || messages.clone())),
        facts,
        counts,
        crashed,
        messages,
        memory: memory_of(input),
        losses,
    }
}

fn memory_of(input: &Input) -> MemoryJson {
    match &input.dump {
        Dump::Minidump(d) => {
            let avail = d.dump_avail();
            let ram = avail
                .iter()
                .fold(0u64, |sum, &(start, end)| sum.saturating_add(end.saturating_sub(start)));
            let bytes = |pages: u64| pages.saturating_mul(d.page_size());
            MemoryJson {
                promised_bytes: bytes(d.pages_promised()),
                present_bytes: bytes(d.pages_present()),
                ram_bytes: (ram > 0).then_some(ram),
            }
        }
        Dump::Elf(c) => MemoryJson {
            promised_bytes: c.memory_bytes(),
            present_bytes: c.memory_bytes().saturating_sub(c.lost_bytes()),
            ram_bytes: None,
        },
    }
}

fn hostname(input: &Input) -> Option<String> {
    input.device.as_ref().and_then(|header| some_text(&header.hostname))
}

fn some_text(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| printable(text.as_bytes()))
}

fn last_lines(messages: &MessageBuffer) -> Vec<vmcask_inspect::msgbuf::Line<'_>> {
    let mut lines: Vec<_> = messages.lines().rev().take(LAST_LINES).collect();
    lines.reverse();
    lines
}

fn json(args: &TriageArgs, found: &Found<'_>) -> Triage {
    let facts = found.facts.clone();
    let check = found.check.as_ref();
    let mut warnings: Vec<_> = found.input.warnings().map(ToString::to_string).collect();
    warnings
        .extend(check.filter(|c| matches!(c, ImageCheck::Differs { .. })).map(ToString::to_string));
    Triage {
        schema: 1,
        file: args.file.display().to_string(),
        file_bytes: found.input.file_len,
        dump_bytes: found.input.source.len(),
        format: found.input.dump.name(),
        kernel: args.kernel.get().map(|k| k.display().to_string()),
        kernel_check: check.map(ToString::to_string),
        kernel_matches: check.and_then(|check| match check {
            ImageCheck::Same { .. } => Some(true),
            ImageCheck::Differs { .. } => Some(false),
            ImageCheck::Unknown { .. } => None,
        }),
        hostname: hostname(found.input),
        version: facts.version,
        panic: facts.panic,
        time_unix_seconds: facts.time,
        time_utc: facts.time.and_then(triage::utc),
        uptime: facts.uptime,
        cpus: facts.cpus,
        hz: facts.hz,
        memory: found.memory,
        processes: found.counts.map(|c| c.0),
        threads: found.counts.map(|c| c.1),
        threads_on_cpu: found.counts.map(|c| c.2),
        crashed: found
            .kernel
            .map(|k| found.crashed.iter().map(|(t, trace)| TraceJson::new(k, t, trace)).collect())
            .unwrap_or_default(),
        messages_order: found.messages.as_ref().map(|m| order_name(m.order)),
        last_messages: found
            .messages
            .as_ref()
            .map(|m| last_lines(m).into_iter().map(LineJson::new).collect())
            .unwrap_or_default(),
        missing: losses_json(&found.losses),
        warnings,
    }
}

fn print(found: &Found<'_>, out: &mut impl Write) -> io::Result<()> {
    let input = found.input;
    let facts = &found.facts;
    let width = terminal::width();
    let line = |out: &mut dyn Write, label: &str, what: Option<String>| match what {
        Some(what) => paragraph(out, &format!("{label:<10} "), &what, width),
        None => Ok(()),
    };
    let bytes = human(input.source.len());
    let archived = match input.archive {
        Some(_) => format!(", archived in {}", human(input.file_len)),
        None => String::new(),
    };
    line(out, "dump", Some(format!("{}: {bytes}{archived}", input.path.display())))?;
    line(out, "format", Some(input.dump.name()))?;
    line(out, "host", hostname(input))?;
    line(out, "kernel", facts.version.clone())?;
    let when = facts.time.and_then(triage::utc);
    let up = facts.uptime.as_ref().map(|up| format!("up {up}"));
    let when: Vec<String> = [when, up].into_iter().flatten().collect();
    line(out, "crashed", (!when.is_empty()).then(|| when.join(", ")))?;
    line(out, "panic", facts.panic.clone())?;
    let m = found.memory;
    let ram = m.ram_bytes.map(|ram| format!(", of a machine with {}", human(ram)));
    let lost = match m.promised_bytes - m.present_bytes.min(m.promised_bytes) {
        0 => String::new(),
        lost => format!(", {} lost", human(lost)),
    };
    let memory = format!("{}{lost}{}", human(m.present_bytes), ram.unwrap_or_default());
    line(out, "memory", Some(memory))?;
    let cpus = facts.cpus.map(|n| format!("{n} CPUs, "));
    let threads = found.counts.map(|(processes, threads, on_cpu)| {
        let cpus = cpus.unwrap_or_default();
        format!("{cpus}{processes} processes, {threads} threads, {on_cpu} of them on a CPU")
    });
    line(out, "running", threads)?;
    let check = match &found.check {
        Some(check) => check.to_string(),
        None => "no kernel image was given: no threads, no backtrace (--kernel)".into(),
    };
    line(out, "image", Some(check))?;
    if let Some(kernel) = found.kernel {
        for (thread, trace) in &found.crashed {
            write!(out, "\n{}", trace_text(kernel, thread, trace))?;
        }
    }
    if let Some(messages) = found.messages.as_ref().filter(|m| !m.bytes.is_empty()) {
        writeln!(out, "\nlast messages, in order {}", messages.order.explain())?;
        for line in last_lines(messages) {
            writeln!(out, "  {}", printable(line.text))?;
        }
    }
    if !found.losses.is_empty() {
        writeln!(out, "\nmissing")?;
        for loss in found.losses.list().iter().take(20) {
            paragraph(out, "  ", &loss.to_string(), width)?;
        }
        let rest = found.losses.list().len().saturating_sub(20) as u64 + found.losses.more();
        if rest > 0 {
            writeln!(out, "  {rest} more")?;
        }
    }
    Ok(())
}
