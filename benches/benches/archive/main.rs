//! The archive beside its peers: size, speed, a random page's time, opening,
//! threads, and what other frame sizes, levels and orders would give.
//!
//! ```text
//! VMCASK_MEMORY=guest.elf VMCASK_KDUMP=guest.kdump \
//!     cargo bench -p vmcask-benches --bench archive [-- quick]
//! ```
//!
//! `VMCASK_MEMORY` is any dump of real memory; without it a synthetic one
//! stands in. `VMCASK_KDUMP` is the same memory as makedumpfile or qemu write
//! it with zlib, for libkdumpfile. `VMCASK_BENCH_DIR` names the folder to write
//! to, else it is the system's temporary one. `-- pack FILE` writes one archive
//! and ends, for profilers; `-- packing`, `unpacking` (of what was packed),
//! `plain`, `pages`, `opening`, `threads` and `sweep` choose from the tables.

mod pages;
mod peers;
mod run;
mod shape;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vmcask_archive::{ArchiveReader, Plan, WriteOptions, Written, write};
use vmcask_benches::quick::Extent;
use vmcask_benches::record::Record;
use vmcask_benches::scratch;
use vmcask_convert::input;
use vmcask_dump::ReadAt;
use vmcask_dump::source::MapSource;

/// What is archived.
pub struct Memory {
    /// The dump.
    pub path: PathBuf,
    /// What kind of memory.
    pub what: String,
    /// Its bytes.
    pub src: Arc<dyn ReadAt>,
    /// How it is cut into cells.
    pub plan: Plan,
    /// Where to write.
    pub dir: tempfile::TempDir,
}

impl Memory {
    fn open(extent: Extent) -> Self {
        let dir = scratch::folder();
        let (path, what) = if let Some(path) = std::env::var_os("VMCASK_MEMORY") {
            (PathBuf::from(path), "real memory")
        } else {
            let path = dir.path().join("vmcore");
            scratch::synthetic(&path, 16, extent.either(64, 512), false);
            (path, "synthetic memory (profile `real`): VMCASK_MEMORY names no real one")
        };
        let src: Arc<dyn ReadAt> = Arc::new(MapSource::open(&path).expect("the memory"));
        let opened = input::open(&path).expect("a dump");
        let plan = vmcask_convert::archive::plan(&opened).expect("a plan");
        let what = format!("{what}, {:.0} MiB", src.len() as f64 / 1048576.0);
        Self { path, what, src, plan, dir }
    }

    /// What `vmcask convert` packs it with.
    pub fn options(&self) -> WriteOptions {
        WriteOptions { threads: 2, ..WriteOptions::suited_to(&self.plan, Some(&*self.src)) }
    }

    /// Its archive.
    pub fn pack(&self, opts: &WriteOptions) -> (Vec<u8>, Written) {
        let mut archive = Vec::new();
        let go = AtomicBool::new(false);
        let written = write(&*self.src, &self.plan, opts, &mut archive, &|_| {}, &go);
        (archive, written.expect("an archive"))
    }

    /// How many times smaller than it so many bytes are.
    pub fn ratio(&self, bytes: u64) -> f64 {
        self.src.len() as f64 / bytes as f64
    }
}

/// Opens an archive.
pub fn reader(archive: Vec<u8>) -> ArchiveReader {
    ArchiveReader::open(Arc::new(archive)).expect("the archive")
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|w| w == run::CHILD) {
        return run::child(&words[1..]);
    }
    if words.first().is_some_and(|w| w == peers::LIBZSTD) {
        return peers::libzstd(&words[1..]);
    }
    let Some(extent) = Extent::asked() else { return };
    let memory = Memory::open(extent);
    if let Some(to) = words.iter().position(|w| w == "pack").and_then(|n| words.get(n + 1)) {
        let (archive, written) = memory.pack(&memory.options());
        std::fs::write(to, archive).expect("the output");
        println!("{written:?}");
        return;
    }
    let parts = ["packing", "unpacking", "plain", "pages", "opening", "threads", "sweep"];
    let asked: Vec<_> = words.iter().filter(|w| parts.contains(&w.as_str())).collect();
    let command = extent.command("archive").replace(" --features peers", "");
    let mut record = Record::new("archive", "The archive beside its peers", &command)
        .about(format!("On {}.", memory.what))
        .about(
            "Whole processes run in turn, the input cached; all begin without an \
             output and with an idle disk, and end with the output on the disk.",
        );
    for part in parts {
        if !asked.is_empty() && !asked.iter().any(|w| *w == part) {
            continue;
        }
        let table = match part {
            "packing" => peers::packing(&memory, extent),
            "unpacking" => peers::unpacking(&memory, extent),
            "plain" => peers::plain(&memory, extent),
            "pages" => peers::random_pages(&memory, extent),
            "opening" => shape::opening(&memory, extent),
            "threads" => shape::threads(&memory),
            _ => {
                let (sweep, chart) = shape::sweep(&memory, extent);
                record = record.chart(chart);
                sweep
            }
        };
        record = record.table(table);
    }
    record.save().expect("room for the record");
}
