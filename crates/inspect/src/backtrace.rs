//! Backtraces by frame pointers.

use std::collections::HashSet;
use std::fmt;
use std::num::NonZero;

use vmcask_dump::VirtAddr;

use crate::kernel::Kernel;
use crate::memory::Memory;
use crate::registers::{MOST_STACK, PcbLayout, Registers};
use crate::threads::Thread;

/// A kernel stack of 32 KiB has room for this many frames of 16 bytes.
const MOST_FRAMES: usize = 2048;
/// Traps move to stacks of their own (NMI, double fault, debug), so a chain
/// may go down instead of up a few times.
const MOST_STACK_CHANGES: u32 = 4;

/// An address in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where the thread was (first frame), or will return to.
    pub address: VirtAddr,
    /// The frame pointer in that function.
    pub fp: VirtAddr,
}

/// Why a backtrace has no further frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The caller's frame pointer is 0: how the kernel starts a thread
    /// (`cpu_fork`). That last record's return address, where it is one, is
    /// in the trampoline that called the thread's function; debuggers don't
    /// show it as a frame.
    Start {
        /// The trampoline.
        from: Option<VirtAddr>,
    },
    /// The caller's frame pointer is a user address: here the kernel was
    /// entered.
    User(VirtAddr),
    /// The caller's frame pointer is neither.
    Implausible(VirtAddr),
    /// The return address is not a kernel address.
    NoReturn(VirtAddr),
    /// The frame can't be read.
    Unreadable(String),
    /// The caller's frame doesn't lie above this one.
    NotAdvancing {
        /// The frame pointer.
        from: VirtAddr,
        /// The caller's.
        to: VirtAddr,
    },
    /// More frames than a kernel stack has room for.
    Depth,
    /// There are no registers to begin with.
    NoRegisters(String),
}

impl End {
    /// Whether nothing is missing.
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Start { .. } | Self::User(_))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { .. } => f.write_str("the thread began here"),
            Self::User(fp) => write!(f, "entered from user mode (frame pointer {fp})"),
            Self::Implausible(fp) => write!(f, "the next frame pointer, {fp}, is none"),
            Self::NoReturn(address) => write!(f, "the return address, {address}, is none"),
            Self::Unreadable(why) => write!(f, "the frame can't be read: {why}"),
            Self::NotAdvancing { from, to } => {
                write!(f, "not advancing: the frame at {from} leads to {to}")
            }
            Self::Depth => write!(f, "depth: more than {MOST_FRAMES} frames"),
            Self::NoRegisters(why) => write!(f, "no registers: {why}"),
        }
    }
}

/// Who called whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backtrace {
    /// The thread's registers, where they could be read.
    pub registers: Option<Registers>,
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// Why there are no more.
    pub end: End,
}

/// The backtrace of one thread; [`all`] is faster for many.
pub fn of(kernel: &Kernel<'_>, layout: PcbLayout, thread: &Thread) -> Backtrace {
    walk(&kernel.memory(), layout, thread)
}

/// The backtraces of `threads`, in their order, with up to `workers` at work.
pub fn all(
    kernel: &Kernel<'_>,
    layout: PcbLayout,
    threads: &[Thread],
    workers: NonZero<usize>,
) -> Vec<Backtrace> {
    let each = threads.len().div_ceil(workers.get()).max(1);
    let part = |part: &[Thread]| {
        let memory = kernel.memory();
        part.iter().map(|t| walk(&memory, layout, t)).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = threads.chunks(each).map(|c| scope.spawn(move || part(c))).collect();
        running
            .into_iter()
            .flat_map(|r| r.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn walk(memory: &Memory<'_>, layout: PcbLayout, thread: &Thread) -> Backtrace {
    match Registers::of(memory, layout, thread) {
        Ok(registers) => {
            let (frames, end) = frames(memory, registers.pc, registers.fp);
            Backtrace { registers: Some(registers), frames, end }
        }
        Err(why) => Backtrace { registers: None, frames: Vec::new(), end: End::NoRegisters(why) },
    }
}

fn frames(memory: &Memory<'_>, pc: VirtAddr, fp: VirtAddr) -> (Vec<Frame>, End) {
    let machine = memory.machine();
    let width = machine.pointer_bytes();
    let mut frames = vec![Frame { address: pc, fp }];
    let mut seen = HashSet::new();
    let mut stack_changes = 0;
    let mut at = fp;
    let mut last = None;
    loop {
        if at.0 <= 1 {
            return (frames, End::Start { from: None });
        }
        if !machine.is_kernel_address(at) {
            return (frames, End::User(at));
        }
        if !machine.is_kernel_pointer(at) {
            return (frames, End::Implausible(at));
        }
        let Some(record) = machine.frame_record(at) else {
            return (frames, End::Implausible(at));
        };
        let mut bytes = [0; 16];
        let bytes = &mut bytes[..2 * width];
        if let Err(e) = memory.read(record, bytes) {
            // Where user and kernel addresses overlap (i386), only the
            // distance from the stack tells them apart.
            let user = width == 4 && last.is_some_and(|last| at.0.abs_diff(last) >= MOST_STACK);
            return (frames, if user { End::User(at) } else { End::Unreadable(e.to_string()) });
        }
        let next = VirtAddr(machine.int(&bytes[..width]));
        let address = machine.return_address(machine.int(&bytes[width..]));
        // A dump of which only some pages were kept reads as zeros elsewhere.
        if next.0 == 0 && address.0 == 0 && page_is_zero(memory, record) {
            return (frames, End::Unreadable(format!("the page of {record} is all zeros")));
        }
        // A frame without frame pointer of its own is the thread's start.
        if next.0 <= 1 {
            let from = Some(address).filter(|&from| machine.is_kernel_address(from));
            return (frames, End::Start { from });
        }
        if !machine.is_kernel_address(address) {
            return (frames, End::NoReturn(address));
        }
        if frames.len() >= MOST_FRAMES {
            return (frames, End::Depth);
        }
        frames.push(Frame { address, fp: next });
        seen.insert(at);
        if next <= at && machine.is_kernel_address(next) {
            stack_changes += 1;
            let same_page = next.0 >> 12 == at.0 >> 12;
            if same_page || stack_changes > MOST_STACK_CHANGES || seen.contains(&next) {
                return (frames, End::NotAdvancing { from: at, to: next });
            }
        }
        last = Some(at.0);
        at = next;
    }
}

/// A stack's first frame has other frames in its page.
fn page_is_zero(memory: &Memory<'_>, at: VirtAddr) -> bool {
    let mut page = [0; 4096];
    let start = VirtAddr(at.0 & !4095);
    memory.read(start, &mut page).is_ok() && page.iter().all(|&b| b == 0)
}
