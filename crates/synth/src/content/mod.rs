//! What is in a frame: a pure function of seed and physical address.

mod real;
mod text;

use std::ops::Range;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::spec::{Profile, Spec};

/// Bytes of a frame: the unit contents are made in, whatever the page size.
pub(crate) const FRAME_SIZE: u64 = 4096;

/// A physical frame of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frame(pub(crate) u64);

impl Frame {
    pub(crate) fn pa(self) -> u64 {
        self.0 * FRAME_SIZE
    }
}

/// A frame's bytes.
pub(crate) type Page = [u8; FRAME_SIZE as usize];

/// Of this many clusters of 16 frames, a sparse dump fills one.
const SPARSE_CLUSTERS: u64 = 4096;

/// What decides a frame's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    seed: u64,
    profile: Profile,
    sparse: bool,
}

impl Content {
    pub(crate) fn new(spec: &Spec) -> Self {
        Self { seed: spec.seed, profile: spec.profile, sparse: spec.sparse }
    }

    /// What the frame holds before it is made.
    fn kind(&self, frame: Frame) -> Kind {
        match self.profile {
            Profile::Zeros => Kind::Zero,
            _ if self.sparse && !self.filled(frame.0 / 16) => Kind::Zero,
            Profile::Real => real::kind(self.seed, frame),
            Profile::Random => Kind::Noise,
            Profile::Text => Kind::Text,
        }
    }

    /// Whether a sparse dump fills this cluster.
    fn filled(&self, cluster: u64) -> bool {
        mix(self.seed ^ 0x7370_6172_7365, cluster).is_multiple_of(SPARSE_CLUSTERS)
    }

    /// Whether the frame is all zeros, without making it.
    pub(crate) fn is_zero(&self, frame: Frame) -> bool {
        self.kind(frame) == Kind::Zero
    }

    /// The first of these frames that isn't zero.
    pub(crate) fn next_nonzero(&self, frames: Range<u64>) -> Option<u64> {
        if self.profile == Profile::Zeros {
            return None;
        }
        let mut frame = frames.start;
        while frame < frames.end {
            if self.sparse && !self.filled(frame / 16) {
                frame = (frame / 16 + 1) * 16;
            } else if self.is_zero(Frame(frame)) {
                frame += 1;
            } else {
                return Some(frame);
            }
        }
        None
    }

    /// Fills a frame that isn't one of the kernel's own.
    pub(crate) fn fill(&self, frame: Frame, page: &mut Page) {
        write(self.kind(frame), self.seed, frame, page);
    }

    /// Fills a frame of the kernel's own that holds nothing else: never
    /// zero, and it tells where it is.
    pub(crate) fn fill_kernel(&self, frame: Frame, page: &mut Page) {
        write(Kind::Records(8), self.seed, frame, page);
        page[..8].copy_from_slice(b"vmcask\0\0");
        page[8..16].copy_from_slice(&frame.pa().to_le_bytes());
    }
}

fn write(kind: Kind, seed: u64, frame: Frame, page: &mut Page) {
    let own = mix(seed, frame.0);
    match kind {
        Kind::Zero => page.fill(0),
        Kind::Noise => noise(own, page),
        Kind::Text => text::fill(&mut rng(own), page),
        Kind::Records(words) => {
            real::records(mix(!seed, frame.0 / real::CLUSTER), own, words, page);
        }
        // Another memory's frame, the same for all of this group.
        Kind::Duplicate(id) => {
            let frame = Frame(id * real::GROUP + frame.0 % real::GROUP);
            write(real::unique_kind(!seed, frame), !seed, frame, page);
        }
    }
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Zero,
    /// The same as other groups with this number.
    Duplicate(u64),
    Text,
    /// Structures of so many words.
    Records(u64),
    Noise,
}

/// splitmix64's finisher: every bit of the result depends on every bit of
/// both numbers.
fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn rng(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

/// Bytes that nothing compresses.
fn noise(seed: u64, page: &mut Page) {
    let mut rng = rng(seed);
    for word in page.chunks_exact_mut(8) {
        word.copy_from_slice(&rng.next_u64().to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn content(profile: Profile, sparse: bool) -> Content {
        Content::new(&Spec { profile, sparse, ..Spec::default() })
    }

    #[test]
    fn zeros_are_known_without_making_them() {
        for profile in Profile::ALL {
            for sparse in [false, true] {
                let content = content(profile, sparse);
                let mut next = content.next_nonzero(0..100_000);
                let (mut page, mut zeros) = ([1; 4096], 0);
                for frame in 0..100_000 {
                    let zero = content.is_zero(Frame(frame));
                    zeros += u32::from(zero);
                    if frame % 64 < 2 || !zero && sparse {
                        content.fill(Frame(frame), &mut page);
                        assert_eq!(page.iter().all(|&b| b == 0), zero, "{profile:?} {frame}");
                    }
                    if !zero {
                        assert_eq!(next, Some(frame), "{profile:?}");
                        next = content.next_nonzero(frame + 1..100_000);
                    }
                }
                assert_eq!(next, None);
                match (profile, sparse) {
                    (Profile::Zeros, _) => assert_eq!(zeros, 100_000),
                    (_, true) => assert!((99_900..100_000).contains(&zeros), "{zeros}"),
                    (Profile::Real, false) => assert!((900..970).contains(&zeros), "{zeros}"),
                    (_, false) => assert_eq!(zeros, 0),
                }
            }
        }
    }

    /// The sample: 0.93 % zero, 2.62 % of the rest duplicates; zstd level 3
    /// makes 4.41 of each 4 KiB, 5.01 of each 64 KiB, 5.17 of all.
    #[test]
    fn real_is_like_the_sample() {
        let content = content(Profile::Real, false);
        let mut memory = vec![0; 32 << 20];
        let (mut seen, mut duplicates) = (HashSet::new(), 0);
        for (i, bytes) in memory.chunks_exact_mut(4096).enumerate() {
            let page: &mut Page = bytes.try_into().unwrap();
            content.fill(Frame(100_000 + i as u64), page);
            if page.iter().any(|&b| b != 0) && !seen.insert(*blake3::hash(page).as_bytes()) {
                duplicates += 1;
            }
        }
        // So little memory has seen few of the contents twice.
        let share = f64::from(duplicates) / seen.len() as f64;
        assert!((0.020..0.030).contains(&share), "{share}");
        let ratio = |size: usize| {
            let mut zstd = zstd::bulk::Compressor::new(3).unwrap();
            let sizes = memory.chunks(size).map(|c| zstd.compress(c).unwrap().len());
            memory.len() as f64 / sizes.sum::<usize>() as f64
        };
        for (size, want) in [(4096, 4.41), (65536, 5.01), (memory.len(), 5.17)] {
            let found = ratio(size);
            assert!((found / want - 1.0).abs() < 0.10, "{size}: {found}, sample {want}");
        }
    }

    #[test]
    fn random_is_incompressible() {
        let content = content(Profile::Random, false);
        let mut page = [0; 4096];
        content.fill(Frame(7), &mut page);
        assert!(zstd::bulk::compress(&page, 19).unwrap().len() >= 4096);
    }
}
