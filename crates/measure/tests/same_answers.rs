//! Whatever finds the pages, the answers are the same: of the bare lookups on
//! random and adversarial bitmaps, and of the workloads on a whole dump.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use vmcask_measure::lookup::{Asked, Queries, batched, dependent, independent, ordinal};
use vmcask_measure::workload::{self, Done, Setup, crashinfo};
use vmcask_measure::{Lookup, Reading};
use vmcask_rank::{
    ABSENT, AvailRanges, ChainedHash, OwnedRankIndex, PageBitmap, Pfn, Popcount1024,
};
use vmcask_synth::{Spec, SynthDump, WriteOptions};

/// Bits, and pairs of ranges that they count.
fn machine(words: &[u64], cuts: &[(u64, u64)]) -> (PageBitmap, AvailRanges) {
    let mut start = 0;
    let pairs: Vec<_> = cuts
        .iter()
        .map(|&(hole, pages)| {
            let range = ((start + hole) << 12, (start + hole + pages) << 12);
            start += hole + pages;
            range
        })
        .collect();
    let avail = AvailRanges::new(&pairs, 12).expect("ascending ranges");
    (PageBitmap::from_words(words.to_vec(), avail.total_pages()), avail)
}

/// All tables, by all loops, against counting page by page.
fn check(bitmap: &PageBitmap, avail: &AvailRanges) {
    let hash = ChainedHash::build(bitmap, avail, 12);
    let popcount = Popcount1024::build(bitmap.clone(), avail, 12).expect("few pages");
    let rank = OwnedRankIndex::build(bitmap.clone(), avail.clone());
    for asked in [Asked::Present, Asked::HalfAbsent] {
        let Some(q) = Queries::new(bitmap, avail, asked, 1000) else { return };
        let want = q.checksum(1000);
        q.check("hash", &hash, 1000);
        q.check("popcount", &popcount, 1000);
        q.check("rank", &rank, 1000);
        assert_eq!(dependent(&q.pfns, |p| ordinal(&rank, p)), want);
        assert_eq!(independent(&q.pfns, |p| ordinal(&popcount, p)), want);
        assert_eq!(batched(&q.pfns, |p, out| rank.find_batch(p, out)), want);
    }
    // Pages around every end and in every hole.
    let mut ordinals = (0u64..).zip(bitmap.runs().flat_map(|bits| avail.pages_of(bits)));
    let mut naive = std::collections::HashMap::new();
    let mut next = 0;
    for (_, (first, n)) in &mut ordinals {
        for page in first.0..first.0 + n {
            naive.insert(page, next);
            next += 1;
        }
    }
    let edges = avail.iter().flat_map(|(first, n)| [first.0, first.0 + n]);
    for page in edges.flat_map(|e| e.saturating_sub(3)..e + 3).chain([u64::MAX, u64::MAX >> 12]) {
        let want = naive.get(&page).copied().unwrap_or(ABSENT);
        let mut batch = [0];
        rank.find_batch(&[Pfn(page)], &mut batch);
        let found =
            [ordinal(&hash, Pfn(page)), ordinal(&popcount, Pfn(page)), ordinal(&rank, Pfn(page))];
        assert_eq!((found, batch), ([want; 3], [want]), "page {page:#x}");
    }
}

#[test]
fn adversarial_bitmaps() {
    // What the tables' blocks end at: 64, 256, 1024, 2^16 bits, and one
    // before and behind.
    for bits in [1u64, 63, 64, 65, 255, 257, 1023, 1024, 1025, 65535, 65536, 65537, 200_003] {
        let words = bits.div_ceil(64) as usize;
        for pattern in [u64::MAX, 1, 1 << 63, 0x5555_5555_5555_5555] {
            let mut every = vec![pattern; words];
            check_one(&every, bits);
            // One page alone, first and last.
            every.fill(0);
            every[0] = 1;
            check_one(&every, bits);
            every[0] = 0;
            every[words - 1] = 1 << ((bits - 1) % 64);
            check_one(&every, bits);
        }
    }
}

fn check_one(words: &[u64], bits: u64) {
    for cuts in [
        vec![(0, bits)],
        vec![(1, bits)],
        vec![(5, bits / 2 + 1), (1, bits)],
        (0..17).map(|i| (i % 3, bits / 17 + 1)).collect(),
    ] {
        let (bitmap, avail) = machine(words, &cuts);
        check(&bitmap, &avail);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn random_bitmaps(
        words in prop::collection::vec(prop_oneof![any::<u64>(), Just(0), Just(u64::MAX)], 1..200),
        cuts in prop::collection::vec((0u64..50, 1u64..3000), 1..20),
    ) {
        let (bitmap, avail) = machine(&words, &cuts);
        check(&bitmap, &avail);
    }
}

/// A dump of 16 MiB with its kernel.
fn dump(dir: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let spec = Spec { ram: 1 << 30, dump: 16 << 20, procs: 20, ..Spec::default() };
    let synth = SynthDump::new(spec).expect("a possible dump");
    let (dump, kernel) = (dir.join("vmcore"), dir.join("kernel"));
    let out = std::fs::File::create(&dump).expect("a file to write to");
    let options = WriteOptions { sparse: true, threads: 2 };
    synth.write_to(&out, options, &|_| {}, &AtomicBool::new(false)).expect("room");
    std::fs::write(&kernel, synth.kernel_image().expect("a kernel")).expect("room");
    (dump, kernel)
}

/// The same from every lookup and way of reading, and how many lookups it
/// took.
fn all_alike(
    what: &str,
    dump: &Path,
    kernel: &Path,
    run: impl Fn(&Setup<'_>) -> vmcask_measure::Result<Done>,
) -> u64 {
    let mut first: Option<Done> = None;
    for lookup in Lookup::ALL {
        for reading in Reading::ALL {
            let setup = Setup { file: dump, kernel, lookup, reading, count: true };
            let done = run(&setup).unwrap_or_else(|e| panic!("{what}, {setup:?}: {e}"));
            assert!(done.lookup_bytes > 0);
            let first = *first.get_or_insert(done);
            assert_eq!((done.digest, done.lookups), (first.digest, first.lookups), "{what}");
        }
    }
    first.and_then(|f| f.lookups).expect("counted")
}

#[test]
fn workloads_print_the_same_whatever_the_lookup() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, kernel) = dump(dir.path());
    let objects = workload::objects(&dump, 500, crashinfo::OBJECTS_PER_PAGE).unwrap();
    assert_eq!(objects, workload::objects(&dump, 500, crashinfo::OBJECTS_PER_PAGE).unwrap());
    for tool in &crashinfo::TOOLS {
        let lookups = all_alike(tool.name, &dump, &kernel, |s| crashinfo::run(s, tool, &objects));
        assert!(lookups >= tool.objects as u64, "{}: {lookups} lookups", tool.name);
    }
    // More than two for each thread: page table and page.
    assert!(all_alike("bt-all", &dump, &kernel, workload::bt_all) > 100);
    let pages = (16 << 20) / 4096;
    assert_eq!(all_alike("scan", &dump, &kernel, |s| workload::scan(s, 1)), pages);
    assert_eq!(all_alike("scan", &dump, &kernel, |s| workload::scan(s, 64)), pages / 64);
}

#[test]
fn only_minidumps_have_a_bitmap() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [0x7f; 8192]).unwrap();
    let error = vmcask_measure::open(file.path(), Lookup::Rank, Reading::Pread, false);
    let error = error.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("only minidumps"), "{error}");
}
