//! Processes, threads, stacks: what a debugger walks. Structures link up as
//! `sys/sys/{proc,queue}.h` say.

use super::{Abi, CRASH, IDLE, MAXCPU, Offsets, Program, READ, SELECT, STALE, WORKER};
use crate::kernel::Kernel;
use crate::msgbuf;

/// `mp_ncpus`
pub(super) const NCPU: u32 = 4;
/// The CPU that panicked.
const CRASHED_CPU: i32 = 1;
/// The CPU that runs another process.
const BUSY_CPU: i32 = 2;
/// `NO_PID`, the lowest thread id less one.
const FIRST_TID: i32 = 100_000;
/// Each process and each thread has this much of the slab.
const SLOT: u64 = 2048;
/// What lies above the outermost frame: a user's trap frame.
const TRAPFRAME: u64 = 512;

/// Where user mode enters.
const USER_ENTRY: &str = "fast_syscall_common";

/// Names of user processes, by turns.
const NAMES: [&str; 12] = [
    "sh", "sshd", "cron", "syslogd", "devd", "ntpd", "postgres", "nginx", "getty", "dhclient",
    "make", "cc",
];

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sleeping(&'static [&'static str]),
    Running(&'static [&'static str], i32),
    Crashed,
}

#[derive(Clone, Debug)]
struct PlannedThread {
    name: String,
    state: State,
}

#[derive(Clone, Debug)]
struct PlannedProc {
    pid: i32,
    comm: String,
    threads: Vec<PlannedThread>,
}

/// Who is there, before anything has an address.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    procs: Vec<PlannedProc>,
}

/// One frame of a backtrace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Program counter: where it stopped, or where the call returns to.
    pub pc: u64,
    /// The function.
    pub function: String,
    /// Bytes into it.
    pub offset: u64,
}

/// A thread as a correct debugger shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Process id.
    pub pid: i32,
    /// The process's name (`p_comm`).
    pub comm: String,
    /// Thread id.
    pub tid: i32,
    /// The thread's name (`td_name`).
    pub name: String,
    /// CPU it runs on (`td_oncpu`), -1 where it doesn't.
    pub oncpu: i32,
    /// Whether it is the one that panicked.
    pub crashed: bool,
    /// Address of the `struct pcb` that holds its registers: its own, that of
    /// its CPU in `stoppcbs`, or `dumppcb`.
    pub pcb: u64,
    /// Saved registers.
    pub registers: Vec<(&'static str, u64)>,
    /// Innermost frame first.
    pub backtrace: Vec<Frame>,
    /// Kernel threads: what the outermost frame would return to. gdb shows it
    /// as one more frame, lldb doesn't.
    pub started_by: Option<Frame>,
}

impl Plan {
    /// The kernel's own processes and `procs` others, the last of which
    /// panicked.
    pub(crate) fn new(procs: u32) -> Self {
        let sleeping =
            |name: &str, chain| PlannedThread { name: name.into(), state: State::Sleeping(chain) };
        let one = |pid, comm: &str, threads| PlannedProc { pid, comm: comm.into(), threads };
        let idle = (0..NCPU as i32).map(|cpu| PlannedThread {
            name: format!("idle: cpu{cpu}"),
            state: if cpu == CRASHED_CPU || (cpu == BUSY_CPU && procs > 1) {
                State::Sleeping(STALE)
            } else {
                State::Running(IDLE, cpu)
            },
        });
        let mut all = vec![
            one(0, "kernel", vec![sleeping("swapper", WORKER), sleeping("softirq_0", WORKER)]),
            one(1, "init", vec![sleeping("", SELECT)]),
            one(11, "idle", idle.collect()),
            one(
                28,
                "pagedaemon",
                vec![sleeping("dom0", WORKER), sleeping("laundry: dom0", WORKER)],
            ),
        ];
        for i in 0..procs {
            let comm = NAMES[i as usize % NAMES.len()];
            let count = 1 + i as usize % 3;
            let mut threads: Vec<_> = (0..count)
                .map(|t| {
                    let name = if t == 0 { comm.to_owned() } else { format!("{comm}-{t}") };
                    sleeping(&name, SELECT)
                })
                .collect();
            if i == 0 {
                threads[0].state = State::Running(READ, BUSY_CPU);
            }
            all.push(one(700 + i as i32 * 3, comm, threads));
        }
        if let Some(last) = all.last_mut() {
            if procs > 0 {
                last.comm = "sysctl".into();
                last.threads[0].name = "sysctl".into();
            }
            last.threads[0].state = State::Crashed;
        }
        Self { procs: all }
    }

    /// Stacks.
    pub(crate) fn threads(&self) -> u64 {
        self.procs.iter().map(|p| p.threads.len() as u64).sum()
    }

    /// Bytes of the slab.
    pub(crate) fn slab(&self) -> u64 {
        (self.procs.len() as u64 + self.threads()) * SLOT
    }
}

/// Writes everything into the kernel's memory; returns the threads, by
/// process id.
pub(crate) fn write(
    kernel: &mut Kernel,
    program: &Program,
    plan: &Plan,
    msgbuf: &[u8],
    log_len: usize,
) -> Vec<Thread> {
    let mut w = Writer { kernel, program, offsets: Offsets::of(&program.abi) };
    w.globals(msgbuf, log_len);
    let slots = w.kernel.slab_pa() + msgbuf::SIZE;
    let mut slot = 0;
    let mut stack = 0;
    let mut proc_addresses = Vec::new();
    let mut threads = Vec::new();
    let mut tid = FIRST_TID;
    for proc in &plan.procs {
        let pa = slots + slot * SLOT;
        let addresses: Vec<u64> = (1..=proc.threads.len() as u64).map(|i| pa + i * SLOT).collect();
        slot += 1 + addresses.len() as u64;
        w.proc(pa, proc, &addresses);
        for (i, thread) in proc.threads.iter().enumerate() {
            let (prev, next) = (i.checked_sub(1).map(|i| addresses[i]), addresses.get(i + 1));
            w.links(addresses[i], pa, prev, next.copied());
            threads.push(w.thread(addresses[i], proc, thread, tid, stack));
            tid += 1;
            stack += 1;
        }
        proc_addresses.push(pa);
    }
    w.list(&proc_addresses);
    threads
}

struct Writer<'a> {
    kernel: &'a mut Kernel,
    program: &'a Program,
    offsets: Offsets,
}

impl Writer<'_> {
    fn abi(&self) -> &Abi {
        &self.program.abi
    }

    fn word(&mut self, pa: u64, n: u64) {
        let bytes = self.abi().put_word(n);
        self.kernel.put(pa, &bytes);
    }

    fn int(&mut self, pa: u64, n: i32) {
        self.kernel.put(pa, &n.to_le_bytes());
    }

    fn text(&mut self, pa: u64, text: &str) {
        self.kernel.put(pa, text.as_bytes());
        self.kernel.put(pa + text.len() as u64, &[0]);
    }

    /// Physical address of a variable.
    fn variable(&self, name: &str) -> u64 {
        self.kernel.image_pa() + self.program.symbol(name).unwrap_or_default()
    }

    fn variable_va(&self, name: &str) -> u64 {
        self.kernel.image_va() + self.program.symbol(name).unwrap_or_default()
    }

    /// Text and data, and the variables that don't depend on processes.
    fn globals(&mut self, ring: &[u8], log_len: usize) {
        for (at, bytes) in self.program.sections() {
            let pa = self.kernel.image_pa() + at;
            self.kernel.put(pa, &bytes);
        }
        if let Some((name, pa)) = self.kernel.kpml_phys() {
            let at = self.variable(name);
            self.kernel.put(at, &pa.to_le_bytes());
        }
        let buffer = self.variable("vpanic_buf");
        self.text(buffer, msgbuf::PANIC);
        let (at, to) = (self.variable("panicstr"), self.variable_va("vpanic_buf"));
        self.word(at, to);
        let at = self.variable("dumping");
        self.int(at, 1);

        // struct msgbuf, behind the ring it describes.
        let slab = self.kernel.slab_pa();
        let header = slab + ring.len() as u64;
        let (ring_va, header_va) = (self.kernel.slab_va(slab), self.kernel.slab_va(header));
        self.word(header, ring_va);
        let sum: u32 = ring.iter().map(|&b| u32::from(b)).sum();
        let (size, first) = (ring.len() as u32, msgbuf::START as u32);
        let fields = [msgbuf::MAGIC, size, first + log_len as u32, first, sum, size * 16];
        for (i, n) in fields.into_iter().enumerate() {
            let at = header + self.abi().word + i as u64 * 4;
            self.kernel.put(at, &n.to_le_bytes());
        }
        let at = self.variable("msgbufp");
        self.word(at, header_va);
    }

    /// `allproc`, newest first.
    fn list(&mut self, procs: &[u64]) {
        let word = self.abi().word;
        let link = self.offsets.p_list;
        let mut at = self.variable("allproc");
        let mut at_va = self.variable_va("allproc");
        for &pa in procs.iter().rev() {
            let va = self.kernel.slab_va(pa);
            self.word(at, va);
            // le_prev: the address of the pointer that points here.
            self.word(pa + link + word, at_va);
            (at, at_va) = (pa + link, va + link);
        }
        self.word(at, 0);
    }

    fn proc(&mut self, pa: u64, proc: &PlannedProc, threads: &[u64]) {
        let word = self.abi().word;
        self.int(pa + self.offsets.p_pid, proc.pid);
        self.text(pa + self.offsets.p_comm, &proc.comm);
        let head = pa + self.offsets.p_threads;
        if let (Some(&first), Some(&last)) = (threads.first(), threads.last()) {
            let first = self.kernel.slab_va(first);
            self.word(head, first);
            let last = self.kernel.slab_va(last) + self.offsets.td_plist;
            self.word(head + word, last);
        }
    }

    /// td_plist and td_proc.
    fn links(&mut self, pa: u64, proc: u64, prev: Option<u64>, next: Option<u64>) {
        let word = self.abi().word;
        let link = pa + self.offsets.td_plist;
        let next = next.map_or(0, |n| self.kernel.slab_va(n));
        self.word(link, next);
        let head = self.kernel.slab_va(proc) + self.offsets.p_threads;
        let prev = prev.map_or(head, |p| self.kernel.slab_va(p) + self.offsets.td_plist);
        self.word(link + word, prev);
        let proc = self.kernel.slab_va(proc);
        self.word(pa + self.offsets.td_proc, proc);
    }

    fn thread(
        &mut self,
        pa: u64,
        proc: &PlannedProc,
        thread: &PlannedThread,
        tid: i32,
        stack: u64,
    ) -> Thread {
        let (low, high) = self.kernel.stack(stack);
        let pcb_size = self.program.abi.pcb_size;
        let own_pcb = (high - pcb_size) / 64 * 64;
        let (chain, oncpu, pcb) = match thread.state {
            State::Sleeping(chain) => (chain, -1, own_pcb),
            State::Running(chain, cpu) => {
                let at = cpu as u64 % MAXCPU * pcb_size;
                (chain, cpu, self.variable_va("stoppcbs") + at)
            }
            State::Crashed => (CRASH, CRASHED_CPU, self.variable_va("dumppcb")),
        };
        self.int(pa + self.offsets.td_tid, tid);
        self.int(pa + self.offsets.td_oncpu, oncpu);
        self.text(pa + self.offsets.td_name, &thread.name);
        self.word(pa + self.offsets.td_pcb, own_pcb);
        self.word(pa + self.offsets.td_kstack, low);
        let crashed = thread.state == State::Crashed;
        if crashed {
            let at = self.variable("dumptid");
            self.int(at, tid);
        }
        let (registers, mut backtrace) = self.frames(chain, own_pcb - TRAPFRAME, tid);
        let user = chain.last() == Some(&USER_ENTRY);
        let started_by = if user { None } else { backtrace.pop() };
        self.pcb(pcb, &registers);
        if pcb != own_pcb {
            // What it had when it was last switched away: a reader that takes
            // this gets another backtrace.
            let (stale, _) = self.frames(STALE, low + 2048, tid);
            self.pcb(own_pcb, &stale);
        }
        Thread {
            pid: proc.pid,
            comm: proc.comm.clone(),
            tid,
            name: thread.name.clone(),
            oncpu,
            crashed,
            pcb,
            registers,
            backtrace,
            started_by,
        }
    }

    /// Writes the frames of a chain of calls below `top`; returns registers
    /// and backtrace.
    fn frames(
        &mut self,
        chain: &[&'static str],
        top: u64,
        tid: i32,
    ) -> (Vec<(&'static str, u64)>, Vec<Frame>) {
        let abi = self.program.abi;
        let image = self.kernel.image_va();
        // Where the innermost function stopped: behind its calls.
        let inner = self.program.symbol(chain[0]).unwrap_or_default() + 0xc0;
        let mut pcs = vec![inner];
        pcs.extend(chain.windows(2).map(|w| self.program.return_to(w[1], w[0])));

        // From the outside in: each frame holds its caller's frame pointer.
        // What enters from user mode leaves the user's there; a kernel thread
        // starts with 0.
        let user = chain.last() == Some(&USER_ENTRY);
        let (saved_fp, saved_ra) = abi.saved;
        let mut fp = if user { abi.user_fp } else { 0 };
        let mut at = top;
        for (i, &ra) in pcs.iter().enumerate().skip(1).rev() {
            at -= 64 + (i as u64 % 5) * 16;
            for (slot, n) in [(saved_fp, fp), (saved_ra, image + ra)] {
                let va = at.wrapping_add_signed(slot * abi.word as i64);
                self.kernel.put_va(va, &abi.put_word(n));
            }
            fp = at;
        }
        let backtrace = pcs
            .iter()
            .map(|&pc| {
                let (function, offset) = self.program.function_at(pc).unwrap_or_default();
                Frame { pc: image + pc, function: function.into(), offset }
            })
            .collect();
        let registers = abi
            .registers
            .iter()
            .enumerate()
            .map(|(i, &(name, _))| {
                let n = match i {
                    0 => image + inner,
                    1 => at - 32,
                    2 => fp,
                    // Whatever the function keeps there.
                    _ => (tid as u64) << 8 | i as u64,
                };
                (name, n)
            })
            .collect();
        (registers, backtrace)
    }

    fn pcb(&mut self, va: u64, registers: &[(&'static str, u64)]) {
        let abi = self.program.abi;
        for (&(_, n), &(_, index)) in registers.iter().zip(abi.registers) {
            self.kernel.put_va(va + index * abi.word, &abi.put_word(n));
        }
    }
}
