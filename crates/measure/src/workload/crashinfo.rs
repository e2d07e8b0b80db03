//! What crashinfo(8) does to a dump: some twenty tools, one after the other,
//! each of which opens the dump anew.
//!
//! The list of tools is that of `usr.sbin/crashinfo/crashinfo.sh`. The rest
//! is the model of a server with 32 CPUs: 200 zones, 400 malloc types, 1,000
//! sockets, 10 open files a process. It was written down from what the tools
//! do with libkvm, before anything was measured, and isn't fitted to the
//! published times. Processes, threads and messages are the dump's own.

use std::io::Write as _;

use vmcask_dump::{PhysAddr, PhysMem};
use vmcask_inspect::text::printable;
use vmcask_inspect::{MessageBuffer, backtrace};

use super::{Digest, Done, Setup, done, kernel};
use crate::error::Result;

/// A tool that crashinfo runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// As crashinfo calls it.
    pub name: &'static str,
    /// Whether it lists processes and threads.
    pub threads: bool,
    /// Whether it walks the stack of the crashed thread.
    pub backtrace: bool,
    /// Whether it prints the kernel's messages.
    pub messages: bool,
    /// Objects it reads besides those, however many processes there are.
    pub objects: usize,
    /// Objects it reads of each process.
    pub objects_per_process: usize,
}

const fn tool(name: &'static str, objects: usize) -> Tool {
    Tool {
        name,
        threads: false,
        backtrace: false,
        messages: false,
        objects,
        objects_per_process: 0,
    }
}

const CPUS: usize = 32;
const ZONES: usize = 200;
const MALLOC_TYPES: usize = 400;
const SOCKETS: usize = 1000;
const FILES: usize = 10;
/// Zone, keg, name, the list behind them; for each CPU the two buckets of its
/// cache (`lib/libmemstat/memstat_uma.c`).
const UMA: usize = ZONES * (4 + 2 * CPUS);
/// pcb, socket, protocol block, protosw, domain (`usr.bin/netstat/inet.c`).
const INPCBS: usize = SOCKETS * 5;

/// The tools, in crashinfo's order.
pub const TOOLS: [Tool; 20] = [
    Tool { threads: true, backtrace: true, ..tool("kgdb: bt", 40) },
    // Credentials, group, session, terminal, limits, address space,
    // signals, times.
    Tool { threads: true, objects_per_process: 8, ..tool("ps -axlww", 10) },
    tool("vmstat -s", 40 + CPUS),
    tool("vmstat -m", MALLOC_TYPES * 2),
    tool("vmstat -z", UMA),
    tool("vmstat -i", 10),
    tool("pstat -T", 10),
    tool("pstat -s", 10),
    tool("iostat", 20),
    tool("ipcs -a", 20),
    tool("ipcs -T", 10),
    tool("nfsstat", 5),
    tool("netstat -s", 20 * CPUS),
    tool("netstat -m", UMA),
    tool("netstat -anA", INPCBS),
    tool("netstat -aL", INPCBS),
    // Descriptor table; of each file the file, vnode and what is behind it.
    Tool { threads: true, objects_per_process: 3 + FILES * 3, ..tool("fstat", 10) },
    Tool { messages: true, ..tool("dmesg -a", 5) },
    tool("kgdb: version, panicstr", 40),
    tool("ddb capture print", 5),
];

/// Objects that lie in one page, on average.
pub const OBJECTS_PER_PAGE: usize = 8;
/// Bytes that are read of an object.
const OBJECT: usize = 256;
/// Objects given to every tool; those that read more begin anew.
pub const OBJECTS: usize = 1 << 16;

/// Runs one tool. `objects` are the addresses of what it reads besides
/// processes, threads and messages, as [`super::objects`] finds them. On
/// amd64 such objects lie in the direct map, where reading costs one lookup,
/// as reading by physical address does.
pub fn run(setup: &Setup<'_>, tool: &Tool, objects: &[PhysAddr]) -> Result<Done> {
    let opened = setup.open()?;
    let image = setup.image()?;
    let kernel = kernel(&opened, &image)?;
    let mut out = Digest::default();
    let mut processes = 0;
    if tool.threads {
        let list = kernel.threads()?;
        processes = list.processes;
        for t in &list.threads {
            writeln!(out, "{:?} {:?} {} {}", t.pid, t.tid, t.state(), t.name())?;
        }
        if tool.backtrace {
            for t in list.threads.iter().filter(|t| t.crashed) {
                let trace = backtrace::of(&kernel, list.layout, t);
                super::bt_all::print(&kernel, t, &trace, &mut out)?;
            }
        }
    }
    if tool.messages {
        // Images without `msgbufp`, and dumps that lack what it points to, have
        // the copy that a minidump begins with.
        let memory = kernel.memory();
        let messages = match MessageBuffer::from_kernel(&kernel, &memory, None) {
            Ok(messages) => messages,
            Err(_) => MessageBuffer::from_ring(&opened.dump.msgbuf()?),
        };
        for line in messages.lines() {
            writeln!(out, "{}", printable(line.text))?;
        }
    }
    let count = tool.objects + tool.objects_per_process * processes;
    let mut object = [0; OBJECT];
    for &pa in objects.iter().cycle().take(count) {
        opened.dump.read_phys(pa, &mut object)?;
        out.write_all(&object)?;
    }
    Ok(done(opened, std::hash::Hasher::finish(&out.0)))
}
