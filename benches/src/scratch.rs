//! What benches write: a folder, and dumps in it.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use tempfile::TempDir;
use vmcask_convert::OutputFile;
use vmcask_synth::{Spec, SynthDump, WriteOptions};

/// A folder that goes with its value: in the one that `VMCASK_BENCH_DIR`
/// names, else in the system's temporary one.
pub fn folder() -> TempDir {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("vmcask-bench-");
    match std::env::var_os("VMCASK_BENCH_DIR") {
        Some(dir) => builder.tempdir_in(dir),
        None => builder.tempdir(),
    }
    .expect("a folder to write to")
}

/// Writes a synthetic amd64 minidump; `sparse`: nearly all of it holes.
pub fn synthetic(path: &Path, ram_gib: u64, dump_mib: u64, sparse: bool) {
    let spec = Spec { ram: ram_gib << 30, dump: dump_mib << 20, sparse, ..Spec::default() };
    let dump = SynthDump::new(spec).expect("a possible dump");
    let out = OutputFile::create(path, true).expect("a file to write to");
    let options = WriteOptions { sparse: true, threads: 2 };
    dump.write_to(out.file(), options, &|_| {}, &AtomicBool::new(false)).expect("room for a dump");
    out.commit().expect("room for a dump");
}
