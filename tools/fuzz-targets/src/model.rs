//! Archives against a vector of bytes: written with faults, read, damaged and
//! recovered.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmcask_archive::{ArchiveReader, Plan, WriteOptions, recover, verify, write};
use vmcask_dump::ReadAt;

use crate::containers::small_options;
use crate::shown;

/// Pages like those of a dump: zero, repeated, text, noise.
pub fn memory(cells: usize, seed: u64) -> Vec<u8> {
    let kinds: Vec<u8> = (0..cells as u64).map(|i| (i.wrapping_mul(seed | 1) >> 2) as u8).collect();
    kinds.iter().flat_map(|&k| cell(k)).collect()
}

/// The content of a cell of some kind.
fn cell(kind: u8) -> Vec<u8> {
    let mut state = u64::from(kind) << 32 | 1;
    let mut noise = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    match kind % 8 {
        0 | 1 => vec![0; 4096],
        2 => vec![kind >> 3; 4096],
        3 => (0..4096).map(|_| noise()).collect(),
        4 => std::iter::repeat_n(0, 4095).chain([kind]).collect(),
        // Mostly alike.
        _ => {
            (0..4096usize).map(|i| if i % 64 == 0 { noise() } else { b"vmcask "[i % 7] }).collect()
        }
    }
}

/// A source that fails, or ends too early, after some reads.
struct Faulty {
    bytes: Vec<u8>,
    left: AtomicU32,
    short: bool,
}

impl ReadAt for Faulty {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let before = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(1)));
        if before != Ok(0) {
            return self.bytes.read_at(off, buf);
        }
        if self.short {
            let n = buf.len() / 2;
            return self.bytes.read_at(off, &mut buf[..n]);
        }
        Err(io::Error::from_raw_os_error(5)) // EIO
    }
}

/// A disk that is full after some bytes.
struct Disk {
    bytes: Vec<u8>,
    room: usize,
}

impl Write for Disk {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(self.room - self.bytes.len());
        if n == 0 && !buf.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(&buf[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes an input apart.
struct Dice<'a>(&'a [u8]);

impl Dice<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }
    fn below(&mut self, n: usize) -> usize {
        let value = usize::from(self.byte()) << 16 | usize::from(self.byte()) << 8;
        (value | usize::from(self.byte())) % n.max(1)
    }
}

pub fn model(data: &[u8]) {
    let mut dice = Dice(data);
    let (original, plan) = original(&mut dice);
    let opts = options(&mut dice);
    let go = AtomicBool::new(false);
    let (fault, after) = (dice.byte() % 4, dice.below(400_000));
    if fault != 0 {
        faulty(&original, &plan, &opts, fault, after);
    }
    let mut archive = Vec::new();
    write(&original, &plan, &opts, &mut archive, &|_| {}, &go).expect("an archive");
    let src: Arc<dyn ReadAt> = Arc::new(archive.clone());
    let reader = ArchiveReader::open(src.clone()).expect("an archive of our own");
    assert_eq!(reader.len(), original.len() as u64);
    // Reads here and there, then the operations that the input names.
    while !dice.0.is_empty() {
        match dice.byte() % 8 {
            0..5 => {
                let (off, len) = (dice.below(original.len() + 100), dice.below(30_000));
                let mut buf = vec![0xaa; len];
                let n = reader.read_at(off as u64, &mut buf).expect("bytes of an intact archive");
                let want = &original[off.min(original.len())..(off + len).min(original.len())];
                assert!(buf[..n] == *want, "{len} bytes at {off}");
            }
            5 => {
                let off = dice.below(original.len() + 1) as u64;
                let data = reader.next_data(off).expect("data of an intact archive");
                let end = data.map_or(original.len() as u64, |d| d.start);
                let between = &original[(off as usize).min(original.len())..end as usize];
                assert!(between.iter().all(|&b| b == 0), "data in a hole at {off}");
            }
            6 => {
                let report = verify(&reader, 1, &|_| {}, &go).expect("a report");
                assert!(report.is_intact());
            }
            _ => damaged(&original, &archive, &mut dice),
        }
    }
}

fn original(dice: &mut Dice<'_>) -> (Vec<u8>, Plan) {
    let cells = usize::from(dice.byte() % 64);
    let mut original: Vec<u8> = (0..cells).flat_map(|_| cell(dice.byte())).collect();
    original.truncate(original.len().saturating_sub(dice.below(4096)));
    let mut extents: Vec<Range<u64>> = Vec::new();
    let (mut at, len) = (0, original.len());
    while at < len {
        let data = dice.below(len - at) + 1;
        extents.push(at as u64..(at + data).min(len) as u64);
        at += data;
        let hole = dice.below(len.saturating_sub(at) + 1) / 4;
        let end = (at + hole).min(len);
        original[at.min(len)..end].fill(0);
        at = end;
    }
    let mut whole: Vec<Range<u64>> = Vec::new();
    for extent in extents {
        match whole.last_mut() {
            // Extents that meet are one.
            Some(last) if last.end == extent.start && dice.byte().is_multiple_of(2) => {
                last.end = extent.end;
            }
            _ => whole.push(extent),
        }
    }
    (original, Plan { extents: whole, ..Plan::default() })
}

fn options(dice: &mut Dice<'_>) -> WriteOptions {
    WriteOptions {
        cells_per_frame: [1, 2, 3, 4, 7, 12, 100][usize::from(dice.byte() % 7)],
        cells_per_block: [0, 1, 2, 4][usize::from(dice.byte() % 4)],
        cells_per_checkpoint: [1, 5, 16, 4096][usize::from(dice.byte() % 4)],
        cells_in_order: [0, 16, 64, 4096][usize::from(dice.byte() % 4)],
        plain: dice.byte() % 8 == 1,
        ..small_options()
    }
}

/// A write that meets a fault fails, or all the same gives back everything.
fn faulty(original: &[u8], plan: &Plan, opts: &WriteOptions, fault: u8, after: usize) {
    let reads = if fault == 3 { u32::MAX } else { after as u32 % 64 };
    let src = Faulty { bytes: original.to_vec(), left: reads.into(), short: fault == 2 };
    let room = if fault == 3 { after } else { usize::MAX };
    let mut disk = Disk { bytes: Vec::new(), room };
    match write(&src, plan, opts, &mut disk, &|_| {}, &AtomicBool::new(false)) {
        Ok(_) => {
            let reader = ArchiveReader::open(Arc::new(disk.bytes)).expect("an archive said done");
            let mut all = vec![0; original.len()];
            reader.read_exact_at(0, &mut all).expect("all of it");
            assert!(all == original, "a fault changed what was archived");
        }
        Err(e) => {
            shown(&e);
            // What is there of it is no archive, but recovers to what is.
            check_recovery(original, disk.bytes);
        }
    }
}

/// Bytes changed, and the end cut off: what recovery calls intact is.
fn damaged(original: &[u8], archive: &[u8], dice: &mut Dice<'_>) {
    let mut bad = archive.to_vec();
    for _ in 0..dice.byte() % 4 {
        let at = dice.below(bad.len());
        bad[at] ^= dice.byte() | 1;
    }
    if dice.byte().is_multiple_of(2) {
        bad.truncate(dice.below(archive.len() + 1));
    }
    if let Ok(reader) = ArchiveReader::open(Arc::new(bad.clone())) {
        let mut buf = vec![0; 10_000];
        let off = dice.below(original.len() + 1);
        if let Ok(n) = reader.read_at(off as u64, &mut buf) {
            assert!(buf[..n] == original[off..off + n], "wrong bytes at {off}");
        }
    }
    check_recovery(original, bad);
}

fn check_recovery(original: &[u8], archive: Vec<u8>) {
    let src: Arc<dyn ReadAt> = Arc::new(archive);
    let Ok(recovered) = recover(&src, 1, &|_| {}, &AtomicBool::new(false)) else { return };
    let mut all = vec![0; recovered.len() as usize];
    recovered.read_exact_at(0, &mut all).expect("what isn't lost");
    let mut want = original.to_vec();
    want.resize(all.len().max(want.len()), 0);
    for lost in recovered.lost() {
        want[lost.start as usize..lost.end as usize].fill(0);
    }
    // A cut archive may not know how long its original was.
    assert!(all == want[..all.len()], "recovery gave back other bytes");
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut state = 1u64;
    for n in [10, 40, 100, 200] {
        for _ in 0..16 {
            let byte = |_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            };
            seeds.push((0..n).map(byte).collect());
        }
    }
    seeds
}
