//! Where the members of `struct proc` and `struct thread` lie. Kernels since
//! FreeBSD 13 carry these as `const int` for debuggers
//! (`sys/kern/kern_proc.c`, `sys/kern/kern_thread.c`).

use vmcask_dump::KernelImage;

use crate::error::{Error, Result};
use crate::memory::Memory;

/// Byte offsets of structure members, by their C names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Offsets {
    pub p_pid: u64,
    pub p_comm: u64,
    pub p_list: u64,
    pub p_threads: u64,
    pub td_tid: u64,
    pub td_name: u64,
    pub td_oncpu: u64,
    pub td_pcb: u64,
    pub td_plist: u64,
}

/// In the order of the fields.
const SYMBOLS: [&str; 9] = [
    "proc_off_p_pid",
    "proc_off_p_comm",
    "proc_off_p_list",
    "proc_off_p_threads",
    "thread_off_td_tid",
    "thread_off_td_name",
    "thread_off_td_oncpu",
    "thread_off_td_pcb",
    "thread_off_td_plist",
];

/// Both structures have some 2 KiB.
const MOST: i32 = 64 << 10;

/// Where a constant of the kernel is read first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Image,
    Dump,
}

impl Offsets {
    /// Reads them, all from the image if it has them: it is whole, whatever
    /// happened to the dump, whose pages may be lost or read as zeros. Images
    /// cut down to their symbols haven't got the data; then the dump's memory
    /// has it. What one source lacks is taken from the other, and a set that
    /// can't be right (members on top of each other) is no set.
    pub fn read(image: &KernelImage, memory: &Memory<'_>) -> Result<Self> {
        let first = Self::read_from(image, memory, From::Image);
        match first {
            Ok(offsets) if offsets.is_plausible() => Ok(offsets),
            _ => match Self::read_from(image, memory, From::Dump) {
                Ok(offsets) if offsets.is_plausible() => Ok(offsets),
                Ok(offsets) => Err(Error::NoOffset {
                    symbol: "proc_off_* and thread_off_*",
                    reason: format!(
                        "they make no sense ({offsets:?}); is this the kernel that was running?"
                    ),
                }),
                Err(e) => Err(e),
            },
        }
    }

    fn read_from(image: &KernelImage, memory: &Memory<'_>, from: From) -> Result<Self> {
        let mut values = [0; SYMBOLS.len()];
        for (value, symbol) in values.iter_mut().zip(SYMBOLS) {
            let n = constant(image, memory, symbol, from)?;
            if !(0..MOST).contains(&n) {
                return Err(Error::NoOffset { symbol, reason: format!("it is {n}") });
            }
            *value = n as u64;
        }
        let [p_pid, p_comm, p_list, p_threads, td_tid, td_name, td_oncpu, td_pcb, td_plist] =
            values;
        Ok(Self { p_pid, p_comm, p_list, p_threads, td_tid, td_name, td_oncpu, td_pcb, td_plist })
    }

    fn is_plausible(&self) -> bool {
        let distinct = |offsets: &mut [u64]| {
            offsets.sort_unstable();
            offsets.windows(2).all(|w| w[1] - w[0] >= 4)
        };
        distinct(&mut [self.p_pid, self.p_comm, self.p_list, self.p_threads])
            && distinct(&mut [self.td_tid, self.td_name, self.td_oncpu, self.td_pcb, self.td_plist])
    }
}

fn constant(
    image: &KernelImage,
    memory: &Memory<'_>,
    symbol: &'static str,
    from: From,
) -> Result<i32> {
    let va = image.symbol(symbol).ok_or(Error::NoSymbol(symbol))?.addr;
    let of_image = || {
        let mut bytes = [0; 4];
        image.read(va, &mut bytes).map(|()| memory.machine().int(&bytes) as i32)
    };
    let of_dump = || memory.i32(va);
    let read = match from {
        From::Image => of_image().or_else(|_| of_dump()),
        From::Dump => of_dump().or_else(|_| of_image()),
    };
    read.map_err(|e| Error::NoOffset { symbol, reason: e.to_string() })
}

/// A `const int` that the kernel carries for debuggers, from the image or
/// else the dump; `None` where neither has a positive one.
pub(crate) fn positive_constant(
    image: &KernelImage,
    memory: &Memory<'_>,
    symbol: &'static str,
) -> Option<u64> {
    [From::Image, From::Dump]
        .into_iter()
        .filter_map(|from| constant(image, memory, symbol, from).ok())
        .find(|&n| n > 0)
        .map(|n| n as u64)
}
