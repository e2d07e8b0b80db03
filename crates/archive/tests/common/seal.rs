//! Checksums made right again, so that what a field says is believed. Of the
//! fuzzers, too: they include this file.

use std::ops::Range;

use vmcask_archive::layout::CHUNK_LEN;

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    *blake3::hash(bytes).as_bytes().first_chunk().unwrap()
}

/// Where things lie in an archive, told from the file.
pub struct Map {
    pub locator: usize,
    pub directory: usize,
    /// Kind, range, place in the directory.
    pub sections: Vec<(u32, Range<usize>, usize)>,
}

pub fn map(archive: &[u8]) -> Map {
    let n = archive.len();
    let frames = u32::from_le_bytes(archive[n - 9..n - 5].try_into().unwrap()) as usize;
    let locator = n - 17 - frames * 8 - 64;
    let directory = u64_at(archive, locator + 32) as usize;
    let sections = (directory..locator)
        .step_by(32)
        .map(|at| {
            let kind = u32::from_le_bytes(archive[at..at + 4].try_into().unwrap());
            let start = u64_at(archive, at + 8) as usize;
            (kind, start..start + u64_at(archive, at + 16) as usize, at)
        })
        .collect();
    Map { locator, directory, sections }
}

/// Makes every checksum right again, as far as the fields still say where.
pub fn seal(bytes: &mut [u8], map: &Map) {
    let mut sums = map.directory;
    for (_, range, _) in map.sections.iter().rev() {
        sums -= range.len().div_ceil(CHUNK_LEN) * 8;
    }
    for (_, range, entry) in &map.sections {
        let first = sums;
        for chunk in range.clone().step_by(CHUNK_LEN) {
            let end = (chunk + CHUNK_LEN).min(range.end);
            let sum = checksum(&bytes[chunk..end]);
            bytes[sums..sums + 8].copy_from_slice(&sum);
            sums += 8;
        }
        let sum = checksum(&bytes[first..sums]);
        bytes[entry + 24..entry + 32].copy_from_slice(&sum);
    }
    let directory = checksum(&bytes[map.directory..map.locator]);
    bytes[map.locator + 48..map.locator + 56].copy_from_slice(&directory);
    let head = checksum(&bytes[..48]);
    bytes[map.locator + 44..map.locator + 48].copy_from_slice(&head[..4]);
    let locator = checksum(&bytes[map.locator + 8..map.locator + 56]);
    bytes[map.locator + 56..map.locator + 64].copy_from_slice(&locator);
}
