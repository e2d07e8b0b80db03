//! `vmcask info`: what a file is and holds. `--json` is described in
//! SCHEMA.md.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;
use vmcask_convert::{Dump, Input, input};
use vmcask_dump::Minidump;

use super::print_warnings;
use crate::Outcome;
use crate::args::InfoArgs;
use crate::size::{count, human};

#[derive(Serialize)]
struct Info {
    schema: u32,
    file: String,
    file_bytes: u64,
    archive: Option<ArchiveInfo>,
    dump_bytes: u64,
    format: &'static str,
    minidump: Option<MinidumpInfo>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ArchiveInfo {
    cell_bytes: u64,
    cells: u64,
    zero_cells: u64,
    duplicate_cells: u64,
    stored_cells: u64,
    digest_blake3: String,
    metadata: serde_json::Value,
}

#[derive(Serialize)]
struct MinidumpInfo {
    arch: &'static str,
    version: u32,
    page_bytes: u64,
    pages_promised: u64,
    pages_present: u64,
    msgbuf_bytes: u32,
    bitmap_bytes: u32,
    pmap_bytes: u32,
    kernbase: String,
    direct_map: Option<[String; 2]>,
    dump_avail: Vec<[String; 2]>,
    parts: Vec<PartInfo>,
}

#[derive(Serialize)]
struct PartInfo {
    part: &'static str,
    offset: u64,
    bytes: u64,
}

pub fn run(args: &InfoArgs) -> Result<Outcome> {
    let input = input::open(&args.file)?;
    let info = collect(&input)?;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &info)?;
        writeln!(out)?;
    } else {
        print_warnings(&input);
        print(&info, &mut out)?;
    }
    Ok(Outcome::Done)
}

fn hex(n: u64) -> String {
    format!("{n:#x}")
}

fn collect(input: &Input) -> Result<Info> {
    let Dump::Minidump(dump) = &input.dump;
    Ok(Info {
        schema: 1,
        file: input.path.display().to_string(),
        file_bytes: input.file_len,
        archive: input.archive.as_deref().map(archive_info).transpose()?,
        dump_bytes: input.source.len(),
        format: "minidump",
        minidump: Some(minidump_info(dump)),
        warnings: dump.warnings().iter().map(ToString::to_string).collect(),
    })
}

fn archive_info(archive: &vmcask_archive::ArchiveReader) -> Result<ArchiveInfo> {
    let stats = archive.stats();
    Ok(ArchiveInfo {
        cell_bytes: vmcask_archive::CELL_SIZE as u64,
        cells: stats.cells,
        zero_cells: stats.zero_cells,
        duplicate_cells: stats.duplicate_cells,
        stored_cells: stats.stored_cells,
        digest_blake3: archive.digest().to_string(),
        metadata: serde_json::to_value(archive.metadata())?,
    })
}

fn minidump_info(dump: &Minidump) -> MinidumpInfo {
    let h = dump.header();
    let p = dump.parts();
    let part = |part, range: &std::ops::Range<u64>| PartInfo {
        part,
        offset: range.start,
        bytes: range.end - range.start,
    };
    MinidumpInfo {
        arch: h.arch.name(),
        version: h.version,
        page_bytes: dump.page_size(),
        pages_promised: dump.pages_promised(),
        pages_present: dump.pages_present(),
        msgbuf_bytes: h.msgbufsize,
        bitmap_bytes: h.bitmapsize,
        pmap_bytes: h.pmapsize,
        kernbase: hex(h.kernbase.0),
        direct_map: h.direct_map().map(|(base, end, _)| [hex(base.0), hex(end.0)]),
        dump_avail: dump.dump_avail().iter().map(|&(s, e)| [hex(s), hex(e)]).collect(),
        parts: vec![
            part("header", &p.header),
            part("msgbuf", &p.msgbuf),
            part("dump_avail", &p.dump_avail),
            part("bitmap", &p.bitmap),
            part("pmap", &p.pmap),
            part("pages", &p.pages),
        ],
    }
}

fn print(info: &Info, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "file        {} ({}, {} bytes)",
        info.file,
        human(info.file_bytes),
        count(info.file_bytes)
    )?;
    if let Some(a) = &info.archive {
        let ratio = info.dump_bytes as f64 / info.file_bytes.max(1) as f64;
        writeln!(
            out,
            "archive     of {} ({} bytes), ratio {ratio:.2}",
            human(info.dump_bytes),
            count(info.dump_bytes)
        )?;
        writeln!(
            out,
            "cells       {} of 4 KiB: {} zero, {} duplicates, {} stored",
            count(a.cells),
            count(a.zero_cells),
            count(a.duplicate_cells),
            count(a.stored_cells)
        )?;
        writeln!(out, "digest      {}", a.digest_blake3)?;
    }
    let Some(m) = &info.minidump else { return Ok(()) };
    writeln!(out, "format      FreeBSD minidump, version {}, {}", m.version, m.arch)?;
    write!(
        out,
        "pages       {} promised, {} present",
        count(m.pages_promised),
        count(m.pages_present)
    )?;
    writeln!(out, ", {} each", human(m.page_bytes))?;
    writeln!(out, "kernel map  from {}, pmap {}", m.kernbase, human(m.pmap_bytes.into()))?;
    if let Some([base, end]) = &m.direct_map {
        writeln!(out, "direct map  {base} to {end}")?;
    }
    for (i, [start, end]) in m.dump_avail.iter().enumerate() {
        let label = if i == 0 { "dump_avail" } else { "" };
        writeln!(out, "{label:<11} {start} to {end}")?;
    }
    writeln!(out, "parts       offset         bytes")?;
    for p in &m.parts {
        writeln!(out, "  {:<9} {:<#14x} {}", p.part, p.offset, count(p.bytes))?;
    }
    Ok(())
}
