//! libkvm's hash table until 2016 (`lib/libkvm/kvm_minidump_amd64.c` before
//! r302976): the baseline, with all that it costs.

use super::{PageLookup, address};
use crate::{AvailRanges, PageBitmap, Pfn};

/// `HPT_SIZE`.
const HPT_SIZE: usize = 1024;
/// `FNV1_32_INIT` of `sys/sys/fnv_hash.h`, which isn't the usual basis.
const FNV1_32_INIT: u32 = 33_554_467;
/// `FNV_32_PRIME`.
const FNV_32_PRIME: u32 = 0x0100_0193;

/// `struct hpte`: 24 bytes, one allocation each. In C's order: the address and
/// the link to the next, which a walk reads, stay in one line as there.
#[repr(C)]
struct Hpte {
    next: Option<Box<Hpte>>,
    pa: u64,
    off: u64,
}

/// 1024 buckets of linked lists, one node a dumped page. 8 GiB of pages make
/// chains of 2,048 nodes on average.
pub struct ChainedHash {
    heads: Vec<Option<Box<Hpte>>>,
    page_shift: u32,
    nodes: usize,
}

impl ChainedHash {
    /// Builds the table as libkvm did: the bitmap scanned bit by bit, each
    /// page put at the head of its chain, its file offset beside it.
    pub fn build(bitmap: &PageBitmap, avail: &AvailRanges, page_shift: u32) -> Self {
        let mut table = Self { heads: (0..HPT_SIZE).map(|_| None).collect(), page_shift, nodes: 0 };
        let bits = bitmap.words().len() as u64 * 64;
        let mut off = 0u64;
        let mut bit = 0;
        let mut counted = 0;
        for (first, pages) in avail.iter() {
            // Ranges may promise far more pages than the bitmap has bits.
            let pages = pages.min(bits - bit);
            for pfn in first.0..first.0 + pages {
                if bitmap.get(bit) {
                    // A page that two ranges share goes by its first bit.
                    if pfn >= counted
                        && let Some(pa) = address(Pfn(pfn), page_shift)
                    {
                        table.insert(pa, off.wrapping_shl(page_shift));
                    }
                    off += 1;
                }
                bit += 1;
            }
            counted = first.0 + pages;
        }
        table
    }

    fn insert(&mut self, pa: u64, off: u64) {
        let head = &mut self.heads[bucket(pa)];
        *head = Some(Box::new(Hpte { next: head.take(), pa, off }));
        self.nodes += 1;
    }
}

/// `fnv_32_buf(&pa, sizeof(pa), FNV1_32_INIT) & (HPT_SIZE - 1)`: FNV-1, which
/// multiplies first.
fn bucket(pa: u64) -> usize {
    let hash = pa
        .to_le_bytes()
        .iter()
        .fold(FNV1_32_INIT, |h, &b| h.wrapping_mul(FNV_32_PRIME) ^ u32::from(b));
    hash as usize & (HPT_SIZE - 1)
}

impl PageLookup for ChainedHash {
    fn find(&self, pfn: Pfn) -> Option<u64> {
        let pa = address(pfn, self.page_shift)?;
        let mut node = self.heads[bucket(pa)].as_deref();
        while let Some(hpte) = node {
            if hpte.pa == pa {
                return Some(hpte.off >> self.page_shift);
            }
            node = hpte.next.as_deref();
        }
        None
    }

    fn memory(&self) -> usize {
        self.nodes * size_of::<Hpte>() + HPT_SIZE * size_of::<Option<Box<Hpte>>>()
    }
}

impl Drop for ChainedHash {
    /// Node by node: dropped as they are nested, chains of thousands would
    /// take a stack frame each.
    fn drop(&mut self) {
        for head in &mut self.heads {
            let mut node = head.take();
            while let Some(mut hpte) = node {
                node = hpte.next.take();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nodes_are_as_large_as_in_c() {
        assert_eq!(size_of::<super::Hpte>(), 24);
    }
}
