//! Opening a dump with a lookup and a way of reading.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vmcask_archive::ArchiveReader;
use vmcask_dump::detect::{Format, detect};
use vmcask_dump::source::{FileSource, MapSource};
use vmcask_dump::{Minidump, ReadAt};
use vmcask_rank::{AvailRanges, PageBitmap, PageLookup, Pfn};

use crate::error::{Error, Result};
use crate::lookup::Lookup;

/// How the file is read: the change of 2016 brought both a new table and
/// memory maps; here they are two variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A system call for each read.
    Pread,
    /// A memory map of the whole file.
    Mmap,
}

impl Reading {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Pread, Self::Mmap];

    /// What it is called on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pread => "pread",
            Self::Mmap => "mmap",
        }
    }
}

/// A dump that is looked up in by a table of choice.
pub struct Opened {
    /// The dump.
    pub dump: Minidump,
    /// Bytes of memory that the table takes.
    pub lookup_bytes: u64,
    count: Option<Arc<AtomicU64>>,
}

impl Opened {
    /// How many pages have been looked up, where they are counted.
    pub fn lookups(&self) -> Option<u64> {
        self.count.as_ref().map(|n| n.load(Ordering::Relaxed))
    }
}

/// A table that counts how often it is asked.
struct Counting {
    table: Box<dyn PageLookup>,
    asked: Arc<AtomicU64>,
}

impl PageLookup for Counting {
    fn find(&self, pfn: Pfn) -> Option<u64> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.table.find(pfn)
    }

    fn memory(&self) -> usize {
        self.table.memory()
    }
}

/// Opens the minidump in the file `path`, or in the archive that it is.
///
/// The table is built of the bitmap, as libkvm does when it opens a dump; an
/// archive's own index isn't used. With `count`, lookups are counted, which
/// costs time: not for what is timed.
pub fn open(path: &Path, lookup: Lookup, reading: Reading, count: bool) -> Result<Opened> {
    open_noting(path, lookup, reading, count, &|_, _| {})
}

/// [`open`]; `note` sees the bitmap before the table is built.
pub(crate) fn open_noting(
    path: &Path,
    lookup: Lookup,
    reading: Reading,
    count: bool,
    note: &dyn Fn(&PageBitmap, &AvailRanges),
) -> Result<Opened> {
    let in_file = |source| Error::File { path: path.into(), source };
    let mut source: Arc<dyn ReadAt> = match reading {
        Reading::Pread => Arc::new(FileSource::open(path).map_err(in_file)?),
        Reading::Mmap => Arc::new(MapSource::open(path).map_err(in_file)?),
    };
    let mut prefix = [0; 64];
    let n = source.read_at(0, &mut prefix).map_err(in_file)?;
    if vmcask_archive::is_archive(&prefix[..n]) {
        let archive = ArchiveReader::open(source)
            .map_err(|source| Error::Archive { path: path.into(), source })?;
        source = Arc::new(archive);
        source.read_at(0, &mut prefix).map_err(in_file)?;
    }
    match detect(&prefix) {
        Format::Minidump => {}
        packed @ (Format::Gzip | Format::Zstd | Format::Bzip2) => {
            return Err(Error::OnlyForward { path: path.into(), what: packed.name() });
        }
        _ => return Err(Error::NoBitmap { path: path.into() }),
    }

    let asked = count.then(Arc::<AtomicU64>::default);
    let bytes = AtomicU64::new(0);
    let page_shift = page_shift(&*source, path)?;
    let build = |bitmap: PageBitmap, avail: AvailRanges| {
        note(&bitmap, &avail);
        let table = lookup
            .build(bitmap, avail, page_shift)
            .map_err(|e| vmcask_dump::Error::Unsupported(e.to_string()))?;
        bytes.store(table.memory() as u64, Ordering::Relaxed);
        Ok(match &asked {
            Some(asked) => Box::new(Counting { table, asked: asked.clone() }),
            None => table,
        })
    };
    let dump = Minidump::open_with_lookup(source, &build)
        .map_err(|source| Error::Dump { path: path.into(), source })?;
    Ok(Opened { dump, lookup_bytes: bytes.into_inner(), count: asked })
}

fn page_shift(source: &dyn ReadAt, path: &Path) -> Result<u32> {
    let mut prefix = [0; vmcask_dump::minidump::header::MAX_HEADER_LEN];
    let n = source
        .read_at(0, &mut prefix)
        .map_err(|source| Error::File { path: path.into(), source })?;
    let header = vmcask_dump::minidump::Header::parse(&prefix[..n])
        .map_err(|source| Error::Dump { path: path.into(), source })?;
    Ok(header.page_shift())
}
