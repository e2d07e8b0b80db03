//! How much archives of several dumps have in common:
//! `cargo run --release -p vmcask-archive --example repeats -- A.cask B.cask ...`
//!
//! For each archive but the first: how many of its stored cells stand in the
//! first one too, and in any of those before it; and how many bytes of the
//! archive these cells take, measured by compressing them and the others
//! apart, in frames of four in file order. What is saved by a base archive is
//! at most that: a reference to a cell of it isn't counted.

use std::collections::HashSet;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use vmcask_archive::{ArchiveReader, CELL_SIZE};
use vmcask_dump::ReadAt;
use vmcask_dump::source::FileSource;

/// Cells of a frame.
const CELLS: usize = 4;
/// As archives are compressed.
const LEVEL: i32 = 3;

/// Names a cell: 128 bits of BLAKE3.
type Name = [u8; 16];

/// Compressed bytes of cells, gathered to frames.
#[derive(Default)]
struct Size {
    gathered: Vec<u8>,
    cells: u64,
    bytes: u64,
}

impl Size {
    fn add(&mut self, cell: &[u8]) -> Result<(), Box<dyn Error>> {
        self.gathered.extend_from_slice(cell);
        self.cells += 1;
        if self.gathered.len() == CELLS * CELL_SIZE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Box<dyn Error>> {
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(self.gathered.len()));
        let n = zstd_safe::compress(&mut out, &self.gathered, LEVEL)
            .map_err(zstd_safe::get_error_name)?;
        self.bytes += n as u64;
        self.gathered.clear();
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut first: HashSet<Name> = HashSet::new();
    let mut before: HashSet<Name> = HashSet::new();
    println!(
        "archive                      cells  in the first  bytes of it  in any before  bytes of it"
    );
    let mut sums = [0_u64; 3];
    for (i, path) in std::env::args_os().skip(1).enumerate() {
        let path = Path::new(&path);
        let archive = ArchiveReader::open(Arc::new(FileSource::open(path)?))?;
        let mut own: HashSet<Name> = HashSet::new();
        let (mut all, mut in_first, mut in_before) = <(Size, Size, Size)>::default();
        let mut cell = [0; CELL_SIZE];
        for extent in archive.extents()? {
            let mut at = extent.start;
            while at < extent.end {
                let len = CELL_SIZE.min((extent.end - at) as usize);
                archive.read_exact_at(at, &mut cell[..len])?;
                at += len as u64;
                if cell[..len].iter().all(|&b| b == 0) {
                    continue;
                }
                let mut name = Name::default();
                name.copy_from_slice(&blake3::hash(&cell[..len]).as_bytes()[..16]);
                if !own.insert(name) {
                    continue;
                }
                all.add(&cell[..len])?;
                if first.contains(&name) {
                    in_first.add(&cell[..len])?;
                }
                if before.contains(&name) {
                    in_before.add(&cell[..len])?;
                }
            }
        }
        for size in [&mut all, &mut in_first, &mut in_before] {
            size.flush()?;
        }
        let share = |n: u64, of: u64| 100.0 * n as f64 / of.max(1) as f64;
        if i > 0 {
            println!(
                "{:<24} {:>9} {:>11.2} % {:>10.2} % {:>12.2} % {:>10.2} %",
                path.file_name().unwrap_or_default().display(),
                all.cells,
                share(in_first.cells, all.cells),
                share(in_first.bytes, all.bytes),
                share(in_before.cells, all.cells),
                share(in_before.bytes, all.bytes),
            );
            sums = [sums[0] + all.bytes, sums[1] + in_first.bytes, sums[2] + in_before.bytes];
        } else {
            first.clone_from(&own);
        }
        before.extend(own);
    }
    println!(
        "a base saves at most {:.2} % of the others' bytes; one that held every repeat, {:.2} %",
        100.0 * sums[1] as f64 / sums[0].max(1) as f64,
        100.0 * sums[2] as f64 / sums[0].max(1) as f64,
    );
    Ok(())
}
