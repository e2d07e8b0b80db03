//! Registers as `struct pcb` keeps them (`sys/<arch>/include/pcb.h`): those
//! that a function call preserves, stack pointer, frame pointer and where the
//! thread was.

use vmcask_dump::{Arch, VirtAddr};

use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::threads::{Pcb, Thread};

/// How `struct pcb` begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PcbLayout {
    /// amd64: r15, r14, r13, r12, rbp, rsp, rbx, rip.
    Amd64,
    /// i386: edi, esi, ebp, esp, ebx, eip.
    I386,
    /// arm64 to FreeBSD 13: x0 to x29, lr, an unused word, sp.
    Arm64Full,
    /// arm64 since FreeBSD 14: x19 to x29, lr, sp.
    Arm64,
    /// riscv: ra, sp, gp, tp, s0 to s11.
    Riscv,
    /// Not known here.
    Unknown,
}

/// `__FreeBSD_version` of the change to `pcb_x[12]`, as lldb has it.
const ARM64_SHORT_SINCE: i32 = 1_400_084;

/// Kernel stacks have 16 to 32 KiB (`KSTACK_PAGES`), on debug kernels more.
pub(crate) const MOST_STACK: u64 = 64 << 10;

/// By [`PcbLayout`]: names in the order of the words; `_` isn't shown.
const AMD64: &[&str] = &["r15", "r14", "r13", "r12", "rbp", "rsp", "rbx", "rip"];
const I386: &[&str] = &["edi", "esi", "ebp", "esp", "ebx", "eip"];
const ARM64: &[&str] =
    &["x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30", "sp"];
const ARM64_FULL: &[&str] = &[
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14",
    "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27",
    "x28", "x29", "x30", "_", "sp",
];
const RISCV: &[&str] = &[
    "ra", "sp", "gp", "tp", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10",
    "s11",
];

/// Registers of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Names and values, in the order of the structure.
    pub values: Vec<(&'static str, u64)>,
    /// Where it goes on: rip, eip; on arm64 and riscv the return address of
    /// the function that saved the registers.
    pub pc: VirtAddr,
    /// Frame pointer: rbp, ebp, x29, s0.
    pub fp: VirtAddr,
    /// Stack pointer.
    pub sp: VirtAddr,
}

impl Registers {
    /// Reads the registers of `thread`.
    pub fn of(memory: &Memory<'_>, layout: PcbLayout, thread: &Thread) -> Result<Self, String> {
        match thread.pcb {
            Pcb::At(at) => layout.read(memory, at),
            Pcb::Nowhere(why) => Err(why.into()),
        }
    }

    /// A register by name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.values.iter().find(|v| v.0 == name).map(|v| v.1)
    }

    /// Other names of the same registers, as debuggers have them.
    pub fn aliases(&self) -> Vec<(&'static str, u64)> {
        let alias = |(alias, name)| Some((alias, self.get(name)?));
        let mut out: Vec<_> =
            [("fp", "x29"), ("lr", "x30"), ("fp", "s0")].into_iter().filter_map(alias).collect();
        if !out.is_empty() {
            out.push(("pc", self.pc.0));
        }
        out
    }

    /// Whether these look like what a kernel thread leaves.
    fn are_plausible(&self, machine: Machine) -> bool {
        machine.is_kernel_address(self.pc)
            && machine.is_kernel_pointer(self.sp)
            && machine.is_kernel_pointer(self.fp)
            && self.fp.0.wrapping_sub(self.sp.0) < MOST_STACK
    }
}

impl PcbLayout {
    /// The layout that the machine, and on arm64 the kernel's version, asks
    /// for. An image that doesn't tell its version (`osreldate`) leaves the
    /// threads to decide: the layout under which more of them have a stack.
    pub(crate) fn of(kernel: &Kernel<'_>, memory: &Memory<'_>, threads: &[Thread]) -> Self {
        match kernel.machine().arch {
            Arch::Amd64 => Self::Amd64,
            Arch::I386 => Self::I386,
            Arch::Riscv => Self::Riscv,
            Arch::Arm64 => {
                let votes = |layout: Self| {
                    let pcbs = threads.iter().filter(|t| matches!(t.pcb, Pcb::At(_))).take(64);
                    pcbs.filter_map(|t| Registers::of(memory, layout, t).ok())
                        .filter(|r| r.are_plausible(memory.machine()))
                        .count()
                };
                let osreldate = kernel.symbol("osreldate").ok().and_then(|va| memory.i32(va).ok());
                match osreldate {
                    Some(n) if (1_000_000..ARM64_SHORT_SINCE).contains(&n) => Self::Arm64Full,
                    Some(n) if (ARM64_SHORT_SINCE..10_000_000).contains(&n) => Self::Arm64,
                    _ if votes(Self::Arm64Full) > votes(Self::Arm64) => Self::Arm64Full,
                    _ => Self::Arm64,
                }
            }
            Arch::Arm | Arch::Powerpc64 | Arch::Powerpc64Le => Self::Unknown,
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Amd64 => AMD64,
            Self::I386 => I386,
            Self::Arm64Full => ARM64_FULL,
            Self::Arm64 => ARM64,
            Self::Riscv => RISCV,
            Self::Unknown => &[],
        }
    }

    /// Names of the registers that hold pc, frame pointer and stack pointer.
    fn roles(self) -> [&'static str; 3] {
        match self {
            Self::Amd64 => ["rip", "rbp", "rsp"],
            Self::I386 => ["eip", "ebp", "esp"],
            Self::Arm64Full | Self::Arm64 => ["x30", "x29", "sp"],
            Self::Riscv => ["ra", "s0", "sp"],
            Self::Unknown => ["", "", ""],
        }
    }

    fn read(self, memory: &Memory<'_>, at: VirtAddr) -> Result<Registers, String> {
        if self == Self::Unknown {
            return Err(format!("the registers of {} aren't known here", memory.machine().arch));
        }
        let machine = memory.machine();
        let width = machine.pointer_bytes();
        let mut bytes = vec![0; self.names().len() * width];
        memory.read(at, &mut bytes).map_err(|e| e.to_string())?;
        let values: Vec<_> = self
            .names()
            .iter()
            .zip(bytes.chunks_exact(width))
            .map(|(&name, word)| (name, machine.int(word)))
            .filter(|(name, _)| *name != "_")
            .collect();
        let [pc, fp, sp] =
            self.roles().map(|role| values.iter().find(|v| v.0 == role).map_or(0, |v| v.1));
        Ok(Registers { pc: machine.return_address(pc), fp: VirtAddr(fp), sp: VirtAddr(sp), values })
    }
}
