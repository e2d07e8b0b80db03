//! The note that vmcask leaves in cores it writes: owner `vmcask`, in the
//! file's last program header.
//!
//! | n_type | description |
//! |---|---|
//! | 5 | [`Meta`] as JSON |
//! | 7 | the minidump the core was made from, from its header to its first page |
//! | 8 | what followed that minidump's last whole page in the file |
//!
//! Types belong to their owner, but BFD looks at some (1 is NT_PRSTATUS)
//! whoever that is, and eu-elflint knows only those of System V: these are
//! three that the one ignores and the other accepts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zerocopy::FromBytes;
use zerocopy::byteorder::{BigEndian, ByteOrder, LittleEndian};

use super::headers::{Ident, Phdr};
use crate::layout::elf as wire;
use crate::minidump::Minidump;
use crate::source::{ReadAt, SubSource};

/// Owner of the notes, without its NUL.
pub const OWNER: &[u8] = b"vmcask";
/// n_type of [`Meta`].
pub const NT_META: u32 = 5;
/// n_type of the minidump's parts before its pages.
pub const NT_PREFIX: u32 = 7;
/// n_type of the bytes behind the minidump's last whole page.
pub const NT_TAIL: u32 = 8;

/// JSON larger than this is not [`Meta`].
const MAX_META: u64 = 64 << 10;
/// More notes than this are not vmcask's.
const MAX_NOTES: usize = 4096;

/// How a core came to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Name and version of the writer.
    pub writer: String,
    /// `physical` or `kernel`.
    pub view: String,
    /// `minidump` or `elf`.
    pub source: String,
    /// Length of the source in bytes.
    pub source_bytes: u64,
    /// Whole pages in the source.
    pub pages: u64,
    /// Of these, pages full of zeros that were left out on request.
    #[serde(default)]
    pub dropped_zero_pages: u64,
    /// Physical address of the kernel's top-level page table, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_table_root: Option<u64>,
    /// Levels of these page tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_table_levels: Option<u32>,
}

/// The note, found in a core.
#[derive(Debug)]
pub struct VmcaskNote {
    /// How the core came to be.
    pub meta: Meta,
    /// The minidump's parts before its pages, as a minidump without pages.
    pub minidump: Option<Minidump>,
    /// The same as bytes.
    pub prefix: Option<Arc<dyn ReadAt>>,
    /// The bytes behind the minidump's last whole page.
    pub tail: Option<Arc<dyn ReadAt>>,
}

/// Looks for the note; what can't be parsed is not there.
pub(super) fn find(src: &Arc<dyn ReadAt>, ident: &Ident, phdrs: &[Phdr]) -> Option<VmcaskNote> {
    phdrs.iter().filter(|p| p.p_type == wire::PT_NOTE).find_map(|p| {
        if ident.is_big_endian {
            parse::<BigEndian>(src, p.p_offset, p.p_filesz)
        } else {
            parse::<LittleEndian>(src, p.p_offset, p.p_filesz)
        }
    })
}

fn parse<O: ByteOrder>(src: &Arc<dyn ReadAt>, start: u64, size: u64) -> Option<VmcaskNote> {
    let end = start.checked_add(size)?.min(src.len());
    let mut at = start;
    let (mut meta, mut prefix, mut tail) = (None, None, None);
    for _ in 0..MAX_NOTES {
        let mut header = [0; 12];
        if at.checked_add(12).is_none_or(|e| e > end) || src.read_exact_at(at, &mut header).is_err()
        {
            break;
        }
        let Ok(n) = wire::ElfNote::<O>::read_from_bytes(&header) else { break };
        let (namesz, descsz) = (u64::from(n.n_namesz.get()), u64::from(n.n_descsz.get()));
        let desc = at + 12 + namesz.next_multiple_of(4);
        let mut name = [0; OWNER.len() + 1];
        let is_ours = namesz == name.len() as u64
            && src.read_exact_at(at + 12, &mut name).is_ok()
            && name.strip_suffix(b"\0") == Some(OWNER);
        let desc_end = desc.saturating_add(descsz);
        if desc_end > end {
            break;
        }
        at = desc + descsz.next_multiple_of(4);
        if !is_ours {
            continue;
        }
        let part = || Arc::new(SubSource::new(src.clone(), desc..desc_end)) as Arc<dyn ReadAt>;
        match n.n_type.get() {
            NT_META if descsz <= MAX_META => {
                let mut json = vec![0; descsz as usize];
                src.read_exact_at(desc, &mut json).ok()?;
                meta = serde_json::from_slice::<Meta>(&json).ok();
            }
            NT_PREFIX => prefix = Some(part()),
            NT_TAIL => tail = Some(part()),
            _ => {}
        }
    }
    let minidump = prefix.clone().and_then(|p| Minidump::open(p).ok());
    Some(VmcaskNote { meta: meta?, prefix: prefix.filter(|_| minidump.is_some()), minidump, tail })
}
