//! Conversions from front to back: out of a pipe or a decompressor, and into
//! a pipe.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmcask_dump::{ElfCore, Minidump, ReadAt};

use crate::ahead::each_window;
use crate::error::{Error, Result};
use crate::input::{Dump, Input};
use crate::output::OutputFile;
use crate::stream::StreamSource;
use crate::view::{View, target};

/// Bytes copied at a time.
const CHUNK: u64 = 1 << 20;
/// Runs of zeros as long as this stay holes.
const BLOCK: usize = 4096;

/// Writes all of `source` to a pipe. What archives have is decompressed by
/// `threads` threads, up to 96 MiB ahead.
pub fn to_pipe(
    source: &dyn ReadAt,
    threads: usize,
    out: &mut dyn Write,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<()> {
    let mut write = |at, bytes: &[u8]| {
        out.write_all(bytes).map_err(Error::Pipe)?;
        progress(at + bytes.len() as u64);
        check(cancelled)
    };
    if !each_window(source, threads, cancelled, &mut write)? {
        each_chunk(source, &|_| {}, cancelled, &mut write)?;
    }
    out.flush().map_err(Error::Pipe)
}

/// Reads `source` from front to back until it ends, and says where that is.
fn each_chunk(
    source: &dyn ReadAt,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
    mut sink: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<u64> {
    let mut buf = vec![0; CHUNK as usize];
    let mut at = 0;
    loop {
        let len = buf.len();
        let n =
            source.read_at(at, &mut buf).map_err(|source| Error::Read { off: at, len, source })?;
        if n == 0 {
            return Ok(at);
        }
        sink(at, &buf[..n])?;
        at += n as u64;
        progress(at);
        check(cancelled)?;
    }
}

/// How a stream becomes another format.
enum Pass {
    /// As it is, however long it turns out to be.
    Copy,
    /// As a view, whose length follows from the headers.
    View,
}

/// Refuses what would have to go back in the stream.
fn pass(input: &Input, to: target::Target) -> Result<Pass> {
    match (&input.dump, to) {
        (Dump::Minidump(_), target::Target::Minidump { version: None })
        | (Dump::Elf(_), target::Target::Elf) => Ok(Pass::Copy),
        (Dump::Minidump(_), target::Target::Elf | target::Target::Minidump { .. }) => {
            Ok(Pass::View)
        }
        _ => Err(Error::OnlyForward {
            path: input.path.clone(),
            what: input.container.name().into(),
        }),
    }
}

/// The losses of a view of a stream, with what the stream has behind the last
/// page that the view takes, and that it was cut.
fn all_losses(
    input: &Input,
    stream: &StreamSource,
    expected: u64,
    view: &View,
) -> Result<Vec<String>> {
    let length =
        stream.finish().map_err(|source| Error::Read { off: stream.position(), len: 0, source })?;
    let behind = (length > expected)
        .then(|| format!("{} bytes behind the last page are left out", length - expected));
    Ok(view.losses.iter().cloned().chain(behind).chain(input.cut_short()).collect())
}

/// [`from_stream`], into a pipe. What the output lacks is told in the losses;
/// a stream that ends too early is an error where its headers, gone out
/// through the pipe, have promised more.
pub fn stream_to_pipe(
    input: &Input,
    stream: &Arc<StreamSource>,
    to: target::Target,
    out: &mut dyn Write,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<Vec<String>> {
    if let Pass::Copy = pass(input, to)? {
        to_pipe(&**stream, 1, out, progress, cancelled)?;
        return Ok(input.cut_short());
    }
    let expected = stream.len();
    let view = target::of(input, to, &target::Options::default())?;
    to_pipe(&view, 1, out, progress, cancelled).map_err(|e| match e {
        Error::Read { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
            Error::Unsupported(format!(
                "{}: the dump ends too early, and headers that promise more have gone out through \
                 the pipe: write to a file instead",
                input.path.display()
            ))
        }
        e => e,
    })?;
    all_losses(input, stream, expected, &view)
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
    if let Pass::Copy = pass(input, to)? {
        copy(stream, out, progress, cancelled)?;
        return Ok(input.cut_short());
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
    all_losses(input, stream, expected, &view)
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
    let write = |at, bytes: &[u8]| write_sparse(out.file(), at, bytes).map_err(written);
    let end = each_chunk(stream, progress, cancelled, write)?;
    // Holes at the end count too.
    out.file().set_len(end).map_err(written)
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
