//! What the commands that ask a kernel image share: messages, threads as
//! JSON, telling losses.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use vmcask_convert::{Dump, Input};
use vmcask_dump::{KernelImage, VirtAddr};
use vmcask_inspect::backtrace::End;
use vmcask_inspect::text::printable;
use vmcask_inspect::{Backtrace, ImageCheck, Kernel, Losses, Memory, MessageBuffer, Thread, check};

use crate::named::Named;
use crate::{Outcome, warn};

/// Opens the kernel image and tells the dump. A core whose page tables aren't
/// where the image says may still be read: by its note, by its program
/// headers, by tables that map themselves. That is tried, with a warning.
pub fn open_image(input: &mut Input, path: &Named) -> Result<KernelImage> {
    let name = || path.display().to_string();
    let file = path.source()?;
    let image = KernelImage::open(&file).with_context(name)?;
    let needs_tables = match &input.dump {
        Dump::Minidump(_) => false,
        // Of a stream only the headers can be read.
        Dump::Elf(_) if input.stream.is_some() => false,
        Dump::Elf(c) => c.note().is_none_or(|note| note.minidump.is_none()),
    };
    if needs_tables && let Err(e) = input.dump.use_kernel(&image) {
        warn(path, e);
    }
    Ok(image)
}

/// The dump and its kernel image together.
pub fn kernel_of<'a>(input: &'a Input, image: &'a KernelImage) -> Result<Kernel<'a>> {
    Kernel::new(input.dump.virt(), image).with_context(|| input.path.display().to_string())
}

/// The copy of the message buffer that a minidump has apart from memory.
pub fn ring(input: &Input) -> Result<Option<Vec<u8>>> {
    // Cores made of a minidump carry it in their note.
    let minidump = match &input.dump {
        Dump::Minidump(d) => Some(&**d),
        Dump::Elf(c) => c.note().and_then(|note| note.minidump.as_ref()),
    };
    let ring = minidump.map(vmcask_dump::Minidump::msgbuf).transpose();
    ring.with_context(|| input.path.display().to_string())
}

/// The kernel's messages: in exact order where the image and the dump's
/// memory allow, else as the ring alone tells. With the first comes a remark
/// where it was tried in vain.
pub fn messages(
    input: &Input,
    kernel: Option<(&Kernel<'_>, &Memory<'_>)>,
) -> Result<(MessageBuffer, Option<String>)> {
    let ring = ring(input)?;
    let mut in_vain = None;
    if let Some((kernel, memory)) = kernel {
        match MessageBuffer::from_kernel(kernel, memory, ring.as_deref()) {
            Ok(messages) => return Ok((messages, None)),
            Err(e) => in_vain = Some(e.to_string()),
        }
    }
    let messages = match (&ring, &input.dump) {
        (Some(ring), _) => Some(MessageBuffer::from_ring(ring)),
        (None, Dump::Elf(core)) => {
            MessageBuffer::find(&**core, &core.phys_runs().collect::<Vec<_>>())
        }
        (None, Dump::Minidump(_)) => None,
    };
    let file = input.path.display();
    match (messages, in_vain) {
        (Some(messages), in_vain) => Ok((messages, in_vain)),
        (None, Some(why)) => bail!("{file}: {why}"),
        (None, None) => bail!("{file}: no message buffer was found; --kernel may find it"),
    }
}

/// A kernel image of another kernel gives answers that mean nothing.
pub fn warn_of_other_kernel(file: &Path, check: &ImageCheck) {
    if matches!(check, ImageCheck::Differs { .. }) {
        warn(file, check);
    }
}

/// Compares image and dump, with the messages' help where the memory doesn't
/// tell, and warns.
pub fn check_image(input: &Input, kernel: &Kernel<'_>) -> ImageCheck {
    let memory = kernel.memory();
    let messages = || messages(input, None).ok().map(|m| m.0);
    let check = check::image(kernel, &memory, messages);
    warn_of_other_kernel(&input.path, &check);
    check
}

/// An address in hex, as many digits as the machine's addresses have.
pub fn address(kernel: &Kernel<'_>, va: u64) -> String {
    let digits = kernel.machine().pointer_bytes() * 2;
    format!("{va:#0width$x}", width = digits + 2)
}

/// A thread in `ps --json`, `bt --json` and `triage --json`.
#[derive(Serialize)]
pub struct ThreadJson {
    name: String,
    pid: Option<i32>,
    tid: Option<i32>,
    comm: String,
    thread_name: String,
    cpu: Option<u32>,
    state: &'static str,
    crashed: bool,
    proc_address: Option<String>,
    thread_address: Option<String>,
}

impl ThreadJson {
    pub fn new(kernel: &Kernel<'_>, thread: &Thread) -> Self {
        let hex = |va: Option<VirtAddr>| va.map(|va| address(kernel, va.0));
        Self {
            name: thread.name(),
            pid: thread.pid,
            tid: thread.tid,
            comm: thread.comm.clone(),
            thread_name: thread.td_name.clone(),
            cpu: thread.cpu,
            state: thread.state(),
            crashed: thread.crashed,
            proc_address: hex(thread.process),
            thread_address: hex(thread.address),
        }
    }
}

/// A thread with its backtrace.
#[derive(Serialize)]
pub struct TraceJson {
    #[serde(flatten)]
    thread: ThreadJson,
    registers: Option<serde_json::Map<String, serde_json::Value>>,
    frames: Vec<FrameJson>,
    /// The trampoline that a kernel thread's first function was called from.
    started_by: Option<PlaceJson>,
    end: String,
    whole: bool,
}

#[derive(Serialize)]
struct FrameJson {
    #[serde(flatten)]
    place: PlaceJson,
    frame_pointer: String,
}

#[derive(Serialize)]
struct PlaceJson {
    address: String,
    symbol: Option<String>,
    offset_bytes: Option<u64>,
}

impl TraceJson {
    pub fn new(kernel: &Kernel<'_>, thread: &Thread, trace: &Backtrace) -> Self {
        let register = |&(name, value): &(&str, u64)| (name.into(), address(kernel, value).into());
        let place = |va: VirtAddr, is_return| {
            let symbol = kernel.function(va, is_return);
            PlaceJson {
                address: address(kernel, va.0),
                symbol: symbol.map(|s| s.0.name.to_string()),
                offset_bytes: symbol.map(|s| s.1),
            }
        };
        let frames = trace.frames.iter().enumerate().map(|(i, frame)| FrameJson {
            place: place(frame.address, i > 0),
            frame_pointer: address(kernel, frame.fp.0),
        });
        let started_by = match trace.end {
            End::Start { from } => from.map(|from| place(from, true)),
            _ => None,
        };
        Self {
            thread: ThreadJson::new(kernel, thread),
            registers: trace
                .registers
                .as_ref()
                .map(|r| r.values.iter().chain(&r.aliases()).map(register).collect()),
            frames: frames.collect(),
            started_by,
            end: trace.end.to_string(),
            whole: trace.end.is_whole(),
        }
    }
}

/// What an answer lacks, in JSON.
#[derive(Serialize)]
pub struct LossJson {
    what: String,
    reason: String,
}

pub fn losses_json(losses: &Losses) -> Vec<LossJson> {
    let json =
        |l: &vmcask_inspect::Loss| LossJson { what: l.what.clone(), reason: l.reason.clone() };
    losses.list().iter().map(json).collect()
}

/// Names each loss, the first ones at least, and says how the command ends.
pub fn tell_losses(file: &Path, losses: &Losses) -> Outcome {
    const SHOWN: usize = 20;
    for loss in losses.list().iter().take(SHOWN) {
        warn(file, format!("missing: {loss}"));
    }
    let rest = losses.list().len().saturating_sub(SHOWN) as u64 + losses.more();
    if rest > 0 {
        warn(file, format!("missing: {rest} more (--json lists the first thousand)"));
    }
    if losses.is_empty() { Outcome::Done } else { Outcome::Incomplete }
}

/// A thread's backtrace as lines.
pub fn trace_text(kernel: &Kernel<'_>, thread: &Thread, trace: &Backtrace) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let tid = thread.tid.map_or_else(|| "?".into(), |tid| tid.to_string());
    let _ = writeln!(out, "{}, tid {tid}", thread.name());
    if let Some(registers) = &trace.registers {
        for row in registers.values.chunks(3) {
            for (name, value) in row {
                let _ = write!(out, "  {name:>3} {}", address(kernel, *value));
            }
            out.push('\n');
        }
    }
    let place = |va: VirtAddr, is_return| match kernel.function(va, is_return) {
        Some((symbol, offset)) => {
            let name = printable(symbol.name.as_bytes());
            format!("{}  {name}+{offset:#x}", address(kernel, va.0))
        }
        None => address(kernel, va.0),
    };
    for (i, frame) in trace.frames.iter().enumerate() {
        let _ = writeln!(out, "  #{i:<3} {}", place(frame.address, i > 0));
    }
    if let End::Start { from: Some(from) } = trace.end {
        let _ = writeln!(out, "  end: {}, called from {}", trace.end, place(from, true));
        return out;
    }
    let _ = writeln!(out, "  end: {}", trace.end);
    out
}
