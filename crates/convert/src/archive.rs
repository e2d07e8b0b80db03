//! From any dump to an archive.

use std::io::{self, BufWriter};
use std::sync::atomic::AtomicBool;

use vmcask_archive::{Metadata, MinidumpPages, PageMap, Plan, PtLoad, WriteOptions, Written};
use vmcask_dump::{ElfCore, Minidump};

use crate::behind::InOrder;
use crate::error::{Error, Result};
use crate::extents;
use crate::input::{Dump, Input};
use crate::output::OutputFile;

/// Bytes gathered before a write reaches the file.
const WRITE_BUFFER: usize = 1 << 20;

/// Extents, page map and metadata for an archive of `input`.
pub fn plan(input: &Input) -> Result<Plan> {
    let (cuts, page_map, format, arch, version) = match &input.dump {
        Dump::Minidump(d) => {
            let p = d.parts();
            let cuts = vec![p.header.end, p.msgbuf.end, p.dump_avail.end, p.bitmap.end, p.pmap.end];
            let arch = d.header().arch.name().into();
            (cuts, PageMap::Minidump(pages(d)?), "minidump", arch, Some(d.header().version))
        }
        Dump::Elf(c) => {
            (page_cuts(c), PageMap::Segments(segments(c)), "elf", c.ident().machine(), None)
        }
    };
    let extents = extents::of(&*input.source, &cuts).map_err(|source| Error::Read {
        off: 0,
        len: 0,
        source,
    })?;
    input.check_source()?;
    Ok(Plan {
        extents,
        open_end: input.stream.is_some(),
        page_map: Some(page_map),
        metadata: Metadata {
            format: Some(format.into()),
            arch: Some(arch),
            version,
            writer: Some(concat!("vmcask ", env!("CARGO_PKG_VERSION")).into()),
        },
    })
}

/// Where memory pages begin in a core's file, wherever that isn't a whole
/// number of cells behind the page before: hypervisors and other dumpers
/// don't align their segments.
fn page_cuts(core: &ElfCore) -> Vec<u64> {
    const CELL: u64 = vmcask_archive::CELL_SIZE as u64;
    let mut starts: Vec<u64> =
        core.phys_runs().map(|(pa, off, _)| off.0 + (CELL - pa.0 % CELL) % CELL).collect();
    starts.sort_unstable();
    let mut cuts: Vec<u64> = Vec::new();
    for start in starts {
        let last = cuts.last().copied().unwrap_or(0);
        if !(start - last).is_multiple_of(CELL) {
            cuts.push(start);
        }
    }
    cuts
}

fn segments(core: &ElfCore) -> Vec<PtLoad> {
    let loads = core.phdrs().iter().filter(|p| p.p_type == vmcask_dump::layout::elf::PT_LOAD);
    loads
        .map(|p| PtLoad {
            p_paddr: p.p_paddr,
            p_vaddr: p.p_vaddr,
            p_offset: p.p_offset,
            p_filesz: p.p_filesz,
            p_memsz: p.p_memsz,
        })
        .collect()
}

fn pages(dump: &Minidump) -> Result<MinidumpPages> {
    let index = dump.index().map_err(Error::Bitmap)?;
    Ok(MinidumpPages {
        page_shift: dump.header().page_shift(),
        first_page: dump.parts().pages.start,
        pages: index.avail().total_pages(),
        dump_avail: dump.dump_avail().to_vec(),
        words: index.words().to_vec(),
        blocks: index.blocks().to_vec(),
        supers: index.supers().to_vec(),
    })
}

/// Writes an archive of `input` to `out`. `progress` is told the bytes of
/// `plan`'s extents done so far.
pub fn write(
    input: &Input,
    plan: &Plan,
    options: &WriteOptions,
    out: &OutputFile,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<Written> {
    let mut buffered = BufWriter::with_capacity(WRITE_BUFFER, InOrder::new(out.file()));
    write_to(input, plan, options, &mut buffered, progress, cancelled).map_err(|e| match e {
        Error::Pipe(source) => Error::Write { path: out.path().to_owned(), source },
        e => e,
    })
}

/// [`write`], to anything that takes bytes in order; failing there is
/// [`Error::Pipe`].
pub fn write_to(
    input: &Input,
    plan: &Plan,
    options: &WriteOptions,
    out: &mut dyn io::Write,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<Written> {
    vmcask_archive::write(&*input.source, plan, options, out, progress, cancelled).map_err(|e| {
        match e {
            vmcask_archive::Error::Cancelled => Error::Cancelled,
            // The cause alone: which file it was, the caller says.
            vmcask_archive::Error::Write(source) => Error::Pipe(source),
            source => Error::Archive { path: input.path.clone(), source },
        }
    })
}
