//! From a machine of 1 GiB to one of 512 GiB: the record `scaling`.
//!
//! ```text
//! cargo bench -p vmcask-benches --features peers --bench scaling [-- quick]
//! ```

use std::time::Instant;

use vmcask_benches::engines::{self, nanoseconds, peers};
use vmcask_benches::quick::Extent;
use vmcask_benches::record::{Axis, Cell, Chart, Record, Spread, Table};
use vmcask_benches::{PAGE_SHIFT, Shape, dump};
use vmcask_measure::Lookup;
use vmcask_measure::lookup::{Asked, Queries};

/// A sixteenth of memory is dumped, as in the reference.
const SHARE: u64 = 16;
const QUERIES: usize = 1 << 18;
/// Of the hash table, in all a pass may take.
const HASH_NODES: u64 = 1 << 27;

fn main() {
    let Some(extent) = Extent::asked() else { return };
    let passes = extent.either(3, 5);
    let machines: &[u64] = extent.either(&[1, 8, 64], &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);

    let names =
        ["libkvm's hash", "libkvm's popcount", "sux Rank9", "RankIndex", "RankIndex, batched"];
    let mut lines = vec![Vec::new(); names.len()];
    let mut building = [const { Vec::new() }; 3];
    let mut memory = [const { Vec::new() }; 3];
    let mut table = Table::new(
        "A sixteenth of memory dumped, half in runs and half scattered; dumped pages asked for",
        &[
            ("machine", "GiB"),
            ("dumped", "MiB"),
            ("hash", "ns"),
            ("popcount", "ns"),
            ("Rank9", "ns"),
            ("RankIndex", "ns"),
            ("batched", "ns"),
            ("hash built", "ms"),
            ("popcount built", "ms"),
            ("RankIndex built", "ms"),
            ("hash", "MiB"),
            ("popcount", "MiB"),
            ("RankIndex", "MiB"),
        ],
    );
    for &ram in machines {
        let d = dump(ram * 1024, ram * 1024 / SHARE, Shape::Mixed);
        let queries =
            Queries::new(&d.bitmap, &d.avail, Asked::Present, QUERIES).expect("dumped pages");
        let [rank, _] = engines::ours(&d);
        let rank9 = peers::all(&d).swap_remove(0);
        let engines = [engines::hash(&d), engines::popcount(&d), rank9, rank];
        // Chains are as long as there are pages.
        let few = (HASH_NODES / (d.bitmap.count_ones() / 2048).max(1) / 1024).clamp(64, 8192);
        let few = few as usize;
        for (i, engine) in engines.iter().enumerate() {
            engine.check(&queries, if i == 0 { few } else { QUERIES });
        }
        let mut times = vec![Vec::new(); names.len()];
        let mut built = [const { Vec::new() }; 3];
        for _ in 0..passes {
            for (i, engine) in engines.iter().enumerate() {
                let n = if i == 0 { few } else { QUERIES };
                engine.warm(&queries, n);
                times[i].push(nanoseconds(&engine.dependent, &queries.pfns[..n]));
            }
            if let Some(batched) = &engines[3].batched {
                times[4].push(nanoseconds(batched, &queries.pfns));
            }
            for (built, lookup) in built.iter_mut().zip(Lookup::ALL) {
                let (bitmap, avail) = (d.bitmap.clone(), d.avail.clone());
                let start = Instant::now();
                let table = lookup.build(bitmap, avail, PAGE_SHIFT).expect("fits 32 bits");
                built.push(start.elapsed().as_secs_f64() * 1e3);
                drop(table);
            }
        }
        let times: Vec<_> = times.into_iter().map(Spread::of).collect();
        let built = built.map(Spread::of);
        let bytes = [0, 1, 3].map(|i| engines[i].bytes.unwrap_or(0) as f64 / 1048576.0);
        let gib = ram as f64;
        for (line, &time) in lines.iter_mut().zip(&times) {
            line.push((gib, time));
        }
        for i in 0..3 {
            building[i].push((gib, built[i]));
            memory[i].push((gib, bytes[i]));
        }
        let mut row: Vec<Cell> = vec![gib.into(), (gib * 1024.0 / SHARE as f64).into()];
        row.extend(times.iter().map(|&t| Cell::from(t)));
        row.extend(built.iter().map(|&t| Cell::from(t)));
        row.extend(bytes.iter().map(|&b| Cell::from(b)));
        table.row(row);
    }
    table.note(format!(
        "Dependent lookups of {QUERIES} random pages, fewer with the hash table, once untimed; medians of \
         {passes} passes in turn. Memory has the bitmap in it, where the table needs one."
    ));

    let machine = || Axis::log("memory of the machine", "GiB");
    let mut lookups =
        Chart::new("A lookup, each waiting for the last", machine(), Axis::log("time", "ns"));
    for (name, line) in names.iter().zip(lines) {
        lookups.series(name, line);
    }
    lookups.note(
        "The hash table's chains grow with the dump. The others make the same steps on any machine, \
         which take longer as the bitmap outgrows one cache after the other.",
    );
    let mut builds = Chart::new("Building the table", machine(), Axis::log("time", "ms"));
    let mut sizes = Chart::new("Memory of the table", machine(), Axis::log("memory", "MiB"));
    for (i, lookup) in Lookup::ALL.iter().enumerate() {
        builds.series(lookup.name(), std::mem::take(&mut building[i]));
        sizes.series(lookup.name(), std::mem::take(&mut memory[i]));
    }
    Record::new("scaling", "From 1 GiB to 512 GiB", &extent.command("scaling"))
        .about("The same tables on machines of growing size.")
        .table(table)
        .chart(lookups)
        .chart(builds)
        .chart(sizes)
        .save()
        .expect("room for the record");
}
