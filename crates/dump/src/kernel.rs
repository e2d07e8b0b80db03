//! Kernel images: the ELF file a kernel was loaded from, for its symbols and
//! its read-only data. Parsed by the `object` crate.

use std::collections::HashSet;
use std::sync::Arc;

use object::elf;
use object::read::{Object, ObjectSection, ObjectSymbol, SectionFlags, SymbolKind};

use crate::addr::VirtAddr;
use crate::detect::{Format, detect};
use crate::error::{Error, Result};
use crate::source::ReadAt;

/// Images are read whole: a FreeBSD kernel has 30 MB, with debug data in the
/// same file some 150 MB. What is larger than this is no kernel.
const MAX_IMAGE: u64 = 2 << 30;

/// A symbol of a kernel image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name, as in the string table.
    pub name: Box<str>,
    /// Its address, as linked.
    pub addr: VirtAddr,
    /// Bytes; 0 where the image doesn't say.
    pub size: u64,
    /// Whether it is a function.
    pub is_function: bool,
    /// Whether it lies in a section of instructions: functions, and labels of
    /// assembly that aren't marked as such.
    pub is_code: bool,
}

/// Initialised bytes of the image.
struct Piece {
    addr: u64,
    bytes: Box<[u8]>,
}

/// A kernel image, open.
pub struct KernelImage {
    /// By address.
    symbols: Vec<Symbol>,
    /// Indices into `symbols`, by name.
    by_name: Vec<u32>,
    /// Ascending by address. Sections, where the image has them, else
    /// segments.
    pieces: Vec<Piece>,
    e_machine: u16,
    is_64: bool,
    is_little_endian: bool,
    build_id: Option<Vec<u8>>,
    build_id_note: Option<VirtAddr>,
}

impl std::fmt::Debug for KernelImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelImage")
            .field("symbols", &self.symbols.len())
            .field("e_machine", &self.e_machine)
            .finish_non_exhaustive()
    }
}

impl KernelImage {
    /// Opens the image that `src` holds. Memory: the file once, and its
    /// symbols.
    pub fn open(src: &Arc<dyn ReadAt>) -> Result<Self> {
        let len = src.len();
        if len > MAX_IMAGE {
            return Err(Error::Unsupported(format!(
                "a file of {len} bytes is no kernel image: at most {MAX_IMAGE} bytes are read"
            )));
        }
        let mut bytes = vec![0; len as usize];
        src.read_exact_at(0, &mut bytes).map_err(|source| Error::Io {
            off: 0,
            len: bytes.len(),
            source,
        })?;
        Self::parse(&bytes)
    }

    /// Parses an image that is in memory.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let not = |what| Err(Error::Kernel { what });
        match detect(bytes) {
            Format::Elf => {}
            Format::Unknown => return not("no ELF magic at offset 0x0".into()),
            packed @ (Format::Gzip | Format::Zstd | Format::Bzip2) => {
                return not(format!("it is {}: unpack it first", packed.name()));
            }
            other => return not(format!("it is {}", other.name())),
        }
        let malformed = |e: object::read::Error| Error::Kernel { what: e.to_string() };
        let file = object::File::parse(bytes).map_err(malformed)?;
        let e_machine = match &file {
            object::File::Elf32(f) => f.elf_header().e_machine.get(f.endian()),
            object::File::Elf64(f) => f.elf_header().e_machine.get(f.endian()),
            _ => return Err(Error::Kernel { what: "it is not ELF".into() }),
        };
        let code: HashSet<usize> =
            file.sections().filter(is_code).map(|section| section.index().0).collect();
        // Strings and sections may lie over each other; what they copy out of
        // the file must not be many times the file.
        let mut left = Budget::of(bytes);
        let named = file
            .symbols()
            .filter(|s| s.is_definition() || s.kind() == SymbolKind::Unknown && s.address() != 0)
            .chain(file.symbols().filter(|s| s.section() == object::SymbolSection::Absolute));
        let mut symbols = Vec::new();
        for s in named {
            let Some(name) = s.name().ok().filter(|n| !n.is_empty()) else { continue };
            left.take(name.len(), "symbols' names")?;
            symbols.push(Symbol {
                name: name.into(),
                addr: VirtAddr(s.address()),
                size: s.size(),
                is_function: s.kind() == SymbolKind::Text,
                is_code: s.section_index().is_some_and(|i| code.contains(&i.0)),
            });
        }
        symbols.sort_by(|a, b| a.addr.cmp(&b.addr).then_with(|| a.name.cmp(&b.name)));
        symbols.dedup();
        let mut by_name: Vec<u32> = (0..symbols.len() as u32).collect();
        by_name.sort_by(|&a, &b| symbols[a as usize].name.cmp(&symbols[b as usize].name));
        Ok(Self {
            pieces: pieces(&file, &mut Budget::of(bytes))?,
            by_name,
            symbols,
            e_machine: e_machine.0,
            is_64: file.is_64(),
            is_little_endian: file.is_little_endian(),
            build_id: file.build_id().ok().flatten().map(<[u8]>::to_vec),
            build_id_note: file
                .section_by_name(".note.gnu.build-id")
                .map(|section| VirtAddr(section.address())),
        })
    }

    /// The address of the symbol called `name`; the lowest where several are.
    pub fn symbol(&self, name: &str) -> Option<&Symbol> {
        let at = self.by_name.partition_point(|&i| *self.symbols[i as usize].name < *name);
        let symbol = &self.symbols[*self.by_name.get(at)? as usize];
        (*symbol.name == *name).then_some(symbol)
    }

    /// [`Self::symbol`], or an error that names it.
    pub fn require(&self, name: &'static str) -> Result<&Symbol> {
        self.symbol(name).ok_or(Error::Kernel { what: format!("it has no symbol {name}") })
    }

    /// The function, or else the object, that holds `va`, and the bytes from
    /// its start: `None` where the symbol before it says that it ends sooner.
    pub fn nearest(&self, va: VirtAddr) -> Option<(&Symbol, u64)> {
        let end = self.symbols.partition_point(|s| s.addr <= va);
        // Labels inside functions are many, but not endless.
        let candidates = self.symbols[..end].iter().rev().take(64);
        let holds = |s: &&Symbol| s.size == 0 || va.0 - s.addr.0 < s.size;
        let best = candidates
            .clone()
            .filter(holds)
            .find(|s| s.is_function)
            .or_else(|| candidates.clone().find(holds))?;
        Some((best, va.0 - best.addr.0))
    }

    /// [`Self::nearest`] among instructions alone: what a return address lies
    /// in. Data before a kernel's text is not what was running.
    pub fn function(&self, va: VirtAddr) -> Option<(&Symbol, u64)> {
        self.nearest(va).filter(|(symbol, _)| symbol.is_function || symbol.is_code)
    }

    /// Fills `buf` with what the image has at `va`; zeros don't stand for what
    /// it hasn't (.bss): that is [`Error::NotMapped`].
    pub fn read(&self, va: VirtAddr, buf: &mut [u8]) -> Result<()> {
        let missing =
            Error::NotMapped { va, reason: "the kernel image has no initialised data there" };
        let end = self.pieces.partition_point(|p| p.addr <= va.0);
        let Some(piece) = end.checked_sub(1).map(|i| &self.pieces[i]) else {
            return Err(missing);
        };
        let bytes = usize::try_from(va.0 - piece.addr)
            .ok()
            .and_then(|from| piece.bytes.get(from..from.checked_add(buf.len())?));
        match bytes {
            Some(bytes) => buf.copy_from_slice(bytes),
            None => return Err(missing),
        }
        Ok(())
    }

    /// All symbols, ascending by address.
    pub fn symbols(&self) -> &[Symbol] {
        &self.symbols
    }

    /// `e_machine`.
    pub fn e_machine(&self) -> u16 {
        self.e_machine
    }

    /// Whether addresses have 64 bits.
    pub fn is_64(&self) -> bool {
        self.is_64
    }

    /// Whether integers are little-endian.
    pub fn is_little_endian(&self) -> bool {
        self.is_little_endian
    }

    /// The GNU build-id, where it has one.
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// Where the running kernel has the ELF note that holds its build-id.
    pub fn build_id_note(&self) -> Option<VirtAddr> {
        self.build_id_note
    }
}

fn is_code<'d>(section: &impl ObjectSection<'d>) -> bool {
    match section.flags() {
        SectionFlags::Elf { sh_flags, .. } => sh_flags.0 & elf::SHF_EXECINSTR.0 != 0,
        _ => false,
    }
}

/// Images that a debugger's test suite cut down to size have sections only;
/// images that a boot loader takes have segments as well.
fn pieces(file: &object::File<'_>, left: &mut Budget) -> Result<Vec<Piece>> {
    let mut found: Vec<(u64, &[u8])> = file
        .sections()
        .filter(|s| match s.flags() {
            SectionFlags::Elf { sh_flags, .. } => sh_flags.0 & elf::SHF_ALLOC.0 != 0,
            _ => false,
        })
        .filter_map(|s| Some((s.address(), s.data().ok()?)))
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect();
    if found.is_empty() {
        use object::read::ObjectSegment;
        found = file
            .segments()
            .filter_map(|s| Some((s.address(), s.data().ok()?)))
            .filter(|(_, bytes)| !bytes.is_empty())
            .collect();
    }
    let mut out = Vec::with_capacity(found.len());
    for (addr, bytes) in found {
        left.take(bytes.len(), "sections")?;
        out.push(Piece { addr, bytes: bytes.into() });
    }
    out.sort_by_key(|p| p.addr);
    Ok(out)
}

/// Bytes that may still be copied out of an image.
struct Budget(usize);

impl Budget {
    /// Twice the image: linkers let names share their ends.
    fn of(image: &[u8]) -> Self {
        Self(image.len().saturating_mul(2))
    }

    fn take(&mut self, bytes: usize, what: &str) -> Result<()> {
        let too_much =
            || Error::Kernel { what: format!("its {what} take more than twice the file itself") };
        self.0 = self.0.checked_sub(bytes).ok_or_else(too_much)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::write::{Object, StandardSection, Symbol as Sym, SymbolSection};
    use object::{Architecture, BinaryFormat, Endianness, SymbolFlags, SymbolScope};

    fn image() -> Vec<u8> {
        let mut obj = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        let text = obj.section_id(StandardSection::Text);
        obj.append_section_data(text, &[0x90; 64], 16);
        let mut add = |name: &str, value, size, kind, section| {
            obj.add_symbol(Sym {
                name: name.into(),
                value,
                size,
                kind,
                scope: SymbolScope::Linkage,
                weak: false,
                section,
                flags: SymbolFlags::None,
            });
        };
        add("panic", 0, 32, SymbolKind::Text, SymbolSection::Section(text));
        add("label", 8, 0, SymbolKind::Label, SymbolSection::Section(text));
        add("kernbase", 0xffff_ffff_8000_0000, 0, SymbolKind::Data, SymbolSection::Absolute);
        obj.write().unwrap()
    }

    #[test]
    fn symbols_by_name_and_address() {
        let k = KernelImage::parse(&image()).unwrap();
        assert_eq!(k.symbol("kernbase").unwrap().addr, VirtAddr(0xffff_ffff_8000_0000));
        assert!(k.symbol("kernbas").is_none() && k.symbol("zzz").is_none());
        let (s, off) = k.nearest(VirtAddr(9)).unwrap();
        assert_eq!((&*s.name, off), ("panic", 9), "a function before a label in it");
        assert!(k.require("hz").unwrap_err().to_string().contains("hz"));
    }

    #[test]
    fn data_of_sections_and_nothing_else() {
        let k = KernelImage::parse(&image()).unwrap();
        let mut two = [0; 2];
        k.read(VirtAddr(62), &mut two).unwrap();
        assert_eq!(two, [0x90; 2]);
        assert!(k.read(VirtAddr(63), &mut two).is_err());
        assert!(k.read(VirtAddr(u64::MAX), &mut two).is_err());
    }

    #[test]
    fn damage_is_an_error_or_harmless() {
        let image = image();
        for at in 0..image.len() {
            let mut bad = image.clone();
            bad[at] ^= 0xff;
            let _ = KernelImage::parse(&bad);
            let _ = KernelImage::parse(&image[..at]);
        }
    }
}
