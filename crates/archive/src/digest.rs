//! The digest of an archive's content: FORMAT.md 8.

use std::fmt;
use std::ops::Range;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use crate::cell_hash::CellHash;
use crate::layout::{CHECKSUM_LEN, Span};

/// Names what an archive holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Collects the hashes of the non-zero cells, in cell order.
#[derive(Default)]
pub(crate) struct Digester(blake3::Hasher);

impl Digester {
    pub(crate) fn cell(&mut self, hash: &CellHash) {
        self.0.update(hash);
    }

    /// The words of the cells' bitmap as the archive has them, behind all
    /// cells.
    pub(crate) fn words(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The extents, behind all words.
    pub(crate) fn extent(&mut self, extent: &Range<u64>) {
        let span = Span { start: extent.start.into(), end: extent.end.into() };
        self.0.update(span.as_bytes());
    }

    pub(crate) fn finish(mut self, original_len: u64) -> Digest {
        self.0.update(U64::new(original_len).as_bytes());
        Digest(*self.0.finalize().as_bytes())
    }
}

/// The first 8 bytes of a BLAKE3 hash.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECKSUM_LEN]);
    sum
}

/// The first 4 bytes of a BLAKE3 hash.
pub(crate) fn checksum32(bytes: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = checksum(bytes);
    [a, b, c, d]
}
