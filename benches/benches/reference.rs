//! Prints the reference timings of 2016 beside what is measured here: a
//! program, not a statistic. `cargo bench -p vmcask-benches --bench reference`

use std::hint::black_box;
use std::time::Instant;

use vmcask_benches::reference::r302976;
use vmcask_benches::{
    Asked, PAGE_SHIFT, assert_answers, batched, checksum, dependent, dump, independent, queries,
};
use vmcask_rank::{ChainedHash, OwnedRankIndex, PageLookup, Pfn, Popcount1024};

const LOOKUPS: usize = 1 << 20;
const HASH_LOOKUPS: usize = 1024;
const PASSES: usize = 7;

/// What was measured of hash, population counts and rank index, in turn.
struct Row {
    name: &'static str,
    unit: &'static str,
    values: [Spread; 3],
}

/// Of [`PASSES`] passes.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { median: values[values.len() / 2], least: values[0], most: values[values.len() - 1] }
    }

    fn exact(value: f64) -> Self {
        Self { median: value, least: value, most: value }
    }
}

/// A timed call: nanoseconds for each lookup.
type Pass<'a> = &'a dyn Fn() -> f64;

/// Runs the three in turn, so that whatever else the machine does meets all.
fn in_turn(name: &'static str, unit: &'static str, passes: [Pass; 3]) -> Row {
    let mut values = [const { Vec::new() }; 3];
    for _ in 0..PASSES {
        for (values, pass) in values.iter_mut().zip(passes) {
            values.push(pass());
        }
    }
    Row { name, unit, values: values.map(Spread::of) }
}

fn nanoseconds(pfns: &[Pfn], sum: u64, lookup: impl Fn(&[Pfn]) -> u64) -> f64 {
    let start = Instant::now();
    let found = lookup(black_box(pfns));
    let each = start.elapsed().as_secs_f64() * 1e9 / pfns.len() as f64;
    assert_eq!(found, sum);
    each
}

fn milliseconds<T>(build: impl Fn() -> T) -> f64 {
    let start = Instant::now();
    let table = black_box(build());
    let took = start.elapsed().as_secs_f64() * 1e3;
    drop(table);
    took
}

fn measure() -> Vec<Row> {
    let dump = dump(128, 8);
    let (map, avail) = (&dump.bitmap, &dump.avail);
    let hash = ChainedHash::build(map, avail, PAGE_SHIFT);
    let popcount = Popcount1024::build(map, avail).expect("fits 32 bits");
    let rank = OwnedRankIndex::build(map.clone(), avail.clone());

    let mut rows = Vec::new();
    for (asked, names) in [
        (Asked::Present, ["lookup, each waits for the last", "lookup, independent"]),
        (Asked::HalfAbsent, ["the same, half absent", "the same, half absent"]),
    ] {
        let (pfns, ordinals) = queries(&dump, asked, LOOKUPS);
        let few = &pfns[..HASH_LOOKUPS];
        assert_answers("hash", &hash, few, &ordinals);
        assert_answers("popcount", &popcount, &pfns, &ordinals);
        assert_answers("rank", &rank, &pfns, &ordinals);
        let (sum, few_sum) = (checksum(&ordinals), checksum(&ordinals[..HASH_LOOKUPS]));
        rows.push(in_turn(
            names[0],
            "ns",
            [
                &|| nanoseconds(few, few_sum, |p| dependent(&hash, p)),
                &|| nanoseconds(&pfns, sum, |p| dependent(&popcount, p)),
                &|| nanoseconds(&pfns, sum, |p| dependent(&rank, p)),
            ],
        ));
        rows.push(in_turn(
            names[1],
            "ns",
            [
                &|| nanoseconds(few, few_sum, |p| independent(&hash, p)),
                &|| nanoseconds(&pfns, sum, |p| independent(&popcount, p)),
                &|| nanoseconds(&pfns, sum, |p| batched(&rank, p)),
            ],
        ));
    }
    // Each with a copy of the bitmap, but for the hash, which needs none.
    rows.push(in_turn(
        "table built",
        "ms",
        [
            &|| milliseconds(|| ChainedHash::build(map, avail, PAGE_SHIFT)),
            &|| milliseconds(|| Popcount1024::build(map, avail)),
            &|| milliseconds(|| OwnedRankIndex::build(map.clone(), avail.clone())),
        ],
    ));
    let mebibytes = |table: &dyn PageLookup| Spread::exact(table.memory() as f64 / 1048576.0);
    let values = [mebibytes(&hash), mebibytes(&popcount), mebibytes(&rank)];
    rows.push(Row { name: "lookup memory", unit: "MiB", values });
    rows
}

fn main() {
    // `cargo test --all-targets` runs this too; only `cargo bench` asks.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let reference = r302976().expect("reference/r302976.toml");
    println!("Published: {}, {}", reference.source, reference.dump);
    println!("{:34} {:>12} {:>12} {:>12}", "", "hash", "popcount", "ratio");
    for m in &reference.measure {
        let name = format!("{}, {}", m.name, m.unit);
        println!("{name:34} {:>12.2} {:>12.2} {:>12.2}", m.hash, m.popcount, m.ratio());
    }

    println!();
    println!("Here: the lookups alone, 8 GiB dumped of a 128 GiB machine (synthetic bitmap),");
    println!(
        "medians of {PASSES} passes in turn; independent lookups of the rank index are batched"
    );
    println!(
        "{:34} {:>12} {:>12} {:>12} {:>12} {:>12}",
        "", "hash", "popcount", "rank", "hash/popc.", "hash/rank"
    );
    let rows = measure();
    for row in &rows {
        let name = format!("{}, {}", row.name, row.unit);
        let [hash, popcount, rank] = row.values.map(|v| v.median);
        println!(
            "{name:34} {hash:>12.2} {popcount:>12.2} {rank:>12.2} {:>12.2} {:>12.2}",
            hash / popcount,
            hash / rank
        );
        if row.values.iter().any(|v| v.least < v.most) {
            let [hash, popcount, rank] =
                row.values.map(|v| format!("{}-{}", sig(v.least), sig(v.most)));
            println!("{:>34} {hash:>12} {popcount:>12} {rank:>12}", "least-most");
        }
    }
    println!();
    println!(
        "Only the last row is measured alike in both tables: the published times are of whole"
    );
    println!("programs, which do much else besides looking pages up.");
}

/// Three significant digits are enough for a spread.
fn sig(v: f64) -> String {
    if v >= 100.0 { format!("{v:.0}") } else { format!("{v:.1}") }
}
