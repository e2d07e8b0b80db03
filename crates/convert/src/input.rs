//! Opening whatever the user names: format told from content, archives seen
//! through.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmcask_archive::ArchiveReader;
use vmcask_dump::detect::{self, Format};
use vmcask_dump::source::{FileSource, MapSource};
use vmcask_dump::{Minidump, ReadAt};

use crate::error::{Error, Result};

/// An open input.
pub struct Input {
    /// Where it came from.
    pub path: PathBuf,
    /// Length of the file itself, in bytes.
    pub file_len: u64,
    /// The archive, where the file is one.
    pub archive: Option<Arc<ArchiveReader>>,
    /// The dump's own bytes: the file's, or what the archive holds.
    pub source: Arc<dyn ReadAt>,
    /// What those bytes mean.
    pub dump: Dump,
}

/// A dump of any format.
pub enum Dump {
    /// A minidump.
    Minidump(Minidump),
}

impl Dump {
    /// What to call it in a sentence.
    pub fn name(&self) -> String {
        match self {
            Self::Minidump(d) => {
                format!("FreeBSD minidump, version {}, {}", d.header().version, d.header().arch)
            }
        }
    }
}

/// Opens a dump, or an archive of one.
///
/// Plain dumps are read with `pread`, so that a file cut off meanwhile is an
/// error and not a SIGBUS. Archives are mapped: they are written once and
/// renamed into place, and their index is used straight from the map.
pub fn open(path: &Path) -> Result<Input> {
    let unopened = |source| Error::Open { path: path.to_owned(), source };
    let file = FileSource::open(path).map_err(unopened)?;
    let file_len = file.len();
    let mut prefix = [0; 64];
    let n = file.read_at(0, &mut prefix).map_err(unopened)?;
    if vmcask_archive::is_archive(&prefix[..n]) {
        let map = MapSource::open(path).map_err(unopened)?;
        let archive = ArchiveReader::open(Arc::new(map))
            .map_err(|source| Error::Archive { path: path.to_owned(), source })?;
        let archive = Arc::new(archive);
        let source: Arc<dyn ReadAt> = archive.clone();
        let n = source.read_at(0, &mut prefix).map_err(unopened)?;
        let dump = dump_in(path, &source, &prefix[..n])?;
        Ok(Input { path: path.to_owned(), file_len, archive: Some(archive), source, dump })
    } else {
        let source: Arc<dyn ReadAt> = Arc::new(file);
        let dump = dump_in(path, &source, &prefix[..n])?;
        Ok(Input { path: path.to_owned(), file_len, archive: None, source, dump })
    }
}

fn dump_in(path: &Path, source: &Arc<dyn ReadAt>, prefix: &[u8]) -> Result<Dump> {
    match detect::detect(prefix) {
        Format::Minidump => Minidump::open(source.clone())
            .map(Dump::Minidump)
            .map_err(|source| Error::Dump { path: path.to_owned(), source }),
        _ if source.is_empty() => {
            Err(Error::NotADump { path: path.to_owned(), what: "empty".into() })
        }
        other => Err(Error::NotADump { path: path.to_owned(), what: other.name().into() }),
    }
}
