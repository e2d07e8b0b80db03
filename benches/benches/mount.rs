//! Reading through a mount beside the archive alone: from front to back,
//! against unpacking to a file as `vmcask convert` does (fsync and all), and
//! pages of 4 KiB here and there, against the archive's reader. A program,
//! not a statistic: `cargo bench -p vmcask-benches --bench mount`.
//! VMCASK_BENCH_ARCHIVE names an archive, else one of 2 GiB is made;
//! VMCASK_BENCH_DIR the folder to unpack to, else the system's temporary one.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use vmcask_archive::{ArchiveReader, WriteOptions};
use vmcask_benches::scratch;
use vmcask_convert::{OutputFile, archive, input, restore};
use vmcask_dump::ReadAt;
use vmcask_dump::source::MapSource;
use vmcask_mount::{Entry, Options, Unmounter, mount};

const DUMP_MIB: u64 = 2 << 10;
const PASSES: usize = 5;
const READS: usize = 5000;

fn main() {
    // `cargo test --all-targets` runs this too; only `cargo bench` asks.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let dir = scratch::folder();
    let cask =
        std::env::var_os("VMCASK_BENCH_ARCHIVE").map_or_else(|| make(dir.path()), PathBuf::from);
    let at = dir.path().join("mnt");
    std::fs::create_dir(&at).expect("a folder to mount on");

    let mut ratios = [const { Vec::new() }; 4];
    for _ in 0..PASSES {
        let archive = open(&cask);
        let mib = archive.len() as f64 / f64::from(1 << 20);
        let back = dir.path().join("back");
        let unpacked = mib / seconds(|| unpack(&archive, &back));
        std::fs::remove_file(&back).expect("room again");
        // Each mount is new: the kernel has no page of it yet.
        let read = through(&at, &cask, |file| mib / seconds(|| front_to_back(file)));
        ratios[0].push(unpacked);
        ratios[1].push(read);

        let archive = open(&cask);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let pages = archive.len() / 4096;
        let places: Vec<u64> = (0..READS).map(|_| rng.random_range(0..pages) * 4096).collect();
        let each = |s: f64| s * 1e6 / READS as f64;
        let mut page = [0; 4096];
        let mut sum = 0u64;
        let own = each(seconds(|| {
            for &at in &places {
                archive.read_exact_at(at, &mut page).expect("a page");
                sum += u64::from(page[99]);
            }
        }));
        let mounted = through(&at, &cask, |file| {
            each(seconds(|| {
                for &at in &places {
                    file.read_exact_at(&mut page, at).expect("a page");
                    sum = sum.wrapping_sub(u64::from(page[99]));
                }
            }))
        });
        assert_eq!(sum, 0, "other bytes through the mount");
        ratios[2].push(own);
        ratios[3].push(mounted);
    }
    let [unpacked, read, own, mounted] = ratios.map(|mut v| median(&mut v));
    println!("medians of {PASSES} passes in turn, {}", cask.display());
    println!(
        "front to back: unpacked to a file {unpacked:.0} MiB/s, read through the mount {read:.0} \
         MiB/s: {:.2}x",
        read / unpacked
    );
    println!(
        "a page here and there: {own:.1} µs in the archive, {mounted:.1} µs through the mount: \
         {:.1} µs more",
        mounted - own
    );
}

fn make(dir: &Path) -> PathBuf {
    let (dump, cask) = (dir.join("vmcore"), dir.join("vmcore.cask"));
    scratch::synthetic(&dump, 16, DUMP_MIB, false);
    let input = input::open(&dump).expect("a dump");
    let plan = archive::plan(&input).expect("a plan");
    let options =
        WriteOptions { threads: 2, ..WriteOptions::suited_to(&plan, Some(&*input.source)) };
    let out = OutputFile::create(&cask, false).expect("a file to write to");
    archive::write(&input, &plan, &options, &out, &|_| {}, &AtomicBool::new(false))
        .expect("room for an archive");
    out.commit().expect("room for an archive");
    std::fs::remove_file(dump).expect("room again");
    cask
}

fn open(cask: &Path) -> Arc<ArchiveReader> {
    let map = MapSource::open(cask).expect("a file");
    Arc::new(ArchiveReader::open(Arc::new(map)).expect("an archive"))
}

fn unpack(archive: &ArchiveReader, to: &Path) {
    let out = OutputFile::create(to, true).expect("a file to write to");
    restore::restore(archive, &out, 2, &|_| {}, &AtomicBool::new(false)).expect("room");
    out.commit().expect("room");
}

/// Unmounts whatever happens.
struct Guard(Unmounter);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.unmount();
    }
}

fn through<R>(dir: &Path, cask: &Path, work: impl FnOnce(&mut File) -> R) -> R {
    let entry = Entry { name: "vmcore".into(), source: open(cask) };
    let options = Options { threads: 2, ..Options::default() };
    let mounted = mount(dir, vec![entry], options).expect("FUSE");
    let guard = Guard(mounted.unmounter());
    std::thread::scope(|scope| {
        scope.spawn(|| mounted.serve().expect("a mount until it is unmounted"));
        // Before the file, which must be closed by then.
        let _guard = guard;
        let mut file = File::open(dir.join("vmcore")).expect("the file");
        work(&mut file)
    })
}

fn front_to_back(file: &mut File) {
    let mut buf = vec![0; 1 << 20];
    while file.read(&mut buf).expect("all of it") > 0 {}
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
