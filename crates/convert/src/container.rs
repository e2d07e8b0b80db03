//! Compressed dumps and pipes: bytes that come in order, once.

use std::fs::File;
use std::io::{self, BufReader, Read};

use vmcask_dump::detect::{self, Format};

/// What wraps a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// Nothing: a pipe.
    None,
    /// gzip, as savecore -z and the kernel's gzip dumps.
    Gzip,
    /// zstd, as savecore -Z and the kernel's zstd dumps.
    Zstd,
    /// bzip2.
    Bzip2,
}

impl Container {
    /// By the first bytes of a file.
    pub fn detect(prefix: &[u8]) -> Self {
        match detect::detect(prefix) {
            Format::Gzip => Self::Gzip,
            Format::Zstd => Self::Zstd,
            Format::Bzip2 => Self::Bzip2,
            _ => Self::None,
        }
    }

    /// What to call it in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "a pipe",
            Self::Gzip => "gzip data",
            Self::Zstd => "zstd data",
            Self::Bzip2 => "bzip2 data",
        }
    }

    /// The reader of what is inside. Where its data end too early, it fails
    /// with [`io::ErrorKind::UnexpectedEof`], again and again, after all that
    /// could be unpacked. Memory: zstd's window is limited to 128 MiB, as in
    /// zstd itself.
    pub fn reader(self, inner: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        let reader: Box<dyn Read + Send> = match self {
            Self::None => return Ok(inner),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(inner)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(inner)?),
            Self::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(inner)),
        };
        Ok(Box::new(Unpacked { reader, cut: false }))
    }
}

/// A decompressor. Each says in words of its own that its input is cut, and
/// what it does when it is asked once more is its own affair, too.
struct Unpacked {
    reader: Box<dyn Read + Send>,
    cut: bool,
}

impl Read for Unpacked {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends too early");
        if self.cut {
            return Err(cut());
        }
        self.reader.read(buf).map_err(|e| {
            self.cut = e.kind() == io::ErrorKind::UnexpectedEof;
            if self.cut { cut() } else { e }
        })
    }
}

/// Bytes that tell containers and dumps apart.
pub(crate) const PREFIX_LEN: usize = 512;

/// Bytes asked of the system at a time.
const BUFFER: usize = 256 << 10;

/// Reads the first bytes of a stream and gives them back with it.
pub(crate) fn peek(
    mut reader: Box<dyn Read + Send>,
) -> io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut prefix = Vec::new();
    reader.by_ref().take(PREFIX_LEN as u64).read_to_end(&mut prefix)?;
    let again = io::Cursor::new(prefix.clone()).chain(reader);
    Ok((prefix, Box::new(again)))
}

/// A pipe as a stream.
pub(crate) fn buffered(pipe: File) -> Box<dyn Read + Send> {
    Box::new(BufReader::with_capacity(BUFFER, pipe))
}
