//! From any dump to an archive.

use std::io::BufWriter;
use std::sync::atomic::AtomicBool;

use vmcask_archive::{Metadata, MinidumpPages, PageMap, Plan, WriteOptions, Written};
use vmcask_dump::Minidump;

use crate::error::{Error, Result};
use crate::extents;
use crate::input::{Dump, Input};
use crate::output::OutputFile;

/// Bytes gathered before a write reaches the file.
const WRITE_BUFFER: usize = 1 << 20;

/// Extents, page map and metadata for an archive of `input`.
pub fn plan(input: &Input) -> Result<Plan> {
    let Dump::Minidump(dump) = &input.dump;
    let p = dump.parts();
    let cuts = [p.header.end, p.msgbuf.end, p.dump_avail.end, p.bitmap.end, p.pmap.end];
    let extents = extents::of(&*input.source, &cuts).map_err(|source| Error::Read {
        off: 0,
        len: 0,
        source,
    })?;
    Ok(Plan {
        extents,
        page_map: Some(PageMap::Minidump(pages(dump))),
        metadata: Metadata {
            format: Some("minidump".into()),
            arch: Some(dump.header().arch.name().into()),
            version: Some(dump.header().version),
            writer: Some(concat!("vmcask ", env!("CARGO_PKG_VERSION")).into()),
        },
    })
}

fn pages(dump: &Minidump) -> MinidumpPages {
    let index = dump.index();
    MinidumpPages {
        page_shift: dump.header().page_shift(),
        first_page: dump.parts().pages.start,
        pages: index.avail().total_pages(),
        dump_avail: dump.dump_avail().to_vec(),
        words: index.words().to_vec(),
        blocks: index.blocks().to_vec(),
        supers: index.supers().to_vec(),
    }
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
    let mut buffered = BufWriter::with_capacity(WRITE_BUFFER, out.file());
    vmcask_archive::write(&*input.source, plan, options, &mut buffered, progress, cancelled)
        .map_err(|e| match e {
            vmcask_archive::Error::Cancelled => Error::Cancelled,
            // The cause alone: which file it was, the caller says.
            vmcask_archive::Error::Write(source) => {
                Error::Write { path: out.path().to_owned(), source }
            }
            source => Error::Archive { path: input.path.clone(), source },
        })
}
