//! The three lookups on 8 GiB dumped of a 128 GiB machine.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use vmcask_benches::{
    Asked, PAGE_SHIFT, assert_answers, batched, checksum, dependent, dump, independent, queries,
};
use vmcask_rank::{ChainedHash, OwnedRankIndex, Pfn, Popcount1024};

/// More than the caches hold what they touch.
const LOOKUPS: usize = 1 << 20;
/// The hash table takes a fifth of a millisecond for each.
const HASH_LOOKUPS: usize = 128;

fn lookups(c: &mut Criterion) {
    let dump = dump(128, 8);
    let hash = ChainedHash::build(&dump.bitmap, &dump.avail, PAGE_SHIFT);
    let popcount = Popcount1024::build(&dump.bitmap, &dump.avail).expect("fits 32 bits");
    let rank = OwnedRankIndex::build(dump.bitmap.clone(), dump.avail.clone());

    for (asked, suffix) in [(Asked::Present, "present"), (Asked::HalfAbsent, "half absent")] {
        let (pfns, ordinals) = queries(&dump, asked, LOOKUPS);
        let few = &pfns[..HASH_LOOKUPS];
        assert_answers("hash", &hash, few, &ordinals);
        assert_answers("popcount", &popcount, &pfns, &ordinals);
        assert_answers("rank", &rank, &pfns, &ordinals);
        let (sum, few_sum) = (checksum(&ordinals), checksum(&ordinals[..HASH_LOOKUPS]));

        let mut group = c.benchmark_group(format!("dependent, {suffix}"));
        settings(&mut group);
        run(&mut group, "hash", few, few_sum, |p| dependent(&hash, p));
        run(&mut group, "popcount", &pfns, sum, |p| dependent(&popcount, p));
        run(&mut group, "rank", &pfns, sum, |p| dependent(&rank, p));
        group.finish();

        let mut group = c.benchmark_group(format!("independent, {suffix}"));
        settings(&mut group);
        run(&mut group, "hash", few, few_sum, |p| independent(&hash, p));
        run(&mut group, "popcount", &pfns, sum, |p| independent(&popcount, p));
        run(&mut group, "rank", &pfns, sum, |p| independent(&rank, p));
        run(&mut group, "rank, batched", &pfns, sum, |p| batched(&rank, p));
        group.finish();
    }

    let mut group = c.benchmark_group("build");
    settings(&mut group);
    group.throughput(Throughput::Bytes(dump.bitmap.bits() / 8));
    group.bench_function("hash", |b| {
        b.iter(|| ChainedHash::build(&dump.bitmap, &dump.avail, PAGE_SHIFT));
    });
    group.bench_function("popcount", |b| {
        b.iter(|| Popcount1024::build(&dump.bitmap, &dump.avail));
    });
    // Its bitmap is given away, so a copy is part of it, as in libkvm.
    group.bench_function("rank", |b| {
        b.iter(|| OwnedRankIndex::build(dump.bitmap.clone(), dump.avail.clone()));
    });
    group.bench_function("copy of the bitmap alone", |b| b.iter(|| dump.bitmap.clone()));
    group.finish();
}

fn settings(group: &mut BenchmarkGroup<WallTime>) {
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
}

fn run(
    group: &mut BenchmarkGroup<WallTime>,
    name: &str,
    pfns: &[Pfn],
    sum: u64,
    lookup: impl Fn(&[Pfn]) -> u64,
) {
    assert_eq!(lookup(pfns), sum, "{name}");
    group.throughput(Throughput::Elements(pfns.len() as u64));
    group.bench_function(name, |b| b.iter(|| lookup(black_box(pfns))));
}

criterion_group!(benches, lookups);
criterion_main!(benches);
