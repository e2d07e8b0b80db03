//! The kernel image: an ELF executable with sections, as the linker leaves
//! it.

use super::{BSS, DATA, END, Kind, Program, RODATA, TEXT};
use crate::arch::Fields;

/// `ELFOSABI_FREEBSD`
const OSABI_FREEBSD: u8 = 9;
const ET_EXEC: u16 = 2;
const SHN_ABS: u16 = 0xfff1;
/// `STB_GLOBAL << 4`
const GLOBAL: u8 = 1 << 4;
/// STT_OBJECT, STT_FUNC
const OBJECT: u8 = 1;
const FUNC: u8 = 2;

const SHT_PROGBITS: u64 = 1;
const SHT_SYMTAB: u64 = 2;
const SHT_STRTAB: u64 = 3;
const SHT_NOBITS: u64 = 8;
/// SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR
const WRITE: u64 = 1;
const ALLOC: u64 = 2;
const EXEC: u64 = 4;

const PT_LOAD: u64 = 1;
/// PF_X, PF_W, PF_R
const X: u64 = 1;
const W: u64 = 2;
const R: u64 = 4;

const PAGE: u64 = 4096;
/// Sections: .text, .rodata, .data, .bss, .symtab, .strtab, .shstrtab, after
/// an empty one.
const NAMES: [&str; 8] =
    ["", ".text", ".rodata", ".data", ".bss", ".symtab", ".strtab", ".shstrtab"];
const SYMTAB: usize = 5;
const STRTAB: usize = 6;

/// Where a section lies: address, offset, bytes.
#[derive(Clone, Copy, Default)]
struct Place {
    addr: u64,
    off: u64,
    size: u64,
}

impl Program {
    /// The image's file, linked for `base`.
    pub(crate) fn image(&self, base: u64) -> Vec<u8> {
        let narrow = self.abi.word == 4;
        let (ehsize, phentsize, shentsize) = if narrow { (52, 32, 40) } else { (64, 56, 64) };
        let (symtab, strtab) = self.symbol_table(base, narrow);
        let mut shstrtab = Vec::new();
        let names = NAMES.map(|name| string(&mut shstrtab, name));

        // Offsets in the file are those in memory, but for what isn't loaded.
        let mut places = [Place::default(); NAMES.len()];
        for (i, (at, size)) in [
            (TEXT, self.text.len() as u64),
            (RODATA, self.rodata.len() as u64),
            (DATA, self.data.len() as u64),
            (BSS, END - BSS),
        ]
        .into_iter()
        .enumerate()
        {
            places[1 + i] = Place { addr: base + at, off: at, size };
        }
        let mut bytes = vec![0; BSS as usize];
        for (at, section) in [(TEXT, &self.text), (RODATA, &self.rodata), (DATA, &self.data)] {
            bytes[at as usize..at as usize + section.len()].copy_from_slice(section);
        }
        for (i, table) in [(SYMTAB, &symtab), (STRTAB, &strtab), (STRTAB + 1, &shstrtab)] {
            bytes.resize(bytes.len().next_multiple_of(16), 0);
            places[i] = Place { addr: 0, off: bytes.len() as u64, size: table.len() as u64 };
            bytes.extend_from_slice(table);
        }
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        let shoff = bytes.len() as u64;
        bytes.resize(bytes.len() + NAMES.len() * shentsize as usize, 0);

        let mut f = Fields { bytes: &mut bytes, big: false };
        f.text(0, "\x7fELF");
        f.bytes[4] = if narrow { 1 } else { 2 };
        f.bytes[5] = 1;
        f.bytes[6] = 1;
        f.bytes[7] = OSABI_FREEBSD;
        f.u16(16, ET_EXEC).u16(18, self.arch.e_machine()).u32(20, 1);
        let entry = base + self.symbol("fork_trampoline").unwrap_or(TEXT);
        let mut at = 24;
        for n in [entry, ehsize, shoff] {
            word(&mut f, &mut at, n, narrow);
        }
        // e_flags, then the sizes.
        at += 4;
        for n in [ehsize, phentsize, 3, shentsize, NAMES.len() as u64, NAMES.len() as u64 - 1] {
            f.u16(at, n as u16);
            at += 2;
        }
        // The headers belong to the first segment, as always.
        let segments = [
            (0, TEXT + self.text.len() as u64, 0, R | X),
            (RODATA, self.rodata.len() as u64, 0, R),
            (DATA, BSS - DATA, END - BSS, R | W),
        ];
        for (i, (off, filesz, bss, flags)) in segments.into_iter().enumerate() {
            let mut at = (ehsize + i as u64 * phentsize) as usize;
            f.u32(at, PT_LOAD);
            at += 4;
            if !narrow {
                f.u32(at, flags);
                at += 4;
            }
            for n in [off, base + off, base + off, filesz, filesz + bss] {
                word(&mut f, &mut at, n, narrow);
            }
            if narrow {
                f.u32(at, flags);
                at += 4;
            }
            word(&mut f, &mut at, PAGE, narrow);
        }
        let entry_size = if narrow { 16 } else { 24 };
        let kinds = [
            (0, 0),
            (SHT_PROGBITS, ALLOC | EXEC),
            (SHT_PROGBITS, ALLOC),
            (SHT_PROGBITS, ALLOC | WRITE),
            (SHT_NOBITS, ALLOC | WRITE),
            (SHT_SYMTAB, 0),
            (SHT_STRTAB, 0),
            (SHT_STRTAB, 0),
        ];
        for (i, (kind, flags)) in kinds.into_iter().enumerate().skip(1) {
            let mut at = (shoff + i as u64 * shentsize) as usize;
            f.u32(at, names[i]).u32(at + 4, kind);
            at += 8;
            for n in [flags, places[i].addr, places[i].off, places[i].size] {
                word(&mut f, &mut at, n, narrow);
            }
            // sh_link and sh_info: the strings, and the first global symbol.
            let (link, info) = if i == SYMTAB { (STRTAB as u64, 1) } else { (0, 0) };
            f.u32(at, link).u32(at + 4, info);
            at += 8;
            for n in [16, if i == SYMTAB { entry_size } else { 0 }] {
                word(&mut f, &mut at, n, narrow);
            }
        }
        bytes
    }

    /// `.symtab` and `.strtab`.
    fn symbol_table(&self, base: u64, narrow: bool) -> (Vec<u8>, Vec<u8>) {
        let size = if narrow { 16 } else { 24 };
        let mut table = vec![0; size * (self.symbols.len() + 1)];
        let mut strings = vec![0];
        let mut f = Fields { bytes: &mut table, big: false };
        for (i, symbol) in self.symbols.iter().enumerate() {
            let at = (i + 1) * size;
            let name = string(&mut strings, &symbol.name);
            let section = match symbol.at {
                _ if symbol.kind == Kind::Absolute => SHN_ABS,
                at if at < RODATA => 1,
                at if at < DATA => 2,
                at if at < BSS => 3,
                _ => 4,
            };
            let value = match symbol.kind {
                Kind::Absolute => symbol.at,
                _ => base + symbol.at,
            };
            let info = GLOBAL
                | match symbol.kind {
                    Kind::Function => FUNC,
                    Kind::Object => OBJECT,
                    Kind::Absolute => 0,
                };
            f.u32(at, name);
            if narrow {
                f.u32(at + 4, value).u32(at + 8, symbol.size).u16(at + 14, section);
                f.bytes[at + 12] = info;
            } else {
                f.bytes[at + 4] = info;
                f.u16(at + 6, section).u64(at + 8, value).u64(at + 16, symbol.size);
            }
        }
        (table, strings)
    }
}

fn word(f: &mut Fields<'_>, at: &mut usize, n: u64, narrow: bool) {
    if narrow {
        f.u32(*at, n);
        *at += 4;
    } else {
        f.u64(*at, n);
        *at += 8;
    }
}

/// Appends to a string table; returns where.
fn string(table: &mut Vec<u8>, text: &str) -> u64 {
    let at = table.len() as u64;
    table.extend_from_slice(text.as_bytes());
    table.push(0);
    at
}
