//! `vmcask info`: what a file is and holds. `--json` is described in
//! SCHEMA.md.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;
use vmcask_convert::container::Container;
use vmcask_convert::{Dump, Error, Input, TextDump};
use vmcask_dump::device::{Compression, DeviceHeader};
use vmcask_dump::elf::How;
use vmcask_dump::layout::elf::PT_LOAD;
use vmcask_dump::{ElfCore, Minidump};
use vmcask_inspect::text;

use super::{print_warnings, use_kernel};
use crate::args::InfoArgs;
use crate::progress::spin;
use crate::size::{count, human};
use crate::{Outcome, json};

#[derive(Serialize)]
struct Info {
    schema: u32,
    file: String,
    file_bytes: u64,
    container: Option<&'static str>,
    device: Option<DeviceInfo>,
    archive: Option<ArchiveInfo>,
    dump_bytes: u64,
    format: &'static str,
    arch: String,
    minidump: Option<MinidumpInfo>,
    elf: Option<ElfInfo>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct DeviceInfo {
    header_version: u32,
    architecture: String,
    architecture_version: u32,
    dump_bytes: u64,
    extent_bytes: u64,
    time_unix_seconds: u64,
    block_bytes: u32,
    compression: &'static str,
    cleared: bool,
    hostname: String,
    version: String,
    panic: String,
}

#[derive(Serialize)]
struct ElfInfo {
    class_bits: u32,
    big_endian: bool,
    osabi: u8,
    program_headers: u32,
    pt_loads: u64,
    physical_runs: u64,
    memory_bytes: u64,
    kernel_addresses: bool,
    /// vmcask's note has the header and pmap of the minidump it was made of.
    minidump_tables: bool,
    page_tables: Option<TablesInfo>,
    note: Option<serde_json::Value>,
}

#[derive(Serialize)]
struct TablesInfo {
    root: String,
    levels: u32,
    found_by: &'static str,
    kernel_shift: Option<String>,
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
    /// Not known of a stream that hasn't been read to its end.
    pages_present: Option<u64>,
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
    let mut input = match args.file.open_streams_too() {
        Err(Error::TextDump(text)) => return text_dump(&text, args.json),
        input => input?,
    };
    use_kernel(&mut input, args.kernel.get())?;
    let info = spin("looking for page tables", || collect(&input))?;
    input.check_source()?;
    let mut out = io::stdout().lock();
    if args.json {
        json::write(&mut out, &info)?;
    } else {
        print_warnings(&input);
        print(&info, &mut out)?;
    }
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct TextInfo {
    schema: u32,
    file: String,
    format: &'static str,
    device: Option<DeviceInfo>,
    text_files: Vec<TextFileInfo>,
}

#[derive(Serialize)]
struct TextFileInfo {
    name: String,
    bytes: u64,
}

/// A text dump is no dump to convert, but what it is can be told.
fn text_dump(text: &TextDump, as_json: bool) -> Result<Outcome> {
    let info = TextInfo {
        schema: 1,
        file: text.path.display().to_string(),
        format: "text dump",
        device: text.device.as_ref().map(device_info),
        text_files: text
            .files
            .iter()
            .map(|f| TextFileInfo { name: f.name.clone(), bytes: f.size })
            .collect(),
    };
    let mut out = io::stdout().lock();
    if as_json {
        json::write(&mut out, &info)?;
        return Ok(Outcome::Done);
    }
    writeln!(out, "file        {}", info.file)?;
    if let Some(d) = &info.device {
        print_device(d, &mut out)?;
    }
    writeln!(out, "format      text dump, a tar archive of")?;
    for f in &info.text_files {
        writeln!(out, "  {:<20} {:>12}", printable(&f.name), count(f.bytes))?;
    }
    Ok(Outcome::Done)
}

/// What `vmcask info --json` prints.
pub fn json(input: &Input) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    json::write(&mut text, &collect(input)?)?;
    Ok(text)
}

fn hex(n: u64) -> String {
    format!("{n:#x}")
}

fn collect(input: &Input) -> Result<Info> {
    let (format, arch) = match &input.dump {
        Dump::Minidump(d) => ("minidump", d.header().arch.name().to_owned()),
        Dump::Elf(c) => ("elf", c.ident().machine()),
    };
    let is_stream = input.stream.is_some();
    Ok(Info {
        schema: 1,
        file: input.path.display().to_string(),
        file_bytes: input.file_len,
        container: (is_stream || input.container != Container::None)
            .then(|| input.container.name()),
        device: input.device.as_ref().map(device_info),
        archive: input.archive.as_deref().map(archive_info).transpose()?,
        dump_bytes: input.source.len(),
        format,
        arch,
        minidump: match &input.dump {
            Dump::Minidump(d) => Some(minidump_info(d, is_stream)),
            Dump::Elf(_) => None,
        },
        elf: match &input.dump {
            Dump::Minidump(_) => None,
            Dump::Elf(c) => Some(elf_info(c, is_stream)?),
        },
        warnings: input.warnings().map(ToString::to_string).collect(),
    })
}

fn device_info(h: &DeviceHeader) -> DeviceInfo {
    DeviceInfo {
        header_version: h.version,
        architecture: h.architecture.clone(),
        architecture_version: h.architectureversion,
        dump_bytes: h.dumplength,
        extent_bytes: h.dumpextent,
        time_unix_seconds: h.dumptime,
        block_bytes: h.blocksize,
        compression: match h.compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        },
        cleared: h.cleared,
        hostname: h.hostname.clone(),
        version: h.versionstring.clone(),
        panic: h.panicstring.clone(),
    }
}

fn elf_info(core: &ElfCore, is_stream: bool) -> Result<ElfInfo> {
    let ident = core.ident();
    // Looking for page tables would read all of a stream.
    let minidump_tables = core.note().is_some_and(|n| n.minidump.is_some());
    let known = is_stream || core.has_virtual() || minidump_tables;
    let found = if known { None } else { core.page_tables() };
    Ok(ElfInfo {
        class_bits: if ident.is_64 { 64 } else { 32 },
        big_endian: ident.is_big_endian,
        osabi: ident.osabi,
        program_headers: ident.phnum,
        pt_loads: core.phdrs().iter().filter(|p| p.p_type == PT_LOAD).count() as u64,
        physical_runs: core.phys_runs().count() as u64,
        memory_bytes: core.phys_runs().map(|(_, _, len)| len).sum(),
        kernel_addresses: core.has_virtual(),
        minidump_tables,
        page_tables: found.map(|f| TablesInfo {
            root: hex(f.tables.root.0),
            levels: f.tables.levels,
            found_by: match f.how {
                How::Note => "note",
                How::Kernel { .. } => "kernel image",
                How::SelfMap => "self-map scan",
            },
            kernel_shift: match f.how {
                How::Kernel { shift } => Some(hex(shift)),
                How::Note | How::SelfMap => None,
            },
        }),
        note: core.note().map(|n| serde_json::to_value(&n.meta)).transpose()?,
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

fn minidump_info(dump: &Minidump, is_stream: bool) -> MinidumpInfo {
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
        pages_present: (!is_stream).then(|| dump.pages_present()),
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
    if let Some(c) = info.container {
        writeln!(out, "container   {c}; `vmcask convert` reads it, from front to back")?;
    }
    if let Some(d) = &info.device {
        print_device(d, out)?;
    }
    if let Some(m) = &info.minidump {
        print_minidump(m, out)?;
    }
    if let Some(e) = &info.elf {
        print_elf(&info.arch, e, out)?;
    }
    Ok(())
}

/// What a dump says of itself may hold anything, terminal escapes too.
fn printable(text: &str) -> String {
    text::printable(text.as_bytes())
}

fn print_device(d: &DeviceInfo, out: &mut impl Write) -> io::Result<()> {
    let time = i64::try_from(d.time_unix_seconds)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .map_or_else(|| d.time_unix_seconds.to_string(), |t| t.to_string());
    writeln!(
        out,
        "device      kernel dump header, version {}, {}, {} of {}",
        d.header_version,
        printable(&d.architecture),
        if d.compression == "none" { "not compressed" } else { d.compression },
        human(d.dump_bytes)
    )?;
    writeln!(out, "time        {time}")?;
    writeln!(out, "hostname    {}", printable(&d.hostname))?;
    writeln!(out, "version     {}", printable(&d.version))?;
    writeln!(out, "panic       {}", printable(&d.panic))
}

/// Ranges of dump_avail shown to people.
const MOST_RANGES: usize = 16;

fn print_minidump(m: &MinidumpInfo, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "format      FreeBSD minidump, version {}, {}", m.version, m.arch)?;
    write!(out, "pages       {} promised", count(m.pages_promised))?;
    if let Some(present) = m.pages_present {
        write!(out, ", {} present", count(present))?;
    }
    writeln!(out, ", {} each", human(m.page_bytes))?;
    writeln!(out, "kernel map  from {}, pmap {}", m.kernbase, human(m.pmap_bytes.into()))?;
    if let Some([base, end]) = &m.direct_map {
        writeln!(out, "direct map  {base} to {end}")?;
    }
    for (i, [start, end]) in m.dump_avail.iter().take(MOST_RANGES).enumerate() {
        let label = if i == 0 { "dump_avail" } else { "" };
        writeln!(out, "{label:<11} {start} to {end}")?;
    }
    if let Some(more) = m.dump_avail.len().checked_sub(MOST_RANGES).filter(|&n| n > 0) {
        writeln!(out, "{:<11} and {more} ranges more (--json has all)", "")?;
    }
    writeln!(out, "parts        offset         bytes")?;
    for p in &m.parts {
        writeln!(out, "  {:<10} {:<#14x} {}", p.part, p.offset, count(p.bytes))?;
    }
    Ok(())
}

fn print_elf(arch: &str, e: &ElfInfo, out: &mut impl Write) -> io::Result<()> {
    let order = if e.big_endian { "big-endian" } else { "little-endian" };
    writeln!(out, "format      ELF core, {}-bit {order}, {arch}", e.class_bits)?;
    writeln!(
        out,
        "memory      {} in {} runs; {} program headers, {} of them PT_LOAD",
        human(e.memory_bytes),
        count(e.physical_runs),
        count(e.program_headers.into()),
        count(e.pt_loads)
    )?;
    match (&e.page_tables, e.kernel_addresses) {
        (_, true) => writeln!(out, "kernel map  in the program headers")?,
        (Some(t), _) => {
            write!(out, "kernel map  {}-level page tables at {}", t.levels, t.root)?;
            match (t.found_by, &t.kernel_shift) {
                ("self-map scan", _) => {
                    writeln!(out, ", found by scanning memory for a table that maps itself")?;
                }
                (by, Some(shift)) => {
                    writeln!(out, ", by the {by}, loaded {shift} higher than linked")?;
                }
                (by, None) => writeln!(out, ", by the {by}")?,
            }
        }
        (None, false) if e.minidump_tables => {
            writeln!(out, "kernel map  in vmcask's note: header and pmap of the minidump")?;
        }
        (None, false) => writeln!(out, "kernel map  not known")?,
    }
    if let Some(note) = &e.note {
        let said = |key: &str| note.get(key).and_then(|v| v.as_str()).unwrap_or("?").to_owned();
        writeln!(
            out,
            "made by     {}: {} view of {}",
            printable(&said("writer")),
            printable(&said("view")),
            match &*said("source") {
                "elf" => "an ELF core".into(),
                other => format!("a {}", printable(other)),
            }
        )?;
        match note.get("dropped_zero_pages").and_then(serde_json::Value::as_u64) {
            Some(n) if n > 0 => writeln!(out, "left out    {} pages of zeros", count(n))?,
            _ => {}
        }
    }
    Ok(())
}
