//! Minidumps: header, message buffer, dump_avail, page bitmap, page tables,
//! then the dumped pages in ascending order of their bits.
//!
//! Which page lies where is a rank question, answered by
//! [`vmcask_rank::RankIndex`]. Sources: `sys/<arch>/<arch>/minidump_machdep.c`,
//! `sys/vm/vm_dumpset.h`, `lib/libkvm/kvm_minidump_<arch>.c`.

mod avail;
pub mod header;
mod open;
mod pages;

use std::ops::Range;
use std::sync::Arc;

use vmcask_rank::OwnedRankIndex;

use crate::addr::{FileOff, Pfn, PhysAddr, VirtAddr};
use crate::error::{Error, Result, Warning};
use crate::phys::PhysMem;
use crate::source::ReadAt;
use crate::virt::VirtMem;
use crate::vm::{self, Mapping};
pub use header::{Arch, Header, KernelMap};
use pages::Pages;
pub use pages::{BuildLookup, MapShape, PageMap};

/// Where the parts of a minidump lie in the file, in bytes. Each starts at a
/// multiple of the page size; the ranges here are rounded up to it as the
/// kernel rounds them, so that one part's end is the next one's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The header page.
    pub header: Range<u64>,
    /// The message buffer.
    pub msgbuf: Range<u64>,
    /// The pairs of `dump_avail`; empty in versions without them.
    pub dump_avail: Range<u64>,
    /// One bit a page.
    pub bitmap: Range<u64>,
    /// Page table entries of the kernel map.
    pub pmap: Range<u64>,
    /// The dumped pages, as many as the bitmap has ones. The end is where
    /// they should end: a truncated file is shorter.
    pub pages: Range<u64>,
}

/// An open minidump.
pub struct Minidump {
    src: Arc<dyn ReadAt>,
    header: Header,
    parts: Parts,
    avail_pairs: Vec<(u64, u64)>,
    pages: Pages,
    pages_promised: u64,
    pages_present: u64,
    warnings: Vec<Warning>,
}

impl std::fmt::Debug for Minidump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minidump")
            .field("header", &self.header)
            .field("parts", &self.parts)
            .field("pages_present", &self.pages_present)
            .finish_non_exhaustive()
    }
}

/// `kern.msgbufsize` is 96 KiB unless set otherwise; nobody sets it to this.
const MOST_MSGBUF: u32 = 64 << 20;

impl Minidump {
    /// The checked header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the parts lie.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The `dump_avail` pairs: start and end of each range of physical
    /// memory, in bytes. Empty in versions without them.
    pub fn dump_avail(&self) -> &[(u64, u64)] {
        &self.avail_pairs
    }

    /// Bitmap and counts. Where the source has a page map of its own, the
    /// bitmap is read and counted here, the first time it is asked for.
    pub fn index(&self) -> Result<&OwnedRankIndex> {
        self.pages.index(|ranges| Ok(open::read_index(&*self.src, &self.header, ranges)?.0))
    }

    /// Pages that have a bit: those of `dump_avail`, or of memory from 0 on.
    pub fn pages_of_memory(&self) -> u64 {
        self.pages.avail().total_pages()
    }

    /// Pages that the bitmap names.
    pub fn pages_promised(&self) -> u64 {
        self.pages_promised
    }

    /// Whole pages that the file holds: [`Self::pages_promised`] unless it is
    /// truncated.
    pub fn pages_present(&self) -> u64 {
        self.pages_present
    }

    /// What is odd about this dump, though it can be read.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Size of a page in bytes.
    pub fn page_size(&self) -> u64 {
        1 << self.header.page_shift()
    }

    /// Where page `pfn` starts in the file. Of the last page of a truncated
    /// file maybe only a part is there.
    pub fn page_offset(&self, pfn: Pfn) -> Result<FileOff> {
        let shift = self.header.page_shift();
        let pa = PhysAddr::of_pfn(pfn, shift).unwrap_or(PhysAddr(u64::MAX));
        let found = self.pages.ordinal(pfn).map_err(|source| Error::Io {
            off: self.parts.bitmap.start,
            len: 8,
            source,
        })?;
        let ordinal = found.ok_or(Error::Absent { pa })?;
        Ok(FileOff(self.parts.pages.start + (ordinal << shift)))
    }

    /// The physical address of the page at `ordinal` among the dumped ones.
    /// `None` past the last.
    pub fn page_address(&self, ordinal: u64) -> Result<Option<PhysAddr>> {
        let pfn = self.index()?.select(ordinal);
        Ok(pfn.and_then(|pfn| PhysAddr::of_pfn(pfn, self.header.page_shift())))
    }

    /// The raw message buffer: a ring whose write position isn't in the
    /// dump's header. At most the header's `msgbufsize` bytes, all of them
    /// inside the file.
    pub fn msgbuf(&self) -> Result<Vec<u8>> {
        if self.header.msgbufsize > MOST_MSGBUF {
            return Err(Error::Unsupported(format!(
                "the message buffer is {} bytes; {MOST_MSGBUF} are read at most",
                self.header.msgbufsize
            )));
        }
        let off = self.parts.msgbuf.start;
        let mut buf = vec![0; self.header.msgbufsize as usize];
        self.read_file(off, &mut buf)?;
        Ok(buf)
    }

    /// Translates a kernel virtual address.
    pub fn translate(&self, va: VirtAddr) -> Result<Mapping> {
        vm::translate(self, self, va)
    }

    /// Entry `index` of a pmap of 64-bit entries, on the way to `va`.
    pub(crate) fn pmap_u64(&self, va: VirtAddr, index: u64) -> Result<u64> {
        self.pmap_entry(va, index).map(u64::from_le_bytes)
    }

    /// Entry `index` of a pmap of 32-bit entries, on the way to `va`.
    pub(crate) fn pmap_u32(&self, va: VirtAddr, index: u64) -> Result<u32> {
        self.pmap_entry(va, index).map(u32::from_le_bytes)
    }

    /// Little-endian callers only: no big-endian target is translated.
    fn pmap_entry<const N: usize>(&self, va: VirtAddr, index: u64) -> Result<[u8; N]> {
        let entries = u64::from(self.header.pmapsize) / N as u64;
        if index >= entries {
            return Err(Error::NotMapped { va, reason: "it lies past the end of the dumped pmap" });
        }
        let mut entry = [0; N];
        self.read_file(self.parts.pmap.start + index * N as u64, &mut entry)?;
        Ok(entry)
    }

    /// Bytes of the pmap part; the caller stays inside `pmapsize`.
    pub(crate) fn read_pmap(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.read_file(self.parts.pmap.start + at, buf)
    }

    fn read_file(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        let len = buf.len();
        self.src.read_exact_at(off, buf).map_err(|source| Error::Io { off, len, source })
    }
}

impl PhysMem for Minidump {
    fn source(&self) -> &dyn ReadAt {
        &*self.src
    }

    fn locate(&self, pa: PhysAddr) -> Result<(FileOff, u64)> {
        let page = self.page_size();
        let within = pa.0 & (page - 1);
        let page_off = match self.page_offset(pa.pfn(self.header.page_shift())) {
            // Not the page's address: the byte's.
            Err(Error::Absent { .. }) => return Err(Error::Absent { pa }),
            page_off => page_off?,
        };
        let off = page_off.0 + within;
        let len = self.src.len();
        if off >= len {
            return Err(Error::Truncated { pa, off: page_off.0, len });
        }
        Ok((FileOff(off), (page - within).min(len - off)))
    }
}

impl VirtMem for Minidump {
    fn arch(&self) -> Option<Arch> {
        Some(self.header.arch)
    }

    fn locate_virt(&self, va: VirtAddr) -> Result<(FileOff, u64)> {
        let mapping = self.translate(va)?;
        let (off, run) = self.locate(mapping.pa)?;
        Ok((off, run.min(mapping.len)))
    }
}
