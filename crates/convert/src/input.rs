//! Opening whatever the user names: format told from content; archives, dump
//! devices and compressed dumps seen through.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vmcask_archive::ArchiveReader;
use vmcask_dump::detect::{self, Format};
use vmcask_dump::device::{self, Device, DeviceHeader};
use vmcask_dump::source::FileSource;
use vmcask_dump::{ElfCore, KernelImage, Minidump, PhysMem, ReadAt, VirtMem, Warning};

use crate::container::{self, Container};
use crate::error::{Error, Result, TextDump};
use crate::stream::StreamSource;
use crate::watched::Watched;

/// An open input.
pub struct Input {
    /// Where it came from.
    pub path: PathBuf,
    /// Length of the file itself, in bytes; of a stream, as far as its dump
    /// says.
    pub file_len: u64,
    /// The archive, where the file is one.
    pub archive: Option<Arc<ArchiveReader>>,
    /// The header of the dump device, where it is one.
    pub device: Option<DeviceHeader>,
    /// What is odd about the device.
    pub device_warnings: Vec<Warning>,
    /// The stream, where the dump comes out of a pipe or a decompressor.
    pub stream: Option<Arc<StreamSource>>,
    /// What the stream is wrapped in.
    pub container: Container,
    /// The dump's own bytes: the file's, or what the archive holds.
    pub source: Arc<dyn ReadAt>,
    /// What those bytes mean.
    pub dump: Dump,
    /// The file itself; of a pipe nothing.
    file: Option<Arc<Watched>>,
}

/// A dump of any format.
pub enum Dump {
    /// A minidump.
    Minidump(Box<Minidump>),
    /// An ELF core.
    Elf(Box<ElfCore>),
}

impl From<Minidump> for Dump {
    fn from(dump: Minidump) -> Self {
        Self::Minidump(Box::new(dump))
    }
}

impl From<ElfCore> for Dump {
    fn from(core: ElfCore) -> Self {
        Self::Elf(Box::new(core))
    }
}

impl Dump {
    /// What to call it in a sentence.
    pub fn name(&self) -> String {
        match self {
            Self::Minidump(d) => {
                format!("FreeBSD minidump, version {}, {}", d.header().version, d.header().arch)
            }
            Self::Elf(c) => {
                let bits = if c.ident().is_64 { 64 } else { 32 };
                format!("ELF core, {bits}-bit, {}", c.ident().machine())
            }
        }
    }

    /// Its physical memory.
    pub fn phys(&self) -> &dyn PhysMem {
        match self {
            Self::Minidump(d) => &**d,
            Self::Elf(c) => &**c,
        }
    }

    /// Its kernel's memory.
    pub fn virt(&self) -> &dyn VirtMem {
        match self {
            Self::Minidump(d) => &**d,
            Self::Elf(c) => &**c,
        }
    }

    /// What is odd about it.
    pub fn warnings(&self) -> &[Warning] {
        match self {
            Self::Minidump(d) => d.warnings(),
            Self::Elf(c) => c.warnings(),
        }
    }

    /// Tells an ELF core where the kernel's page tables are.
    pub fn use_kernel(&mut self, kernel: &KernelImage) -> vmcask_dump::Result<()> {
        match self {
            Self::Minidump(_) => Ok(()),
            // Cores that give kernel addresses themselves can do without.
            Self::Elf(c) if c.has_virtual() => {
                let _ = c.use_kernel(kernel);
                Ok(())
            }
            Self::Elf(c) => c.use_kernel(kernel),
        }
    }
}

/// Opens a dump, an archive of one, or a dump device, for reading anywhere in
/// it. Compressed dumps and pipes can't be: the error says what to do.
///
/// Files are read with `pread`, so that one cut off meanwhile is an error, and
/// not the death by SIGBUS that a map would bring.
pub fn open(path: &Path) -> Result<Input> {
    seekable(open_streams_too(path)?)
}

/// `input`, unless it is a stream: [`Error::OnlyForward`] then.
pub fn seekable(input: Input) -> Result<Input> {
    match input.stream {
        Some(_) => {
            Err(Error::OnlyForward { what: input.container.name().into(), path: input.path })
        }
        None => Ok(input),
    }
}

/// [`open`], but compressed dumps and pipes are opened too: as far as their
/// header and, after that, once from front to back.
pub fn open_streams_too(path: &Path) -> Result<Input> {
    let unopened = |source| Error::Open { path: path.to_owned(), source };
    let file = if path == Path::new("-") {
        File::from(io::stdin().as_fd().try_clone_to_owned().map_err(unopened)?)
    } else {
        File::open(path).map_err(unopened)?
    };
    let meta = file.metadata().map_err(unopened)?;
    if meta.is_dir() {
        return Err(unopened(io::Error::new(io::ErrorKind::IsADirectory, "is a directory")));
    }
    settle(&file);
    match FileSource::new_if_seekable(file).map_err(unopened)? {
        Ok(file) => Input::of_source(path, Arc::new(file)),
        Err(pipe) => stream(path, container::buffered(pipe), None, None),
    }
}

/// File systems count time in steps, up to 10 ms on Linux. A write in the step
/// in which a file was opened would not show in its time; waiting until that
/// step is over makes [`Input::check_unchanged`] see all that come later.
const STEP: Duration = Duration::from_millis(20);

/// Waits where the file was written just now. A file that is being written all
/// the time is opened all the same: it will show.
fn settle(file: &File) {
    for _ in 0..3 {
        let age = file.metadata().and_then(|m| m.modified()).map(|time| time.elapsed());
        match age {
            Ok(Ok(age)) if age < STEP => std::thread::sleep(STEP),
            _ => return,
        }
    }
}

impl Input {
    /// Opens what `file` holds: a dump, an archive, a dump device, or any of
    /// them compressed. `path` is for messages.
    pub fn of_source(path: &Path, file: Arc<dyn ReadAt>) -> Result<Self> {
        let file = Arc::new(Watched::new(file));
        // What looks like no dump, or a damaged one, may just not have been
        // read.
        Self::of_watched(path, &file).map_err(|e| file.failure().map_or(e, |f| unread(path, f)))
    }

    fn of_watched(path: &Path, watched: &Arc<Watched>) -> Result<Self> {
        let unopened = |source| Error::Open { path: path.to_owned(), source };
        let wrong = |source| Error::Dump { path: path.to_owned(), source };
        let file: Arc<dyn ReadAt> = watched.clone();
        let begins = |source: &dyn ReadAt| {
            let mut prefix = vec![0; container::PREFIX_LEN];
            let n = source.read_at(0, &mut prefix).map_err(unopened)?;
            prefix.truncate(n);
            Ok(prefix)
        };
        let prefix = begins(&*file)?;
        let plain = |source, archive, device| {
            Self::plain(path.to_owned(), watched.clone(), source, archive, device)
        };
        if vmcask_archive::is_archive(&prefix) {
            let archive = ArchiveReader::open(file.clone())
                .map_err(|source| Error::Archive { path: path.to_owned(), source })?;
            let archive = Arc::new(archive);
            return plain(archive.clone(), Some(archive), None);
        }
        if Container::detect(&prefix) != Container::None {
            let cursor = Box::new(device::Cursor::new(file));
            return stream(path, cursor, None, Some(watched.clone()));
        }
        if matches!(detect::detect(&prefix), Format::Minidump | Format::Elf) {
            return plain(file.clone(), None, None);
        }
        let Some(device) = Device::find(&file).map_err(wrong)? else {
            return plain(file.clone(), None, None);
        };
        let dump = device.dump().map_err(wrong)?;
        if Container::detect(&begins(&*dump)?) != Container::None {
            let cursor = Box::new(device::Cursor::new(dump));
            return stream(path, cursor, Some(&device), Some(watched.clone()));
        }
        plain(dump, None, Some(&device))
    }

    fn plain(
        path: PathBuf,
        file: Arc<Watched>,
        source: Arc<dyn ReadAt>,
        archive: Option<Arc<ArchiveReader>>,
        device: Option<&Device>,
    ) -> Result<Self> {
        let dump = dump_in(&path, &source, device, archive.as_ref())?;
        Ok(Self {
            path,
            file_len: file.len(),
            archive,
            device: device.map(|d| d.header().clone()),
            device_warnings: device.map_or_else(Vec::new, |d| d.warnings().to_vec()),
            stream: None,
            container: Container::None,
            source,
            dump,
            file: Some(file),
        })
    }

    /// Fails with [`Error::Changed`] where the file was written to since it
    /// was opened: what was read may be partly old and partly new. Whoever has
    /// read all they want, and is about to say so, asks this first.
    ///
    /// Archives and compressed dumps tell damaged bytes from right ones by
    /// their checksums; other files have nothing but this.
    pub fn check_unchanged(&self) -> Result<()> {
        self.file
            .as_ref()
            .map_or(Ok(()), ReadAt::check_unchanged)
            .map_err(|source| Error::Changed { path: self.path.clone(), source })
    }

    /// [`Self::check_unchanged`], and fails where a read
    /// of the file failed at any time: parts that a dump may have or not, and
    /// that were looked for in vain, may be there after all.
    pub fn check_source(&self) -> Result<()> {
        self.check_unchanged()?;
        match self.file.as_ref().and_then(|file| file.failure()) {
            Some(failure) => Err(unread(&self.path, failure)),
            None => Ok(()),
        }
    }

    /// The loss of a compressed dump whose file, as far as it was read, ended
    /// too early; of all others, none.
    pub fn cut_short(&self) -> Vec<String> {
        if !self.stream.as_ref().is_some_and(|s| s.is_cut()) {
            return Vec::new();
        }
        let (path, what) = (self.path.display(), self.container.name());
        vec![format!("{path}: its {what} end too early; what was behind is missing")]
    }

    /// What is odd about it, though it can be read.
    pub fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.device_warnings.iter().chain(self.dump.warnings())
    }
}

fn unread(path: &Path, (off, len, source): (u64, usize, io::Error)) -> Error {
    Error::Dump { path: path.to_owned(), source: vmcask_dump::Error::Io { off, len, source } }
}

/// What stands before the first page of a dump in a stream is kept in memory;
/// dumps where that is longer are refused.
const MAX_HEAD: u64 = 256 << 20;

/// Opens a dump that comes out of `reader`, unwrapping what it is wrapped in.
fn stream(
    path: &Path,
    reader: Box<dyn Read + Send>,
    device: Option<&Device>,
    file: Option<Arc<Watched>>,
) -> Result<Input> {
    let unread = |source| Error::Open { path: path.to_owned(), source };
    let not = |what: &str| Error::NotADump { path: path.to_owned(), what: what.into() };
    let (prefix, reader) = container::peek(reader).map_err(unread)?;
    if vmcask_archive::is_archive(&prefix) {
        return Err(Error::OnlyForward {
            path: path.to_owned(),
            what: "an archive in a pipe".into(),
        });
    }
    let container = Container::detect(&prefix);
    let unread = |source| match container {
        Container::None => unread(source),
        c => Error::Container { path: path.to_owned(), what: c.name(), source },
    };
    let reader = container.reader(reader).map_err(unread)?;
    let (prefix, mut reader) = container::peek(reader).map_err(unread)?;
    let unwrapped = |what: &str| match container {
        Container::None => not(what),
        c => not(&format!("{}; unpacked it is {what}", c.name())),
    };
    let wrong = |source| Error::Dump { path: path.to_owned(), source };
    // Read on as far as the headers say that headers go.
    let mut head_of = |len: u64| -> Result<(Arc<Vec<u8>>, io::Result<()>)> {
        if len > MAX_HEAD {
            return Err(Error::Unsupported(format!(
                "{len} bytes stand before the dump's first page; unpack it to a file first"
            )));
        }
        let mut head = Vec::new();
        match reader.by_ref().take(len).read_to_end(&mut head) {
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => Err(unread(e)),
            read => Ok((Arc::new(head), read.map(drop))),
        }
    };
    let (head, expected) = match detect::detect(&prefix) {
        Format::Minidump => {
            let header = vmcask_dump::minidump::Header::parse(&prefix).map_err(wrong)?;
            let (head, read) = head_of(vmcask_dump::minidump::Parts::of(&header).pages.start)?;
            read.map_err(unread)?;
            let end = Minidump::open(head.clone()).map_err(wrong)?.parts().pages.end;
            (head, end)
        }
        Format::Elf => {
            // Where it ends too early behind the headers, the stream says so again
            // when it is read on.
            let (head, read) = head_of(PHDRS_AT_MOST)?;
            let core = ElfCore::open(head.clone()).map_err(|e| match (e, read) {
                (vmcask_dump::Error::TooShort { .. }, Err(cut)) => unread(cut),
                (e, _) => wrong(e),
            })?;
            let end = |p: &vmcask_dump::elf::Phdr| p.p_offset.saturating_add(p.p_filesz);
            let end = core.phdrs().iter().map(end).max().unwrap_or(0).max(head.len());
            (head, end)
        }
        _ if prefix.is_empty() => return Err(unwrapped("empty")),
        Format::Unknown if container == Container::None => {
            return Err(not("of no format that is read from a pipe"));
        }
        other => return Err(unwrapped(other.name())),
    };
    let stream = Arc::new(StreamSource::new(head, reader, expected));
    let source: Arc<dyn ReadAt> = stream.clone();
    let dump = dump_in(path, &source, device, None)?;
    Ok(Input {
        path: path.to_owned(),
        file_len: file.as_ref().map_or(0, ReadAt::len),
        archive: None,
        device: device.map(|d| d.header().clone()),
        device_warnings: device.map_or_else(Vec::new, |d| d.warnings().to_vec()),
        stream: Some(stream),
        container,
        source,
        dump,
        file,
    })
}

/// Program headers of a core in a stream must be in its first bytes; where
/// section 0 has their number, it is behind the data and the core can't be
/// read from a stream.
const PHDRS_AT_MOST: u64 = 16 << 20;

fn dump_in(
    path: &Path,
    source: &Arc<dyn ReadAt>,
    device: Option<&Device>,
    archive: Option<&Arc<ArchiveReader>>,
) -> Result<Dump> {
    let mut prefix = [0; container::PREFIX_LEN];
    let n = source
        .read_at(0, &mut prefix)
        .map_err(|source| Error::Open { path: path.to_owned(), source })?;
    let prefix = &prefix[..n];
    let wrong = |source| Error::Dump { path: path.to_owned(), source };
    let not = |what: String| Err(Error::NotADump { path: path.to_owned(), what });
    match detect::detect(prefix) {
        Format::Minidump => {
            let map = archive.map_or(Ok(None), ArchiveReader::minidump_pages);
            let map = map.map_err(|source| Error::Archive { path: path.to_owned(), source })?;
            let dump = match map {
                Some(map) => Minidump::open_mapped(source.clone(), map),
                None => Minidump::open(source.clone()),
            };
            dump.map(Dump::from).map_err(wrong)
        }
        Format::Elf => ElfCore::open(source.clone()).map(Dump::from).map_err(wrong),
        _ if source.is_empty() => not("empty".into()),
        _ if device::is_tar(prefix) => {
            let files = device::text_files(source)
                .map_err(|source| Error::Open { path: path.to_owned(), source })?;
            let device = device.map(|d| d.header().clone());
            Err(Error::TextDump(Box::new(TextDump { path: path.to_owned(), device, files })))
        }
        other => not(other.name().into()),
    }
}
