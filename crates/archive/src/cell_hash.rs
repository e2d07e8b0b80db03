//! BLAKE3 of cells, many at once.
//!
//! BLAKE3 hashes a kilobyte in each lane of a vector: of 4 KiB it fills four
//! lanes, of which processors with AVX2 have 8 and with AVX-512 16. The same
//! kilobyte of 16 cells side by side fills them all: 2.4 GB/s become 4.2 with
//! AVX2 and 5.2 with AVX-512, which is a twentieth of a writer's time.
//!
//! The blake3 crate has no public function for that yet (its pull request
//! 575); what is called here is what it has for its own benches. So its version
//! is bound to 1.8 in Cargo.toml, and a test holds the results against
//! [`blake3::hash`]'s.

use blake3::platform::Platform;
use blake3::{BLOCK_LEN, CHUNK_LEN, IncrementCounter, OUT_LEN};

use crate::layout::CELL_SIZE;

/// The hash of one cell at its own length.
pub(crate) type CellHash = [u8; OUT_LEN];

/// Cells hashed at once: the most lanes there are.
const CELLS: usize = 16;
/// blake3 hashes as many as fill no four lanes one after the other: it takes as
/// long for one as for four. Fewer cells each fill four by themselves.
const LANES: usize = 4;
const CHUNKS: usize = CELL_SIZE / CHUNK_LEN;

/// The initial value and the flags of BLAKE3's paper, 2.2 and table 3.
const IV: [u32; 8] = [
    0x6A09_E667,
    0xBB67_AE85,
    0x3C6E_F372,
    0xA54F_F53A,
    0x510E_527F,
    0x9B05_688C,
    0x1F83_D9AB,
    0x5BE0_CD19,
];
const CHUNK_START: u8 = 1 << 0;
const CHUNK_END: u8 = 1 << 1;
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;

pub(crate) fn cell_hash(cell: &[u8]) -> CellHash {
    *blake3::hash(cell).as_bytes()
}

/// The hash of each cell.
pub(crate) fn cell_hashes(cells: &[&[u8]]) -> Vec<CellHash> {
    let platform = Platform::detect();
    let mut hashes = Vec::with_capacity(cells.len());
    for cells in cells.chunks(CELLS) {
        let full = cells.iter().all(|c| c.len() == CELL_SIZE);
        if full && cells.len() >= LANES && platform.simd_degree() > CHUNKS {
            side_by_side(platform, cells, &mut hashes);
        } else {
            hashes.extend(cells.iter().map(|c| cell_hash(c)));
        }
    }
    hashes
}

/// Adds the hashes of at most [`CELLS`] whole cells.
fn side_by_side(platform: Platform, cells: &[&[u8]], to: &mut Vec<CellHash>) {
    // Those behind the last are zeros.
    let n = cells.len().next_multiple_of(LANES);
    let mut nodes = [[[0; OUT_LEN]; CHUNKS]; CELLS];
    let mut out = [[0; OUT_LEN]; CELLS];
    for chunk in 0..CHUNKS {
        let mut inputs = [&[0; CHUNK_LEN]; CELLS];
        for (input, cell) in inputs.iter_mut().zip(cells) {
            *input = &cell.as_chunks().0[chunk];
        }
        let (number, out) = (chunk as u64, out.as_flattened_mut());
        let no = IncrementCounter::No;
        platform.hash_many(&inputs[..n], &IV, number, no, 0, CHUNK_START, CHUNK_END, out);
        for (nodes, hash) in nodes.iter_mut().zip(out.as_chunks().0) {
            nodes[chunk] = *hash;
        }
    }
    // Of each two nodes the one above, until there is one.
    let mut left = CHUNKS;
    while left > 1 {
        left /= 2;
        let flags = if left == 1 { PARENT | ROOT } else { PARENT };
        for above in 0..left {
            let pairs = nodes.map(|nodes| [nodes[2 * above], nodes[2 * above + 1]]);
            let mut inputs = [&[0; BLOCK_LEN]; CELLS];
            for (input, pair) in inputs.iter_mut().zip(&pairs) {
                *input = &pair.as_flattened().as_chunks().0[0];
            }
            let no = IncrementCounter::No;
            platform.hash_many(&inputs[..n], &IV, 0, no, flags, 0, 0, out.as_flattened_mut());
            for (nodes, hash) in nodes.iter_mut().zip(&out) {
                nodes[above] = *hash;
            }
        }
    }
    to.extend(nodes[..cells.len()].iter().map(|nodes| nodes[0]));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each number of cells, some at a time, with short ones among them.
    #[test]
    fn as_hashed_one_by_one() {
        let mut bytes = vec![0; 70 * CELL_SIZE];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let all: Vec<&[u8]> = bytes.chunks(CELL_SIZE).collect();
        for n in 0..=all.len() {
            for short in [None, Some(0), Some(n / 2), n.checked_sub(1)] {
                let mut cells = all[..n].to_vec();
                if let Some(cell) = short.and_then(|i| cells.get_mut(i)) {
                    *cell = &cell[..=n * 50];
                }
                let expected = cells.iter().map(|c| *blake3::hash(c).as_bytes());
                assert!(cell_hashes(&cells).into_iter().eq(expected), "{n}, {short:?}");
            }
        }
    }

    /// Whatever this processor has.
    #[test]
    fn on_every_platform() {
        let bytes: Vec<u8> = (0..CELLS * CELL_SIZE).map(|i| ((i * 31) >> 7) as u8).collect();
        let cells: Vec<&[u8]> = bytes.chunks(CELL_SIZE).collect();
        let expected: Vec<_> = cells.iter().map(|c| cell_hash(c)).collect();
        for platform in [Platform::Portable, Platform::detect()] {
            let mut found = Vec::new();
            side_by_side(platform, &cells, &mut found);
            assert_eq!(found, expected, "{platform:?}");
        }
    }
}
