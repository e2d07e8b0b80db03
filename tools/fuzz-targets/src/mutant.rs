//! A small input that stands for a large file: which file to begin with, and
//! what is written over it where.
//!
//! The first byte names the base, [`RAW`] that the rest is the file itself.
//! Records follow: a byte that says how many bytes are written (its low three
//! bits, and one more), or, from [`CUT`] on, that the file ends there; the
//! number of an anchor, a place where something interesting begins; a
//! distance from it, 16 bits; the bytes.

use std::io;
use std::sync::Arc;

use vmcask_dump::ReadAt;

use crate::base::Base;

/// The rest of the input is the file.
pub const RAW: u8 = 0xff;
/// Records from here on cut the file.
const CUT: u8 = 0xf0;
/// Records with this bit are for the second file, where there is one.
const SECOND: u8 = 8;

/// A file with parts of it written over.
pub struct Mutant {
    base: Arc<Vec<u8>>,
    patches: Vec<(u64, Vec<u8>)>,
    len: u64,
}

impl Mutant {
    /// A file as it is.
    pub fn raw(bytes: Vec<u8>) -> Self {
        let len = bytes.len() as u64;
        Self { base: Arc::new(bytes), patches: Vec::new(), len }
    }

    fn of(base: &Base) -> Self {
        Self { base: base.bytes.clone(), patches: Vec::new(), len: base.bytes.len() }
    }

    /// All its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        let n = self.read_at(0, &mut bytes).unwrap_or(0);
        bytes.truncate(n);
        bytes
    }
}

impl ReadAt for Mutant {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let n = usize::try_from(self.len.saturating_sub(off)).unwrap_or(usize::MAX).min(buf.len());
        let buf = &mut buf[..n];
        let n = self.base.read_at(off, buf)?;
        for (at, bytes) in &self.patches {
            for (at, byte) in (*at..).zip(bytes) {
                if let Some(to) = at.checked_sub(off).and_then(|i| buf[..n].get_mut(i as usize)) {
                    *to = *byte;
                }
            }
        }
        Ok(n)
    }
}

/// Reads an input that begins with `base`: the file, and the second one (a
/// kernel image) where the base has it.
pub fn decode(data: &[u8], base: &Base) -> Option<(Mutant, Option<Mutant>)> {
    let (&which, mut rest) = data.split_first()?;
    if which == RAW {
        return Some((Mutant::raw(rest.to_vec()), None));
    }
    let mut first = Mutant::of(base);
    let mut second = base.kernel.as_deref().map(Mutant::of);
    while let [op, anchor, low, high, bytes @ ..] = rest {
        let n = if *op >= CUT { 0 } else { usize::from(op & 7) + 1 };
        let Some((value, next)) = bytes.split_at_checked(n) else { break };
        rest = next;
        let (to, of) = match (&mut second, &base.kernel) {
            (Some(second), Some(kernel)) if op & SECOND != 0 => (second, &**kernel),
            _ => (&mut first, base),
        };
        let anchor = of.anchors[usize::from(*anchor) % of.anchors.len()];
        let at = anchor + u64::from(u16::from_le_bytes([*low, *high]));
        if *op >= CUT {
            to.len = to.len.min(at);
        } else {
            to.patches.push((at, value.to_vec()));
        }
    }
    Some((first, second))
}

/// Inputs that name each base as it is, and a few that change it.
pub fn seeds(bases: usize) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for base in 0..bases as u8 {
        seeds.push(vec![base]);
        // A number near a power of two in the first words, the file cut.
        seeds.push([&[base, 7, 0, 24 + base % 48, 0][..], &[0xff; 8]].concat());
        seeds.push(vec![base, CUT, base, 100, 3, 3, 1, 0, 0, 1, 2, 3, 4]);
    }
    seeds
}
