//! Checking an archive: every section, every frame that holds a cell, the
//! digest.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use vmcask_dump::source::{Piece, Wanted};

use crate::ArchiveReader;
use crate::cell_hash::{CellHash, cell_hash, cell_hashes};
use crate::digest::Digester;
use crate::error::{Error, Result};
use crate::layout::CELL_SIZE;

/// Cells that a thread checks at a time.
const BATCH_CELLS: u64 = 256;
/// Cells whose hashes go into the digest together, 110 bytes of memory each: as
/// many as writers put in another order, so that their frames are decompressed
/// once.
const ROUND_CELLS: u64 = 1 << 18;
/// Damaged ranges that are listed; more are counted.
const LISTED: usize = 100;

/// A range of the original that can't be had.
#[derive(Debug)]
pub struct Damage {
    /// Bytes of the original.
    pub range: Range<u64>,
    /// What is wrong.
    pub error: Error,
}

/// What verification found.
#[derive(Debug, Default)]
pub struct Report {
    /// Damaged ranges, ascending, the first hundred.
    pub damages: Vec<Damage>,
    /// Cells that can't be had.
    pub damaged_cells: u64,
    /// Non-zero cells that were read and hashed.
    pub intact_cells: u64,
    /// Damaged parts of the index. Cells that can't be found for them are
    /// counted as damaged, and not listed.
    pub index: Vec<Error>,
    /// Damage to what only recovery and other programs use: checkpoints,
    /// frames of zeros, the seek table.
    pub others: Vec<Error>,
    /// Every frame is intact, but the content isn't what was archived.
    pub digest_mismatch: Option<Error>,
}

impl Report {
    /// Nothing is wrong.
    pub fn is_intact(&self) -> bool {
        self.damages.is_empty()
            && self.damaged_cells == 0
            && self.digest_mismatch.is_none()
            && self.index.is_empty()
            && self.others.is_empty()
    }
}

#[derive(Default)]
struct BatchResult {
    hashes: Vec<CellHash>,
    damages: Vec<Damage>,
    /// Cells whose place the index can't tell.
    not_found: u64,
}

/// Reads and hashes every non-zero cell. `progress` is told the bytes of the
/// extents done so far.
///
/// Fails only where nothing can be said; damage is in the report.
///
/// ```
/// use std::sync::{Arc, atomic::AtomicBool};
/// use vmcask_archive::{ArchiveReader, Plan, WriteOptions, verify, write};
///
/// let original: Vec<u8> = (0..40_000u32).flat_map(u32::to_le_bytes).collect();
/// let mut archive = Vec::new();
/// let go = AtomicBool::new(false);
/// let plan = Plan::whole(original.len() as u64);
/// write(&original, &plan, &WriteOptions::default(), &mut archive, &|_| {}, &go)?;
/// // A bit of the last frame's content.
/// let magic = 0xFD2F_B528u32.to_le_bytes();
/// let frame = archive.windows(4).rposition(|w| w == magic).unwrap();
/// archive[frame + 20] ^= 1;
///
/// let reader = ArchiveReader::open(Arc::new(archive))?;
/// let report = verify(&reader, 2, &|_| {}, &go)?;
/// assert!(!report.is_intact());
/// let damage = &report.damages[0];
/// println!("{} at bytes {:?} of the original", damage.error, damage.range);
/// # Ok::<(), vmcask_archive::Error>(())
/// ```
pub fn verify(
    archive: &ArchiveReader,
    threads: usize,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<Report> {
    let cells = archive.stats().cells;
    let mut report = Report {
        index: archive.verify_index(),
        others: archive.verify_other_frames(),
        ..Report::default()
    };
    let mut digester = Digester::default();
    let mut first = 0;
    while first < cells {
        if cancelled.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        let end = (first + ROUND_CELLS).min(cells);
        if let Some(hashes) = intact(archive, first..end, threads) {
            report.intact_cells += hashes.len() as u64;
            for hash in &hashes {
                digester.cell(hash);
            }
            first = end;
            progress(end * CELL_SIZE as u64);
            continue;
        }
        // Which of them are damaged?
        for batch in round(archive, first..end, threads) {
            report.intact_cells += batch.hashes.len() as u64;
            for hash in &batch.hashes {
                digester.cell(hash);
            }
            report.damaged_cells += batch.damages.len() as u64 + batch.not_found;
            let room = LISTED.saturating_sub(report.damages.len());
            report.damages.extend(batch.damages.into_iter().take(room));
        }
        first = end;
        progress(end * CELL_SIZE as u64);
    }
    if report.damaged_cells == 0 && report.index.is_empty() {
        let found = archive.digest_of(digester)?;
        if found != archive.digest() {
            report.digest_mismatch = Some(Error::Digest {
                found: found.to_string(),
                expected: archive.digest().to_string(),
            });
        }
    }
    Ok(report)
}

/// The hashes of all non-zero cells; `None` where one can't be had.
fn intact(archive: &ArchiveReader, cells: Range<u64>, threads: usize) -> Option<Vec<CellHash>> {
    let hashes = Mutex::new(vec![None; (cells.end - cells.start) as usize]);
    let (mut wanted, mut non_zero) = (Vec::new(), 0);
    for cell in cells.clone() {
        let Some(range) = archive.non_zero_range(cell).ok()? else { continue };
        let to = (cell - cells.start) * CELL_SIZE as u64;
        wanted.push(Wanted { off: range.start, len: range.end - range.start, to });
        non_zero += 1;
    }
    let hash = |pieces: &[Piece<'_>]| {
        let cells = pieces.iter().flat_map(|&(to, bytes)| {
            ((to / CELL_SIZE as u64) as usize..).zip(bytes.chunks(CELL_SIZE))
        });
        let (numbers, cells): (Vec<_>, Vec<_>) = cells.unzip();
        let found = cell_hashes(&cells);
        let mut hashes = hashes.lock().unwrap_or_else(PoisonError::into_inner);
        for (n, hash) in numbers.into_iter().zip(found) {
            if let Some(place) = hashes.get_mut(n) {
                *place = Some(hash);
            }
        }
        Ok(())
    };
    archive.by_frame(&wanted, threads, &hash).ok()?;
    let hashes = hashes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let hashes: Vec<_> = hashes.into_iter().flatten().collect();
    (hashes.len() == non_zero).then_some(hashes)
}

fn round(archive: &ArchiveReader, cells: Range<u64>, threads: usize) -> Vec<BatchResult> {
    let batches: Vec<_> = cells
        .clone()
        .step_by(BATCH_CELLS as usize)
        .map(|first| (first..(first + BATCH_CELLS).min(cells.end), Mutex::new(None)))
        .collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((cells, result)) = batches.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let checked = batch(archive, cells.clone());
                    if let Ok(mut result) = result.lock() {
                        *result = Some(checked);
                    }
                }
            });
        }
    });
    batches
        .into_iter()
        .map(|(_, result)| result.into_inner().ok().flatten().unwrap_or_default())
        .collect()
}

fn batch(archive: &ArchiveReader, cells: Range<u64>) -> BatchResult {
    let mut result = BatchResult::default();
    let mut buf = [0; CELL_SIZE];
    for cell in cells {
        let range = match archive.non_zero_range(cell) {
            Ok(Some(range)) => range,
            Ok(None) => continue,
            Err(_) => {
                result.not_found += 1;
                continue;
            }
        };
        let bytes = &mut buf[..(range.end - range.start) as usize];
        match archive.read(range.start, bytes) {
            Ok(_) => result.hashes.push(cell_hash(bytes)),
            Err(error) => result.damages.push(Damage { range, error }),
        }
    }
    result
}
