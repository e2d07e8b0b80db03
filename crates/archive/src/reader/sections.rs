//! From the end of the file to the directory and its sections.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmcask_dump::ReadAt;
use zerocopy::{FromBytes, IntoBytes};

use super::section::{Section, chunks};
use crate::digest::{checksum, checksum32};
use crate::error::{Error, Result};
use crate::layout::{
    CELL_SIZE, CHECKSUM_LEN, CHUNK_LEN, DirectoryEntry, FORMAT_VERSION, HEAD_FRAME, HEAD_MAGIC,
    Head, INDEX_FRAME, KNOWN_INCOMPATIBLE, LOCATOR_FRAME, LOCATOR_MAGIC, Locator,
    MAX_CELLS_PER_FRAME, MAX_SECTIONS, SECTION_ALIGN, SECTION_REQUIRED, SEEK_ENTRY_LEN,
    SEEK_FOOTER_LEN, SEEK_TABLE_FRAME, SEEKABLE_MAGIC, SKIPPABLE_HEADER_LEN, SeekEntry, kind,
};

/// Where everything lies.
pub(crate) struct Layout {
    pub(crate) head: Head,
    /// Where data frames end at the latest.
    pub(crate) index_offset: u64,
    /// Where the seek table begins.
    pub(crate) seek_table: u64,
    sections: BTreeMap<u32, Arc<Section>>,
}

pub(crate) fn name(kind: u32) -> &'static str {
    match kind {
        kind::SUMMARY => "section summary",
        kind::EXTENTS => "section extents",
        kind::CELL_WORDS => "section cell words",
        kind::CELL_BLOCKS => "section cell blocks",
        kind::CELL_SUPERBLOCKS => "section cell superblocks",
        kind::SLOT_TABLE => "section slot table",
        kind::FRAME_BASES => "section frame bases",
        kind::FRAME_OFFSETS => "section frame offsets",
        kind::FRAME_CHECKS => "section frame checks",
        kind::PAGE_MAP => "section page map",
        kind::PAGE_WORDS => "section page words",
        kind::PAGE_BLOCKS => "section page blocks",
        kind::PAGE_SUPERBLOCKS => "section page superblocks",
        kind::SEGMENTS => "section segments",
        kind::METADATA => "section metadata",
        kind::DIGEST => "section digest",
        _ => "unknown section",
    }
}

pub(crate) fn field(
    off: u64,
    field: &'static str,
    found: impl std::fmt::Display,
    expected: impl Into<String>,
) -> Error {
    Error::Field { off, field, found: found.to_string(), expected: expected.into() }
}

pub(crate) fn read(src: &dyn ReadAt, off: u64, len: usize, part: &'static str) -> Result<Vec<u8>> {
    let end = off.saturating_add(len as u64);
    if end > src.len() {
        return Err(Error::TooShort { part, end, len: src.len() });
    }
    let mut bytes = vec![0; len];
    src.read_exact_at(off, &mut bytes).map_err(|source| Error::Read { off, len, source })?;
    Ok(bytes)
}

fn parse<T: FromBytes>(src: &dyn ReadAt, off: u64, part: &'static str) -> Result<T> {
    let len = size_of::<T>();
    T::read_from_bytes(&read(src, off, len, part)?).map_err(|_| Error::TooShort {
        part,
        end: off.saturating_add(len as u64),
        len: src.len(),
    })
}

impl Layout {
    pub(crate) fn find(src: &dyn ReadAt) -> Result<Self> {
        let head = head(src)?;
        let (locator, locator_offset) = locator(src)?;
        if checksum32(head.as_bytes()) != locator.head_checksum {
            return Err(Error::Checksum { part: "head", off: 0, len: size_of::<Head>() as u64 });
        }
        let index_offset = locator.index_offset.get();
        let index_end = index_offset.checked_add(locator.index_length.get());
        let directory_offset = locator.directory_offset.get();
        let directory_len = u64::from(locator.sections.get()) * size_of::<DirectoryEntry>() as u64;
        if index_offset < size_of::<Head>() as u64
            || index_end != Some(locator_offset)
            || directory_offset < index_offset + SKIPPABLE_HEADER_LEN as u64
            || directory_offset.checked_add(directory_len) != index_end
            || locator.sections.get() > MAX_SECTIONS
        {
            return Err(field(
                locator_offset,
                "locator",
                format!("an index at {index_offset:#x}, its directory at {directory_offset:#x}"),
                "an index that ends where the locator begins",
            ));
        }
        let frame = read(src, index_offset, SKIPPABLE_HEADER_LEN, "index")?;
        let size = locator.index_length.get().checked_sub(SKIPPABLE_HEADER_LEN as u64);
        let promised = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
        if frame[..4] != INDEX_FRAME.to_le_bytes() || size != Some(promised.into()) {
            return Err(field(index_offset, "index", "no frame header", "that of the index"));
        }
        let bytes = read(src, directory_offset, directory_len as usize, "directory")?;
        if checksum(&bytes) != locator.directory_checksum {
            return Err(Error::Checksum {
                part: "directory",
                off: directory_offset,
                len: directory_len,
            });
        }
        let sections = directory(&bytes, index_offset, directory_offset)?;
        let seek_table = locator_offset + size_of::<Locator>() as u64;
        Ok(Self { head, index_offset, seek_table, sections })
    }

    pub(crate) fn sections(&self) -> impl Iterator<Item = &Arc<Section>> {
        self.sections.values()
    }

    pub(crate) fn optional(&self, kind: u32) -> Option<Arc<Section>> {
        self.sections.get(&kind).cloned()
    }

    pub(crate) fn section(&self, kind: u32) -> Result<Arc<Section>> {
        self.optional(kind).ok_or_else(|| {
            field(self.index_offset, name(kind), "missing", "a section of this kind")
        })
    }
}

impl Layout {
    /// Checks that nothing but zeros lies between sections.
    pub(crate) fn verify_gaps(&self, src: &dyn ReadAt) -> Result<()> {
        let mut parts: Vec<_> =
            self.sections.values().map(|s| (s.offset, s.offset + s.length)).collect();
        let (sums, first) = self.sections.values().fold((0, u64::MAX), |(n, first), s| {
            (n + chunks(s.length) * CHECKSUM_LEN as u64, first.min(s.checksums()))
        });
        parts.push((first, first.saturating_add(sums)));
        parts.sort_unstable();
        let mut at = self.index_offset + SKIPPABLE_HEADER_LEN as u64;
        for (start, end) in parts {
            // Sections of a hostile index may overlap; of ours they don't.
            let gap = start.saturating_sub(at);
            if gap >= SECTION_ALIGN {
                return Err(field(at, "index", format!("a gap of {gap} bytes"), "less than 64"));
            }
            if read(src, at, gap as usize, "index")?.iter().any(|&b| b != 0) {
                return Err(field(at, "index", "something else", "zeros between sections"));
            }
            at = at.max(end);
        }
        Ok(())
    }

    /// Checks the seek table, which this reader doesn't use: the frames it
    /// names must fill the file up to it, and hold `content` bytes. `f` is
    /// shown each: offset, compressed and decompressed size.
    pub(crate) fn verify_seek_table(
        &self,
        src: &dyn ReadAt,
        content: u64,
        mut f: impl FnMut(u64, u32, u32),
    ) -> Result<()> {
        let off = self.seek_table;
        let len = src.len() - off;
        let mut at = off + SKIPPABLE_HEADER_LEN as u64;
        let end = src.len() - SEEK_FOOTER_LEN as u64;
        let frame = read(src, off, SKIPPABLE_HEADER_LEN, "seek table")?;
        let size = u32::try_from(len - SKIPPABLE_HEADER_LEN as u64).unwrap_or(u32::MAX);
        let (mut compressed, mut decompressed) = (0, 0);
        while at < end {
            let n = (end - at).min(CHUNK_LEN as u64) as usize;
            for entry in read(src, at, n, "seek table")?.chunks_exact(SEEK_ENTRY_LEN) {
                let Ok(e) = SeekEntry::read_from_bytes(entry) else { continue };
                f(compressed, e.compressed.get(), e.decompressed.get());
                // 2^32 entries of 2^32 at most.
                compressed += u64::from(e.compressed.get());
                decompressed += u64::from(e.decompressed.get());
            }
            at += n as u64;
        }
        if frame[..4] != SEEK_TABLE_FRAME.to_le_bytes()
            || frame[4..] != size.to_le_bytes()
            || compressed != off
            || decompressed != content
        {
            let found = format!("{compressed} bytes of frames holding {decompressed}");
            return Err(field(off, "seek table", found, format!("{off} holding {content}")));
        }
        Ok(())
    }
}

fn head(src: &dyn ReadAt) -> Result<Head> {
    let head: Head = parse(src, 0, "head")?;
    if !is_head(&head) {
        return Err(field(0, "magic", "something else", "that of a vmcask archive"));
    }
    if head.format_version.get() != FORMAT_VERSION {
        return Err(Error::TooNew(format!("its format is version {}", head.format_version)));
    }
    let unknown = head.incompatible.get() & !KNOWN_INCOMPATIBLE;
    if unknown != 0 {
        return Err(Error::TooNew(format!("it uses features {unknown:#x} unknown here")));
    }
    if head.cell_size.get() != CELL_SIZE as u32 {
        return Err(field(20, "cell_size", head.cell_size, "4096"));
    }
    if !(1..=MAX_CELLS_PER_FRAME).contains(&head.cells_per_frame.get()) {
        return Err(field(24, "cells_per_frame", head.cells_per_frame, "1 to 4096"));
    }
    Ok(head)
}

fn is_head(head: &Head) -> bool {
    head.frame_magic.get() == HEAD_FRAME
        && head.frame_size.get() as usize == size_of::<Head>() - SKIPPABLE_HEADER_LEN
        && head.magic == HEAD_MAGIC
}

/// Whether a file that begins with these bytes is an archive; 16 are enough.
pub fn is_archive(prefix: &[u8]) -> bool {
    prefix.starts_with(&HEAD_FRAME.to_le_bytes())
        && prefix.get(8..).is_some_and(|rest| rest.starts_with(&HEAD_MAGIC))
}

fn locator(src: &dyn ReadAt) -> Result<(Locator, u64)> {
    let len = src.len();
    let cut = |what: &str| {
        field(
            len.saturating_sub(SEEK_FOOTER_LEN as u64),
            "end of file",
            what,
            "a seek table: the archive is cut short or damaged at its end",
        )
    };
    let footer_offset =
        len.checked_sub(SEEK_FOOTER_LEN as u64).ok_or_else(|| cut("no room for one"))?;
    let footer = read(src, footer_offset, SEEK_FOOTER_LEN, "seek table")?;
    if footer[5..] != SEEKABLE_MAGIC.to_le_bytes() {
        return Err(cut("something else"));
    }
    if footer[4] != 0 {
        return Err(cut("a seek table with checksums"));
    }
    let frames = u32::from_le_bytes([footer[0], footer[1], footer[2], footer[3]]);
    let table_len =
        (SKIPPABLE_HEADER_LEN + SEEK_FOOTER_LEN) as u64 + u64::from(frames) * SEEK_ENTRY_LEN as u64;
    let offset = len
        .checked_sub(table_len + size_of::<Locator>() as u64)
        .ok_or_else(|| cut("a seek table longer than the file"))?;
    let locator: Locator = parse(src, offset, "locator")?;
    let covered = SKIPPABLE_HEADER_LEN..size_of::<Locator>() - CHECKSUM_LEN;
    if locator.frame_magic.get() != LOCATOR_FRAME
        || locator.frame_size.get() as usize != size_of::<Locator>() - SKIPPABLE_HEADER_LEN
        || locator.magic != LOCATOR_MAGIC
    {
        return Err(field(offset, "locator", "something else", "the locator of the index"));
    }
    if checksum(&locator.as_bytes()[covered]) != locator.checksum {
        return Err(Error::Checksum { part: "locator", off: offset, len: 64 });
    }
    Ok((locator, offset))
}

type Sections = BTreeMap<u32, Arc<Section>>;

fn directory(bytes: &[u8], index_offset: u64, end: u64) -> Result<Sections> {
    let mut entries = Vec::new();
    for (i, bytes) in bytes.chunks_exact(size_of::<DirectoryEntry>()).enumerate() {
        let off = end + (i * size_of::<DirectoryEntry>()) as u64;
        let Ok(e) = DirectoryEntry::read_from_bytes(bytes) else { continue };
        let (offset, length) = (e.offset.get(), e.length.get());
        let fits = offset.checked_add(length).is_some_and(|e| e <= end);
        if offset < index_offset || !fits || offset % SECTION_ALIGN != 0 {
            return Err(field(
                off,
                "directory",
                format!("a section at {offset:#x} of {length} bytes"),
                "an aligned one inside the index",
            ));
        }
        if e.flags.get() & SECTION_REQUIRED != 0 && name(e.kind.get()) == name(0) {
            return Err(Error::TooNew(format!("its section of kind {} is unknown here", e.kind)));
        }
        entries.push(e);
    }
    // Chunk checksums end where the directory begins.
    let all = entries.iter().map(|e| chunks(e.length.get())).fold(0, u64::saturating_add);
    let mut checksums = end
        .checked_sub(all.saturating_mul(CHECKSUM_LEN as u64))
        .filter(|&c| c >= index_offset)
        .ok_or_else(|| field(end, "directory", "more chunks", "as many as have a checksum"))?;
    let mut sections = BTreeMap::new();
    for e in entries {
        let (kind, length) = (e.kind.get(), e.length.get());
        let section = Section::new(kind, e.offset.get(), length, e.checksum, checksums);
        checksums += chunks(length) * CHECKSUM_LEN as u64;
        if sections.insert(kind, Arc::new(section)).is_some() {
            return Err(field(end, "directory", format!("kind {kind} twice"), "once each"));
        }
    }
    Ok(sections)
}
