//! ELF, physical view: as FreeBSD's `dumpsys_generic` writes full dumps
//! (`sys/kern/kern_dump.c`), one PT_LOAD for each run of present pages, and
//! vmcask's note with what segments can't carry.

use std::sync::Arc;

use vmcask_dump::elf::note::{self, Meta};
use vmcask_dump::elf::{ElfCore, Phdr};
use vmcask_dump::layout::elf as wire;
use vmcask_dump::{Arch, Minidump, ReadAt};

use super::elf_headers::{Shape, note_header};
use super::minidump_of_elf::Marker;
use super::prstatus::{NT_PRSTATUS, Prstatus};
use super::{Run, Runs, View};
use crate::error::{Error, Result};
use crate::input::Dump;

/// How to make an ELF view.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Leave out pages full of zeros.
    pub drop_zero: bool,
    /// Put the pages at this offset at least, in bytes.
    pub data_at: u64,
    /// Registers for debuggers to begin with (kernel views).
    pub threads: &'a [Prstatus],
}

/// A further PT_LOAD over bytes of the physical ones: a run of kernel
/// addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alias {
    pub(super) va: u64,
    pub(super) pa: u64,
    pub(super) len: u64,
    /// Index of the physical run that has the bytes.
    pub(super) run: u32,
}

/// Everything an ELF view is made of.
pub(super) struct Parts<'a> {
    pub(super) arch: Arch,
    pub(super) page: u64,
    pub(super) source: Arc<dyn ReadAt>,
    pub(super) runs: &'a Runs,
    pub(super) osabi: u8,
    pub(super) data_at: u64,
    /// p_vaddr of physical memory.
    pub(super) vaddr: &'a dyn Fn(u64) -> u64,
    pub(super) aliases: &'a [Alias],
    pub(super) meta: Meta,
    pub(super) prefix: Option<Arc<dyn ReadAt>>,
    pub(super) tail: Option<Arc<dyn ReadAt>>,
    pub(super) threads: &'a [Prstatus],
}

/// `e_ident[EI_OSABI]` of kernel views, which gdb, lldb and drgn read.
pub(super) const ELFOSABI_NONE: u8 = 0;

/// The physical view of a dump.
pub fn build(dump: &Dump, source: &Arc<dyn ReadAt>, options: &Options<'_>) -> Result<View> {
    if let Dump::Minidump(d) = dump
        && !options.drop_zero
        && let Some(marker) = Marker::find(d)
        && let Some(view) = marker.generic_core(d, source)?
    {
        return Ok(view);
    }
    let (runs, losses) = runs(dump, source, options)?;
    let origin = Origin::of(dump, source)?;
    let all_ones = if origin.arch.is_64() { u64::MAX } else { u32::MAX.into() };
    // `DUMPSYS_PHDR`: powerpc's kernel doesn't claim to know the address.
    let is_powerpc = matches!(origin.arch, Arch::Powerpc64 | Arch::Powerpc64Le);
    let mut view = origin.parts(&runs, "physical", options).build_with(
        wire::ELFOSABI_STANDALONE,
        &|pa| if is_powerpc { all_ones } else { pa },
        &[],
    )?;
    view.losses.extend(losses);
    Ok(view)
}

/// The runs to write, and what they lack.
pub(super) fn runs(
    dump: &Dump,
    source: &Arc<dyn ReadAt>,
    options: &Options<'_>,
) -> Result<(Runs, Vec<String>)> {
    let mut losses = Vec::new();
    let (mut runs, page) = match dump {
        Dump::Minidump(d) => {
            let lost = d.pages_promised() - d.pages_present();
            if lost > 0 {
                losses.push(format!(
                    "{lost} of {} pages are past the end of the input; they are absent",
                    d.pages_promised()
                ));
            }
            (Runs::of_minidump(d)?, d.page_size())
        }
        Dump::Elf(c) => {
            losses.extend(c.warnings().iter().map(ToString::to_string));
            (Runs::of_elf(c), page_of(c))
        }
    };
    if options.drop_zero {
        runs = runs.without_zero_pages(&**source, page)?;
    }
    Ok((runs, losses))
}

/// The page size of a core: what its note says, else 4 KiB.
pub(super) fn page_of(core: &ElfCore) -> u64 {
    core.note().and_then(|n| n.minidump.as_ref()).map_or(4096, Minidump::page_size)
}

/// Where a dump comes from, for the note.
pub(super) struct Origin {
    pub(super) arch: Arch,
    page: u64,
    source: Arc<dyn ReadAt>,
    meta: Meta,
    prefix: Option<Arc<dyn ReadAt>>,
    tail: Option<Arc<dyn ReadAt>>,
}

impl Origin {
    pub(super) fn of(dump: &Dump, source: &Arc<dyn ReadAt>) -> Result<Self> {
        let writer = concat!("vmcask ", env!("CARGO_PKG_VERSION")).to_owned();
        Ok(match dump {
            Dump::Minidump(d) => {
                let first = d.parts().pages.start;
                let end = first + d.pages_present() * d.page_size();
                let part = |range| {
                    Arc::new(vmcask_dump::source::SubSource::new(source.clone(), range))
                        as Arc<dyn ReadAt>
                };
                Self {
                    arch: d.header().arch,
                    page: d.page_size(),
                    source: source.clone(),
                    meta: Meta {
                        writer,
                        source: "minidump".into(),
                        source_bytes: source.len(),
                        pages: d.pages_present(),
                        ..Meta::default()
                    },
                    prefix: Some(part(0..first)),
                    tail: (source.len() > end).then(|| part(end..source.len())),
                }
            }
            Dump::Elf(c) => {
                let arch = c.ident().arch().ok_or_else(|| {
                    Error::Unsupported(format!("cores of {} can't be written", c.ident().machine()))
                })?;
                let note = c.note();
                let meta = note.map_or_else(
                    || Meta {
                        writer: writer.clone(),
                        source: "elf".into(),
                        source_bytes: source.len(),
                        pages: c.phys_runs().map(|(_, _, len)| len / 4096).sum(),
                        ..Meta::default()
                    },
                    |n| Meta { writer: writer.clone(), ..n.meta.clone() },
                );
                Self {
                    arch,
                    page: page_of(c),
                    source: source.clone(),
                    meta,
                    prefix: note.and_then(|n| n.prefix.clone()),
                    tail: note.and_then(|n| n.tail.clone()),
                }
            }
        })
    }

    pub(super) fn set_page_tables(&mut self, root: u64, levels: u32) {
        self.meta.page_table_root = Some(root);
        self.meta.page_table_levels = Some(levels);
    }

    pub(super) fn parts<'a>(
        self,
        runs: &'a Runs,
        view: &str,
        options: &Options<'a>,
    ) -> Builder<'a> {
        let mut meta = self.meta;
        meta.view = view.into();
        meta.dropped_zero_pages += runs.dropped;
        Builder(Parts {
            arch: self.arch,
            page: self.page,
            source: self.source,
            runs,
            osabi: 0,
            data_at: options.data_at,
            vaddr: &|pa| pa,
            aliases: &[],
            meta,
            prefix: self.prefix,
            tail: self.tail,
            threads: options.threads,
        })
    }
}

/// [`Parts`] but for what the two views do differently.
pub(super) struct Builder<'a>(Parts<'a>);

impl<'a> Builder<'a> {
    pub(super) fn build_with(
        self,
        osabi: u8,
        vaddr: &'a dyn Fn(u64) -> u64,
        aliases: &'a [Alias],
    ) -> Result<View> {
        build_parts(&Parts { osabi, vaddr, aliases, ..self.0 })
    }
}

fn build_parts(parts: &Parts<'_>) -> Result<View> {
    let runs = parts.runs;
    let phnum = (runs.len() + parts.aliases.len() + 1) as u64;
    let top = runs.iter().last().map_or(0, |r| r.pa + r.len);
    let notes = Notes::of(parts)?;
    // An upper bound of the file's length is close enough to choose by.
    let length = (phnum * 56).saturating_add(runs.bytes()).saturating_add(notes.len() + (2 << 20));
    let shape = Shape::for_arch(parts.arch, top.max(length), parts.osabi);
    let first = shape.headers_len(phnum).next_multiple_of(parts.page).max(parts.data_at);

    let mut at = first;
    let mut offsets = Vec::with_capacity(runs.len());
    for run in runs.iter() {
        at = in_step(at, run, parts.page);
        offsets.push(at);
        at += run.len;
    }
    let notes_at = at.next_multiple_of(4);
    let align = |vaddr: u64| if vaddr.is_multiple_of(parts.page) { parts.page } else { 1 };
    let physical = runs.iter().zip(&offsets).map(|(run, &p_offset)| {
        let p_vaddr = (parts.vaddr)(run.pa);
        Phdr {
            p_type: wire::PT_LOAD,
            p_flags: wire::PF_R,
            p_offset,
            p_vaddr,
            p_paddr: run.pa,
            p_filesz: run.len,
            p_memsz: run.len,
            p_align: if run.pa.is_multiple_of(parts.page) { align(p_vaddr) } else { 1 },
        }
    });
    let aliases = parts.aliases.iter().map(|a| {
        let run = a.run as usize;
        let within = a.pa - runs.get(run).map_or(0, |r| r.pa);
        Phdr {
            p_type: wire::PT_LOAD,
            p_flags: wire::PF_R,
            p_offset: offsets.get(run).copied().unwrap_or(0) + within,
            p_vaddr: a.va,
            p_paddr: a.pa,
            p_filesz: a.len,
            p_memsz: a.len,
            p_align: align(a.va),
        }
    });
    // p_memsz 0: libkvm looks addresses up in program headers of any type.
    let note = Phdr {
        p_type: wire::PT_NOTE,
        p_flags: wire::PF_R,
        p_offset: notes_at,
        p_vaddr: 0,
        p_paddr: 0,
        p_filesz: notes.len(),
        p_memsz: 0,
        p_align: 4,
    };
    let headers = shape.headers(physical.chain(aliases).chain([note]), phnum)?;

    let mut view = View::new();
    view.push_bytes(headers);
    view.data_at = first;
    let source = view.add_source(parts.source.clone());
    for (run, &p_offset) in runs.iter().zip(&offsets) {
        view.pad_to(p_offset);
        view.push(source, run.off, run.len);
    }
    view.pad_to(notes_at);
    for (header, description) in notes.0 {
        view.push_bytes(header);
        let len = description.len();
        let id = view.add_source(description);
        view.push(id, 0, len);
        view.pad_to(view.len().next_multiple_of(4));
    }
    if runs.dropped > 0 {
        view.remarks.push(format!("{} pages full of zeros were left out", runs.dropped));
    }
    Ok(view)
}

/// The next file offset that is in step with the run's address, so that
/// pages stay pages in the file (and in an archive of it).
fn in_step(at: u64, run: &Run, page: u64) -> u64 {
    at + (run.pa % page + page - at % page) % page
}

/// Headers and descriptions of the notes.
struct Notes(Vec<(Vec<u8>, Arc<dyn ReadAt>)>);

impl Notes {
    fn of(parts: &Parts<'_>) -> Result<Self> {
        let json = serde_json::to_vec(&parts.meta)
            .map_err(|e| Error::Unsupported(format!("the note can't be written: {e}")))?;
        let mut notes: Vec<(u32, Arc<dyn ReadAt>)> = vec![(note::NT_META, Arc::new(json))];
        if let Some(prefix) = &parts.prefix {
            notes.push((note::NT_PREFIX, prefix.clone()));
        }
        if let Some(tail) = &parts.tail {
            notes.push((note::NT_TAIL, tail.clone()));
        }
        let threads = parts.threads.iter().map(|thread| {
            let description = thread.encode();
            let header = note_header(false, b"CORE", NT_PRSTATUS, description.len() as u32);
            (header, Arc::new(description) as Arc<dyn ReadAt>)
        });
        let big = parts.arch.is_big_endian();
        let with_header = |(n_type, description): (u32, Arc<dyn ReadAt>)| {
            let descsz = u32::try_from(description.len()).map_err(|_| {
                Error::Unsupported(format!(
                    "a note of {} bytes is more than ELF can hold (what stands before the \
                     first page, or behind the last, is too long)",
                    description.len()
                ))
            })?;
            Ok((note_header(big, note::OWNER, n_type, descsz), description))
        };
        let ours = notes.into_iter().map(with_header);
        Ok(Self(ours.chain(threads.map(Ok)).collect::<Result<_>>()?))
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|(h, d)| h.len() as u64 + d.len().next_multiple_of(4)).sum()
    }
}

/// Writes the headers of a core as FreeBSD's kernel does: `e_version` and all.
pub(super) fn generic_headers(
    shape: Shape,
    segments: &[(u64, u64)],
    page: u64,
) -> Result<(Vec<u8>, u64)> {
    let phnum = segments.len() as u64;
    let first = (shape.ehsize() + phnum * shape.phentsize()).next_multiple_of(page);
    let mut at = first;
    let phdrs = segments.iter().map(|&(start, len)| {
        let p_offset = at;
        // Lengths may be a hostile core's, here to be compared with.
        at = at.wrapping_add(len);
        Phdr {
            p_type: wire::PT_LOAD,
            p_flags: wire::PF_R,
            p_offset,
            p_vaddr: start,
            p_paddr: start,
            p_filesz: len,
            p_memsz: len,
            p_align: page,
        }
    });
    Ok((shape.headers(phdrs, phnum)?, first))
}
