//! What is in a frame: a pure function of seed and physical address.

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

    fn kind(&self, frame: Frame) -> Kind {
        match self.profile {
            Profile::Zeros => Kind::Zero,
            _ if self.sparse && !self.filled(frame.0 / 16) => Kind::Zero,
            Profile::Real => kind(self.seed, frame),
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
        let hash = mix(self.seed, frame.0);
        match self.kind(frame) {
            Kind::Zero => page.fill(0),
            Kind::Duplicate => {
                let id = (hash >> 8) % DUPLICATES;
                let kind =
                    [Kind::Text, Kind::Pointers, Kind::Integers, Kind::Mixed][id as usize % 4];
                write(kind, mix(!self.seed, id), page);
            }
            kind => write(kind, hash, page),
        }
    }

    /// Fills a frame of the kernel's own that holds nothing else: never
    /// zero, and it tells where it is.
    pub(crate) fn fill_kernel(&self, frame: Frame, page: &mut Page) {
        let kind = [Kind::Pointers, Kind::Integers][frame.0 as usize % 2];
        write(kind, mix(self.seed, frame.0), page);
        page[..8].copy_from_slice(b"vmcask\0\0");
        page[8..16].copy_from_slice(&frame.pa().to_le_bytes());
    }
}

/// Kinds of pages, with their share in 256ths. Roughly what a server that
/// runs programs and caches files holds: a quarter zero, of the rest 18 %
/// duplicates, compressible some four to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Zero,
    Duplicate,
    Text,
    Pointers,
    Integers,
    Mixed,
    Noise,
}

const SHARES: [(Kind, u64); 7] = [
    (Kind::Zero, 64),
    (Kind::Duplicate, 36),
    (Kind::Text, 40),
    (Kind::Pointers, 44),
    (Kind::Integers, 36),
    (Kind::Mixed, 24),
    (Kind::Noise, 12),
];

/// Contents that duplicates share.
const DUPLICATES: u64 = 1024;

/// splitmix64's finisher: every bit of the result depends on every bit of
/// both numbers.
fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn kind(seed: u64, frame: Frame) -> Kind {
    let mut at = mix(seed, frame.0) & 255;
    for (kind, share) in SHARES {
        if at < share {
            return kind;
        }
        at -= share;
    }
    Kind::Noise
}

fn write(kind: Kind, seed: u64, page: &mut Page) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    match kind {
        Kind::Zero | Kind::Duplicate => page.fill(0),
        Kind::Text => text(&mut rng, page),
        Kind::Pointers => pointers(&mut rng, page),
        Kind::Integers => integers(&mut rng, page),
        Kind::Mixed => {
            pointers(&mut rng, page);
            let (_, rest) = page.split_at_mut(2048);
            for word in rest.chunks_exact_mut(8).step_by(3) {
                word.copy_from_slice(&rng.next_u64().to_le_bytes());
            }
        }
        Kind::Noise => {
            for word in page.chunks_exact_mut(8) {
                word.copy_from_slice(&rng.next_u64().to_le_bytes());
            }
        }
    }
}

const WORDS: [&[u8]; 32] = [
    b"the ",
    b"kernel ",
    b"static int ",
    b"return (",
    b");\n",
    b"struct ",
    b"error",
    b" = 0;\n",
    b"\tif (",
    b"NULL",
    b"vm_page_t ",
    b"lock",
    b"/usr/src/sys/",
    b"mutex",
    b" != ",
    b"->",
    b"panic: ",
    b"queue",
    b"void\n",
    b"(void *)",
    b"uint64_t ",
    b"buf",
    b"{\n",
    b"}\n\n",
    b"#define ",
    b"for (i = 0; i < ",
    b"size",
    b"proc",
    b"thread ",
    b"* ",
    b", ",
    b"0x1000",
];

fn text(rng: &mut Xoshiro256PlusPlus, page: &mut Page) {
    let mut at = 0;
    while at < page.len() {
        let mut bits = rng.next_u64();
        for _ in 0..12 {
            // Some words are much more common than others.
            let word = WORDS[(bits & bits >> 5 & 31 | bits >> 10 & 7) as usize];
            bits >>= 5;
            let n = word.len().min(page.len() - at);
            page[at..at + n].copy_from_slice(&word[..n]);
            at += n;
        }
    }
}

/// Arrays of structures: pointers into a few places of the direct map, flags,
/// counters.
fn pointers(rng: &mut Xoshiro256PlusPlus, page: &mut Page) {
    let stride = 4 + (rng.next_u64() & 7) as usize;
    let base = 0xffff_f800_0000_0000 | (rng.next_u64() & 0x3f_ffff_f000);
    for (i, word) in page.chunks_exact_mut(8).enumerate() {
        let bits = rng.next_u64();
        let value = match i % stride {
            0 => base + (bits & 0x3ff) * 64,
            1 => base + (i as u64) * 64,
            2 => bits & 0xff,
            _ => 0,
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

fn integers(rng: &mut Xoshiro256PlusPlus, page: &mut Page) {
    for word in page.chunks_exact_mut(8) {
        let bits = rng.next_u64();
        let value = if bits.is_multiple_of(4) { bits >> 52 } else { bits >> 60 };
        word.copy_from_slice(&value.to_le_bytes());
    }
}
