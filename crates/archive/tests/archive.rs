//! Round trips, damage, and what other zstd programs make of an archive.

mod common;

use std::io;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::{NotMemory, memory, open, pack, related};
use proptest::prelude::*;
use vmcask_archive::{
    ArchiveReader, Error, Metadata, MinidumpPages, PageMap, Plan, PtLoad, WriteOptions, verify,
    write,
};
use vmcask_dump::ReadAt;
use vmcask_dump::source::{Piece, Sink, Wanted};

fn unpack(reader: &ArchiveReader) -> Vec<u8> {
    let mut bytes = vec![0xaa; reader.len() as usize];
    reader.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

fn intact(reader: &ArchiveReader) -> bool {
    verify(reader, 2, &|_| {}, &AtomicBool::new(false)).unwrap().is_intact()
}

/// A source that knows its holes, and fails when they are read.
struct Sparse {
    len: u64,
    data: Vec<(u64, Vec<u8>)>,
}

impl ReadAt for Sparse {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let n = buf.len().min((self.len - off.min(self.len)) as usize);
        for (start, bytes) in &self.data {
            if off >= *start && off + n as u64 <= start + bytes.len() as u64 {
                let at = (off - start) as usize;
                buf[..n].copy_from_slice(&bytes[at..at + n]);
                return Ok(n);
            }
        }
        Err(io::Error::other("a hole was read"))
    }
}

#[test]
fn round_trips() {
    for (cells, cut) in [(0, 0), (1, 0), (1, 4095), (1, 1), (4, 0), (5, 3), (700, 0), (1301, 77)] {
        let mut original = memory(cells, 7);
        original.truncate(original.len() - cut);
        for plain in [false, true] {
            for cells_per_frame in [1, 4, 7] {
                let opts =
                    WriteOptions { plain, cells_per_frame, threads: 2, ..WriteOptions::default() };
                let plan = Plan::whole(original.len() as u64);
                let (archive, _) = pack(&original, &plan, &opts);
                let reader = open(&archive).unwrap();
                assert_eq!(unpack(&reader), original);
                assert!(intact(&reader));
            }
        }
    }
}

/// More than verifying and reading take at a time, its cells not where those of
/// its length would be.
#[test]
fn larger_than_what_is_read_at_once() {
    let cell = |n: u32| n.to_le_bytes().repeat(1024);
    let original: Vec<u8> = std::iter::once(7).chain((1..50_001).flat_map(cell)).collect();
    for plain in [false, true] {
        let len = original.len() as u64;
        let plan = Plan { extents: vec![0..1, 1..len], ..Plan::whole(len) };
        let opts = WriteOptions { plain, threads: 2, ..WriteOptions::default() };
        let (archive, _) = pack(&original, &plan, &opts);
        let reader = open(&archive).unwrap();
        assert!(intact(&reader));
        assert!(unpack(&reader) == original);
    }
}

/// What `scatter` hands over. Of pieces that may wait, it takes one offer out of
/// `takes`; none where that is 0.
struct Picky {
    all: Mutex<Vec<u8>>,
    offers: AtomicU64,
    takes: u64,
}

impl Sink for Picky {
    fn take(&self, pieces: &[Piece<'_>]) -> io::Result<()> {
        let mut all = self.all.lock().unwrap();
        for &(to, bytes) in pieces {
            let place = &mut all[to as usize..][..bytes.len()];
            assert!(place.iter().all(|&b| b == 0), "a cell twice");
            place.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn try_take(&self, pieces: &[Piece<'_>]) -> io::Result<bool> {
        let offer = self.offers.fetch_add(1, Ordering::Relaxed);
        let takes = self.takes != 0 && offer % self.takes == self.takes - 1;
        if takes { self.take(pieces).map(|()| true) } else { Ok(false) }
    }
}

/// All of it by frames.
fn by_frames(reader: &ArchiveReader, takes: u64) -> io::Result<Vec<u8>> {
    let all = Mutex::new(vec![0; reader.len() as usize]);
    let sink = Picky { all, offers: AtomicU64::new(0), takes };
    let wanted = [Wanted { off: 0, len: reader.len(), to: 0 }];
    assert!(reader.scatter(&wanted, 2, &sink)?, "it is in file order");
    assert!(sink.offers.into_inner() > 5);
    Ok(sink.all.into_inner().unwrap())
}

/// Frames are read many at once, and where that fails, one by one.
#[test]
fn frames_out_of_a_file() {
    let mut original = related(3000, 5);
    // Behind, what can't be compressed.
    for (word, n) in original.chunks_mut(8).zip(1u64..).skip(1500 * 512) {
        let noise = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ n).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word.copy_from_slice(
            &(noise ^ noise >> 31).wrapping_mul(0x94D0_49BB_1331_11EB).to_le_bytes(),
        );
    }
    original.truncate(2999 * 4096 + 5);
    let plan = Plan { extents: vec![0..5000, 5000..original.len() as u64], ..Plan::default() };
    let opts = WriteOptions { threads: 2, cells_per_checkpoint: 64, ..WriteOptions::default() };
    let (bytes, written) = pack(&original, &plan, &opts);
    let reader =
        |bad| ArchiveReader::open(Arc::new(NotMemory { bytes: bytes.clone(), bad })).unwrap();
    let whole = reader(None);
    for takes in [1, 3, 0] {
        assert!(by_frames(&whole, takes).unwrap() == original, "one of {takes}");
    }
    assert!(intact(&whole));
    for part in 1..4 {
        let from = bytes.len() / 5 * part;
        let frame = bytes[from..].windows(4).position(|w| w == 0xFD2F_B528u32.to_le_bytes());
        let damaged = reader(Some((from + frame.unwrap() + 20) as u64));
        let e = by_frames(&damaged, 1).map(drop).unwrap_err();
        assert!(e.to_string().contains("reading"), "{e}");
        let report = verify(&damaged, 2, &|_| {}, &AtomicBool::new(false)).unwrap();
        // A frame's, and no more.
        let lost = 1..=u64::from(opts.cells_per_frame) + written.duplicate_cells;
        assert!(lost.contains(&report.damaged_cells), "{part}: {}", report.damaged_cells);
        assert!(report.damages.iter().all(|d| matches!(d.error, Error::Read { .. })));
    }
}

/// More extents within a checkpoint's cells than jobs are under way.
#[test]
fn many_small_extents() {
    let cells = memory(3000, 11);
    let data: Vec<_> = cells.chunks(2 * 4096).zip((0u64..).map(|n| n << 15)).collect();
    let extents: Vec<_> = data.iter().map(|(bytes, at)| *at..at + bytes.len()).collect();
    let mut original = vec![0; extents[extents.len() - 1].end as usize];
    for (bytes, at) in data {
        original[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    for plain in [false, true] {
        let opts =
            WriteOptions { plain, cells_per_frame: 2, threads: 2, ..WriteOptions::default() };
        let plan = Plan { extents: extents.clone(), ..Plan::default() };
        let reader = open(&pack(&original, &plan, &opts).0).unwrap();
        assert!(unpack(&reader) == original && intact(&reader), "plain: {plain}");
    }
}

#[test]
fn the_same_bytes_with_any_number_of_threads() {
    let original = related(3000, 3);
    let plan = Plan::whole(original.len() as u64);
    for (plain, cells_in_order) in [(false, 0), (false, 700), (false, 1 << 18), (true, 0)] {
        let opts = WriteOptions { plain, cells_in_order, ..WriteOptions::default() };
        let one = pack(&original, &plan, &opts).0;
        for threads in [2, 3, 8] {
            let opts = WriteOptions { threads, ..opts.clone() };
            assert!(pack(&original, &plan, &opts).0 == one);
        }
    }
}

/// What resembles each other far apart takes less room side by side, and comes
/// back where it was; windows end with whole frames.
#[test]
fn cells_in_order_of_resemblance() {
    let mut original = related(2000, 5);
    original.truncate(1999 * 4096 + 7);
    let plan = Plan { extents: vec![0..5000, 5000..original.len() as u64], ..Plan::default() };
    let in_order = WriteOptions { cells_in_order: 0, threads: 2, ..WriteOptions::default() };
    let (file_order, counts) = pack(&original, &plan, &in_order);
    for (cells_in_order, cells_per_frame) in [(1 << 18, 6), (500, 6), (499, 5), (1, 1), (1, 64)] {
        for dedup_memory in [0, 1 << 20] {
            let opts =
                WriteOptions { cells_in_order, cells_per_frame, dedup_memory, ..in_order.clone() };
            let (archive, written) = pack(&original, &plan, &opts);
            let what = format!("{cells_in_order} {cells_per_frame} {dedup_memory}");
            if cells_in_order > 600 && dedup_memory > 0 {
                assert!(archive.len() * 10 < file_order.len() * 9, "{what}: {}", archive.len());
                assert_eq!(written.stored_cells, counts.stored_cells);
            }
            assert_eq!(written.digest, counts.digest);
            let reader = open(&archive).unwrap();
            assert!(unpack(&reader) == original, "{what}");
            assert!(intact(&reader), "{what}");
        }
    }
}

#[test]
fn frames_suit_the_length() {
    let noise: Vec<u8> = (0..1u32 << 18).flat_map(|n| n.wrapping_pow(3).to_le_bytes()).collect();
    for (len, open_end, src, cells) in [
        (1 << 30, false, None, 4),
        ((1 << 30) - 1, false, None, 6),
        (1 << 40, true, None, 6),
        (1 << 20, true, Some(&noise as &dyn ReadAt), 6),
        (1 << 20, false, Some(&noise), 4),
    ] {
        let plan = Plan { open_end, ..Plan::whole(len) };
        assert_eq!(WriteOptions::suited_to(&plan, src).cells_per_frame, cells, "{len}");
    }
}

#[test]
fn a_source_that_changes_is_told() {
    /// Another byte each time it is read.
    struct Changes(Vec<u8>, std::sync::atomic::AtomicU8);
    impl ReadAt for Changes {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }
        fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.0.read_at(off, buf)?;
            if let Some(byte) = buf.first_mut() {
                *byte = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            Ok(n)
        }
    }
    let src = Changes(memory(100, 5), 0.into());
    let (mut out, go) = (Vec::new(), AtomicBool::new(false));
    let result =
        write(&src, &Plan::whole(src.len()), &WriteOptions::default(), &mut out, &|_| {}, &go);
    assert!(matches!(result, Err(Error::Changed { .. })), "{result:?}");
}

#[test]
fn zero_and_duplicate_cells_are_not_stored() {
    let mut original = Vec::new();
    for i in 0..1000u32 {
        original.extend(std::iter::repeat_n((i % 10) as u8, 4096));
    }
    let (archive, written) =
        pack(&original, &Plan::whole(original.len() as u64), &WriteOptions::default());
    assert_eq!(written.zero_cells, 100);
    assert_eq!(written.stored_cells, 9);
    assert_eq!(written.duplicate_cells, 891);
    assert_eq!(written.cells, 1000);
    let reader = open(&archive).unwrap();
    assert_eq!(reader.stats().duplicate_cells, 891);
    assert_eq!(unpack(&reader), original);
}

/// Hypervisors write segments at unaligned offsets: cells follow the extents,
/// so that equal pages are equal cells.
#[test]
fn cells_follow_extents() {
    let page = memory(40, 99);
    let mut original = vec![1u8; 745];
    original.extend_from_slice(&page);
    original.extend_from_slice(&[2; 3]);
    original.extend_from_slice(&page);
    let (a, b) = (745, 745 + page.len() as u64);
    let end = original.len() as u64;
    let plan = Plan { extents: vec![0..a, a..b, b..b + 3, b + 3..end], ..Plan::default() };
    let (archive, written) = pack(&original, &plan, &WriteOptions::default());
    let distinct = pack(&page, &Plan::whole(page.len() as u64), &WriteOptions::default()).1;
    assert_eq!(written.stored_cells, distinct.stored_cells + 2);
    assert_eq!(unpack(&open(&archive).unwrap()), original);
}

#[test]
fn holes_cost_nothing() {
    let len = 300 << 30;
    let data = vec![(0, memory(10, 1)), (1 << 37, memory(100, 2)), (len - 4096, vec![9; 4096])];
    let extents: Vec<Range<u64>> =
        data.iter().map(|(start, bytes)| *start..start + bytes.len() as u64).collect();
    let src = Sparse { len, data: data.clone() };
    for plain in [false, true] {
        let plan = Plan { extents: extents.clone(), ..Plan::default() };
        // Plain archives round extents out to whole frames of one cell here.
        let opts = WriteOptions { plain, cells_per_frame: 1, ..WriteOptions::default() };
        let (archive, _) = pack(&src, &plan, &opts);
        let most = if plain { (len >> 20) * 40 + (1 << 20) } else { 1 << 20 };
        assert!((archive.len() as u64) < most, "{} bytes", archive.len());
        let reader = open(&archive).unwrap();
        assert_eq!(reader.len(), len);
        for (start, bytes) in &data {
            let mut got = vec![0; bytes.len()];
            reader.read_exact_at(*start, &mut got).unwrap();
            assert_eq!(&got, bytes);
        }
        let mut hole = [1; 10_000];
        reader.read_exact_at(1 << 30, &mut hole).unwrap();
        assert_eq!(hole, [0; 10_000]);
        assert!(intact(&reader));
        let after = reader.next_data(1 << 38).unwrap();
        assert_eq!(after, Some(len - 4096..len));
    }
}

#[test]
fn next_data_covers_what_is_not_zero() {
    let original = memory(600, 5);
    let half = original.len() as u64 / 2;
    let plan = Plan { extents: vec![0..half, half..half * 2], ..Plan::default() };
    let reader = open(&pack(&original, &plan, &WriteOptions::default()).0).unwrap();
    let mut at = 0;
    let mut covered = vec![false; original.len()];
    while let Some(range) = reader.next_data(at).unwrap() {
        assert!(range.start >= at && range.end > range.start);
        covered[range.start as usize..range.end as usize].fill(true);
        at = range.end;
    }
    for (i, cell) in original.chunks(4096).enumerate() {
        assert_eq!(covered[i * 4096], cell.iter().any(|&b| b != 0), "cell {i}");
    }
    assert_eq!(reader.next_data(original.len() as u64 + 5).unwrap(), None);
}

#[test]
fn the_plan_comes_back() {
    let metadata = Metadata {
        format: Some("minidump".into()),
        arch: Some("amd64".into()),
        version: Some(3),
        writer: Some("test".into()),
    };
    let minidump = PageMap::Minidump(MinidumpPages {
        page_shift: 12,
        first_page: 0x5000,
        pages: 100,
        dump_avail: vec![(0, 0x64000)],
        words: vec![1, 2, 0, 0],
        blocks: vec![2],
        supers: vec![0, 2],
    });
    let segments = PageMap::Segments(vec![PtLoad {
        p_paddr: 1,
        p_vaddr: 2,
        p_offset: 3,
        p_filesz: 4,
        p_memsz: 5,
    }]);
    for page_map in [None, Some(minidump), Some(segments)] {
        let plan = Plan { page_map, metadata: metadata.clone(), ..Plan::whole(5000) };
        let reader = open(&pack(&memory(2, 4)[..5000].to_vec(), &plan, &WriteOptions::default()).0);
        let reader = reader.unwrap();
        assert_eq!(reader.page_map().unwrap(), plan.page_map);
        assert_eq!(reader.metadata(), &metadata);
        assert_eq!(reader.extents().unwrap(), plan.extents);
    }
}

#[test]
fn bad_plans_are_refused() {
    let src = vec![0u8; 10_000];
    for extents in [vec![0..10_001], vec![5..5], vec![0..10, 9..20], vec![100..200, 0..50]] {
        let plan = Plan { extents, ..Plan::default() };
        let mut out = Vec::new();
        let cancelled = AtomicBool::new(false);
        let result = write(&src, &plan, &WriteOptions::default(), &mut out, &|_| {}, &cancelled);
        assert!(matches!(result, Err(Error::Plan(_))));
    }
}

#[test]
fn failures_of_source_and_output_end_the_writing() {
    struct Fails;
    impl ReadAt for Fails {
        fn len(&self) -> u64 {
            1 << 24
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("EIO"))
        }
    }
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let go = AtomicBool::new(false);
    let opts = WriteOptions { threads: 2, ..WriteOptions::default() };
    let plan = Plan::whole(1 << 24);
    let result = write(&Fails, &plan, &opts, &mut Vec::new(), &|_| {}, &go);
    assert!(matches!(result, Err(Error::Read { .. })));
    let original = memory(4096, 1);
    let result = write(&original, &plan, &opts, &mut Full, &|_| {}, &go);
    assert!(matches!(result, Err(Error::Write(_))));
    let stop = AtomicBool::new(true);
    let result = write(&original, &plan, &opts, &mut Vec::new(), &|_| {}, &stop);
    assert!(matches!(result, Err(Error::Cancelled)));
}

/// Whatever bit is wrong: the archive is refused, or verification names it,
/// or it didn't matter (padding).
#[test]
fn flipped_bits_are_found() {
    let original = memory(200, 11);
    let plan = Plan::whole(original.len() as u64);
    let (archive, _) = pack(&original, &plan, &WriteOptions::default());
    let mut refused = 0;
    let mut found = 0;
    let mut harmless = 0;
    let step = (archive.len() / 1500).max(1);
    let tail = archive.len() - 3000;
    for at in (0..archive.len()).filter(|&i| i < 64 || i % step == 0 || i > tail) {
        let mut bad = archive.clone();
        bad[at] ^= 1 << (at % 8);
        match open(&bad) {
            Err(_) => refused += 1,
            Ok(reader) if !intact(&reader) => found += 1,
            Ok(reader) => {
                assert_eq!(unpack(&reader), original, "flip at {at} gave other bytes unnoticed");
                harmless += 1;
            }
        }
    }
    println!("{refused} refused, {found} found by verify, {harmless} in padding");
    assert!(refused > 100 && found > 100 && harmless < 1000);
}

#[test]
fn cut_archives_are_refused() {
    let original = memory(100, 13);
    let (archive, _) =
        pack(&original, &Plan::whole(original.len() as u64), &WriteOptions::default());
    for len in (0..archive.len()).step_by(61).chain(archive.len() - 200..archive.len()) {
        assert!(open(&archive[..len]).is_err(), "cut at {len}");
    }
}

#[test]
fn zstd_reads_it() {
    if Command::new("zstd").arg("--version").output().is_err() {
        eprintln!("skipped: zstd is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive.zst");
    let mut original = memory(500, 17);
    original.truncate(original.len() - 1000);
    for plain in [false, true] {
        let opts = WriteOptions { plain, ..WriteOptions::default() };
        let mut plan = Plan::whole(original.len() as u64);
        if plain {
            // A hole in the middle, rounded to frames by the writer.
            original[40 * 4096..80 * 4096].fill(0);
            plan.extents = vec![0..40 * 4096, 80 * 4096..original.len() as u64];
        }
        std::fs::write(&path, pack(&original, &plan, &opts).0).unwrap();
        let test = Command::new("zstd").arg("-tq").arg(&path).status().unwrap();
        assert!(test.success());
        if plain {
            let out = Command::new("zstd").arg("-dcq").arg(&path).output().unwrap();
            assert_eq!(out.stdout, original);
        }
    }
}

/// Another implementation of the seekable format finds any byte of a plain
/// archive, and walks the others.
#[test]
fn a_seekable_reader_seeks_in_it() {
    let mut original = memory(500, 19);
    original.truncate(original.len() - 1000);
    original[40 * 4096..300 * 4096].fill(0);
    let end = original.len() as u64;
    let plan = Plan { extents: vec![0..40 * 4096, 300 * 4096..end], ..Plan::default() };
    for cells_per_frame in [1, 4, 16] {
        let opts = WriteOptions { plain: true, cells_per_frame, ..WriteOptions::default() };
        let (archive, _) = pack(&original, &plan, &opts);
        let mut decoder = zeekstd::Decoder::new(zeekstd::BytesWrapper::new(&archive)).unwrap();
        assert_eq!(decoder.seek_table().size_decomp(), end);
        let mut state = 1u64;
        for len in [0, 1, 4096, 5000, 70_000].into_iter().cycle().take(200) {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (state >> 20) as usize % (original.len() - len);
            decoder.set_offset(at as u64).unwrap();
            decoder.set_offset_limit((at + len) as u64).unwrap();
            let (mut buf, mut n) = (vec![0; len], 0);
            while n < len {
                let more = decoder.decompress(&mut buf[n..]).unwrap();
                assert!(more > 0, "{n} of {len} bytes at {at}");
                n += more;
            }
            assert!(buf == original[at..at + len], "{len} bytes at {at}");
        }
    }
}

#[test]
fn many_threads_read() {
    let original = memory(2000, 23);
    let opts = WriteOptions { threads: 2, ..WriteOptions::default() };
    let reader = open(&pack(&original, &Plan::whole(original.len() as u64), &opts).0).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (reader, original) = (&reader, &original);
            scope.spawn(move || {
                let mut state = thread + 1;
                let mut buf = [0; 9000];
                for _ in 0..300 {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                    let at = (state >> 20) as usize % original.len();
                    let n = buf.len().min(original.len() - at);
                    assert_eq!(reader.read_at(at as u64, &mut buf).unwrap(), n);
                    assert_eq!(buf[..n], original[at..at + n]);
                }
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_extents_any_reads(
        pieces in prop::collection::vec((0u64..20_000, 1u64..30_000), 1..8),
        tail in 0u64..10_000,
        seed in any::<u64>(),
        cells_per_frame in 1u32..6,
        dedup_memory in prop::sample::select(vec![0usize, 256, 1 << 20]),
        cells_in_order in prop::sample::select(vec![0u32, 1, 9, 40, 1 << 18]),
        reads in prop::collection::vec((0u64..300_000, 0usize..20_000), 20),
    ) {
        let mut extents = Vec::new();
        let mut at = 0;
        for (gap, len) in pieces {
            extents.push(at + gap..at + gap + len);
            at += gap + len;
        }
        let len = (at + tail) as usize;
        let mut original = related(len / 4096 + 1, seed);
        original.truncate(len);
        let mut hole = 0;
        for e in &extents {
            original[hole..e.start as usize].fill(0);
            hole = e.end as usize;
        }
        original[hole..].fill(0);
        let plan = Plan { extents, ..Plan::default() };
        for plain in [false, true] {
            let opts = WriteOptions {
                cells_per_frame, dedup_memory, cells_in_order, plain, threads: 2,
                ..WriteOptions::default()
            };
            let reader = open(&pack(&original, &plan, &opts).0).unwrap();
            prop_assert_eq!(unpack(&reader), original.clone());
            prop_assert!(intact(&reader));
            for &(off, n) in &reads {
                let mut buf = vec![0xee; n];
                let got = reader.read_at(off, &mut buf).unwrap();
                let from = (off as usize).min(len);
                let want = &original[from..(from + n).min(len)];
                prop_assert_eq!(&buf[..got], want);
            }
        }
    }
}
