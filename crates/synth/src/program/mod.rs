//! The kernel's program: functions that call each other, read-only data that
//! tells where fields lie, variables. It stands in the dump's memory and, as
//! an ELF file, in the kernel image.

mod abi;
mod elf;
mod procs;

use std::collections::BTreeMap;

use crate::arch::Arch;
use crate::msgbuf;
use crate::spec::Spec;
pub(crate) use abi::Abi;
pub use procs::{Frame, Thread};
pub(crate) use procs::{Plan, write};

/// Offsets of the sections in the image, the same in memory and in the file.
/// Before them stand the spec's line and the ELF header.
pub(crate) const TEXT: u64 = 0x4000;
const RODATA: u64 = 0xc000;
const DATA: u64 = 0xe000;
pub(crate) const BSS: u64 = 0xf000;
/// End of .bss.
const END: u64 = 0x1_4000;

/// Bytes of a function.
const FUNCTION: u64 = 256;
/// Where in a function calls stand, one in 16 bytes.
const CALLS: u64 = 32;

/// `MAXCPU` of this kernel.
const MAXCPU: u64 = 8;
/// `osreldate`: 13.2-RELEASE, whose `stoppcbs` is an array and not a pointer
/// to one, and whose arm64 `struct pcb` has all of x0 to x29.
const OSRELDATE: u32 = 1_302_001;

/// Chains of calls, the innermost function first. `syscall` and the like
/// stand for the architecture's own.
pub(crate) const CRASH: &[&str] = &[
    "doadump",
    "kern_reboot",
    "vpanic",
    "panic",
    "trap_fatal",
    "trap_pfault",
    "trap",
    "calltrap",
    "vmcask_fault",
    "sysctl_root_handler_locked",
    "sysctl_root",
    "userland_sysctl",
    "sys___sysctl",
    "syscallenter",
    "fast_syscall_common",
];
pub(crate) const SELECT: &[&str] = &[
    "mi_switch",
    "sleepq_switch",
    "sleepq_catch_signals",
    "sleepq_wait_sig",
    "_cv_wait_sig",
    "seltdwait",
    "kern_select",
    "sys_select",
    "syscallenter",
    "fast_syscall_common",
];
pub(crate) const WORKER: &[&str] = &[
    "mi_switch",
    "sleepq_switch",
    "sleepq_timedwait",
    "_sleep",
    "vm_pageout_worker",
    "vm_pageout",
    "fork_exit",
    "fork_trampoline",
];
pub(crate) const IDLE: &[&str] = &[
    "cpustop_handler",
    "ipi_stop_handler",
    "trap",
    "calltrap",
    "cpu_idle",
    "sched_idletd",
    "fork_exit",
    "fork_trampoline",
];
pub(crate) const READ: &[&str] = &[
    "cpustop_handler",
    "ipi_stop_handler",
    "trap",
    "calltrap",
    "memcpy_page",
    "uiomove_faultflag",
    "vn_io_fault1",
    "vn_read",
    "dofileread",
    "kern_readv",
    "sys_read",
    "syscallenter",
    "fast_syscall_common",
];
/// A thread that isn't running but was left half-way, for `td_pcb` of those
/// that are.
pub(crate) const STALE: &[&str] = &["mi_switch", "critical_exit_preempt"];

const CHAINS: [&[&str]; 6] = [CRASH, SELECT, WORKER, IDLE, READ, STALE];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Function,
    Object,
    /// A number, not an address in a section.
    Absolute,
}

#[derive(Clone, Debug)]
struct Symbol {
    name: String,
    /// Offset in the image; the value itself where absolute.
    at: u64,
    size: u64,
    kind: Kind,
}

/// Text, data and symbols.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) arch: Arch,
    pub(crate) abi: Abi,
    text: Vec<u8>,
    rodata: Vec<u8>,
    data: Vec<u8>,
    symbols: Vec<Symbol>,
    /// Where caller calls callee: offset in the image of what follows.
    returns: BTreeMap<(&'static str, &'static str), u64>,
    bss_used: u64,
}

/// Offsets in `struct proc` and `struct thread`, about those of FreeBSD 13.
pub(crate) struct Offsets {
    pub(crate) p_list: u64,
    pub(crate) p_threads: u64,
    pub(crate) p_pid: u64,
    pub(crate) p_hash: u64,
    pub(crate) p_comm: u64,
    pub(crate) td_proc: u64,
    pub(crate) td_plist: u64,
    pub(crate) td_tid: u64,
    pub(crate) td_oncpu: u64,
    pub(crate) td_name: u64,
    pub(crate) td_pcb: u64,
    pub(crate) td_kstack: u64,
}

impl Offsets {
    pub(crate) fn of(abi: &Abi) -> Self {
        let word = abi.word;
        Self {
            p_list: 0,
            p_threads: 2 * word,
            p_pid: 188,
            p_hash: 480,
            p_comm: 980,
            td_proc: word,
            td_plist: 2 * word,
            td_tid: 156,
            td_oncpu: 260,
            td_name: 724,
            td_pcb: 976,
            td_kstack: 1008,
        }
    }
}

impl Program {
    /// `None` on architectures whose kernels have none here.
    pub(crate) fn new(spec: &Spec) -> Option<Self> {
        let abi = Abi::of(spec.arch)?;
        let mut program = Self {
            arch: spec.arch,
            abi,
            text: Vec::new(),
            rodata: Vec::new(),
            data: Vec::new(),
            symbols: Vec::new(),
            returns: BTreeMap::new(),
            bss_used: 0,
        };
        program.make_text();
        program.make_data(spec);
        Some(program)
    }

    fn make_text(&mut self) {
        let mut functions: Vec<&'static str> = Vec::new();
        for name in CHAINS.into_iter().flatten() {
            if !functions.contains(name) {
                functions.push(name);
            }
        }
        // As a linker would: by file, not by who calls whom.
        functions.sort_unstable();
        let at = |name: &str| {
            let i = functions.iter().position(|f| *f == name).unwrap_or_default();
            i as u64 * FUNCTION
        };
        self.text = vec![0; functions.len() * FUNCTION as usize];
        self.abi.nops(&mut self.text);
        for &name in &functions {
            let start = at(name);
            let mut put = |offset: u64, code: &[u8]| {
                let from = (start + offset) as usize;
                self.text[from..from + code.len()].copy_from_slice(code);
            };
            put(0, self.abi.prologue());
            let end = self.abi.epilogue();
            put(FUNCTION - end.len() as u64, end);
            let mut callees: Vec<&'static str> = CHAINS
                .iter()
                .flat_map(|c| c.windows(2))
                .filter(|w| w[1] == name)
                .map(|w| w[0])
                .collect();
            callees.sort_unstable();
            callees.dedup();
            for (i, callee) in callees.into_iter().enumerate() {
                let offset = CALLS + i as u64 * 16;
                let code = self.abi.call(start + offset, at(callee));
                put(offset, &code);
                let after = TEXT + start + offset + code.len() as u64;
                self.returns.insert((name, callee), after);
            }
            self.symbols.push(Symbol {
                name: name.into(),
                at: TEXT + start,
                size: FUNCTION,
                kind: Kind::Function,
            });
        }
        let end = TEXT + self.text.len() as u64;
        for (name, at) in [("btext", TEXT), ("etext", end)] {
            self.symbols.push(Symbol { name: name.into(), at, size: 0, kind: Kind::Object });
        }
    }

    fn make_data(&mut self, spec: &Spec) {
        let o = Offsets::of(&self.abi);
        for (name, n) in [
            ("proc_off_p_pid", o.p_pid),
            ("proc_off_p_comm", o.p_comm),
            ("proc_off_p_list", o.p_list),
            ("proc_off_p_hash", o.p_hash),
            ("proc_off_p_threads", o.p_threads),
            ("thread_off_td_tid", o.td_tid),
            ("thread_off_td_name", o.td_name),
            ("thread_off_td_oncpu", o.td_oncpu),
            ("thread_off_td_pcb", o.td_pcb),
            ("thread_off_td_plist", o.td_plist),
            ("pcb_size", self.abi.pcb_size),
        ] {
            self.constant(name, &(n as u32).to_le_bytes());
        }
        let mut version = msgbuf::version(spec).into_bytes();
        version.push(0);
        self.constant("version", &version);
        self.constant("ostype", b"FreeBSD\0");
        self.constant("osrelease", b"13.2-RELEASE\0");

        self.variable("hz", &100u32.to_le_bytes());
        self.variable("osreldate", &OSRELDATE.to_le_bytes());
        self.variable("mp_ncpus", &procs::NCPU.to_le_bytes());

        let word = self.abi.word;
        for (name, size) in [
            ("allproc", word),
            ("pidhashtbl", word),
            ("panicstr", word),
            ("msgbufp", word),
            ("dumptid", 4),
            ("dumping", 4),
            ("dumppcb", self.abi.pcb_size),
            ("stoppcbs", self.abi.pcb_size * MAXCPU),
            ("KPML4phys", 8),
            ("KPML5phys", 8),
            ("vpanic_buf", 256),
        ] {
            if name.starts_with("KPML") && self.arch != Arch::Amd64 {
                continue;
            }
            self.bss_used = self.bss_used.next_multiple_of(64);
            let at = BSS + self.bss_used;
            self.symbols.push(Symbol { name: name.into(), at, size, kind: Kind::Object });
            self.bss_used += size;
        }
        for (name, at) in [("_end", END), ("__bss_start", BSS)] {
            self.symbols.push(Symbol { name: name.into(), at, size: 0, kind: Kind::Object });
        }
    }

    fn constant(&mut self, name: &str, bytes: &[u8]) {
        let at = RODATA + append(&mut self.rodata, bytes);
        let size = bytes.len() as u64;
        self.symbols.push(Symbol { name: name.into(), at, size, kind: Kind::Object });
    }

    fn variable(&mut self, name: &str, bytes: &[u8]) {
        let at = DATA + append(&mut self.data, bytes);
        let size = bytes.len() as u64;
        self.symbols.push(Symbol { name: name.into(), at, size, kind: Kind::Object });
    }

    /// A number that the linker knows, `kernbase` above all.
    pub(crate) fn absolute(&mut self, name: &str, value: u64) {
        let kind = Kind::Absolute;
        self.symbols.push(Symbol { name: name.into(), at: value, size: 0, kind });
    }

    /// Offset in the image.
    pub(crate) fn symbol(&self, name: &str) -> Option<u64> {
        self.symbols.iter().find(|s| s.name == name).map(|s| s.at)
    }

    /// The bytes of text, read-only and initialised data, and where they
    /// stand in the image; the variables that start as zeros.
    pub(crate) fn sections(&self) -> [(u64, Vec<u8>); 4] {
        [
            (TEXT, self.text.clone()),
            (RODATA, self.rodata.clone()),
            (DATA, self.data.clone()),
            (BSS, vec![0; (END - BSS) as usize]),
        ]
    }

    /// Where a call of `callee` by `caller` returns to, in the image.
    fn return_to(&self, caller: &'static str, callee: &'static str) -> u64 {
        self.returns.get(&(caller, callee)).copied().unwrap_or_default()
    }

    /// The function at an offset of the image, and the bytes into it.
    fn function_at(&self, at: u64) -> Option<(&str, u64)> {
        let holds = |s: &&Symbol| s.kind == Kind::Function && (s.at..s.at + s.size).contains(&at);
        self.symbols.iter().find(holds).map(|s| (s.name.as_str(), at - s.at))
    }
}

/// Appends at a multiple of 16; returns where.
fn append(section: &mut Vec<u8>, bytes: &[u8]) -> u64 {
    section.resize(section.len().next_multiple_of(16), 0);
    let at = section.len() as u64;
    section.extend_from_slice(bytes);
    at
}
