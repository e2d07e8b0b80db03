//! The archive on real memory: size, speed, and a random page's time, for
//! frame sizes and levels.
//!
//! ```text
//! VMCASK_MEMORY=guest.elf cargo bench -p vmcask-benches --bench archive
//! VMCASK_MEMORY=guest.elf VMCASK_OUT=guest.cask \
//!     cargo bench -p vmcask-benches --bench archive -- pack 4 3
//! ```
//!
//! The first sweeps; the second writes one archive (cells a frame, level) and
//! ends, for whole-process timing beside `zstd -3 -T2`, as do `plain` in the
//! place of `pack`, and `unpack FILE`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use vmcask_archive::{ArchiveReader, Plan, WriteOptions, Written, write};
use vmcask_dump::source::MapSource;
use vmcask_dump::{ElfCore, ReadAt};

/// Random pages that are read for a figure.
const PROBES: usize = 20_000;

/// Segments as extents, so that cells are pages of memory.
fn plan(src: &Arc<dyn ReadAt>) -> Plan {
    let Ok(core) = ElfCore::open(src.clone()) else { return Plan::whole(src.len()) };
    let mut starts: Vec<u64> =
        core.phys_runs().map(|(_, off, _)| off.0).chain([0, src.len()]).collect();
    starts.sort_unstable();
    starts.dedup();
    Plan { extents: starts.windows(2).map(|w| w[0]..w[1]).collect(), ..Plan::default() }
}

fn pack(src: &Arc<dyn ReadAt>, opts: &WriteOptions, out: &mut dyn Write) -> Written {
    write(src, &plan(src), opts, out, &|_| {}, &AtomicBool::new(false)).expect("an archive")
}

fn options(cells_per_frame: u32, level: i32, plain: bool) -> WriteOptions {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    WriteOptions { cells_per_frame, level, plain, threads, ..WriteOptions::default() }
}

/// Median and 90th percentile in microseconds, over non-zero pages, each in a
/// frame that isn't in the cache.
fn random_pages(reader: &ArchiveReader, src: &dyn ReadAt) -> (f64, f64) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let (mut page, mut expected) = ([0; 4096], [0; 4096]);
    let extents = reader.extents().expect("extents");
    let large = extents.iter().filter(|e| e.end - e.start >= 4096).collect::<Vec<_>>();
    let mut times = Vec::with_capacity(PROBES);
    while times.len() < PROBES {
        let e = large[rng.random_range(0..large.len())];
        let at = e.start + rng.random_range(0..(e.end - e.start) / 4096) * 4096;
        src.read_exact_at(at, &mut expected).expect("the original");
        if expected.iter().all(|&b| b == 0) {
            continue;
        }
        let start = Instant::now();
        reader.read_exact_at(at, &mut page).expect("the archive");
        times.push(start.elapsed().as_secs_f64() * 1e6);
        assert_eq!(page, expected);
    }
    times.sort_by(f64::total_cmp);
    (times[PROBES / 2], times[PROBES * 9 / 10])
}

fn sweep(src: &Arc<dyn ReadAt>) {
    println!("| cells a frame | level | bytes | ratio | MB/s | us a page, median | p90 |");
    println!("|---|---|---|---|---|---|---|");
    for cells in [2, 4, 6, 8, 16] {
        for level in [1, 2, 3, 4, 5] {
            let mut archive = Vec::new();
            let start = Instant::now();
            pack(src, &options(cells, level, false), &mut archive);
            let seconds = start.elapsed().as_secs_f64();
            let bytes = archive.len();
            let reader = ArchiveReader::open(Arc::new(archive)).expect("the archive");
            let (median, p90) = random_pages(&reader, src);
            println!(
                "| {cells} | {level} | {bytes} | {:.3} | {:.0} | {median:.1} | {p90:.1} |",
                src.len() as f64 / bytes as f64,
                src.len() as f64 / seconds / 1e6,
            );
        }
    }
}

fn threads(src: &Arc<dyn ReadAt>) {
    let mut archive = Vec::new();
    pack(src, &options(4, 3, false), &mut archive);
    let reader = ArchiveReader::open(Arc::new(archive)).expect("the archive");
    for threads in [1, 2] {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let reader = &reader;
                scope.spawn(move || {
                    let mut rng = Xoshiro256PlusPlus::seed_from_u64(thread);
                    let mut page = [0; 4096];
                    for _ in 0..PROBES * 2 {
                        let at = rng.random_range(0..reader.len() / 4096) * 4096;
                        reader.read_at(at, &mut page).expect("the archive");
                    }
                });
            }
        });
        let rate = (PROBES as u64 * 2 * threads) as f64 / start.elapsed().as_secs_f64();
        println!("{threads} threads: {rate:.0} pages/s");
    }
}

/// Writes the original out, holes left out, as `vmcask convert` does.
fn unpack(archive: &Path, out: &Path) {
    const CHUNK: u64 = 1 << 20;
    let reader = ArchiveReader::open(Arc::new(MapSource::open(archive).expect("the archive")))
        .expect("an archive");
    let out = File::create(out).expect("the output");
    out.set_len(reader.len()).expect("room");
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let mut buf = vec![0; CHUNK as usize];
                loop {
                    let at = next.fetch_add(CHUNK, Ordering::Relaxed);
                    let end = (at + CHUNK).min(reader.len());
                    if at >= end {
                        return;
                    }
                    let mut from = at;
                    while let Some(data) = reader.next_data(from).expect("the archive")
                        && data.start < end
                    {
                        from = data.end.min(end);
                        let piece = &mut buf[..(from - data.start) as usize];
                        reader.read_exact_at(data.start, piece).expect("the archive");
                        out.write_all_at(piece, data.start).expect("room");
                    }
                }
            });
        }
    });
}

fn main() {
    let Ok(memory) = std::env::var("VMCASK_MEMORY") else {
        println!("skipped: VMCASK_MEMORY names no memory");
        return;
    };
    let map = || -> Arc<dyn ReadAt> {
        Arc::new(MapSource::open(Path::new(&memory)).expect("the memory"))
    };
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    let number = |i: usize| words.get(i).and_then(|w| w.parse::<u32>().ok());
    match words.first().map(String::as_str) {
        Some(how @ ("pack" | "plain")) => {
            let opts =
                options(number(1).unwrap_or(4), number(2).unwrap_or(3) as i32, how == "plain");
            let path = std::env::var("VMCASK_OUT").unwrap_or("/dev/null".into());
            let mut out =
                BufWriter::with_capacity(1 << 20, File::create(path).expect("the output"));
            let written = pack(&map(), &opts, &mut out);
            println!("{written:?}");
        }
        Some("unpack") => {
            let out = std::env::var("VMCASK_OUT").unwrap_or("/dev/null".into());
            unpack(Path::new(&words[1]), Path::new(&out));
        }
        Some("threads") => threads(&map()),
        _ => sweep(&map()),
    }
}
