//! Every page, once.

use std::cell::RefCell;

use vmcask_dump::{PhysAddr, PhysMem};

use super::{Done, Setup, done};
use crate::error::{Error, Result};
use crate::open::open_noting;

/// Reads every `every`th dumped page (at least 1) by its physical address, in
/// ascending order. Which pages there are is read off the bitmap; where each
/// lies is looked up. The kernel image isn't used.
pub fn scan(setup: &Setup<'_>, every: u64) -> Result<Done> {
    let map = RefCell::new(None);
    let note = |bitmap: &vmcask_rank::PageBitmap, avail: &vmcask_rank::AvailRanges| {
        *map.borrow_mut() = Some((bitmap.clone(), avail.clone()));
    };
    let opened = open_noting(setup.file, setup.lookup, setup.reading, setup.count, &note)?;
    let (bitmap, avail) = map.into_inner().ok_or(Error::NoPages)?;
    let dump = &opened.dump;
    let shift = dump.header().page_shift();
    let mut page = vec![0; 1 << shift];
    let mut digest = 0u64;
    // Of a dump that is cut off, as far as it goes.
    let present = dump.pages_present();
    let pages = bitmap.runs().flat_map(|bits| avail.pages_of(bits));
    let pages = pages.flat_map(|(first, n)| first.0..first.0 + n);
    for pfn in pages.take(present as usize).step_by(every.max(1) as usize) {
        dump.read_phys(PhysAddr(pfn << shift), &mut page)?;
        digest = digest.rotate_left(5) ^ sum(&page);
    }
    Ok(done(opened, digest))
}

/// Of a page's words; as fast as it is read.
fn sum(page: &[u8]) -> u64 {
    let (words, _) = page.as_chunks::<8>();
    words.iter().fold(0, |sum, w| sum.wrapping_add(u64::from_le_bytes(*w)))
}
