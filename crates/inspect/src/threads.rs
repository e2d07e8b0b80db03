//! Processes and their threads, by the kernel's lists: `allproc` (a
//! `LIST_HEAD` of `struct proc` through `p_list`), `p_threads` (a
//! `TAILQ_HEAD` of `struct thread` through `td_plist`); `sys/sys/proc.h`. In
//! both, the first word of the head is the first element and the first word
//! of a link the next one. Order and names are those of lldb's FreeBSD
//! kernel plugin: as in the kernel's list, newest process first.

use std::collections::HashSet;
use std::fmt::Write as _;

use vmcask_dump::VirtAddr;

use crate::error::{Losses, Result};
use crate::kernel::Kernel;
use crate::memory::Memory;
use crate::offsets::Offsets;
use crate::registers::PcbLayout;
use crate::text::printable;

/// `MAXCOMLEN + 1` (`sys/sys/param.h`): bytes of `p_comm` and `td_name`.
const NAME_BYTES: usize = 20;
/// Process numbers end at `PID_MAX`, 99,999 (`sys/sys/proc.h`); some room for
/// kernels built otherwise.
const MOST_PROCESSES: usize = 1 << 17;
/// More threads than any machine was seen with.
const MOST_THREADS: usize = 1 << 18;
/// `NOCPU` (`sys/sys/proc.h`).
const NOCPU: i32 = -1;

/// Where a thread's registers were saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pcb {
    /// In a `struct pcb` at this address.
    At(VirtAddr),
    /// Nowhere.
    Nowhere(&'static str),
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its `struct thread`; `None` for a crashed thread that no list has.
    pub address: Option<VirtAddr>,
    /// Its process's `struct proc`.
    pub process: Option<VirtAddr>,
    /// `p_pid`.
    pub pid: Option<i32>,
    /// `td_tid`.
    pub tid: Option<i32>,
    /// `p_comm`, printable.
    pub comm: String,
    /// `td_name`, printable.
    pub td_name: String,
    /// `td_oncpu`: the CPU it was running on.
    pub cpu: Option<u32>,
    /// Whether it is the one that wrote the dump (`dumptid`).
    pub crashed: bool,
    /// Where its registers are.
    pub pcb: Pcb,
}

impl Thread {
    /// What lldb's plugin calls it: `(pid 28) pagedaemon/laundry: dom0`, with
    /// ` (crashed)` or ` (on CPU 4)` where it was running.
    pub fn name(&self) -> String {
        let mut name = match self.pid {
            Some(pid) => format!("(pid {pid}) {}", self.comm),
            None => format!("(pid ?) {}", self.comm),
        };
        if !self.td_name.is_empty() && self.td_name != self.comm {
            name.push('/');
            name.push_str(&self.td_name);
        }
        if self.crashed {
            name.push_str(" (crashed)");
        } else if let Some(cpu) = self.cpu {
            let _ = write!(name, " (on CPU {cpu})");
        }
        name
    }

    /// `crashed`, `on-cpu` or `off-cpu`. The kernel tells debuggers no more:
    /// there is no `thread_off_td_state`.
    pub fn state(&self) -> &'static str {
        match (self.crashed, self.cpu) {
            (true, _) => "crashed",
            (_, Some(_)) => "on-cpu",
            _ => "off-cpu",
        }
    }
}

/// All threads that could be found.
#[derive(Clone, Debug)]
pub struct ThreadList {
    /// In the kernel's order.
    pub threads: Vec<Thread>,
    /// Processes seen, with or without threads.
    pub processes: usize,
    /// How the saved registers are laid out.
    pub layout: PcbLayout,
    /// What is missing.
    pub losses: Losses,
}

pub(crate) fn list(kernel: &Kernel<'_>) -> Result<ThreadList> {
    let memory = kernel.memory();
    let pcbs = Pcbs::new(kernel, &memory);
    let mut losses = Losses::default();
    let mut threads = Vec::new();
    let mut processes = 0;
    let lists = kernel
        .symbol("allproc")
        .and_then(|allproc| Ok((allproc, Offsets::read(kernel.image(), &memory)?)));
    match lists {
        Ok((allproc, offsets)) => {
            let mut walk = Walk {
                memory: &memory,
                offsets,
                pcbs: &pcbs,
                threads,
                seen_threads: HashSet::new(),
                losses,
            };
            processes = walk.processes(allproc);
            (threads, losses) = (walk.threads, walk.losses);
        }
        // The crashed thread's registers were saved apart: they need no list.
        Err(e) if matches!(pcbs.dumptid, Ok(1..)) => losses.add("processes and threads", e),
        Err(e) => return Err(e),
    }
    match pcbs.dumptid {
        Err(ref e) => losses.add("which thread crashed", e),
        Ok(0) => {}
        Ok(tid) if !threads.iter().any(|t| t.crashed) => {
            losses.add(
                "name and process of the crashed thread",
                "it is in no list that could be walked",
            );
            threads.push(Thread {
                address: None,
                process: None,
                pid: None,
                tid: Some(tid),
                comm: "?".into(),
                td_name: String::new(),
                cpu: None,
                crashed: true,
                pcb: pcbs.dumppcb,
            });
        }
        Ok(_) => {}
    }
    let layout = PcbLayout::of(kernel, &memory, &threads);
    Ok(ThreadList { threads, processes, layout, losses })
}

/// One walk over all lists.
struct Walk<'a> {
    memory: &'a Memory<'a>,
    offsets: Offsets,
    pcbs: &'a Pcbs,
    threads: Vec<Thread>,
    seen_threads: HashSet<VirtAddr>,
    losses: Losses,
}

impl<'a> Walk<'a> {
    /// Walks `allproc` and returns how many processes it has.
    fn processes(&mut self, allproc: VirtAddr) -> usize {
        let mut seen = HashSet::new();
        let mut link = Some(allproc);
        loop {
            let next = match self.next(link, &mut seen, MOST_PROCESSES) {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(reason) => {
                    let n = seen.len();
                    self.losses.add(format!("the processes after the first {n}"), reason);
                    break;
                }
            };
            if !self.process(next) {
                break;
            }
            link = next.checked_add(self.offsets.p_list);
        }
        seen.len()
    }

    /// The element that the word at `link` points to; `None` at the end.
    fn next(
        &self,
        link: Option<VirtAddr>,
        seen: &mut HashSet<VirtAddr>,
        most: usize,
    ) -> Result<Option<VirtAddr>, String> {
        let link = link.ok_or("a link lies past the end of memory")?;
        let next = self.memory.pointer(link).map_err(|e| format!("the next link is lost: {e}"))?;
        if next.0 == 0 {
            return Ok(None);
        }
        if !self.memory.machine().is_kernel_pointer(next) {
            // What it is may be anything of memory.
            return Err(format!("the link at {link} is no kernel pointer"));
        }
        if seen.len() >= most {
            return Err(format!("the list has more than {most} elements"));
        }
        if !seen.insert(next) {
            return Err(format!("the link at {link} leads back to {next}: the list is a loop"));
        }
        Ok(Some(next))
    }

    /// Adds the threads of one process; `false` when there is no room for
    /// more.
    fn process(&mut self, proc: VirtAddr) -> bool {
        let what = format!("process at {proc}");
        let pid = self.field(proc, self.offsets.p_pid, "p_pid", &what, Memory::i32);
        let what = pid.filter(|&pid| is_id(pid)).map_or(what, |pid| format!("process {pid}"));
        let comm = self.name(proc, self.offsets.p_comm, "p_comm", &what);
        let mut link = proc.checked_add(self.offsets.p_threads);
        let mut count = 0;
        loop {
            let mut seen = std::mem::take(&mut self.seen_threads);
            let next = self.next(link, &mut seen, MOST_THREADS);
            self.seen_threads = seen;
            match next {
                Ok(Some(td)) => {
                    self.thread(td, proc, pid, &comm);
                    count += 1;
                    link = td.checked_add(self.offsets.td_plist);
                }
                Ok(None) => return true,
                Err(reason) => {
                    let which = if count == 0 {
                        "the threads".into()
                    } else {
                        format!("the threads after the first {count}")
                    };
                    self.losses.add(format!("{which} of {what}"), reason);
                    return self.seen_threads.len() < MOST_THREADS;
                }
            }
        }
    }

    fn thread(&mut self, td: VirtAddr, proc: VirtAddr, pid: Option<i32>, comm: &str) {
        let what = format!("thread at {td}");
        let tid = self.field(td, self.offsets.td_tid, "td_tid", &what, Memory::i32);
        let what = tid.filter(|&tid| is_id(tid)).map_or(what, |tid| format!("thread {tid}"));
        let td_name = self.name(td, self.offsets.td_name, "td_name", &what);
        let oncpu = self.field(td, self.offsets.td_oncpu, "td_oncpu", &what, Memory::i32);
        let pcb = self.field(td, self.offsets.td_pcb, "td_pcb", &what, Memory::pointer);
        let crashed = tid.is_some() && self.pcbs.dumptid.as_ref().ok() == tid.as_ref();
        // 16 bits hold any CPU number; what isn't one is not believed.
        let cpu = oncpu.filter(|&n| n != NOCPU);
        let cpu = if let Ok(cpu) = cpu.map(u16::try_from).transpose() {
            cpu.map(u32::from)
        } else {
            self.losses.add(format!("td_oncpu of {what}"), "it is no CPU's number");
            None
        };
        let pcb = if crashed {
            self.pcbs.dumppcb
        } else if let Some(cpu) = cpu {
            self.pcbs.of_cpu(self.memory, cpu)
        } else {
            match pcb {
                Some(at) if self.memory.machine().is_kernel_pointer(at) => Pcb::At(at),
                Some(_) => Pcb::Nowhere("td_pcb is no kernel pointer"),
                None => Pcb::Nowhere("td_pcb can't be read"),
            }
        };
        self.threads.push(Thread {
            address: Some(td),
            process: Some(proc),
            pid,
            tid,
            comm: comm.into(),
            td_name,
            cpu,
            crashed,
            pcb,
        });
    }

    fn field<T>(
        &mut self,
        base: VirtAddr,
        offset: u64,
        field: &str,
        of: &str,
        read: impl Fn(&Memory<'a>, VirtAddr) -> vmcask_dump::Result<T>,
    ) -> Option<T> {
        let at = base.checked_add(offset)?;
        match read(self.memory, at) {
            Ok(value) => Some(value),
            Err(e) => {
                self.losses.add(format!("{field} of {of}"), e);
                None
            }
        }
    }

    fn name(&mut self, base: VirtAddr, offset: u64, field: &str, of: &str) -> String {
        self.field(base, offset, field, of, |m, at| m.string(at, NAME_BYTES - 1))
            .map_or_else(|| "?".into(), |bytes| printable(&bytes))
    }
}

/// Whether it may be a pid or tid. Text taken for one is larger, and isn't
/// quoted.
fn is_id(n: i32) -> bool {
    (0..1 << 24).contains(&n)
}

/// Where registers are when not in the thread's own `td_pcb`.
struct Pcbs {
    /// The crashed thread's number; 0 where nobody crashed.
    dumptid: Result<i32>,
    dumppcb: Pcb,
    /// An array by CPU of entries of `pcb_size` bytes, and how many it has.
    stoppcbs: Result<(VirtAddr, u64, u64), &'static str>,
    /// A bit set by CPU, and the highest CPU in it. Older kernels, and images
    /// cut down to what a debugger needed then, don't tell.
    stopped_cpus: Option<(VirtAddr, u32)>,
}

impl Pcbs {
    fn new(kernel: &Kernel<'_>, memory: &Memory<'_>) -> Self {
        let image = kernel.image();
        let dumppcb = match image.symbol("dumppcb") {
            Some(symbol) => Pcb::At(symbol.addr),
            None => Pcb::Nowhere("the kernel image has no symbol dumppcb"),
        };
        let stopped_cpus = image.symbol("stopped_cpus").and_then(|cpus| {
            let mp_maxid = memory.u32(image.symbol("mp_maxid")?.addr).ok()?;
            Some((cpus.addr, mp_maxid))
        });
        Self {
            dumptid: kernel.symbol("dumptid").and_then(|va| Ok(memory.i32(va)?)),
            dumppcb,
            stoppcbs: Self::stoppcbs(kernel, memory),
            stopped_cpus,
        }
    }

    fn stoppcbs(
        kernel: &Kernel<'_>,
        memory: &Memory<'_>,
    ) -> Result<(VirtAddr, u64, u64), &'static str> {
        let image = kernel.image();
        let symbol = image.symbol("stoppcbs").ok_or("the kernel image has no symbol stoppcbs")?;
        let pcb_size = crate::offsets::positive_constant(image, memory, "pcb_size")
            .ok_or("pcb_size can't be read")?;
        if pcb_size > 1 << 16 {
            return Err("pcb_size is more than 64 KiB");
        }
        // An array in .bss; or a pointer to one that was allocated at boot.
        if symbol.size == memory.machine().pointer_bytes() as u64 {
            let at = memory.pointer(symbol.addr).map_err(|_| "stoppcbs can't be read")?;
            return Ok((at, pcb_size, u64::MAX));
        }
        let entries = if symbol.size == 0 { u64::MAX } else { symbol.size / pcb_size };
        Ok((symbol.addr, pcb_size, entries))
    }

    fn of_cpu(&self, memory: &Memory<'_>, cpu: u32) -> Pcb {
        if let Some((cpus, mp_maxid)) = self.stopped_cpus {
            let bits = memory.machine().pointer_bytes() as u32 * 8;
            let word = u64::from(cpu / bits * bits / 8);
            let stopped = cpu <= mp_maxid
                && cpus
                    .checked_add(word)
                    .and_then(|at| memory.pointer(at).ok())
                    .is_some_and(|mask| mask.0 >> (cpu % bits) & 1 == 1);
            if !stopped {
                return Pcb::Nowhere("its CPU was running and not stopped for the dump");
            }
        }
        match self.stoppcbs {
            Err(why) => Pcb::Nowhere(why),
            Ok((_, _, entries)) if u64::from(cpu) >= entries => {
                Pcb::Nowhere("its CPU is past the end of stoppcbs")
            }
            Ok((base, size, _)) => base
                .checked_add(u64::from(cpu) * size)
                .map_or(Pcb::Nowhere("stoppcbs lies past the end of memory"), Pcb::At),
        }
    }
}
