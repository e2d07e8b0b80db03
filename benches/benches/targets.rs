//! What the rank index has to reach, beside its peers, in one run: records
//! `targets` and `lookup`.
//!
//! ```text
//! cargo bench -p vmcask-benches --features peers --bench targets [-- quick]
//! ```

use std::hint::black_box;
use std::time::Instant;

use vmcask_benches::engines::{self, Engine, Loop, nanoseconds, peers};
use vmcask_benches::quick::Extent;
use vmcask_benches::record::{Axis, Cell, Chart, Record, Spread, Table};
use vmcask_benches::{Dump, Shape, dump};
use vmcask_measure::lookup::{Asked, Queries};
use vmcask_rank::{OwnedRankIndex, PageLookup as _};

/// Of [`all`], the first that [`peers::ALL`] makes.
const FIRST_PEER: usize = 3;
/// At most this many times the fastest peer's dependent lookup, and libkvm's.
const DEPENDENT_PEER: f64 = 1.0;
const DEPENDENT_LIBKVM: f64 = 0.65;
/// Batches, times Rank9's independent lookup.
const BATCHED_AVX512: f64 = 0.35;
const BATCHED: f64 = 0.5;
/// Percent of the bitmap.
const INDEX: f64 = 6.5;
/// Times copying the bitmap.
const COUNTING: f64 = 1.0;

/// Tables that stay where they are until the last has been timed.
///
/// Where a table of many MiB happens to lie decides about its time by a factor
/// of two: so each pass makes them anew, elsewhere. What had been freed before
/// would be their place again.
#[derive(Default)]
struct Made(Vec<Vec<Engine>>);

impl Made {
    fn anew(&mut self, engines: Vec<Engine>) -> &[Engine] {
        self.0.push(engines);
        &self.0[self.0.len() - 1]
    }
}

/// All engines' times on one bitmap and one kind of queries, a value a pass.
struct Measured {
    names: Vec<&'static str>,
    bytes: Vec<Option<usize>>,
    dependent: Vec<Vec<f64>>,
    independent: Vec<Vec<f64>>,
    batched: Vec<Vec<f64>>,
}

/// Tables in the order of all reports.
fn all(d: &Dump) -> Vec<Engine> {
    let mut engines = vec![engines::popcount(d)];
    engines.extend(engines::ours(d));
    engines.extend(peers::all(d));
    engines.push(engines::lean(d));
    engines.extend(engines::floors(d));
    engines
}

impl Measured {
    fn of(d: &Dump, queries: &Queries, passes: usize) -> Self {
        let first = all(d);
        for engine in &first {
            engine.check(queries, queries.pfns.len());
        }
        let empty = vec![Vec::new(); first.len()];
        let mut all = Self {
            names: first.iter().map(|e| e.name).collect(),
            bytes: first.iter().map(|e| e.bytes).collect(),
            dependent: empty.clone(),
            independent: empty.clone(),
            batched: empty,
        };
        let mut made = Made::default();
        let mut first = Some(first);
        for _ in 0..passes {
            let engines = first.take().unwrap_or_else(|| self::all(d));
            for (i, engine) in made.anew(engines).iter().enumerate() {
                engine.warm(queries, queries.pfns.len());
                let time = |run: &Loop| nanoseconds(run, &queries.pfns);
                all.dependent[i].push(time(&engine.dependent));
                all.independent[i].push(time(&engine.independent));
                if let Some(batched) = &engine.batched {
                    all.batched[i].push(time(batched));
                }
            }
        }
        all
    }

    fn fastest_peer(&self) -> fn(&Dump) -> Engine {
        self.fastest(&self.dependent, "")
    }

    fn fastest_rank9(&self) -> fn(&Dump) -> Engine {
        self.fastest(&self.independent, "sux Rank9")
    }

    /// What makes the peer, of those whose names begin so, with the least median.
    fn fastest(&self, times: &[Vec<f64>], name: &str) -> fn(&Dump) -> Engine {
        let median = |i: usize| Spread::of(times[FIRST_PEER + i].clone()).median;
        let those = |&i: &usize| self.names[FIRST_PEER + i].starts_with(name);
        let all = (0..peers::ALL.len()).filter(those);
        peers::ALL[all.min_by(|&a, &b| median(a).total_cmp(&median(b))).expect("some")]
    }
}

/// An engine, and one of its loops.
#[derive(Clone, Copy)]
struct Timed<'a> {
    engine: &'a Engine,
    run: &'a Loop,
}

impl<'a> Timed<'a> {
    fn dependent(engine: &'a Engine) -> Self {
        Self { engine, run: &engine.dependent }
    }

    fn independent(engine: &'a Engine) -> Self {
        Self { engine, run: &engine.independent }
    }

    fn batched(engine: &'a Engine) -> Self {
        Self { engine, run: engine.batched.as_ref().expect("an engine with batches") }
    }
}

/// One pass: each right after the others, another one first each time. Of all
/// engines in turn, two are seconds apart, in which this kind of machine may
/// have become half as fast.
fn in_turn(pass: usize, timed: &[Timed<'_>], queries: &Queries, all: &mut [Vec<f64>]) {
    for i in (0..timed.len()).map(|i| (i + pass) % timed.len()) {
        timed[i].engine.warm(queries, queries.pfns.len());
        all[i].push(nanoseconds(timed[i].run, &queries.pfns));
    }
}

/// Of passes in turn: the ratio of each.
fn ratio(a: &[f64], b: &[f64]) -> Spread {
    Spread::of(a.iter().zip(b).map(|(a, b)| a / b).collect())
}

struct Targets(Table);

impl Targets {
    fn new() -> Self {
        let columns = [
            ("machine, bitmap, queries", ""),
            ("target", ""),
            ("RankIndex", "ns"),
            ("beside", ""),
            ("its time", "ns"),
            ("ratio", ""),
            ("at most", ""),
            ("reached", ""),
            ("word alone", "ns"),
            ("word alone / its time", ""),
            ("word and count", "ns"),
            ("word and count / its time", ""),
            ("with bits counted", "ns"),
            ("with bits counted / its time", ""),
        ];
        Self(Table::new("Targets", &columns))
    }

    fn row(&mut self, place: &str, target: &str, limit: f64, beside: &str, times: [&[f64]; 5]) {
        let spread = |times: &[f64]| Spread::of(times.to_vec());
        let [ours, theirs, floors @ ..] = times;
        let reached = ratio(ours, theirs);
        // One that was slower than what it is the floor of stops nothing.
        let stops = |floor: &&[f64]| {
            ratio(floor, ours).median <= 1.0 && ratio(floor, theirs).median > limit
        };
        let mut cells: Vec<Cell> = vec![
            place.into(),
            target.into(),
            spread(ours).into(),
            beside.into(),
            spread(theirs).into(),
            reached.into(),
            limit.into(),
            match reached.median <= limit {
                true => "yes",
                false if floors.iter().any(stops) => "NO, floor",
                false => "NO",
            }
            .into(),
        ];
        for floor in floors {
            cells.extend([spread(floor).into(), ratio(floor, theirs).into()]);
        }
        self.0.row(cells);
    }

    /// Times each target's engines once more. Which peer is the fastest the
    /// passes before have told: of many that take alike, the least of these very
    /// passes would be the luckiest.
    fn add(&mut self, place: &str, d: &Dump, m: &Measured, queries: &Queries, passes: usize) {
        let (peer, rank9) = (m.fastest_peer(), m.fastest_rank9());
        let mut dependent = vec![Vec::new(); 6];
        let mut batched = [BATCHED_AVX512, BATCHED].map(|limit| (limit, vec![Vec::new(); 5]));
        let mut made = Made::default();
        for pass in 0..passes {
            let mut engines = vec![peer(d), rank9(d), engines::popcount(d)];
            engines.extend(engines::ours(d));
            engines.extend(engines::floors(d));
            let [peer, rank9, libkvm, ours, scalar, floors @ ..] = made.anew(engines) else {
                unreachable!("as many as were made")
            };
            let [alone, count, counted] = floors else { unreachable!("three") };
            let timed = [ours, peer, libkvm, alone, count, counted].map(Timed::dependent);
            in_turn(pass, &timed, queries, &mut dependent);
            let [theirs, alone, count, counted] =
                [rank9, alone, count, counted].map(Timed::independent);
            for (ours, (limit, times)) in [ours, scalar].into_iter().zip(&mut batched) {
                if *limit == BATCHED || engines::has_avx512() {
                    let timed = [Timed::batched(ours), theirs, alone, count, counted];
                    in_turn(pass, &timed, queries, times);
                }
            }
        }

        let name = |at: usize| made.0[0][at].name;
        let t = &dependent;
        for (target, limit, beside, times) in [
            ("dependent, beside the fastest peer", DEPENDENT_PEER, name(0), &t[1]),
            ("dependent, beside libkvm", DEPENDENT_LIBKVM, name(2), &t[2]),
        ] {
            self.row(place, target, limit, beside, [&t[0], times, &t[3], &t[4], &t[5]]);
        }
        for (target, (limit, t)) in ["batched, AVX-512", "batched, no AVX-512"].iter().zip(&batched)
        {
            if !t[0].is_empty() {
                let beside = format!("{}, independent", name(1));
                self.row(place, target, *limit, &beside, [&t[0], &t[1], &t[2], &t[3], &t[4]]);
            }
        }
    }
}

/// The index's size, and counting beside copying, in turn.
fn index_and_counting(place: &str, d: &Dump, passes: usize, table: &mut Table) {
    let bytes = d.bitmap.words().len() * 8;
    let index = OwnedRankIndex::build(d.bitmap.clone(), d.avail.clone());
    let percent = (index.memory() - bytes) as f64 / bytes as f64 * 100.0;
    let (mut count, mut copy) = (Vec::new(), Vec::new());
    for _ in 0..passes * 3 {
        let (bitmap, avail) = (d.bitmap.clone(), d.avail.clone());
        let start = Instant::now();
        let index = black_box(OwnedRankIndex::build(bitmap, avail));
        count.push(start.elapsed().as_secs_f64() * 1e3);
        drop(index);
        let start = Instant::now();
        let bitmap = black_box(d.bitmap.clone());
        copy.push(start.elapsed().as_secs_f64() * 1e3);
        drop(bitmap);
    }
    let ratio = ratio(&count, &copy);
    table.row([
        place.into(),
        (bytes as f64 / 1048576.0).into(),
        percent.into(),
        if percent <= INDEX { "yes" } else { "NO" }.into(),
        Spread::of(count).into(),
        Spread::of(copy).into(),
        ratio.into(),
        if ratio.median <= COUNTING { "yes" } else { "NO" }.into(),
    ]);
}

fn lookups_table(title: &str, d: &Dump, m: &Measured) -> Table {
    let bitmap = (d.bitmap.words().len() * 8) as f64;
    let mut table = Table::new(
        title,
        &[
            ("table", ""),
            ("beside the bitmap", "%"),
            ("dependent", "ns"),
            ("independent", "ns"),
            ("batched", "ns"),
        ],
    );
    for (i, &name) in m.names.iter().enumerate() {
        let spread = |v: &[f64]| -> Cell {
            if v.is_empty() { Cell::Nothing } else { Spread::of(v.to_vec()).into() }
        };
        let beside = m.bytes[i].map(|b| (b as f64 / bitmap - 1.0) * 100.0);
        table.row([
            name.into(),
            beside.into(),
            spread(&m.dependent[i]),
            spread(&m.independent[i]),
            spread(&m.batched[i]),
        ]);
    }
    table
}

fn chart(title: &str, m: &Measured) -> Chart {
    let mut chart = Chart::dots(title, Axis::log("a lookup", "ns"), &m.names);
    let of = |all: &[Vec<f64>]| -> Vec<Option<Spread>> {
        all.iter().map(|v| (!v.is_empty()).then(|| Spread::of(v.clone()))).collect()
    };
    chart.dots_of("dependent", of(&m.dependent));
    chart.dots_of("independent", of(&m.independent));
    chart.dots_of("batched", of(&m.batched));
    chart
}

fn main() {
    let Some(extent) = Extent::asked() else { return };
    let (passes, of_targets) = extent.either((3, 5), (5, 31));
    let n = extent.either(1 << 18, 1 << 19);
    let machines: &[(u64, u64)] = extent.either(&[(128, 8)], &[(128, 8), (512, 32)]);
    let mixed = [Shape::Mixed];
    let both = [Shape::Runs, Shape::Scattered];
    let shapes: &[Shape] = if extent.quick { &mixed } else { &both };

    let mut targets = Targets::new();
    let mut sizes = Table::new(
        "Index and counting",
        &[
            ("machine, bitmap", ""),
            ("bitmap", "MiB"),
            ("index", "% of the bitmap"),
            ("at most 6.5", ""),
            ("counting", "ms"),
            ("copying the bitmap", "ms"),
            ("ratio", ""),
            ("at most 1", ""),
        ],
    );
    let command = extent.command("targets");
    let mut lookup = Record::new(
        "lookup",
        "Lookups beside the fastest public rank structures",
        &command,
    )
    .about(
        "Each table answers the same question on the same bitmap: ordinal of a physical page, \
             or that it is absent; dump_avail is looked through the same way for all. Default \
             build, without target-cpu flags; RankIndex chooses POPCNT and AVX-512 at run time.",
    )
    .about(format!(
        "Dependent: each lookup waits for the one before. Independent: the processor may \
             overlap them. Batched: slices of 512 pages. Rank9 also counts for absent pages and chooses then, \
             without a branch: batches are held against the quicker of the two. libkvm counts word by word and \
         divides by a page size that is a variable; `lean` are its counts without either, whole slices \
         counted: what of a ratio is the layout's. {n} random pages a pass after an untimed one, medians of \
             {passes} passes in turn, each with tables made anew. Checksums are compared before anything is timed. Bytes \
             beside the bitmap of sux's structures are those of its documentation.",
    ));
    for &(ram, dumped) in machines {
        for &shape in shapes {
            let d = dump(ram * 1024, dumped * 1024, shape);
            let place = format!("{dumped} GiB of {ram} GiB, {}", shape.name());
            for (asked, what) in [(Asked::Present, "present"), (Asked::HalfAbsent, "half absent")] {
                let queries = Queries::new(&d.bitmap, &d.avail, asked, n).expect("pages");
                let m = Measured::of(&d, &queries, passes);
                let title = format!("{place}, {what}");
                targets.add(&title, &d, &m, &queries, of_targets);
                lookup = lookup.table(lookups_table(&title, &d, &m));
                if asked == Asked::Present {
                    lookup = lookup.chart(chart(&title, &m));
                }
            }
            index_and_counting(&place, &d, of_targets, &mut sizes);
        }
    }
    lookup.save().expect("room for the record");
    targets.0.note(format!(
        "{of_targets} passes of those that a target names and of the floors, one right after the other, \
         another one first each time. Each pass makes all tables anew, elsewhere in memory: where a table \
         of 16 MiB happens to lie decides about its time by a factor of two. Ratios are of the values of \
         each pass; the median decides. Which peer is the fastest was told by the lookup tables' passes.",
    ));
    targets.0.note(
        "Floors: a load of the page's own word of the bitmap, after dump_avail; and the same with one of \
         a 16-bit count for every 256 pages; and that with the bits counted that such counts leave, of at \
         most two words. No table with this bitmap can be faster than the first; none with counts of this \
         size beside it than the second, and as it has to count, too, hardly than the third. Where the \
         ratio of one is above what a target allows, it says `NO, floor`: of the first two, memory stops \
         it; of the third, the target and a size of at most 6.5 % can't both be had. Where half of the pages are absent and each lookup \
         waits for the one before, how the processor guesses counts as much, and the floor needn't be one. \
         Which pages are absent follows no order; where it was every other one, until 2026-11-27, processors \
         foretold it, Rank9 took half the time at 128 GiB, and batches up to 0.41 and 0.58 of that.",
    );
    sizes.note(
        "Counting takes the bitmap as it is; copying makes a new one of the same size. Of each, \
         three times as many passes as of a target.",
    );
    Record::new("targets", "The rank index beside its targets", &command)
        .about("What was promised before it was measured. A NO stays in this table.")
        .table(targets.0)
        .table(sizes)
        .save()
        .expect("room for the record");
}
