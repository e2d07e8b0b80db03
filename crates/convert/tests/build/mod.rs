//! Minidumps and cores written by hand, from FORMATS' tables and not from the
//! readers' layouts.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use vmcask_convert::{Dump, Target, View, view::target};
use vmcask_dump::{ElfCore, Minidump, ReadAt};

/// Architectures, with the page size.
pub const ARCHES: [(&str, u64, u32); 8] = [
    ("amd64", 4096, 3),
    ("arm64", 4096, 3),
    ("arm64", 16384, 3),
    ("riscv", 4096, 2),
    ("i386", 4096, 2),
    ("arm", 4096, 2),
    ("powerpc64", 4096, 2),
    ("powerpc64le", 4096, 2),
];

pub const KERNBASE64: u64 = 0xffff_fe00_0000_0000;
pub const DMAPBASE: u64 = 0xffff_f800_0000_0000;
pub const DMAPEND: u64 = DMAPBASE + (1 << 40);

/// A minidump to be.
#[derive(Clone, Debug)]
pub struct Mini {
    pub arch: &'static str,
    pub page: u64,
    pub version: u32,
    /// Ranges of memory, ascending.
    pub ranges: Vec<(u64, u64)>,
    /// Dumped page numbers, ascending, all in the ranges.
    pub pages: Vec<u64>,
    /// Pages whose content isn't made up.
    pub content: BTreeMap<u64, Vec<u8>>,
    pub pmap: Vec<u8>,
    pub pae: bool,
}

/// What a page holds: its number, and a byte that is never zero, but for
/// every fifth page, which is zero.
pub fn page_bytes(pfn: u64, page: u64) -> Vec<u8> {
    if pfn % 5 == 4 {
        return vec![0; page as usize];
    }
    let mut bytes = vec![(pfn % 250) as u8 + 1; page as usize];
    bytes[..8].copy_from_slice(&pfn.to_le_bytes());
    bytes
}

impl Mini {
    pub fn is_big(&self) -> bool {
        self.arch == "powerpc64"
    }

    pub fn has_avail(&self) -> bool {
        self.version >= if self.arch == "amd64" { 3 } else { 2 }
    }

    pub fn kernbase(&self) -> u64 {
        if matches!(self.arch, "i386" | "arm") { 0xc000_0000 } else { KERNBASE64 }
    }

    pub fn page_content(&self, pfn: u64) -> Vec<u8> {
        self.content.get(&pfn).cloned().unwrap_or_else(|| page_bytes(pfn, self.page))
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let page = self.page as usize;
        let big = self.is_big();
        let u32b = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let u64b = |n: u64| if big { n.to_be_bytes() } else { n.to_le_bytes() };

        let mut avail = Vec::new();
        if self.has_avail() {
            for (start, end) in self.ranges.iter().chain(&[(0, 0)]) {
                for n in [*start, *end] {
                    if self.arch == "arm" {
                        avail.extend(u32b(n as u32));
                    } else {
                        avail.extend(u64b(n));
                    }
                }
            }
        }
        let bit = |pfn: u64| {
            if !self.has_avail() {
                return pfn;
            }
            let mut before = 0;
            for &(start, end) in &self.ranges {
                if (start..end).contains(&(pfn * self.page)) {
                    return before + pfn - start / self.page;
                }
                before += end.div_ceil(self.page) - start / self.page;
            }
            panic!("page {pfn} is in no range");
        };
        let bits = self.ranges.iter().map(|&(_, e)| bit(e / self.page - 1) + 1).max().unwrap_or(0);
        let mut words = vec![0u64; bits.div_ceil(64) as usize];
        for &pfn in &self.pages {
            words[(bit(pfn) / 64) as usize] |= 1 << (bit(pfn) % 64);
        }
        let bitmap: Vec<u8> = words.iter().flat_map(|&w| u64b(w)).collect();
        let msgbuf = b"panic: made up\n".repeat(10);

        let mut h = vec![0u8; page];
        let put = |h: &mut Vec<u8>, at: usize, b: &[u8]| h[at..at + b.len()].copy_from_slice(b);
        let magic_arch = if self.arch == "powerpc64le" { "powerpc64" } else { self.arch };
        put(&mut h, 0, format!("minidump FreeBSD/{magic_arch}").as_bytes());
        let sizes = [msgbuf.len(), bitmap.len(), self.pmap.len()].map(|n| u32b(n as u32));
        let ppc = magic_arch == "powerpc64";
        let first = if ppc { 64 } else { 24 };
        put(&mut h, first, &u32b(self.version));
        for (i, size) in sizes.iter().enumerate() {
            put(&mut h, first + 4 + i * 4, size);
        }
        let put_avail = |h: &mut Vec<u8>, at| {
            if self.has_avail() {
                put(h, at, &u32b(avail.len() as u32));
            }
        };
        match magic_arch {
            "amd64" => {
                put(&mut h, 40, &u64b(self.kernbase()));
                put(&mut h, 48, &u64b(DMAPBASE));
                put(&mut h, 56, &u64b(DMAPEND));
                put_avail(&mut h, 64);
            }
            "arm64" | "riscv" => {
                put(&mut h, 40, &u64b(self.kernbase()));
                put(&mut h, 48, &u64b(0));
                put(&mut h, 56, &u64b(DMAPBASE));
                put(&mut h, 64, &u64b(DMAPEND));
                put_avail(&mut h, 72);
                if self.arch == "arm64" && self.version >= 3 {
                    put(&mut h, 76, &u32b(u32::from(self.page == 16384)));
                }
            }
            "i386" => {
                put(&mut h, 40, &u32b(self.kernbase() as u32));
                put(&mut h, 44, &u32b(u32::from(self.pae)));
                put_avail(&mut h, 48);
            }
            "arm" => {
                put(&mut h, 40, &u32b(self.kernbase() as u32));
                put_avail(&mut h, 52);
            }
            _ => {
                put(&mut h, 80, &u64b(self.kernbase()));
                put_avail(&mut h, 136);
            }
        }

        let mut out = h;
        for part in [&msgbuf, &avail, &bitmap, &self.pmap] {
            out.extend_from_slice(part);
            out.resize(out.len().next_multiple_of(page), 0);
        }
        for &pfn in &self.pages {
            out.extend(self.page_content(pfn));
        }
        out
    }
}

/// A core as `dumpsys_generic` writes it: segments of physical memory.
pub fn generic_core(segments: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let n = segments.len();
    let mut out = b"\x7fELF\x02\x01\x01\xff".to_vec();
    out.resize(16, 0);
    out.extend(4u16.to_le_bytes()); // ET_CORE
    out.extend(62u16.to_le_bytes()); // EM_X86_64
    out.extend(0u32.to_le_bytes()); // the kernel leaves e_version 0
    for word in [0u64, 64, 0] {
        out.extend(word.to_le_bytes()); // e_entry, e_phoff, e_shoff
    }
    out.extend(0u32.to_le_bytes());
    for half in [64u16, 56, n as u16, 64, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    let mut at = (64 + 56 * n as u64).next_multiple_of(4096);
    let first = at;
    for (pa, bytes) in segments {
        out.extend(1u32.to_le_bytes());
        out.extend(4u32.to_le_bytes());
        let len = bytes.len() as u64;
        for word in [at, *pa, *pa, len, len, 4096] {
            out.extend(word.to_le_bytes());
        }
        at += len;
    }
    out.resize(first as usize, 0);
    for (_, bytes) in segments {
        out.extend_from_slice(bytes);
    }
    out
}

/// Opens bytes as whatever they are.
pub fn open(bytes: Vec<u8>) -> (Dump, Arc<dyn ReadAt>) {
    let is_elf = bytes.starts_with(b"\x7fELF");
    let source: Arc<dyn ReadAt> = Arc::new(bytes);
    let dump: Dump = if is_elf {
        ElfCore::open(source.clone()).unwrap().into()
    } else {
        Minidump::open(source.clone()).unwrap().into()
    };
    (dump, source)
}

pub fn all(view: &View) -> Vec<u8> {
    let mut bytes = vec![0xaa; view.len() as usize];
    view.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

/// Converts bytes; the losses with them.
pub fn convert(bytes: &[u8], to: Target) -> (Vec<u8>, Vec<String>) {
    convert_with(bytes, to, &target::Options::default())
}

pub fn convert_with(
    bytes: &[u8],
    to: Target,
    options: &target::Options<'_>,
) -> (Vec<u8>, Vec<String>) {
    let (dump, source) = open(bytes.to_vec());
    let view = target::of_dump(&dump, &source, to, options).unwrap();
    (all(&view), view.losses.clone())
}
