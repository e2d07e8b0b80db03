//! Compressed dumps and whatever else comes out of a decompressor.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vmcask_archive::WriteOptions;
use vmcask_convert::{Input, Target, archive, forward};

use crate::base::{SMALL, pick};
use crate::mutant::{RAW, decode};
use crate::shown;

/// A decompression bomb is stopped here.
const MOST: usize = 8 << 20;

/// Takes so much and no more.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(buf.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn container(data: &[u8]) {
    // Damage to what is inside needs a wrapping made anew.
    let bytes = match data {
        [which @ 0..6, rest @ ..] => {
            let Some((file, _)) = decode(rest, pick(&SMALL, rest)) else { return };
            wrap(*which, &file.bytes())
        }
        [_, rest @ ..] => rest.to_vec(),
        [] => return,
    };
    let open = || Input::of_source(Path::new("input"), Arc::new(bytes.clone()));
    let stop = AtomicBool::new(false);
    for to in
        [Target::Minidump { version: None }, Target::Elf, Target::Minidump { version: Some(1) }]
    {
        let input = match open() {
            Ok(input) => input,
            Err(e) => return shown(&e),
        };
        let Some(stream) = &input.stream else { return };
        let mut out = Full(MOST);
        match forward::stream_to_pipe(&input, stream, to, &mut out, &|_| {}, &stop) {
            Ok(losses) => losses.iter().for_each(|l| shown(l)),
            Err(e) => shown(&e),
        }
    }
    if let Ok(input) = open()
        && input.stream.is_some()
        && let Ok(plan) = archive::plan(&input)
    {
        let opts = small_options();
        let mut out = Full(MOST);
        // A bomb of zeros takes nothing of an archive: its length is bounded
        // by cancelling.
        let progress = |done: u64| {
            if done > 16 << 20 {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        };
        match archive::write_to(&input, &plan, &opts, &mut out, &progress, &stop) {
            Ok(_) => {}
            Err(e) => shown(&e),
        }
    }
}

/// Options that take little memory.
pub fn small_options() -> WriteOptions {
    WriteOptions { dedup_memory: 64 << 10, cells_in_order: 64, level: 1, ..WriteOptions::default() }
}

/// Wrapped in gzip, zstd or bzip2; in two members or frames from 3 on.
fn wrap(which: u8, bytes: &[u8]) -> Vec<u8> {
    if which >= 3 {
        let (a, b) = bytes.split_at(bytes.len() / 2);
        return [wrap(which - 3, a), wrap(which - 3, b)].concat();
    }
    let mut out = Vec::new();
    match which {
        0 => flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut out),
        1 => zstd::stream::read::Encoder::new(bytes, 1).and_then(|mut e| e.read_to_end(&mut out)),
        _ => bzip2::read::BzEncoder::new(bytes, bzip2::Compression::fast()).read_to_end(&mut out),
    }
    .expect("compressing in memory");
    out
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for base in 0..SMALL.len() as u8 {
        for which in 0..6 {
            seeds.push(vec![which, base]);
            let small = decode(&[base], pick(&SMALL, &[base])).map(|(f, _)| f.bytes());
            // As it is, small enough to be changed byte by byte.
            let wrapped = wrap(which, &small.unwrap_or_default());
            if wrapped.len() < 4096 {
                seeds.push([&[RAW], &wrapped[..]].concat());
            }
        }
    }
    seeds
}
