//! The kernel's message buffer: a ring of text, and `struct msgbuf` beside it
//! (`sys/sys/msgbuf.h`, the same beginning since FreeBSD 5):
//! `msg_ptr`, `msg_magic`, `msg_size`, `msg_wseq`, `msg_rseq`.

use vmcask_dump::{FileOff, PhysAddr, PhysMem, VirtAddr};

use crate::error::{Error, Losses, Result};
use crate::kernel::Kernel;
use crate::memory::Memory;

/// `MSG_MAGIC`.
const MSG_MAGIC: u32 = 0x063062;
/// 96 KiB by default (`MSGBUF_SIZE`), a loader tunable; nobody keeps more.
const MOST_BYTES: u32 = 64 << 20;
/// Memory looked through for a `struct msgbuf`: it lies near the top.
const MOST_SCANNED: u64 = 4 << 30;
/// Bytes looked through at a time.
const SCAN: usize = 1 << 20;
/// Bytes of a 64-bit `struct msgbuf` up to `msg_seqmod`.
const STRUCT: usize = 32;
/// Fewer NULs than this in a ring may be noise; more are the part that was
/// never written.
const LEAST_GAP: usize = 4;

/// How the order of the messages is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From `msg_wseq`.
    Exact,
    /// From `msg_wseq` of a `struct msgbuf` that was found by its looks.
    Found,
    /// The ring wasn't full: text begins after the NULs.
    Gap,
    /// The ring was full: it ends where the kernel told that it dumps.
    DumpMessage,
    /// Not at all: the ring from its first byte.
    Unknown,
}

impl Order {
    /// For a sentence after "order".
    pub fn explain(self) -> &'static str {
        match self {
            Self::Exact => "by msgbufp",
            Self::Found => "by a struct msgbuf found in memory",
            Self::Gap => "by the unused part of the ring",
            Self::DumpMessage => "by the kernel's last message, that it dumps",
            Self::Unknown => "not known: the ring from its first byte",
        }
    }
}

/// Messages, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageBuffer {
    /// Text in order, without the ring's NULs. Not safe for a terminal.
    pub bytes: Vec<u8>,
    /// How the order is known.
    pub order: Order,
    /// Whether older text was overwritten: the first line may be a part.
    pub wrapped: bool,
    /// What is missing.
    pub losses: Losses,
}

/// A line of the message buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// syslog's facility * 8 + level, from a prefix such as `<118>`.
    pub priority: Option<u32>,
    /// The rest, without newline. Not safe for a terminal.
    pub text: &'a [u8],
}

/// What stands where something of the kernel's was expected may be anything,
/// a key or a password too: errors don't quote it.
const ANOTHER: &str = "another number";

impl MessageBuffer {
    /// Reads it through `msgbufp`. `ring` is the copy that a minidump's own
    /// part has: what the dump's memory lacks is taken from there.
    pub fn from_kernel(
        kernel: &Kernel<'_>,
        memory: &Memory<'_>,
        ring: Option<&[u8]>,
    ) -> Result<Self> {
        let machine = kernel.machine();
        let pointer = |field, va: VirtAddr| match va {
            va if machine.is_kernel_address(va) => Ok(va),
            _ => Err(Error::Value { field, found: ANOTHER.into(), expected: "a kernel address" }),
        };
        let msgbufp = pointer("msgbufp", memory.pointer(kernel.symbol("msgbufp")?)?)?;
        // msg_ptr, then four unsigned ints.
        let width = machine.pointer_bytes();
        let mut raw = [0; 24];
        let raw = &mut raw[..width + 16];
        memory.read(msgbufp, raw)?;
        let (msg_ptr, ints) = raw.split_at(width);
        let mut ints = ints.chunks_exact(4).map(|b| machine.int(b) as u32);
        let mut int = || ints.next().unwrap_or_default();
        let (msg_magic, msg_size, msg_wseq) = (int(), int(), int());
        if msg_magic != MSG_MAGIC {
            return Err(Error::Value {
                field: "msg_magic",
                found: ANOTHER.into(),
                expected: "0x63062; is this the kernel that was running?",
            });
        }
        if !(1..=MOST_BYTES).contains(&msg_size) {
            return Err(Error::Value {
                field: "msg_size",
                found: msg_size.to_string(),
                expected: "1 to 67108864 bytes",
            });
        }
        let msg_ptr = pointer("msg_ptr", VirtAddr(machine.int(msg_ptr)))?;
        let ring = ring.filter(|ring| ring.len() >= msg_size as usize);
        let mut losses = Losses::default();
        let read = |va, buf: &mut [u8]| memory.read(VirtAddr(va), buf);
        let bytes = read_ring(read, msg_ptr.0, msg_size as usize, ring, &mut losses);
        Ok(Self::ordered(bytes, msg_wseq, Order::Exact, losses))
    }

    /// Looks for it in physical memory, from the top down: amd64, arm64 and
    /// riscv kernels put it at the end of memory, the ring and behind it its
    /// `struct msgbuf` (`msgbufinit`, `sys/kern/subr_msgbuf.c`). `runs` are
    /// those of the dump, ascending; at most [`MOST_SCANNED`] bytes are read.
    /// 64-bit little-endian kernels only.
    pub fn find(dump: &dyn PhysMem, runs: &[(PhysAddr, FileOff, u64)]) -> Option<Self> {
        let mut left = MOST_SCANNED;
        let mut buf = vec![0; SCAN + STRUCT];
        for &(start, off, size) in runs.iter().rev() {
            let mut end = size & !7;
            while end > 0 {
                let from = end.saturating_sub(SCAN as u64) & !7;
                let n = (size - from).min((end - from) + STRUCT as u64) as usize;
                let piece = &mut buf[..n];
                left = left.checked_sub(n as u64)?;
                if dump.source().read_exact_at(off.0.checked_add(from)?, piece).is_ok() {
                    let found = (0..n.saturating_sub(STRUCT - 1)).step_by(8).rev().find_map(|at| {
                        let pa = start.0.checked_add(from)?.checked_add(at as u64)?;
                        Self::looks_like(dump, pa, &piece[at..at + STRUCT])
                    });
                    if found.is_some() {
                        return found;
                    }
                }
                end = from;
            }
        }
        None
    }

    /// Whether a `struct msgbuf` of a 64-bit kernel lies at `pa`; if so, its
    /// ring is read.
    fn looks_like(dump: &dyn PhysMem, pa: u64, bytes: &[u8]) -> Option<Self> {
        let int = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if int(8) != MSG_MAGIC {
            return None;
        }
        let (msg_size, msg_wseq, msg_seqmod) = (int(12), int(16), int(28));
        let ring = pa.checked_sub(msg_size.into())?;
        // SEQMOD is 16 times the size; msg_ptr is the ring's virtual address.
        let is_one = (1024..=MOST_BYTES).contains(&msg_size)
            && msg_seqmod == msg_size.wrapping_mul(16)
            && msg_wseq <= msg_seqmod
            && u64::from(int(0)) % 4096 == ring % 4096;
        if !is_one {
            return None;
        }
        let mut losses = Losses::default();
        let read = |at, buf: &mut [u8]| dump.read_phys(PhysAddr(at), buf);
        let bytes = read_ring(read, ring, msg_size as usize, None, &mut losses);
        let found = Self::ordered(bytes, msg_wseq, Order::Found, losses);
        (!found.bytes.is_empty()).then_some(found)
    }

    /// A ring as text, from its write position on.
    fn ordered(mut bytes: Vec<u8>, msg_wseq: u32, order: Order, mut losses: Losses) -> Self {
        let seam = msg_wseq as usize % bytes.len().max(1);
        bytes.rotate_left(seam);
        let wrapped = !bytes.contains(&0);
        bytes.retain(|&b| b != 0);
        note_empty(&bytes, &mut losses);
        Self { bytes, order, wrapped, losses }
    }

    /// Finds the seam of a ring whose write position is not known.
    pub fn from_ring(ring: &[u8]) -> Self {
        let mut losses = Losses::default();
        let (seam, order) = match (longest_gap(ring), last_words(ring)) {
            (Some(end), _) => (end, Order::Gap),
            (None, Some(end)) => (end, Order::DumpMessage),
            (None, None) => (0, Order::Unknown),
        };
        let mut bytes = ring.to_vec();
        bytes.rotate_left(seam.min(ring.len()));
        bytes.retain(|&b| b != 0);
        if bytes.is_empty() {
            note_empty(&bytes, &mut losses);
        } else if order == Order::Unknown {
            losses.add(
                "the order of the messages",
                "no seam was found in the ring; with --kernel it is exact",
            );
        }
        Self { bytes, order, wrapped: order != Order::Gap, losses }
    }

    /// The lines, in order.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = Line<'_>> {
        let text = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        let lines = (!text.is_empty()).then(|| text.split(|&b| b == b'\n'));
        lines.into_iter().flatten().map(Line::parse)
    }
}

impl<'a> Line<'a> {
    /// `<118>text`: what syslogd and dmesg(8) take as a priority.
    fn parse(line: &'a [u8]) -> Self {
        let prefix = || {
            let rest = line.strip_prefix(b"<")?;
            let end = rest.iter().take(5).position(|&b| b == b'>')?;
            let digits = std::str::from_utf8(&rest[..end]).ok()?;
            let number = digits.bytes().all(|b| b.is_ascii_digit()).then_some(digits)?;
            Some((number.parse().ok()?, &rest[end + 1..]))
        };
        match prefix() {
            Some((priority, text)) => Self { priority: Some(priority), text },
            None => Self { priority: None, text: line },
        }
    }
}

fn note_empty(bytes: &[u8], losses: &mut Losses) {
    if bytes.is_empty() {
        losses.add("the messages", "the message buffer is all zeros");
    }
}

/// Reads `size` bytes of ring at address `at`, a page at a time, what can't be
/// read from `copy` or else as zeros.
fn read_ring(
    read: impl Fn(u64, &mut [u8]) -> vmcask_dump::Result<()>,
    at: u64,
    size: usize,
    copy: Option<&[u8]>,
    losses: &mut Losses,
) -> Vec<u8> {
    // Grown as it is read: a size of 64 MiB is only a claim.
    let mut bytes = Vec::new();
    let mut lost = 0;
    let mut first = None;
    while bytes.len() < size {
        let from = bytes.len();
        let here = at.checked_add(from as u64);
        let within = here.map_or(0, |here| here as usize % 4096);
        let n = (4096 - within).min(size - from);
        bytes.resize(from + n, 0);
        let outcome = match here {
            Some(here) => read(here, &mut bytes[from..]).map_err(|e| e.to_string()),
            None => Err("it lies past the end of memory".into()),
        };
        if let Err(reason) = outcome {
            if let Some(copy) = copy {
                bytes[from..].copy_from_slice(&copy[from..from + n]);
            } else {
                bytes[from..].fill(0);
                lost += n;
                first.get_or_insert(reason);
            }
        }
    }
    if let Some(reason) = first {
        losses.add(format!("{lost} of the message buffer's {size} bytes"), reason);
    }
    bytes
}

/// Where the longest run of NULs ends, the ring's end and start being joined.
fn longest_gap(ring: &[u8]) -> Option<usize> {
    let text = ring.iter().position(|&b| b != 0)?;
    let mut best = (0, 0);
    let mut run = 0;
    for i in 0..ring.len() {
        let at = (text + i) % ring.len();
        run = if ring[at] == 0 { run + 1 } else { 0 };
        if run > best.0 {
            best = (run, at + 1);
        }
    }
    (best.0 >= LEAST_GAP).then_some(best.1 % ring.len())
}

/// The kernel writes the ring out after it has said `Dumping 394 out of 4075
/// MB:`, so a full ring's newest text ends there. Text of an earlier crash
/// that survived the reboot goes on with `..1%`.
fn last_words(ring: &[u8]) -> Option<usize> {
    const START: &[u8] = b"Dumping ";
    const END: &[u8] = b" MB:";
    const LINE: usize = 64;
    let byte = |at: usize| ring[at % ring.len()];
    let found: Vec<usize> = (0..ring.len())
        .filter(|&at| START.iter().enumerate().all(|(i, &b)| byte(at + i) == b))
        .filter_map(|at| {
            let line: Vec<u8> = (at..at + LINE)
                .map(byte)
                .take_while(|b| b.is_ascii_graphic() || *b == b' ')
                .collect();
            let end = line.windows(END.len()).position(|w| w == END)?;
            Some((at + end + END.len()) % ring.len())
        })
        .collect();
    let goes_on = |end: usize| byte(end) == b'.' && byte(end + 1) == b'.';
    found.iter().copied().find(|&end| !goes_on(end)).or_else(|| {
        // Progress was written to the ring before the ring was written out.
        let [end] = found[..] else { return None };
        let progress = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'%' | b' ');
        let len = (0..ring.len()).take_while(|i| progress(byte(end + i))).count();
        Some((end + len) % ring.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities() {
        let m = MessageBuffer::from_ring(b"<118>a\n<x>b\n<>c\n<6>\nd\n\0\0\0\0\0");
        let lines: Vec<_> = m.lines().map(|l| (l.priority, l.text)).collect();
        let want: [(Option<u32>, &[u8]); 5] =
            [(Some(118), b"a"), (None, b"<x>b"), (None, b"<>c"), (Some(6), b""), (None, b"d")];
        assert_eq!(lines, want);
    }

    #[test]
    fn a_seam_anywhere() {
        let log = b"boot\npanic: x\nDumping 3 out of 40 MB:";
        let old = b"tail of an older line\nolder\nDumping 1 out of 2 MB:..1%\nDump complete\n";
        let full = [&old[..], log].concat();
        let gap = [&log[..], &[0; 9]].concat();
        for turn in 0..full.len() {
            let mut ring = full.clone();
            ring.rotate_left(turn);
            let m = MessageBuffer::from_ring(&ring);
            assert_eq!((m.order, &m.bytes), (Order::DumpMessage, &full), "turned by {turn}");
            let mut ring = gap.clone();
            ring.rotate_left(turn % gap.len());
            let m = MessageBuffer::from_ring(&ring);
            assert_eq!((m.order, &m.bytes[..]), (Order::Gap, &log[..]), "turned by {turn}");
        }
    }

    /// Memory from 3 MiB on, in two runs with a gap between them.
    struct Two(Vec<u8>);

    const BASE: u64 = 3 << 20;
    const GAP: u64 = 1 << 20;

    impl PhysMem for Two {
        fn source(&self) -> &dyn vmcask_dump::ReadAt {
            &self.0
        }
        fn locate(&self, pa: PhysAddr) -> vmcask_dump::Result<(FileOff, u64)> {
            let half = self.0.len() as u64 / 2;
            let absent = vmcask_dump::Error::Absent { pa };
            match pa.0.checked_sub(BASE) {
                Some(at) if at < half => Ok((FileOff(at), half - at)),
                Some(at) if (half + GAP..2 * half + GAP).contains(&at) => {
                    Ok((FileOff(at - GAP), 2 * half - (at - GAP)))
                }
                _ => Err(absent),
            }
        }
    }

    #[test]
    fn found_in_physical_memory() {
        let log = b"boot\npanic: x\n";
        let half = SCAN + 40960;
        let runs = [
            (PhysAddr(BASE), FileOff(0), half as u64),
            (PhysAddr(BASE + half as u64 + GAP), FileOff(half as u64), half as u64),
        ];
        // In either run, across the pieces that are read at a time, at its end.
        for at in
            [8192, half - 40, SCAN + 8, SCAN - 8, half + 4096, half + 40960 - 16, 2 * half - 32]
        {
            let size = 2048;
            let wseq = 3 * size + 7;
            let mut memory = vec![0; 2 * half];
            let ring = at - size;
            for (i, &b) in log.iter().enumerate() {
                memory[ring + (wseq - log.len() + i) % size] = b;
            }
            let pa = |at: usize| BASE + at as u64 + if at >= half { GAP } else { 0 };
            let msg_ptr = 0xffff_f800_0000_0000 + pa(at) - size as u64;
            memory[at..at + 8].copy_from_slice(&msg_ptr.to_le_bytes());
            let ints = [MSG_MAGIC, size as u32, wseq as u32, 0, 0, 16 * size as u32];
            for (i, n) in ints.into_iter().enumerate() {
                memory[at + 8 + 4 * i..][..4].copy_from_slice(&n.to_le_bytes());
            }
            // Something with the magic number that is none.
            memory[half + 50000..][..4].copy_from_slice(&MSG_MAGIC.to_le_bytes());
            let memory = Two(memory);
            let found = MessageBuffer::find(&memory, &runs).unwrap_or_else(|| panic!("at {at}"));
            assert_eq!((found.order, &found.bytes[..]), (Order::Found, &log[..]), "at {at}");
        }
        assert_eq!(MessageBuffer::find(&Two(vec![0; 2 * half]), &runs), None);
    }

    #[test]
    fn no_seam_and_no_text() {
        let m = MessageBuffer::from_ring(b"some text\n");
        assert_eq!((m.order, m.losses.list().len()), (Order::Unknown, 1));
        for ring in [&[][..], &[0; 1], &[0; 99]] {
            let m = MessageBuffer::from_ring(ring);
            assert!(m.bytes.is_empty() && m.lines().next().is_none());
            assert_eq!(m.losses.list().len(), 1);
        }
    }
}
