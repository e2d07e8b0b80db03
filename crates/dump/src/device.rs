//! Raw dump devices and their images: the kernel dump header in the last
//! block, and the dump before it.
//!
//! From the end: trailing header, dump, key (where encrypted), leading
//! header, each at a multiple of the block size. Text dumps lie backwards:
//! their blocks of 512 bytes grow from the trailing header downwards.
//! Sources: `sys/kern/kern_shutdown.c`, `sys/ddb/db_textdump.c`,
//! `sbin/savecore/savecore.c`.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use zerocopy::FromBytes;

use crate::error::{Error, Result, Warning};
use crate::layout::kerneldump as wire;
use crate::source::{ReadAt, SubSource};

/// Sector sizes that dump devices have; the header is at the start of the
/// last sector.
const SECTOR_SIZES: [u64; 4] = [512, 4096, 2048, 8192];

/// Blocks that a text dump is written in.
const TEXT_BLOCK: u64 = 512;
/// A text dump larger than this is none: its blocks fit into a debugger's
/// capture buffer.
const MAX_TEXT: u64 = 256 << 20;

/// What a dump device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A kernel dump.
    Kernel,
    /// A text dump: a tar archive of debugger output.
    Text,
}

/// How the dump on the device is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip
    Gzip,
    /// zstd
    Zstd,
}

/// The header of a dump device, any version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceHeader {
    /// What it holds.
    pub kind: Kind,
    /// savecore has saved it and cleared the magic.
    pub cleared: bool,
    /// Header version, 1 to 4.
    pub version: u32,
    /// `MACHINE` of the kernel.
    pub architecture: String,
    /// Version of the dump's own format, by the architecture.
    pub architectureversion: u32,
    /// Bytes of dump, after compression.
    pub dumplength: u64,
    /// Bytes that the dump takes on the device.
    pub dumpextent: u64,
    /// Seconds since 1970.
    pub dumptime: u64,
    /// Bytes of the encryption key; 0 where the dump is not encrypted.
    pub dumpkeysize: u32,
    /// Bytes of a block.
    pub blocksize: u32,
    /// Host name.
    pub hostname: String,
    /// Kernel version.
    pub versionstring: String,
    /// Panic message.
    pub panicstring: String,
    /// Compression.
    pub compression: Compression,
}

/// A dump device, open.
pub struct Device {
    header: DeviceHeader,
    dump: Range<u64>,
    src: Arc<dyn ReadAt>,
    warnings: Vec<Warning>,
}

/// Whether `bytes` begin with the magic of a kernel dump header.
pub fn has_magic(bytes: &[u8]) -> bool {
    kind(bytes).is_some()
}

fn kind(bytes: &[u8]) -> Option<(Kind, bool)> {
    let is = |magic: &[u8]| bytes.starts_with(magic) && bytes.get(magic.len()) == Some(&0);
    if is(wire::KERNELDUMPMAGIC) {
        Some((Kind::Kernel, false))
    } else if is(wire::TEXTDUMPMAGIC) {
        Some((Kind::Text, false))
    } else if is(wire::KERNELDUMPMAGIC_CLEARED) {
        Some((Kind::Kernel, true))
    } else {
        None
    }
}

impl Device {
    /// Looks for a header in the last sector of `src`; `None` where there is
    /// none.
    pub fn find(src: &Arc<dyn ReadAt>) -> Result<Option<Self>> {
        let len = src.len();
        for sector in SECTOR_SIZES {
            let Some(at) = len.checked_sub(sector) else { continue };
            let mut bytes = [0; wire::HEADER_LEN];
            src.read_exact_at(at, &mut bytes).map_err(|source| Error::Io {
                off: at,
                len: bytes.len(),
                source,
            })?;
            if has_magic(&bytes) {
                return Self::at(src, at, sector, &bytes).map(Some);
            }
        }
        Ok(None)
    }

    fn at(
        src: &Arc<dyn ReadAt>,
        at: u64,
        sector: u64,
        bytes: &[u8; wire::HEADER_LEN],
    ) -> Result<Self> {
        let header = DeviceHeader::parse(bytes, at)?;
        let field = |field, found: u64, expected: &str| Error::Field {
            off: at,
            field,
            found: found.to_string(),
            expected: expected.into(),
        };
        if header.dumplength > header.dumpextent {
            return Err(field("dumplength", header.dumplength, "at most dumpextent"));
        }
        let mut warnings = Vec::new();
        let start = if header.kind == Kind::Text {
            at.checked_sub(header.dumplength)
        } else {
            at.checked_sub(header.dumpextent)
        };
        let start = start
            .ok_or_else(|| field("dumpextent", header.dumpextent, "less than the device has"))?;
        if header.kind == Kind::Text {
            if header.dumplength > MAX_TEXT || !header.dumplength.is_multiple_of(TEXT_BLOCK) {
                return Err(field(
                    "dumplength",
                    header.dumplength,
                    "whole blocks, at most 256 MiB",
                ));
            }
        } else {
            // The two headers are the same as long as nothing (a swap
            // partition in use again) has overwritten the dump.
            let mut leading = [0; wire::HEADER_LEN];
            let first = start.checked_sub(sector + u64::from(header.dumpkeysize));
            let same = first.is_some_and(|first| {
                src.read_exact_at(first, &mut leading).is_ok() && leading[20..] == bytes[20..]
            });
            if !same {
                warnings.push(Warning::LeadingHeader);
            }
        }
        if header.cleared {
            warnings.push(Warning::Cleared);
        }
        let dump = start..start + header.dumplength;
        Ok(Self { header, dump, src: src.clone(), warnings })
    }

    /// The header.
    pub fn header(&self) -> &DeviceHeader {
        &self.header
    }

    /// What is odd, though the dump can be read.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Where the dump lies on the device.
    pub fn dump_range(&self) -> Range<u64> {
        self.dump.clone()
    }

    /// The dump, as it is on the device: compressed or not. Refuses what is
    /// encrypted.
    pub fn dump(&self) -> Result<Arc<dyn ReadAt>> {
        if self.header.dumpkeysize > 0 {
            return Err(Error::Encrypted);
        }
        Ok(match self.header.kind {
            Kind::Kernel => Arc::new(SubSource::new(self.src.clone(), self.dump.clone())),
            Kind::Text => Arc::new(self.text()?),
        })
    }

    /// A text dump's blocks in their right order: a tar archive.
    fn text(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; (self.dump.end - self.dump.start) as usize];
        self.src.read_exact_at(self.dump.start, &mut bytes).map_err(|source| Error::Io {
            off: self.dump.start,
            len: bytes.len(),
            source,
        })?;
        let blocks = bytes.rchunks_exact(TEXT_BLOCK as usize);
        Ok(blocks.flatten().copied().collect())
    }
}

impl DeviceHeader {
    /// Parses and checks a header that lies at `off`.
    pub fn parse(bytes: &[u8; wire::HEADER_LEN], off: u64) -> Result<Self> {
        let field = |at: u64, field, found: String, expected: &str| Error::Field {
            off: off + at,
            field,
            found,
            expected: expected.into(),
        };
        let (kind, cleared) = kind(bytes).ok_or_else(|| {
            field(0, "magic", bytes[..20].escape_ascii().to_string(), "a kernel dump's")
        })?;
        // Before the version: a damaged version must not hide the damage.
        let parity = bytes.as_chunks::<4>().0.iter().fold(0, |x, w| x ^ u32::from_ne_bytes(*w));
        // Clearing the magic doesn't mend the parity: savecore -f reads it.
        if parity != 0 && !cleared {
            return Err(field(508, "parity", format!("off by {parity:#x}"), "0: it is damaged"));
        }
        macro_rules! header {
            ($ty:ty, |$h:ident| $dumpextent:expr, $dumpkeysize:expr, $compression:expr) => {{
                let $h = <$ty>::read_from_bytes(bytes).map_err(|_| Error::TooShort {
                    part: "kernel dump header",
                    end: off + wire::HEADER_LEN as u64,
                    len: off + bytes.len() as u64,
                })?;
                Self {
                    kind,
                    cleared,
                    version: $h.version.get(),
                    architecture: text(&$h.architecture),
                    architectureversion: $h.architectureversion.get(),
                    dumplength: $h.dumplength.get(),
                    dumpextent: $dumpextent,
                    dumptime: $h.dumptime.get(),
                    dumpkeysize: $dumpkeysize,
                    blocksize: $h.blocksize.get(),
                    hostname: text(&$h.hostname),
                    versionstring: text(&$h.versionstring),
                    panicstring: text(&$h.panicstring),
                    compression: compression($compression).ok_or_else(|| {
                        field(0, "compression", $compression.to_string(), "0, 1 (gzip) or 2 (zstd)")
                    })?,
                }
            }};
        }
        let version = u32::from_be_bytes([bytes[32], bytes[33], bytes[34], bytes[35]]);
        Ok(match version {
            1 => header!(wire::KernelDumpHeaderV1, |h| h.dumplength.get(), 0, 0),
            2 => {
                header!(wire::KernelDumpHeaderV2, |h| h.dumplength.get(), h.dumpkeysize.get(), 0)
            }
            3 => header!(
                wire::KernelDumpHeaderV3,
                |h| h.dumpextent.get(),
                h.dumpkeysize.get(),
                h.compression
            ),
            4 => header!(
                wire::KernelDumpHeaderV4,
                |h| h.dumpextent.get(),
                h.dumpkeysize.get(),
                h.compression
            ),
            n => return Err(field(32, "version", n.to_string(), "1 to 4")),
        })
    }
}

fn compression(n: u8) -> Option<Compression> {
    Some(match n {
        wire::KERNELDUMP_COMP_NONE => Compression::None,
        wire::KERNELDUMP_COMP_GZIP => Compression::Gzip,
        wire::KERNELDUMP_COMP_ZSTD => Compression::Zstd,
        _ => return None,
    })
}

/// A NUL-padded string, without its trailing newline.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned()
}

/// A name and a length: a file in a text dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFile {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// Whether `bytes`, the first of a file, are those of a tar archive: a saved
/// text dump (`textdump.tar.N`).
pub fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

/// The files of a text dump.
pub fn text_files(dump: &Arc<dyn ReadAt>) -> io::Result<Vec<TextFile>> {
    /// More than a text dump has by far (config, ddb, msgbuf, panic, version).
    const MOST: usize = 1000;
    let mut archive = tar::Archive::new(Cursor { src: dump.clone(), at: 0 });
    // Raw: long names are entries of their own, whatever length they claim,
    // and are not read. With seeks, nor is what the files hold.
    archive
        .entries_with_seek()?
        .raw(true)
        .take(MOST)
        .map(|entry| {
            let entry = entry?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            Ok(TextFile { name, size: entry.size() })
        })
        .collect()
}

/// Sequential reads of a source.
pub struct Cursor {
    src: Arc<dyn ReadAt>,
    at: u64,
}

impl Cursor {
    /// From its first byte on.
    pub fn new(src: Arc<dyn ReadAt>) -> Self {
        Self { src, at: 0 }
    }
}

impl io::Seek for Cursor {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let at = match to {
            io::SeekFrom::Start(at) => Some(at),
            io::SeekFrom::End(by) => self.src.len().checked_add_signed(by),
            io::SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl io::Read for Cursor {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.src.read_at(self.at, buf)?;
        self.at += n as u64;
        Ok(n)
    }
}
