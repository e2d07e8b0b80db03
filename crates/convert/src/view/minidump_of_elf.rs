//! Minidumps from ELF cores: byte for byte where vmcask's note has what the
//! segments can't carry, else (amd64) with a pmap built from the page tables.

use std::sync::Arc;

use vmcask_dump::layout::minidump as wire;
use vmcask_dump::vm::amd64::{PG_FRAME, PG_PS, PG_V, PageTables, TWO_MIB};
use vmcask_dump::vm::roots;
use vmcask_dump::{
    Arch, ElfCore, Error as DumpError, KernelImage, Minidump, PhysAddr, PhysMem, ReadAt, VirtAddr,
    VirtMem,
};
use zerocopy::IntoBytes;

use super::elf_headers::Shape;
use super::minidump_version::check_bitmap;
use super::physical_view::{generic_headers, page_of};
use super::{Runs, View};
use crate::error::{Error, Result};

/// How to make a minidump.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Version; the newest where none is asked for.
    pub version: Option<u32>,
    /// Leave out pages full of zeros.
    pub drop_zero: bool,
    /// The kernel image: where the message buffer is.
    pub kernel: Option<&'a KernelImage>,
}

const PAGE: u64 = 4096;
/// Bytes of address space for which a page of 512 PDEs stands in pmap.
const NBPDP: u64 = 1 << 30;
/// `VM_MIN_KERNEL_ADDRESS` of 4-level kernels: the kernel map is at most this
/// much lower in the pmap of a minidump made here, so that a pmap stays small.
const LOWEST_KERNBASE: u64 = 0xffff_f800_0000_0000;
const VM_MIN_KERNEL_ADDRESS: u64 = 0xffff_fe00_0000_0000;
/// Ranges of memory beyond which dump_avail is written as one.
const MOST_RANGES: usize = 1024;
/// `MSG_MAGIC` (`sys/sys/msgbuf.h`).
const MSG_MAGIC: u32 = 0x06_3062;
/// Larger message buffers aren't believed (kern.msgbufsize is 96 KiB).
const MAX_MSGBUF: u32 = 64 << 20;

/// The minidump of a core.
pub fn build(core: &ElfCore, source: &Arc<dyn ReadAt>, options: &Options<'_>) -> Result<View> {
    if core.note().is_some_and(|n| n.minidump.is_some()) {
        return restored(core, source);
    }
    if core.ident().arch() != Some(Arch::Amd64) || !core.ident().is_64 {
        return Err(Error::Unsupported(format!(
            "minidumps are made of amd64 cores only, and this is one of {} without vmcask's note",
            core.ident().machine()
        )));
    }
    from_page_tables(core, source, options)
}

/// The minidump that the core was made from.
fn restored(core: &ElfCore, source: &Arc<dyn ReadAt>) -> Result<View> {
    let (Some(note), Some((prefix, tables))) =
        (core.note(), core.note().and_then(|n| Some((n.prefix.as_ref()?, n.minidump.as_ref()?))))
    else {
        return Err(Error::Unsupported("vmcask's note has no minidump in it".into()));
    };
    let mut view = View::new();
    let id = view.add_source(prefix.clone());
    view.push(id, 0, prefix.len());
    let runs = Runs::of_elf(core);
    let shift = tables.header().page_shift();
    let first = tables.parts().pages.start;
    let id = view.add_source(source.clone());
    let mut missing = 0;
    for (pfn, pages, ordinal) in tables.index().map_err(Error::Bitmap)?.page_runs() {
        let pages = pages.min(note.meta.pages.saturating_sub(ordinal));
        if pages == 0 {
            break;
        }
        let start = pfn.0 << shift;
        let end = start + (pages << shift);
        let at_of = |pa: u64| first + (ordinal << shift) + (pa - start);
        let (mut at, mut next) = (start, runs.first_ending_after(start));
        while at < end {
            let Some(run) = runs.get(next).filter(|r| r.pa < end) else {
                missing += (end - at) >> shift;
                break;
            };
            missing += run.pa.saturating_sub(at) >> shift;
            at = at.max(run.pa);
            let stop = end.min(run.pa + run.len);
            view.pad_to(at_of(at));
            view.push(id, run.off + (at - run.pa), stop - at);
            at = stop;
            next += 1;
        }
    }
    // Pages that were dropped for being zero are known to be zero.
    if missing != note.meta.dropped_zero_pages {
        return Err(Error::Unsupported(format!(
            "{missing} pages that vmcask's note promises are not in the core, where it says that \
             {} were left out: the core was changed or cut since",
            note.meta.dropped_zero_pages
        )));
    }
    view.pad_to(first + (note.meta.pages << shift));
    if let Some(tail) = &note.tail {
        let id = view.add_source(tail.clone());
        view.push(id, 0, tail.len());
    }
    if view.len() != note.meta.source_bytes {
        return Err(Error::Unsupported(format!(
            "vmcask's note is of a minidump of {} bytes, and this one would have {}",
            note.meta.source_bytes,
            view.len()
        )));
    }
    if missing > 0 {
        view.remarks.push(format!(
            "{missing} pages of zeros that the core leaves out are in the minidump again"
        ));
    }
    Ok(view)
}

fn from_page_tables(
    core: &ElfCore,
    source: &Arc<dyn ReadAt>,
    options: &Options<'_>,
) -> Result<View> {
    let version = options.version.unwrap_or(Arch::Amd64.newest_version());
    if !(2..=3).contains(&version) {
        return Err(Error::Unsupported(format!(
            "minidumps of version {version} can't be made of a core; 2 and 3 can"
        )));
    }
    let found = core.page_tables().ok_or_else(|| {
        Error::Unsupported(
            "a minidump needs the kernel's page tables, and none were found in the core; name the \
             kernel image with --kernel"
                .into(),
        )
    })?;
    let (runs, lost) = Runs::of_elf(core).whole_pages(PAGE);
    let all = runs.bytes();
    let runs = if options.drop_zero { runs.without_zero_pages(&**source, PAGE)? } else { runs };
    let pmap = Pmap::build(core, &found.tables)?;
    let msgbuf = options.kernel.and_then(|k| msgbuf(core, k)).unwrap_or_default();

    let ranges = if version >= 3 { ranges(core, &runs) } else { Vec::new() };
    let bitmap = bitmap(&ranges, &runs, source.len())?;
    let mut dump_avail: Vec<u8> = Vec::new();
    for &(start, end) in &ranges {
        dump_avail.extend_from_slice(&start.to_le_bytes());
        dump_avail.extend_from_slice(&end.to_le_bytes());
    }
    if version >= 3 {
        // The pair that ends them; round_page() as the kernel does.
        dump_avail.resize((dump_avail.len() + 16).next_multiple_of(PAGE as usize), 0);
    }
    let size = |part: &'static str, len: usize| {
        u32::try_from(len).map_err(|_| {
            Error::Unsupported(format!("its {part} would take {len} bytes; a minidump allows 2^32"))
        })
    };
    let (dmapbase, dmapend) = pmap.layout.direct_map.unwrap_or_default();
    let mut magic = [0; 24];
    magic[..wire::MAGIC_AMD64.len()].copy_from_slice(wire::MAGIC_AMD64);
    let header = wire::Amd64 {
        magic,
        version: version.into(),
        msgbufsize: size("message buffer", msgbuf.len())?.into(),
        bitmapsize: size("bitmap", bitmap.len())?.into(),
        pmapsize: size("pmap", pmap.bytes.len())?.into(),
        kernbase: pmap.layout.kernbase.0.into(),
        dmapbase: dmapbase.0.into(),
        dmapend: dmapend.0.into(),
        dumpavailsize: size("dump_avail", dump_avail.len())?.into(),
        pad: [0; 4],
    };
    let mut page = vec![0; PAGE as usize];
    page[..size_of_val(&header)].copy_from_slice(header.as_bytes());
    if lost == 0
        && runs.dropped == 0
        && let Some(marker) = Marker::of(core, &**source, &ranges, &runs)
    {
        marker.write(&mut page);
    }
    if runs.dropped > 0 {
        let text = format!("vmcask: {} pages of zeros were left out", runs.dropped);
        page[MARKER_AT..MARKER_AT + text.len()].copy_from_slice(text.as_bytes());
    }

    let mut view = View::new();
    for part in [page, msgbuf, dump_avail, bitmap, pmap.bytes] {
        view.push_bytes(part);
        view.pad_to(view.len().next_multiple_of(PAGE));
    }
    let id = view.add_source(source.clone());
    for run in runs.iter() {
        view.push(id, run.off, run.len);
    }
    view.losses.extend(core.warnings().iter().map(ToString::to_string));
    if lost > 0 {
        view.losses.push(format!("{lost} bytes are not part of whole pages; they are left out"));
    }
    if runs.dropped > 0 {
        view.remarks.push(format!("{} pages full of zeros were left out", runs.dropped));
    }
    if pmap.missing > 0 {
        view.losses.push(format!(
            "{} page directories are not in the core; what they map is lost",
            pmap.missing
        ));
    }
    if pmap.layout.direct_map.is_none() {
        view.losses.push("no direct map was found in the page tables".into());
    }
    debug_assert_eq!(all - runs.bytes(), runs.dropped * PAGE);
    Ok(view)
}

/// The pmap part: 512 PDEs for each GiB from kernbase on.
struct Pmap {
    layout: roots::KernelLayout,
    bytes: Vec<u8>,
    missing: u64,
}

impl Pmap {
    fn build(core: &ElfCore, tables: &PageTables) -> Result<Self> {
        let mut layout = roots::layout(core, tables).map_err(Error::Mappings)?;
        if layout.kernbase.0 < LOWEST_KERNBASE {
            layout.kernbase = VirtAddr(VM_MIN_KERNEL_ADDRESS);
        }
        let mut bytes = Vec::new();
        let mut missing = 0;
        let mut used = 0;
        let mut va = layout.kernbase.0;
        loop {
            let at = bytes.len();
            // A page for each GiB, even if it is zero.
            bytes.resize(at + PAGE as usize, 0);
            match directory(core, tables, VirtAddr(va)) {
                Ok(Some(page)) => {
                    bytes[at..].copy_from_slice(&page);
                    used = bytes.len();
                }
                Ok(None) => {}
                Err(_) => missing += 1,
            }
            match va.checked_add(NBPDP) {
                Some(next) => va = next,
                None => break,
            }
        }
        bytes.truncate(used);
        Ok(Self { layout, bytes, missing })
    }
}

/// The 512 PDEs for the GiB at `va`; `None` where nothing is mapped.
fn directory(
    core: &ElfCore,
    tables: &PageTables,
    va: VirtAddr,
) -> Result<Option<Vec<u8>>, DumpError> {
    let Some(pdpe) = tables.entry_at(core, va, 3)? else { return Ok(None) };
    let mut page = vec![0; PAGE as usize];
    if pdpe & PG_PS == 0 {
        core.read_phys(PhysAddr(pdpe & PG_FRAME), &mut page)?;
        return Ok(Some(page));
    }
    // minidumpsys(): "1GB page is represented as 512 2MB pages in a dump".
    for (n, pde) in (0..).zip(page.as_chunks_mut::<8>().0) {
        *pde = pdpe.wrapping_add(n * TWO_MIB).to_le_bytes();
    }
    debug_assert_ne!(pdpe & PG_V, 0);
    Ok(Some(page))
}

/// dump_avail: the PT_LOADs, where they are whole pages in order, else the
/// memory that is there.
fn ranges(core: &ElfCore, runs: &Runs) -> Vec<(u64, u64)> {
    use vmcask_dump::layout::elf::PT_LOAD;
    let loads: Option<Vec<(u64, u64)>> = core
        .phdrs()
        .iter()
        .filter(|p| p.p_type == PT_LOAD && p.p_filesz > 0)
        .map(|p| Some((p.p_paddr, p.p_paddr.checked_add(p.p_filesz.min(p.p_memsz))?)))
        .collect();
    let fits = |r: &[(u64, u64)]| {
        r.len() <= MOST_RANGES
            && r.iter().all(|(s, e)| s.is_multiple_of(PAGE) && e.is_multiple_of(PAGE) && s < e)
            && r.windows(2).all(|w| w[0].1 <= w[1].0)
    };
    if let Some(loads) = loads.filter(|l| fits(l)) {
        return loads;
    }
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for run in runs.iter() {
        match merged.last_mut() {
            Some(last) if last.1 == run.pa => last.1 += run.len,
            _ => merged.push((run.pa, run.pa + run.len)),
        }
    }
    match (merged.first(), merged.last()) {
        (Some(&(start, _)), Some(&(_, end))) if merged.len() > MOST_RANGES => vec![(start, end)],
        _ => merged,
    }
}

/// A bit for each page of the ranges; without ranges, for each page from 0.
/// Whole words, and rounded up to a page, as the kernel writes it.
fn bitmap(ranges: &[(u64, u64)], runs: &Runs, file_len: u64) -> Result<Vec<u8>> {
    let end = runs.iter().last().map_or(0, |r| r.pa + r.len);
    let identity = [(0, end)];
    let ranges = if ranges.is_empty() { &identity[..] } else { ranges };
    let bits: u64 = ranges.iter().map(|(s, e)| (e - s) / PAGE).sum();
    check_bitmap(bits, file_len)?;
    let mut bytes = vec![0u8; (bits.div_ceil(8) as usize).next_multiple_of(PAGE as usize)];
    let mut first_bit = 0;
    let mut next = 0;
    for &(start, end) in ranges {
        while let Some(run) = runs.get(next).filter(|r| r.pa < end) {
            let from = run.pa.max(start);
            let to = (run.pa + run.len).min(end);
            for bit in (from - start) / PAGE..to.saturating_sub(start) / PAGE {
                let bit = first_bit + bit;
                bytes[(bit / 8) as usize] |= 1 << (bit % 8);
            }
            if run.pa + run.len > end {
                break;
            }
            next += 1;
        }
        first_bit += (end - start) / PAGE;
    }
    Ok(bytes)
}

/// The message buffer, by the image's `msgbufp`: `struct msgbuf` begins with
/// `char *msg_ptr; u_int msg_magic; u_int msg_size;` (`sys/sys/msgbuf.h`).
fn msgbuf(core: &ElfCore, kernel: &KernelImage) -> Option<Vec<u8>> {
    let mut pointer = [0; 8];
    core.read_virt(kernel.symbol("msgbufp")?.addr, &mut pointer).ok()?;
    let mut head = [0; 16];
    core.read_virt(VirtAddr(u64::from_le_bytes(pointer)), &mut head).ok()?;
    let (ptr, rest) = head.split_first_chunk::<8>()?;
    let (magic, rest) = rest.split_first_chunk::<4>()?;
    let size = u32::from_le_bytes(*rest.first_chunk::<4>()?);
    if u32::from_le_bytes(*magic) != MSG_MAGIC || size > MAX_MSGBUF {
        return None;
    }
    let mut bytes = vec![0; size as usize];
    core.read_virt(VirtAddr(u64::from_le_bytes(*ptr)), &mut bytes).ok()?;
    Some(bytes)
}

/// Says in the spare bytes of a minidump's header page that it was made of a
/// core exactly as `dumpsys_generic` writes it, so that the way back can give
/// the same bytes: a minidump has no other place for it, and readers of
/// minidumps don't look there.
pub(super) struct Marker {
    ehdr: [u8; EHDR],
}

/// Where it stands in the header page.
const MARKER_AT: usize = 2048;
const MARKER: &[u8; 32] = b"vmcask: made of dumpsys_generic\0";
/// `sizeof(Elf64_Ehdr)`
const EHDR: usize = 64;

impl Marker {
    /// The marker for a core whose every byte follows from its segments.
    fn of(core: &ElfCore, source: &dyn ReadAt, ranges: &[(u64, u64)], runs: &Runs) -> Option<Self> {
        let segments: Vec<(u64, u64)> =
            core.phdrs().iter().map(|p| (p.p_paddr, p.p_filesz)).collect();
        let again = if ranges.is_empty() {
            runs.iter().map(|r| (r.pa, r.len)).collect()
        } else {
            lengths(ranges)
        };
        let mut ehdr = [0; EHDR];
        source.read_exact_at(0, &mut ehdr).ok()?;
        let (headers, first) = generic_headers(Shape::of(core), &segments, PAGE).ok()?;
        let mut found = vec![0; first as usize];
        source.read_exact_at(0, &mut found).ok()?;
        let same = found[EHDR..].iter().eq(headers[EHDR..]
            .iter()
            .chain(std::iter::repeat_n(&0, first as usize - headers.len())));
        let end = segments.iter().try_fold(first, |end, s| end.checked_add(s.1));
        let whole = end == Some(source.len());
        (same && whole && again == segments && page_of(core) == PAGE).then_some(Self { ehdr })
    }

    fn write(&self, page: &mut [u8]) {
        page[MARKER_AT..MARKER_AT + MARKER.len()].copy_from_slice(MARKER);
        page[MARKER_AT + MARKER.len()..][..EHDR].copy_from_slice(&self.ehdr);
    }

    /// The marker in a minidump's header page.
    pub(super) fn find(dump: &Minidump) -> Option<Self> {
        let mut bytes = [0; MARKER.len() + EHDR];
        dump.source().read_exact_at(MARKER_AT as u64, &mut bytes).ok()?;
        let ehdr = bytes.strip_prefix(MARKER)?.try_into().ok()?;
        Some(Self { ehdr })
    }

    /// The core that the minidump was made of; `None` where the minidump
    /// lacks pages that the core had.
    pub(super) fn generic_core(
        &self,
        dump: &Minidump,
        source: &Arc<dyn ReadAt>,
    ) -> Result<Option<View>> {
        let runs = Runs::of_minidump(dump)?;
        let segments = if dump.dump_avail().is_empty() {
            runs.iter().map(|r| (r.pa, r.len)).collect()
        } else {
            lengths(dump.dump_avail())
        };
        let bytes: u64 = segments.iter().map(|s| s.1).sum();
        let pages = dump.pages_present();
        if pages != dump.pages_promised()
            || bytes != pages * PAGE
            || dump.header().arch != Arch::Amd64
            || segments.len() >= usize::from(u16::MAX)
        {
            return Ok(None);
        }
        let shape = Shape {
            is_64: true,
            is_big_endian: false,
            e_machine: Arch::Amd64.e_machine(),
            osabi: 0,
            e_version: 0,
        };
        let (mut headers, first) = generic_headers(shape, &segments, PAGE)?;
        headers[..EHDR].copy_from_slice(&self.ehdr);
        let mut view = View::new();
        view.push_bytes(headers);
        view.pad_to(first);
        let id = view.add_source(source.clone());
        view.push(id, dump.parts().pages.start, bytes);
        Ok(Some(view))
    }
}

fn lengths(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    ranges.iter().map(|(s, e)| (*s, e - s)).collect()
}
