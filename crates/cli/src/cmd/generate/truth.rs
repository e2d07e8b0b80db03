//! `--print-truth`: what a correct reader must find, as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use anyhow::Result;
use serde::Serialize;
use vmcask_synth::SynthDump;

/// Version of this report.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Report {
    schema: u32,
    /// The line of text that the dump can be made from again.
    spec: String,
    arch: &'static str,
    version: u32,
    file_bytes: u64,
    page_bytes: u64,
    pages: u64,
    dump_avail: Vec<Range>,
    virtual_addresses: Vec<Mapped>,
    unmapped_virtual_addresses: Vec<String>,
    /// Mapped, but by a defect to what isn't in the dump.
    broken_virtual_addresses: Vec<String>,
    absent_physical_addresses: Vec<String>,
    msgbuf: String,
    threads: Vec<Thread>,
}

#[derive(Serialize)]
struct Thread {
    pid: i32,
    comm: String,
    tid: i32,
    name: String,
    /// -1 where it doesn't run.
    oncpu: i32,
    crashed: bool,
    pcb: String,
    registers: BTreeMap<&'static str, String>,
    backtrace: Vec<Frame>,
    /// What the outermost frame would return to; null where user mode entered.
    started_by: Option<Frame>,
}

#[derive(Serialize)]
struct Frame {
    pc: String,
    function: String,
    offset: u64,
}

fn thread(t: &vmcask_synth::Thread) -> Thread {
    Thread {
        pid: t.pid,
        comm: t.comm.clone(),
        tid: t.tid,
        name: t.name.clone(),
        oncpu: t.oncpu,
        crashed: t.crashed,
        pcb: hex(t.pcb),
        registers: t.registers.iter().map(|&(name, n)| (name, hex(n))).collect(),
        backtrace: t.backtrace.iter().map(frame).collect(),
        started_by: t.started_by.as_ref().map(frame),
    }
}

fn frame(f: &vmcask_synth::Frame) -> Frame {
    Frame { pc: hex(f.pc), function: f.function.clone(), offset: f.offset }
}

#[derive(Serialize)]
struct Range {
    start: String,
    end: String,
}

#[derive(Serialize)]
struct Mapped {
    va: String,
    pa: String,
    /// `4k`, `16k`, `2m`, `1g` or `direct`.
    mapping: &'static str,
    /// Two hexadecimal digits a byte, in the order of memory.
    bytes: String,
}

pub fn print(dump: &SynthDump) -> Result<()> {
    let truth = dump.truth();
    let spec = dump.spec();
    let report = Report {
        schema: SCHEMA,
        spec: spec.to_string(),
        arch: spec.arch.name(),
        version: spec.version,
        file_bytes: dump.len(),
        page_bytes: spec.page_size,
        pages: truth.pages,
        dump_avail: truth
            .dump_avail
            .iter()
            .map(|r| Range { start: hex(r.0), end: hex(r.1) })
            .collect(),
        virtual_addresses: truth
            .mapped
            .iter()
            .map(|m| Mapped {
                va: hex(m.va),
                pa: hex(m.pa),
                mapping: m.kind,
                bytes: hex_bytes(&m.bytes),
            })
            .collect(),
        unmapped_virtual_addresses: truth.unmapped.iter().map(|&va| hex(va)).collect(),
        broken_virtual_addresses: truth.broken.iter().map(|&va| hex(va)).collect(),
        absent_physical_addresses: truth.absent.iter().map(|&pa| hex(pa)).collect(),
        threads: truth.threads.iter().map(thread).collect(),
        msgbuf: truth.msgbuf,
    };
    let mut out = io::stdout().lock();
    crate::json::write(&mut out, &report)
}

fn hex(n: u64) -> String {
    format!("{n:#x}")
}

fn hex_bytes(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        // Writing to a string doesn't fail.
        let _ = write!(text, "{b:02x}");
        text
    })
}
