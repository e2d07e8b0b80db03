//! The tables one by one, with criterion's statistics: for whoever works on
//! one of them. `targets` has them in turn, for comparing.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use vmcask_benches::engines::{self, Loop, peers};
use vmcask_benches::{PAGE_SHIFT, Shape, dump};
use vmcask_measure::Lookup;
use vmcask_measure::lookup::{Asked, Queries};

/// More than the caches hold what they touch.
const LOOKUPS: usize = 1 << 20;
/// The hash table takes a fifth of a millisecond for each.
const HASH_LOOKUPS: usize = 128;

fn lookups(c: &mut Criterion) {
    let dump = dump(128 << 10, 8 << 10, Shape::Mixed);
    let mut engines = engines::libkvm(&dump);
    engines.extend(engines::ours(&dump));
    engines.extend(peers::all(&dump));
    engines.push(engines::lean(&dump));
    engines.extend(engines::floors(&dump));
    for (asked, suffix) in [(Asked::Present, "present"), (Asked::HalfAbsent, "half absent")] {
        let queries = Queries::new(&dump.bitmap, &dump.avail, asked, LOOKUPS).expect("pages");
        let count = |name: &str| if name.ends_with("hash") { HASH_LOOKUPS } else { LOOKUPS };
        // The answers first.
        for e in &engines {
            e.check(&queries, count(e.name));
        }
        for (kind, which) in [("dependent", 0), ("independent", 1), ("batched", 2)] {
            let mut group = c.benchmark_group(format!("{kind}, {suffix}"));
            settings(&mut group);
            for e in &engines {
                let run: Option<&Loop> = match which {
                    0 => Some(&e.dependent),
                    1 => Some(&e.independent),
                    _ => e.batched.as_ref(),
                };
                let Some(run) = run else { continue };
                let pfns = &queries.pfns[..count(e.name)];
                group.throughput(Throughput::Elements(pfns.len() as u64));
                group.bench_function(e.name, |b| b.iter(|| run(black_box(pfns))));
            }
            group.finish();
        }
    }

    let mut group = c.benchmark_group("build");
    settings(&mut group);
    group.throughput(Throughput::Bytes(dump.bitmap.bits() / 8));
    for lookup in Lookup::ALL {
        group.bench_function(lookup.name(), |b| {
            b.iter_batched(
                || (dump.bitmap.clone(), dump.avail.clone()),
                |(bitmap, avail)| lookup.build(bitmap, avail, PAGE_SHIFT).expect("fits 32 bits"),
                criterion::BatchSize::PerIteration,
            );
        });
    }
    group.bench_function("copy of the bitmap alone", |b| b.iter(|| dump.bitmap.clone()));
    group.finish();
}

fn settings(group: &mut BenchmarkGroup<WallTime>) {
    group.sample_size(10).warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
}

criterion_group!(benches, lookups);
criterion_main!(benches);
