//! Archives made to do harm: every field of head, locator, directory and
//! sections with values that overflow, point outside or contradict others,
//! all checksums made right. A reader may refuse or answer; it may not panic,
//! loop, or take much memory.

mod common;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use common::seal::{map, seal};
use common::{NotMemory, memory, pack, related};
use vmcask_archive::layout::kind;
use vmcask_archive::{
    ArchiveReader, MinidumpPages, PageMap, Plan, PtLoad, WriteOptions, recover, verify,
};
use vmcask_dump::{PhysAddr, ReadAt};

/// Does all that can be done with an archive.
fn use_it(bytes: &[u8], mapped: bool) {
    let src: Arc<dyn ReadAt> = if mapped {
        Arc::new(bytes.to_vec())
    } else {
        Arc::new(NotMemory { bytes: bytes.to_vec(), bad: None })
    };
    let go = AtomicBool::new(false);
    if let Ok(reader) = ArchiveReader::open(src.clone()) {
        reader.stats();
        let mut buf = vec![0; 40_000];
        let len = reader.len();
        for off in [0, 1, 4095, 5000, 100_000, len / 2, len.saturating_sub(5000), len, u64::MAX] {
            let _ = reader.read_at(off, &mut buf);
            let mut at = off;
            for _ in 0..50 {
                match reader.next_data(at) {
                    Ok(Some(range)) => {
                        assert!(range.start >= at && range.end > range.start);
                        at = range.end;
                    }
                    _ => break,
                }
            }
        }
        for pa in [0, 0x1000, 0x2fff, 1 << 40, u64::MAX] {
            let _ = reader.locate(PhysAddr(pa));
        }
        let _ = reader.page_map();
        let _ = reader.extents();
        let _ = verify(&reader, 1, &|_| {}, &go);
    }
    let _ = recover(&src, 1, &|_| {}, &go);
}

fn archives() -> Vec<Vec<u8>> {
    let original = memory(60, 9);
    let len = original.len() as u64;
    let minidump = PageMap::Minidump(MinidumpPages {
        page_shift: 12,
        first_page: 0x5000,
        pages: 100,
        dump_avail: vec![(0, 0x10000), (0x20000, 0x74000)],
        words: vec![u64::MAX, 0xff, 0, 0],
        blocks: vec![72],
        supers: vec![0, 72],
    });
    let load = PtLoad { p_paddr: 0x1000, p_vaddr: 2, p_offset: 3, p_filesz: 9000, p_memsz: 9000 };
    let segments = PageMap::Segments(vec![load, load]);
    [(Some(minidump), false), (Some(segments), true), (None, false)]
        .map(|(page_map, plain)| {
            let plan = Plan { extents: vec![0..81_920, 131_072..len], page_map, ..Plan::default() };
            let opts = WriteOptions { plain, cells_per_checkpoint: 16, ..WriteOptions::default() };
            pack(&original, &plan, &opts).0
        })
        .into()
}

const VALUES: [u64; 24] = [
    0,
    1,
    2,
    63,
    64,
    255,
    4095,
    4096,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 35,
    (1 << 48) - 1,
    1 << 52,
    1 << 60,
    (1 << 60) + 1,
    1 << 63,
    u64::MAX / 4096,
    u64::MAX - 63,
    u64::MAX - 7,
    u64::MAX - 1,
    u64::MAX,
];

/// Each field in turn, of each archive.
#[test]
fn every_field_with_every_value() {
    let mut tried = 0;
    for archive in archives() {
        let map = map(&archive);
        // Checksums that `seal` writes are left out.
        let mut fields: Vec<usize> = (0..48).step_by(4).collect();
        fields.extend((map.locator..map.locator + 44).step_by(4));
        for (kind, range, entry) in &map.sections {
            fields.extend((*entry..entry + 24).step_by(4));
            if *kind != kind::METADATA {
                fields.extend(range.clone().step_by(4).take(24));
                fields.extend(range.clone().step_by(4).skip(24).step_by(7).take(24));
            }
        }
        for at in fields {
            for value in VALUES {
                let mut bad = archive.clone();
                let width = if at % 8 == 0 && value > u32::MAX.into() { 8 } else { 4 };
                let room = bad.len().min(at + width) - at;
                bad[at..at + room].copy_from_slice(&value.to_le_bytes()[..room]);
                if bad == archive {
                    continue;
                }
                seal(&mut bad, &map);
                tried += 1;
                let result =
                    std::panic::catch_unwind(AssertUnwindSafe(|| use_it(&bad, tried % 3 != 0)));
                assert!(result.is_ok(), "{value:#x} at {at:#x}, of {width} bytes");
            }
        }
    }
    println!("{tried} archives");
    assert!(tried > 5000);
}

/// Two fields at once: lengths that agree with each other, but not with the
/// file.
#[test]
fn counts_that_agree() {
    for archive in archives() {
        let map = map(&archive);
        let summary = map.sections.iter().find(|s| s.0 == kind::SUMMARY).unwrap().1.start;
        for (a, b) in [(0, 8), (8, 16), (16, 24), (24, 32), (32, 40)] {
            for value in VALUES {
                for plus in [0, 1, u64::MAX] {
                    let mut bad = archive.clone();
                    let other = value.wrapping_add(plus);
                    bad[summary + a..summary + a + 8].copy_from_slice(&value.to_le_bytes());
                    bad[summary + b..summary + b + 8].copy_from_slice(&other.to_le_bytes());
                    seal(&mut bad, &map);
                    use_it(&bad, true);
                }
            }
        }
    }
}

/// The footer and the entries of the seek table, which nothing checks at open.
#[test]
fn seek_tables() {
    for archive in archives() {
        let n = archive.len();
        let map = map(&archive);
        for at in (map.locator + 64..n).step_by(4) {
            for value in [0, 1, 0x7fff_ffff, u32::MAX] {
                let mut bad = archive.clone();
                let room = (n - at).min(4);
                bad[at..at + room].copy_from_slice(&value.to_le_bytes()[..room]);
                use_it(&bad, true);
            }
        }
    }
}

/// A frame that promises what its cells need and would give more, has no
/// checksum, asks for a dictionary, or for a window of gigabytes.
#[test]
fn frames_that_lie() {
    let archive = archives().swap_remove(2);
    let map = map(&archive);
    let first = archive.windows(4).position(|w| w == [0x28, 0xb5, 0x2f, 0xfd]);
    // The first may be a checkpoint's body; all of them are tried.
    let starts: Vec<usize> = (first.unwrap()..map.directory)
        .filter(|&i| archive[i..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]))
        .collect();
    for &at in starts.iter().take(8) {
        for byte in 0..14 {
            for value in 0..=255u8 {
                let mut bad = archive.clone();
                bad[at + 4 + byte] = value;
                let reader = ArchiveReader::open(Arc::new(bad)).unwrap();
                let mut buf = vec![0; reader.len() as usize];
                let _ = reader.read_at(0, &mut buf);
            }
        }
    }
}

/// Heads that promise blocks which aren't there, shorter or longer ones: the
/// right bytes all the same.
#[test]
fn blocks_that_lie() {
    let original = related(200, 4);
    let plan = Plan::whole(original.len() as u64);
    let opts = WriteOptions { cells_per_frame: 12, cells_per_block: 4, ..WriteOptions::default() };
    let archive = pack(&original, &plan, &opts).0;
    let map = map(&archive);
    for cells_per_block in [0, 1, 2, 3, 4, 5, 8, 11, 12, 13, 4096, u32::MAX] {
        let mut lying = archive.clone();
        lying[28..32].copy_from_slice(&cells_per_block.to_le_bytes());
        seal(&mut lying, &map);
        // One page at a time, each from a reader that has nothing in its cache,
        // then all.
        for page in original.chunks(4096).enumerate().step_by(7) {
            let reader = ArchiveReader::open(Arc::new(lying.clone())).unwrap();
            let mut buf = [0; 4096];
            reader.read_exact_at(page.0 as u64 * 4096, &mut buf).unwrap();
            assert!(buf == page.1, "page {} of blocks of {cells_per_block}", page.0);
        }
        let reader = ArchiveReader::open(Arc::new(lying)).unwrap();
        let mut all = vec![0; original.len()];
        reader.read_exact_at(0, &mut all).unwrap();
        assert!(all == original);
    }
}

/// The index is checked piece by piece; wrong bytes never come out.
#[test]
fn lazily_checked_sections_give_no_wrong_bytes() {
    let original = memory(3000, 4);
    let plan = Plan::whole(original.len() as u64);
    let archive = pack(&original, &plan, &WriteOptions::default()).0;
    let map = map(&archive);
    for (_, range, _) in &map.sections {
        for at in [range.start, range.start + range.len() / 2, range.end - 1] {
            let mut bad = archive.clone();
            bad[at] ^= 0x10;
            for mapped in [true, false] {
                let src: Arc<dyn ReadAt> = if mapped {
                    Arc::new(bad.clone())
                } else {
                    Arc::new(NotMemory { bytes: bad.clone(), bad: None })
                };
                let Ok(reader) = ArchiveReader::open(src) else { continue };
                for off in (0..original.len()).step_by(50_000) {
                    let mut buf = [0xaa; 5000];
                    if let Ok(n) = reader.read_at(off as u64, &mut buf) {
                        assert_eq!(buf[..n], original[off..off + n]);
                    }
                }
                let all = verify(&reader, 1, &|_| {}, &AtomicBool::new(false)).unwrap();
                assert!(!all.is_intact(), "byte {at:#x}");
            }
        }
    }
}

/// A source that says how much of it was read.
struct Counting {
    bytes: Vec<u8>,
    read: std::sync::atomic::AtomicU64,
}

impl ReadAt for Counting {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.bytes.read_at(off, buf)?;
        self.read.fetch_add(n as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(n)
    }
}

/// Opening, and reading a first page, touch as much of a large archive as of a
/// small one: a few chunks of 64 KiB.
#[test]
fn opening_reads_a_few_chunks() {
    // One page over and over: the index alone grows.
    struct Same(u64);
    impl ReadAt for Same {
        fn len(&self) -> u64 {
            self.0
        }
        fn read_at(&self, _: u64, buf: &mut [u8]) -> std::io::Result<usize> {
            buf.fill(7);
            Ok(buf.len())
        }
    }
    for gibibytes in [1, 3] {
        let len = gibibytes << 30;
        let archive = pack(
            &Same(len),
            &Plan::whole(len),
            &WriteOptions { threads: 2, ..WriteOptions::default() },
        );
        let src = Arc::new(Counting { bytes: archive.0, read: 0.into() });
        let reader = ArchiveReader::open(src.clone()).unwrap();
        let opened = src.read.load(std::sync::atomic::Ordering::Relaxed);
        let mut page = [0; 4096];
        reader.read_exact_at(len / 2, &mut page).unwrap();
        assert_eq!(page, [7; 4096]);
        let read = src.read.load(std::sync::atomic::Ordering::Relaxed);
        println!("{gibibytes} GiB: {} bytes, {opened} read to open, {read} with a page", src.len());
        assert!(opened < 100_000 && read < 600_000, "{opened} {read}");
    }
}

/// What any number of threads may do.
#[test]
fn readers_are_shared() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<ArchiveReader>();
    shared::<vmcask_archive::Recovered>();
}
