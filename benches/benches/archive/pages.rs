//! Reading single pages at random: the archive, zeekstd, libkdumpfile.

use std::hash::{DefaultHasher, Hasher};
use std::process::Command;
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use vmcask_archive::ArchiveReader;
use vmcask_dump::ReadAt;

/// Random pages that are read for a figure.
pub const PROBES: usize = 20_000;

/// A page of the original.
#[derive(Clone, Copy)]
pub struct Place {
    at: u64,
    sum: u64,
}

/// Tells whether a page is the one it should be, without the original beside it:
/// reading that, too, would take the caches from whoever is measured.
fn sum(page: &[u8; 4096]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(page);
    hasher.finish()
}

/// Microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub median: f64,
    pub p90: f64,
}

impl Times {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self { median: times[times.len() / 2], p90: times[times.len() * 9 / 10] }
    }
}

/// Where non-zero pages stand in the original, the same for all.
pub fn places(reader: &ArchiveReader, src: &dyn ReadAt) -> Vec<Place> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let extents = reader.extents().expect("extents");
    let large: Vec<_> = extents.iter().filter(|e| e.end - e.start >= 4096).collect();
    // Each page is as likely as any other.
    let all: u64 = large.iter().map(|e| (e.end - e.start) / 4096).sum();
    let mut page = [0; 4096];
    let mut places = Vec::with_capacity(PROBES);
    while places.len() < PROBES {
        let mut n = rng.random_range(0..all);
        let extent = large.iter().find(|e| {
            let pages = (e.end - e.start) / 4096;
            let here = n < pages;
            n -= if here { 0 } else { pages };
            here
        });
        let at = extent.expect("a page's extent").start + n * 4096;
        src.read_exact_at(at, &mut page).expect("the original");
        if page.iter().any(|&b| b != 0) {
            places.push(Place { at, sum: sum(&page) });
        }
    }
    places
}

/// Times `read` for each place; what it reads must be what the original has there.
fn time(places: &[Place], mut read: impl FnMut(u64, &mut [u8; 4096])) -> Times {
    let mut page = [0; 4096];
    let times = places.iter().map(|place| {
        let start = Instant::now();
        read(place.at, &mut page);
        let time = start.elapsed().as_secs_f64() * 1e6;
        assert_eq!(sum(&page), place.sum);
        time
    });
    Times::of(times.collect())
}

/// From an archive. Its cache of frames holds one in a hundred of a GiB's.
pub fn archive(reader: &ArchiveReader, places: &[Place]) -> Times {
    time(places, |at, page| reader.read_exact_at(at, page).expect("the archive"))
}

/// From a file in zstd's seekable format, through zeekstd.
pub fn zeekstd(file: &[u8], places: &[Place]) -> Times {
    let mut decoder =
        zeekstd::Decoder::new(zeekstd::BytesWrapper::new(file)).expect("a seekable file");
    time(places, |at, page| {
        // The limit of the page before must not stand in the way.
        decoder.reset();
        decoder.set_offset(at).expect("an offset");
        decoder.set_offset_limit(at + 4096).expect("an offset");
        let mut n = 0;
        while n < page.len() {
            n += decoder.decompress(&mut page[n..]).expect("a frame");
        }
    })
}

/// A program that reads through libkdumpfile, and the kdump-compressed file that
/// `VMCASK_KDUMP` names: the same memory, or the same machine's.
pub struct Kdumpfile {
    file: String,
    dir: tempfile::TempDir,
}

impl Kdumpfile {
    /// Why not, where it can't be.
    pub fn build() -> Result<Self, String> {
        let file = std::env::var("VMCASK_KDUMP").map_err(|_| "VMCASK_KDUMP names no file")?;
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let source = dir.path().join("probe.c");
        std::fs::write(&source, include_str!("kdumpfile.c")).map_err(|e| e.to_string())?;
        let cc = Command::new("cc")
            .args(["-O2".as_ref(), source.as_os_str()])
            .args(["-o".as_ref(), dir.path().join("probe").as_os_str()])
            .arg("-lkdumpfile")
            .output()
            .map_err(|_| "cc is not installed")?;
        if !cc.status.success() {
            return Err("libkdumpfile is not installed".into());
        }
        Ok(Self { file, dir })
    }

    /// Random pages of its own choice.
    pub fn time(&self) -> Times {
        let probe = Command::new(self.dir.path().join("probe"))
            .args([&self.file, &PROBES.to_string()])
            .output()
            .expect("a process");
        let said = String::from_utf8_lossy(&probe.stdout);
        let times: Vec<f64> = said.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        let failed = String::from_utf8_lossy(&probe.stderr);
        assert!(probe.status.success() && times.len() == PROBES, "libkdumpfile: {failed}");
        Times::of(times)
    }
}
