//! What the archive's shape costs and brings: frame sizes, levels, order;
//! opening; threads.

use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use vmcask_archive::WriteOptions;
use vmcask_benches::quick::Extent;
use vmcask_benches::record::{Axis, Chart, Spread, Table};
use vmcask_benches::scratch;
use vmcask_convert::{Input, input};
use vmcask_dump::ReadAt;

use crate::{Memory, pages, reader};

/// Cells a frame and a block. The second is the default from a GiB on, that or one
/// of the next two below.
const FRAMES: [(u32, u32); 5] = [(2, 2), (4, 2), (5, 3), (6, 4), (16, 8)];
const LEVELS: [i32; 4] = [1, 3, 4, 6];
/// Cells in order of resemblance: none, or as the default.
const ORDERS: [(&str, bool); 2] = [("file", false), ("resemblance", true)];

/// Ratio, speed and a page's time for frame sizes, levels and orders.
pub fn sweep(memory: &Memory, extent: Extent) -> (Table, Chart) {
    let mut table = Table::new(
        "Frame size x level x order",
        &[
            ("frame", "KiB"),
            ("block", "KiB"),
            ("level", ""),
            ("order", ""),
            ("ratio", ""),
            ("speed", "MB/s"),
            ("page, median", "us"),
            ("page, 90th percentile", "us"),
        ],
    );
    let mut chart = Chart::scatter(
        "Ratio against a random page's time",
        Axis::linear("random page, median", "us"),
        Axis::linear("ratio", ""),
    );
    let mut places = Vec::new();
    for level in extent.either(&LEVELS[1..2], &LEVELS) {
        for (order, resemblance) in ORDERS {
            let mut points = Vec::new();
            for (cells_per_frame, cells_per_block) in FRAMES {
                let mut opts = WriteOptions {
                    cells_per_frame,
                    cells_per_block,
                    level: *level,
                    ..memory.options()
                };
                if !resemblance {
                    opts.cells_in_order = 0;
                }
                let start = Instant::now();
                let (archive, written) = memory.pack(&opts);
                let seconds = start.elapsed().as_secs_f64();
                let reader = reader(archive);
                if places.is_empty() {
                    places = pages::places(&reader, &*memory.src);
                }
                let times = pages::archive(&reader, &places);
                let ratio = memory.ratio(written.bytes);
                table.row([
                    f64::from(cells_per_frame * 4).into(),
                    f64::from(cells_per_block * 4).into(),
                    f64::from(*level).into(),
                    order.into(),
                    ratio.into(),
                    (memory.src.len() as f64 / seconds / 1e6).into(),
                    times.median.into(),
                    times.p90.into(),
                ]);
                points.push((times.median, ratio));
            }
            // Frames from small to large, whatever their blocks.
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            chart.series(&format!("level {level}, {order} order"), points);
        }
    }
    table.note(
        "The default: 24 KiB in blocks of 16 KiB, where a sample compresses less than 4.2 times 20 KiB \
         in 12, from a GiB on or where it compresses less than 2.7 times 16 KiB in 8; level 3, in \
         order of resemblance.",
    );
    table.note("Two threads, each archive written once to memory; packing reads a memory map.");
    chart.note("Frames of 8 to 64 KiB; the default aims at 16 us.");
    (table, chart)
}

/// Opening and the first page, against the size of the machine.
pub fn opening(memory: &Memory, extent: Extent) -> Table {
    let mut table = Table::new(
        "Opening and reading the first page",
        &[
            ("machine", "GiB"),
            ("dump", "GiB"),
            ("archive", "MiB"),
            ("archive opened", "us"),
            ("dump itself opened", "us"),
        ],
    );
    for (ram, dump_gib) in extent.either(&[(8, 1), (64, 8)][..], &[(8, 1), (64, 8), (512, 64)][..])
    {
        let dump = memory.dir.path().join("opened");
        let archive = memory.dir.path().join("opened.cask");
        scratch::synthetic(&dump, *ram, dump_gib << 10, true);
        let opened = input::open(&dump).expect("a dump");
        let out = vmcask_convert::OutputFile::create(&archive, true).expect("room");
        let go = std::sync::atomic::AtomicBool::new(false);
        let plan = vmcask_convert::archive::plan(&opened).expect("a plan");
        let options =
            WriteOptions { threads: 2, ..WriteOptions::suited_to(&plan, Some(&*opened.source)) };
        vmcask_convert::archive::write(&opened, &plan, &options, &out, &|_| {}, &go)
            .expect("an archive");
        out.commit().expect("room");
        let len = std::fs::metadata(&archive).expect("it is there").len();
        table.row([
            (*ram as f64).into(),
            (*dump_gib as f64).into(),
            (len as f64 / 1048576.0).into(),
            first_page(|| input::open(&archive).expect("an archive"), 200).into(),
            first_page(|| input::open(&dump).expect("a dump"), 20).into(),
        ]);
    }
    table.note(
        "Files cached. The dump's own bitmap is read and counted; the archive has the counts.",
    );
    table
}

fn first_page(open: impl Fn() -> Input, passes: usize) -> Spread {
    let mut page = [0; 4096];
    let once = || {
        let start = Instant::now();
        let input = open();
        // Page 1: low memory is dumped by every kernel.
        let _ = input.dump.phys().read_phys(vmcask_dump::PhysAddr(4096), &mut page);
        start.elapsed().as_secs_f64() * 1e6
    };
    Spread::of(std::iter::repeat_with(once).take(passes).collect())
}

/// One reader, shared.
pub fn threads(memory: &Memory) -> Table {
    const READS: u64 = 40_000;
    const PASSES: usize = 5;
    let mut table = Table::new(
        "Random pages from one reader by several threads",
        &[("threads", ""), ("pages", "1/s"), ("beside one thread", "")],
    );
    let reader = reader(memory.pack(&memory.options()).0);
    let rate = |threads: u64| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let reader = &reader;
                scope.spawn(move || {
                    let mut rng = Xoshiro256PlusPlus::seed_from_u64(thread);
                    let mut page = [0; 4096];
                    for _ in 0..READS {
                        let at = rng.random_range(0..reader.len() / 4096) * 4096;
                        reader.read_at(at, &mut page).expect("the archive");
                    }
                });
            }
        });
        (READS * threads) as f64 / start.elapsed().as_secs_f64()
    };
    let (mut one, mut two, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PASSES {
        one.push(rate(1));
        two.push(rate(2));
        ratios.push(two[two.len() - 1] / one[one.len() - 1]);
    }
    table.row([1.0.into(), Spread::of(one).into(), 1.0.into()]);
    table.row([2.0.into(), Spread::of(two).into(), Spread::of(ratios).into()]);
    table.note(format!("{READS} reads a thread, {PASSES} passes in turn."));
    table
}
