//! A minidump of another version of its architecture.

use std::sync::Arc;

use vmcask_dump::minidump::header::KernelMap;
use vmcask_dump::source::SubSource;
use vmcask_dump::{Arch, Minidump, ReadAt};

use super::View;
use crate::error::{Error, Result};

/// Where the fields that change stand in the header, in bytes.
struct Offsets {
    version: usize,
    bitmapsize: usize,
    dumpavailsize: usize,
}

impl Offsets {
    fn of(arch: Arch) -> Self {
        let (version, bitmapsize) = match arch {
            Arch::Powerpc64 | Arch::Powerpc64Le => (64, 72),
            _ => (24, 32),
        };
        let dumpavailsize = match arch {
            Arch::Amd64 => 64,
            Arch::Arm64 | Arch::Riscv => 72,
            Arch::I386 => 48,
            Arch::Arm => 52,
            Arch::Powerpc64 | Arch::Powerpc64Le => 136,
        };
        Self { version, bitmapsize, dumpavailsize }
    }
}

/// `flags` of arm64's version 3, in bytes.
const ARM64_FLAGS: usize = 76;

/// The same pages and page tables as version `version`.
///
/// With dump_avail the bits count the pages of its ranges, without it all
/// pages from 0 on: bitmap and dump_avail are written anew, everything else
/// is taken over. amd64's version 1 has PTEs where the later ones have PDEs;
/// there is no way between them, because page-table pages are not in it.
pub fn build(dump: &Minidump, source: &Arc<dyn ReadAt>, version: u32) -> Result<View> {
    let header = dump.header();
    let arch = header.arch;
    let mut view = View::new();
    if version == header.version {
        let id = view.add_source(source.clone());
        view.push(id, 0, source.len());
        return Ok(view);
    }
    let no_way = |why: &str| {
        Err(Error::Unsupported(format!(
            "a version {} minidump of {arch} can't become version {version}: {why}",
            header.version
        )))
    };
    if version == 0 || version > arch.newest_version() {
        return no_way("there is no such version");
    }
    if arch == Arch::Amd64 && (version == 1 || header.version == 1) {
        return no_way("version 1 has page table entries where the others have page directories");
    }
    if let KernelMap::Arm64 { .. } = header.map
        && header.page_shift() != 12
        && version < 3
    {
        return no_way("only version 3 has pages of 16 KiB");
    }

    let page = dump.page_size();
    let parts = dump.parts();
    let mut first = vec![0; page as usize];
    source.read_exact_at(0, &mut first).map_err(|source| Error::Read {
        off: 0,
        len: page as usize,
        source,
    })?;
    let had_avail = header.dumpavailsize > 0;
    let has_avail = version >= arch.dumpavail_since();
    let (dump_avail, bitmap) = match (had_avail, has_avail) {
        (true, false) => (Vec::new(), identity_bitmap(dump, source.len())?),
        (false, true) => {
            // One range for all pages there may be: the bits stay.
            let end = dump.pages_of_memory() << header.page_shift();
            (pairs(arch, &[(0, end)], page), read(source, &parts.bitmap)?)
        }
        _ => (read(source, &parts.dump_avail)?, read(source, &parts.bitmap)?),
    };
    let bitmapsize = if had_avail == has_avail { header.bitmapsize as usize } else { bitmap.len() };
    let dumpavailsize =
        if had_avail == has_avail { header.dumpavailsize as usize } else { dump_avail.len() };
    let mut put = |at: usize, value: usize| -> Result<()> {
        let value = u32::try_from(value).map_err(|_| {
            Error::Unsupported(format!(
                "the highest page number needs a bitmap of {value} bytes; version {version} allows \
                 2^32"
            ))
        })?;
        let bytes = if arch.is_big_endian() { value.to_be_bytes() } else { value.to_le_bytes() };
        first[at..at + 4].copy_from_slice(&bytes);
        Ok(())
    };
    let at = Offsets::of(arch);
    put(at.version, version as usize)?;
    put(at.bitmapsize, bitmapsize)?;
    put(at.dumpavailsize, dumpavailsize)?;
    if arch == Arch::Arm64 {
        put(ARM64_FLAGS, usize::from(header.page_shift() == 14))?;
    }

    let id = view.add_source(source.clone());
    view.push_bytes(first);
    view.push(id, parts.msgbuf.start, parts.msgbuf.end - parts.msgbuf.start);
    for part in [dump_avail, bitmap] {
        view.push_bytes(part);
        view.pad_to(view.len().next_multiple_of(page));
    }
    view.push(id, parts.pmap.start, parts.pmap.end - parts.pmap.start);
    view.push(id, parts.pages.start, source.len() - parts.pages.start);
    Ok(view)
}

fn read(source: &Arc<dyn ReadAt>, range: &std::ops::Range<u64>) -> Result<Vec<u8>> {
    let part = SubSource::new(source.clone(), range.clone());
    let mut bytes = vec![0; part.len() as usize];
    part.read_exact_at(0, &mut bytes).map_err(|source| Error::Read {
        off: range.start,
        len: bytes.len(),
        source,
    })?;
    Ok(bytes)
}

/// dump_avail of 64-bit entries (32-bit ones on arm), ended by a pair of
/// zeros and rounded up to a page.
fn pairs(arch: Arch, ranges: &[(u64, u64)], page: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for n in ranges.iter().chain(&[(0, 0)]).flat_map(|&(start, end)| [start, end]) {
        match arch {
            Arch::Arm => out.extend_from_slice(&(n as u32).to_le_bytes()),
            _ if arch.is_big_endian() => out.extend_from_slice(&n.to_be_bytes()),
            _ => out.extend_from_slice(&n.to_le_bytes()),
        }
    }
    out.resize(out.len().next_multiple_of(page as usize), 0);
    out
}

/// Bit n for page n.
fn identity_bitmap(dump: &Minidump, file_len: u64) -> Result<Vec<u8>> {
    let index = dump.index().map_err(Error::Bitmap)?;
    let end = index.avail().iter().last().map_or(0, |(first, n)| first.0 + n);
    check_bitmap(end, file_len)?;
    let mut words = vec![0u64; end.div_ceil(64) as usize];
    for (pfn, pages, _) in index.page_runs() {
        for page in pfn.0..pfn.0 + pages {
            words[(page / 64) as usize] |= 1 << (page % 64);
        }
    }
    let big = dump.header().arch.is_big_endian();
    Ok(words.iter().flat_map(|w| if big { w.to_be_bytes() } else { w.to_le_bytes() }).collect())
}

/// A bitmap counted from page 0 may be any size on a hostile word; memory for
/// more than the file has, or a machine of 2 TiB needs, is not taken.
pub(super) fn check_bitmap(bits: u64, file_len: u64) -> Result<()> {
    const MACHINE: u64 = 64 << 20;
    let bytes = bits / 8;
    if bytes <= file_len.max(MACHINE) && u32::try_from(bytes).is_ok() {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "its highest page number needs a bitmap of {bytes} bytes; version 3 of amd64 (2 of others) \
         has dump_avail to do without"
    )))
}
