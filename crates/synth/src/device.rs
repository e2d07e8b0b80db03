//! A dump device as the kernel leaves it: `struct kerneldumpheader`
//! (`sys/sys/kerneldump.h`) twice, the dump in between, all at the device's
//! end (`dump_start`, `dump_finish` in `sys/kern/kern_shutdown.c`).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::arch::Fields;
use crate::defect::Defect;
use crate::dump::SynthDump;
use crate::error::Error;
use crate::msgbuf;
use crate::spec::bad;
use crate::write::WriteOptions;

/// How the kernel compressed the dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// As one gzip stream.
    Gzip,
    /// As one zstd frame.
    Zstd,
}

/// A dump device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// `KERNELDUMPVERSION`: 1 to FreeBSD 11; 2 with encryption; 3 with
    /// compression; 4 since FreeBSD 12.
    pub header_version: u32,
    /// From header version 3 on.
    pub compression: Compression,
}

impl Default for DeviceSpec {
    fn default() -> Self {
        Self { header_version: 4, compression: Compression::None }
    }
}

/// Bytes of a header and of a device's block.
const BLOCK: u64 = 512;
/// `SIZEOF_METADATA`: what a dump never touches.
const METADATA: u64 = 64 << 10;
/// Devices are larger than what is dumped to them.
const SPARE: u64 = 1 << 20;
/// Bytes compressed at a time.
const CHUNK: usize = 1 << 20;
const ZSTD_LEVEL: i32 = 3;

impl SynthDump {
    /// Writes a dump device to `file`, which must be empty. Compression takes
    /// one thread.
    pub fn write_device(
        &self,
        file: &File,
        device: DeviceSpec,
        options: WriteOptions,
        progress: &(dyn Fn(u64) + Sync),
        cancelled: &AtomicBool,
    ) -> Result<(), Error> {
        if !(1..=4).contains(&device.header_version) {
            return bad("header version", device.header_version, "1 to 4");
        }
        if device.compression != Compression::None && device.header_version < 3 {
            return bad("header version", device.header_version, "3 or 4 with compression");
        }
        let extent = self.len();
        let media = (METADATA + BLOCK + extent + BLOCK + SPARE).next_multiple_of(SPARE);
        let first = media - BLOCK - extent;
        file.set_len(media).map_err(|source| Error::Resize { len: media, source })?;
        let length = if device.compression == Compression::None {
            self.write_at(file, first, options, progress, cancelled)?;
            extent
        } else {
            self.compress(file, first, device.compression, progress, cancelled)?
        };
        let header = self.header(device, length, extent);
        for (off, leading) in [(first - BLOCK, true), (media - BLOCK, false)] {
            if leading && self.spec.has(Defect::HeadersDiffer) {
                let other = self.header(device, length + BLOCK, extent);
                write_at(file, off, &other)?;
            } else {
                write_at(file, off, &header)?;
            }
        }
        Ok(())
    }

    /// Returns the bytes of the compressed dump.
    fn compress(
        &self,
        file: &File,
        first: u64,
        compression: Compression,
        progress: &(dyn Fn(u64) + Sync),
        cancelled: &AtomicBool,
    ) -> Result<u64, Error> {
        let mut out = At { file, off: first };
        let failed = |off| move |source| Error::Write { off, len: 0, source };
        if compression == Compression::Gzip {
            let level = flate2::Compression::new(6);
            let mut gzip = flate2::write::GzEncoder::new(&mut out, level);
            self.stream(&mut gzip, progress, cancelled)?;
            gzip.finish().map_err(failed(first))?;
        } else {
            let mut zstd =
                zstd::stream::write::Encoder::new(&mut out, ZSTD_LEVEL).map_err(failed(first))?;
            self.stream(&mut zstd, progress, cancelled)?;
            zstd.finish().map_err(failed(first))?;
        }
        Ok(out.off - first)
    }

    fn stream(
        &self,
        out: &mut dyn Write,
        progress: &(dyn Fn(u64) + Sync),
        cancelled: &AtomicBool,
    ) -> Result<(), Error> {
        let mut buf = vec![0; CHUNK];
        let mut off = 0;
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let n = self.read_at(off, &mut buf);
            if n == 0 {
                return Ok(());
            }
            out.write_all(&buf[..n]).map_err(|source| Error::Write { off, len: n, source })?;
            off += n as u64;
            progress(off);
        }
    }

    /// `struct kerneldumpheader`, big-endian on every machine.
    fn header(&self, device: DeviceSpec, length: u64, extent: u64) -> [u8; BLOCK as usize] {
        let mut bytes = [0; BLOCK as usize];
        let mut f = Fields { bytes: &mut bytes, big: true };
        let magic = if self.spec.has(Defect::Cleared) {
            "Cleared Kernel Dump"
        } else {
            "FreeBSD Kernel Dump"
        };
        let arch = self.spec.arch;
        f.text(0, magic)
            .text(20, arch.machine_arch())
            .u32(32, device.header_version.into())
            .u32(36, arch.kerneldump_version().into())
            .u64(40, length);
        // Where the time and the texts stand.
        let (time, texts) = match device.header_version {
            1 => (48, 60),
            3 => (56, 73),
            _ => (48, 64),
        };
        f.u64(time, msgbuf::TIME);
        let compression = match device.compression {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Zstd => 2,
        };
        match device.header_version {
            1 => {
                f.u32(56, BLOCK);
            }
            2 => {
                f.u32(60, BLOCK);
            }
            3 => {
                f.u64(48, extent).u32(68, BLOCK);
                f.bytes[72] = compression;
            }
            _ => {
                f.u32(60, BLOCK).u64(496, extent);
                f.bytes[495] = compression;
            }
        }
        f.text(texts, "vmcask")
            .text(texts + 64, &msgbuf::version(&self.spec))
            .text(texts + 64 + 192, msgbuf::PANIC);
        // The XOR of all words is 0 with the parity in it.
        let xor = bytes
            .chunks_exact(4)
            .fold(0, |xor, word| xor ^ u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
        let parity = xor ^ u32::from(self.spec.has(Defect::BadParity));
        bytes[508..].copy_from_slice(&parity.to_be_bytes());
        bytes
    }
}

/// Writes at an offset that goes on.
struct At<'a> {
    file: &'a File,
    off: u64,
}

impl Write for At<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write_at(buf, self.off)?;
        self.off += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_at(file: &File, off: u64, bytes: &[u8]) -> Result<(), Error> {
    file.write_all_at(bytes, off).map_err(|source| Error::Write { off, len: bytes.len(), source })
}
