//! Conversions from front to back: out of a pipe or a decompressor, and into
//! a pipe.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmcask_dump::{ElfCore, Minidump, ReadAt};

use crate::error::{Error, Result};
use crate::input::{Dump, Input};
use crate::output::OutputFile;
use crate::stream::StreamSource;
use crate::view::{View, target};

/// Bytes copied at a time.
const CHUNK: u64 = 1 << 20;
/// Runs of zeros as long as this stay holes.
const BLOCK: usize = 4096;

/// Writes all of `source` to a pipe.
pub fn to_pipe(
    source: &dyn ReadAt,
    out: &mut dyn Write,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<()> {
    let mut buf = vec![0; CHUNK as usize];
    let mut at = 0;
    loop {
        let n = source.read_at(at, &mut buf).map_err(|source| Error::Read {
            off: at,
            len: buf.len(),
            source,
        })?;
        if n == 0 {
            break;
        }
        out.write_all(&buf[..n]).map_err(Error::Pipe)?;
        at += n as u64;
        progress(at);
        check(cancelled)?;
    }
    out.flush().map_err(Error::Pipe)
}

/// Writes a stream's dump to `out` in another format; what the output lacks
/// of it is told in the losses.
///
/// That a stream ends too early shows when all before it has been written:
/// the headers are then written once more, for the pages that came.
pub fn from_stream(
    input: &Input,
    stream: &Arc<StreamSource>,
    to: target::Target,
    out: &OutputFile,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<Vec<String>> {
    let forward_only =
        || Error::OnlyForward { path: input.path.clone(), what: input.container.name().into() };
    match (&input.dump, to) {
        (Dump::Minidump(_), target::Target::Minidump { version: None })
        | (Dump::Elf(_), target::Target::Elf) => {
            copy(stream, out, progress, cancelled)?;
            return Ok(Vec::new());
        }
        (Dump::Minidump(_), target::Target::Elf | target::Target::Minidump { .. }) => {}
        _ => return Err(forward_only()),
    }
    let expected = stream.len();
    let mut view = target::of(input, to, &target::Options::default())?;
    let file = out.file();
    let written = |source| Error::Write { path: out.path().to_owned(), source };
    file.set_len(view.len()).map_err(written)?;
    let mut buf = vec![0; CHUNK as usize];
    let mut at = 0;
    let mut cut = false;
    while at < view.len() {
        let n = (view.len() - at).min(CHUNK) as usize;
        match view.read_exact_at(at, &mut buf[..n]) {
            Ok(()) => {
                write_sparse(file, at, &buf[..n]).map_err(written)?;
                at += n as u64;
                progress(at);
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof && !cut => {
                cut = true;
                view = shorter(input, stream, to, &view)?;
                file.set_len(view.len()).map_err(written)?;
                let mut head = vec![0; view.data_at as usize];
                view.read_exact_at(0, &mut head).map_err(|source| Error::Read {
                    off: 0,
                    len: head.len(),
                    source,
                })?;
                file.write_all_at(&head, 0).map_err(written)?;
            }
            Err(source) => return Err(Error::Read { off: at, len: n, source }),
        }
        check(cancelled)?;
    }
    let mut losses = std::mem::take(&mut view.losses);
    let length =
        stream.finish().map_err(|source| Error::Read { off: stream.position(), len: 0, source })?;
    if length > expected {
        losses.push(format!("{} bytes behind the last page are left out", length - expected));
    }
    Ok(losses)
}

/// The view of what came of a stream that has ended too early, its pages
/// where those of `before` are.
fn shorter(
    input: &Input,
    stream: &Arc<StreamSource>,
    to: target::Target,
    before: &View,
) -> Result<View> {
    let source: Arc<dyn ReadAt> = stream.clone();
    let wrong = |source| Error::Dump { path: input.path.clone(), source };
    let dump = match &input.dump {
        Dump::Minidump(_) => Minidump::open(source.clone()).map_err(wrong)?.into(),
        Dump::Elf(_) => ElfCore::open(source.clone()).map_err(wrong)?.into(),
    };
    let options = target::Options { data_at: before.data_at, ..target::Options::default() };
    target::of_dump(&dump, &source, to, &options)
}

/// Copies a stream as it is.
fn copy(
    stream: &StreamSource,
    out: &OutputFile,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<()> {
    let written = |source| Error::Write { path: out.path().to_owned(), source };
    let mut buf = vec![0; CHUNK as usize];
    let mut at = 0;
    loop {
        let n = stream.read_at(at, &mut buf).map_err(|source| Error::Read {
            off: at,
            len: buf.len(),
            source,
        })?;
        write_sparse(out.file(), at, &buf[..n]).map_err(written)?;
        at += n as u64;
        progress(at);
        check(cancelled)?;
        if n < buf.len() {
            // Holes at the end count too.
            return out.file().set_len(at).map_err(written);
        }
    }
}

/// Writes `bytes` at `at` of a file of zeros, but for blocks of zeros.
fn write_sparse(file: &std::fs::File, at: u64, bytes: &[u8]) -> io::Result<()> {
    let is_zero = |b: &[u8]| b.iter().all(|&b| b == 0);
    let mut from = 0;
    while from < bytes.len() {
        let rest = &bytes[from..];
        let zeros = rest.chunks(BLOCK).take_while(|b| is_zero(b)).map(<[u8]>::len).sum::<usize>();
        let data = rest[zeros..].chunks(BLOCK).take_while(|b| !is_zero(b));
        let len = data.map(<[u8]>::len).sum::<usize>();
        file.write_all_at(&rest[zeros..zeros + len], at + (from + zeros) as u64)?;
        from += zeros + len;
    }
    Ok(())
}

fn check(cancelled: &AtomicBool) -> Result<()> {
    if cancelled.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
}
