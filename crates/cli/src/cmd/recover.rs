//! `vmcask recover`: what is intact of a damaged archive, and a list of what
//! isn't.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use vmcask_archive::{PageMap, Recovered};
use vmcask_convert::{Error, restore};
use vmcask_dump::ReadAt;
use vmcask_dump::detect::{Format, detect};
use vmcask_dump::{ElfCore, Minidump};
use vmcask_rank::{AvailRanges, PageBitmap, RankIndex};

use super::same_file;
use crate::args::RecoverArgs;
use crate::progress::Progress;
use crate::size::{count, human};
use crate::{Outcome, interrupt, json, warn};

/// Lost ranges that are printed one by one; JSON has all.
const PRINTED: usize = 1000;

#[derive(Serialize)]
struct Outcomes {
    schema: u32,
    file: String,
    output: String,
    index_damage: Option<String>,
    frames_damaged: u64,
    frames_moved: u64,
    cells_lost: u64,
    /// Lost cells that repeated another lost one's bytes.
    duplicate_cells_lost: u64,
    bytes_lost: u64,
    lost: Vec<Lost>,
}

#[derive(Serialize)]
struct Lost {
    offset: u64,
    bytes: u64,
    /// Memory that the range held; empty for headers and page tables.
    physical: Vec<Physical>,
}

#[derive(Serialize)]
struct Physical {
    address: String,
    bytes: u64,
}

pub fn run(args: &RecoverArgs, quiet: bool) -> Result<Outcome> {
    let path = &args.input;
    let file = path.source()?;
    if same_file(path, &args.output) {
        return Err(Error::SameFile { path: args.output.clone() }.into());
    }
    let out = args.output_args.create(&args.output)?;
    let threads = args.output_args.threads();
    let progress = Progress::steps("checking", 1000, quiet);
    let recovered =
        vmcask_archive::recover(&file, threads, &|done| progress.set(done), interrupt::flag())
            .with_context(|| format!("{}: nothing can be recovered", path.display()))?;
    drop(progress);
    let recovered = Arc::new(recovered);
    let progress = Progress::new("restoring", recovered.len(), quiet);
    let set = |done| progress.set(done);
    restore::restore(&*recovered, &out, threads, &set, interrupt::flag())?;
    drop(progress);
    file.check_unchanged().map_err(|source| Error::Changed { path: path.to_path_buf(), source })?;
    out.commit()?;

    let memory = Memory::of(&recovered);
    let lost: Vec<_> = recovered
        .lost()
        .iter()
        .map(|r| Lost { offset: r.start, bytes: r.end - r.start, physical: memory.physical(r) })
        .collect();
    let outcome = Outcomes {
        schema: 1,
        file: path.display().to_string(),
        output: args.output.display().to_string(),
        index_damage: recovered.index_damage().map(ToString::to_string),
        frames_damaged: recovered.damaged_frames(),
        frames_moved: recovered.moved_frames(),
        cells_lost: recovered.lost_cells(),
        duplicate_cells_lost: recovered.lost_duplicates(),
        bytes_lost: recovered.lost_bytes(),
        lost,
    };
    if args.json {
        json::write(&mut std::io::stdout().lock(), &outcome)?;
    } else {
        print(&outcome, args, &memory, quiet, &mut io::stdout().lock())?;
    }
    Ok(if outcome.lost.is_empty() { Outcome::Done } else { Outcome::Incomplete })
}

fn print(
    o: &Outcomes,
    args: &RecoverArgs,
    memory: &Memory,
    quiet: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    if let Some(e) = &o.index_damage {
        warn(&args.input, format_args!("{e}; read by its checkpoints instead"));
    }
    for lost in o.lost.iter().take(PRINTED) {
        write!(out, "lost: offset {:#x}, {} bytes", lost.offset, lost.bytes)?;
        for (i, p) in lost.physical.iter().enumerate() {
            let what = if i == 0 { ": physical" } else { "," };
            write!(out, "{what} {}, {} bytes", p.address, p.bytes)?;
        }
        writeln!(out)?;
    }
    if o.lost.len() > PRINTED {
        let more = count((o.lost.len() - PRINTED) as u64);
        writeln!(out, "and {more} ranges more (--json lists all)")?;
    }
    if !o.lost.is_empty() {
        if let Memory::Unknown(why) = memory {
            warn(&args.input, format_args!("physical addresses can't be told: {why}"));
        }
        writeln!(
            out,
            "{}: {} lost in {} damaged frames; {} of the lost cells were duplicates of others",
            args.output.display(),
            human(o.bytes_lost),
            count(o.frames_damaged),
            count(o.duplicate_cells_lost)
        )?;
    } else if !quiet {
        writeln!(out, "{}: nothing is lost", args.output.display())?;
    }
    Ok(())
}

/// What tells physical addresses from offsets in the dump.
enum Memory {
    /// Offset of the first page, log2 of the page size, the dumped pages.
    Pages(u64, u32, Box<RankIndex<Vec<u64>, Vec<u16>, Vec<u64>>>),
    /// Address, offset, bytes.
    Segments(Vec<(u64, u64, u64)>),
    Unknown(String),
}

impl Memory {
    /// From the archive's own page map, or else from the dump's headers,
    /// where those are intact.
    fn of(recovered: &Arc<Recovered>) -> Self {
        match recovered.reader().page_map() {
            Ok(Some(PageMap::Minidump(m))) => {
                let avail = if m.dump_avail.is_empty() {
                    Ok(AvailRanges::identity(m.pages))
                } else {
                    AvailRanges::new(&m.dump_avail, m.page_shift)
                };
                match avail {
                    Ok(avail) => {
                        let bitmap = PageBitmap::from_words(m.words, m.pages);
                        let index = RankIndex::build(bitmap, avail);
                        return Self::Pages(m.first_page, m.page_shift, Box::new(index));
                    }
                    Err(e) => return Self::Unknown(e.to_string()),
                }
            }
            Ok(Some(PageMap::Segments(loads))) => {
                let loads = loads.iter().map(|l| (l.p_paddr, l.p_offset, l.p_filesz));
                return Self::Segments(loads.collect());
            }
            Ok(None) | Err(_) => {}
        }
        Self::of_dump(recovered).unwrap_or_else(|e| Self::Unknown(e.to_string()))
    }

    fn of_dump(recovered: &Arc<Recovered>) -> Result<Self> {
        let mut prefix = [0; 64];
        let n = recovered.read_at(0, &mut prefix)?;
        let first_lost = recovered.lost().first().map_or(u64::MAX, |r| r.start);
        let src: Arc<dyn ReadAt> = recovered.clone();
        match detect(&prefix[..n]) {
            Format::Minidump => {
                let dump = Minidump::open(src)?;
                let first_page = dump.parts().pages.start;
                if first_lost < first_page {
                    bail!("the dump's bitmap may be among what is lost");
                }
                let index = dump.index()?.clone();
                let shift = dump.page_size().trailing_zeros();
                Ok(Self::Pages(first_page, shift, Box::new(index)))
            }
            Format::Elf => {
                let core = ElfCore::open(src)?;
                let runs: Vec<_> =
                    core.phys_runs().map(|(pa, off, bytes)| (pa.0, off.0, bytes)).collect();
                if runs.iter().any(|r| first_lost < r.1) {
                    bail!("the dump's program headers may be among what is lost");
                }
                Ok(Self::Segments(runs))
            }
            other => bail!("it is {}", other.name()),
        }
    }

    /// The memory that a range of the dump held, ascending by offset.
    fn physical(&self, range: &Range<u64>) -> Vec<Physical> {
        let mut found: Vec<(u64, u64)> = Vec::new();
        let mut push = |address: u64, bytes: u64| match found.last_mut() {
            Some(last) if last.0.wrapping_add(last.1) == address => last.1 += bytes,
            _ => found.push((address, bytes)),
        };
        match self {
            Self::Pages(first_page, shift, index) => {
                let size = 1u64 << shift;
                let start = range.start.saturating_sub(*first_page);
                let end = range.end.saturating_sub(*first_page);
                let mut at = start;
                while at < end {
                    let Some(pfn) = index.select(at >> shift) else { break };
                    let within = at & (size - 1);
                    let n = (size - within).min(end - at);
                    push((pfn.0 << shift).wrapping_add(within), n);
                    at += n;
                }
            }
            Self::Segments(loads) => {
                for &(pa, off, size) in loads {
                    let start = range.start.max(off);
                    let end = range.end.min(off.saturating_add(size));
                    if start < end {
                        push(pa.saturating_add(start - off), end - start);
                    }
                }
            }
            Self::Unknown(_) => {}
        }
        found
            .into_iter()
            .map(|(address, bytes)| Physical { address: format!("{address:#x}"), bytes })
            .collect()
    }
}
