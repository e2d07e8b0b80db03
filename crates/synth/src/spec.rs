//! What a dump is made from.

use std::fmt;
use std::str::FromStr;

use crate::arch::Arch;
use crate::defect::Defect;
use crate::error::Error;

/// What pages hold that aren't the kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// A mix that compresses and repeats like a server's memory.
    Real,
    /// Nothing but zeros.
    Zeros,
    /// Random bytes: nothing compresses, nothing repeats.
    Random,
    /// Words, like source files in the page cache.
    Text,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Real, Self::Zeros, Self::Random, Self::Text];

    /// The name used on the command line and in a spec's line of text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Zeros => "zeros",
            Self::Random => "random",
            Self::Text => "text",
        }
    }
}

/// The file's own shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// A minidump.
    Minidump,
    /// An ELF core as `dumpsys_generic` writes it. All memory is dumped where
    /// `dump` equals `ram`; otherwise a few thousand ranges of it.
    Elf,
}

impl Format {
    /// The name used on the command line and in a spec's line of text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minidump => "minidump",
            Self::Elf => "elf",
        }
    }
}

/// The arguments of a synthetic dump. The same spec gives the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Architecture.
    pub arch: Arch,
    /// Bytes of a page: 4096, or 16384 on arm64 from version 3 on.
    pub page_size: u64,
    /// i386 only: page table entries of 8 bytes.
    pub pae: bool,
    /// Minidump version, 1 to [`Arch::newest_version`]. Only amd64's version
    /// 1 has PTEs in its pmap part; dump_avail came with version 3 on amd64
    /// and with version 2 elsewhere. Ignored for ELF cores.
    pub version: u32,
    /// The file's shape.
    pub format: Format,
    /// Bytes of physical memory the machine has, in whole pages; up to 16 TiB,
    /// less where the architecture can't address as much.
    pub ram: u64,
    /// Bytes of dumped pages, in whole pages.
    pub dump: u64,
    /// Decides which pages are dumped and what is in them.
    pub seed: u64,
    /// Mean length of a run of dumped pages; lengths are distributed
    /// geometrically.
    pub run_pages: u64,
    /// Ranges of physical memory (start, end) in bytes, ascending. Empty: as
    /// the architecture's firmware would report `ram` bytes. Otherwise `ram`
    /// is what they add up to.
    pub avail: Vec<(u64, u64)>,
    /// What pages hold.
    pub profile: Profile,
    /// Only one in 4096 clusters of 64 KiB holds anything, all others are
    /// zero: dumps far larger than the disk.
    pub sparse: bool,
    /// Processes besides the kernel's own, each with one to three threads.
    pub procs: u32,
    /// What is wrong with the dump.
    pub defects: Vec<Defect>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            arch: Arch::Amd64,
            page_size: 4096,
            pae: false,
            version: 3,
            format: Format::Minidump,
            ram: 4 << 30,
            dump: 256 << 20,
            seed: 1,
            run_pages: 64,
            avail: Vec::new(),
            profile: Profile::Real,
            sparse: false,
            procs: 8,
            defects: Vec::new(),
        }
    }
}

/// What a spec's line of text begins with.
pub(crate) const LINE_MAGIC: &str = "vmcask-synth ";

impl fmt::Display for Spec {
    /// The line of text that a dump can be made from again. It stands at the
    /// beginning of the kernel image in every dump.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{LINE_MAGIC}arch={} page_size={} pae={} version={} format={} ram={} dump={} seed={} \
             run_pages={} profile={} sparse={} procs={}",
            self.arch,
            self.page_size,
            u8::from(self.pae),
            self.version,
            self.format.name(),
            self.ram,
            self.dump,
            self.seed,
            self.run_pages,
            self.profile.name(),
            u8::from(self.sparse),
            self.procs
        )?;
        for (i, (start, end)) in self.avail.iter().enumerate() {
            let before = if i == 0 { " avail=" } else { "," };
            write!(f, "{before}{start:#x}-{end:#x}")?;
        }
        for (i, defect) in self.defects.iter().enumerate() {
            let before = if i == 0 { " defects=" } else { "," };
            write!(f, "{before}{defect}")?;
        }
        Ok(())
    }
}

impl FromStr for Spec {
    type Err = Error;

    /// Reads what [`Spec`]'s `Display` writes, up to the first NUL or
    /// newline.
    fn from_str(text: &str) -> Result<Self, Error> {
        let broken = |found: &str| Error::Argument {
            argument: "line of text",
            found: format!("{found:?}"),
            expected: format!("{LINE_MAGIC}and key=value pairs, as `gen` writes them"),
        };
        let line = text.split(['\0', '\n']).next().unwrap_or_default();
        let words = line.strip_prefix(LINE_MAGIC).ok_or_else(|| broken(line))?;
        let mut spec = Self::default();
        for word in words.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').ok_or_else(|| broken(word))?;
            let number = || value.parse::<u64>().map_err(|_| broken(word));
            let small = || value.parse::<u32>().map_err(|_| broken(word));
            match key {
                "arch" => spec.arch = value.parse().map_err(|_| broken(word))?,
                "page_size" => spec.page_size = number()?,
                "pae" => spec.pae = number()? != 0,
                "version" => spec.version = small()?,
                "format" => {
                    let all = [Format::Minidump, Format::Elf];
                    let found = all.into_iter().find(|f| f.name() == value);
                    spec.format = found.ok_or_else(|| broken(word))?;
                }
                "ram" => spec.ram = number()?,
                "dump" => spec.dump = number()?,
                "seed" => spec.seed = number()?,
                "run_pages" => spec.run_pages = number()?,
                "profile" => {
                    let found = Profile::ALL.into_iter().find(|p| p.name() == value);
                    spec.profile = found.ok_or_else(|| broken(word))?;
                }
                "sparse" => spec.sparse = number()? != 0,
                "procs" => spec.procs = small()?,
                "avail" => {
                    let hex = |s: &str| {
                        let digits = s.strip_prefix("0x")?;
                        u64::from_str_radix(digits, 16).ok()
                    };
                    let range = |s: &str| {
                        let (start, end) = s.split_once('-')?;
                        Some((hex(start)?, hex(end)?))
                    };
                    let ranges = value.split(',').map(range).collect::<Option<_>>();
                    spec.avail = ranges.ok_or_else(|| broken(word))?;
                }
                "defects" => {
                    let defects = value.split(',').map(str::parse).collect::<Result<_, String>>();
                    spec.defects = defects.map_err(|_| broken(word))?;
                }
                _ => return Err(broken(word)),
            }
        }
        Ok(spec)
    }
}

/// Most physical memory: half of what amd64's 8 direct-map slots of 4 TiB
/// hold (`NDMPML4E`, `sys/amd64/include/vmparam.h`).
const MOST_RAM: u64 = 16 << 40;

/// `PHYS_AVAIL_ENTRIES` is a few dozen in real kernels; a page of pairs has
/// room for 256 with their end.
const MOST_RANGES: usize = 255;

/// Each needs some 24 KiB of the dump.
const MOST_PROCS: u32 = 10_000;

impl Spec {
    /// The defaults of an architecture, its newest version.
    pub fn of(arch: Arch) -> Self {
        let ram = if arch.is_32_bit() { 1 << 30 } else { 4 << 30 };
        Self { arch, version: arch.newest_version(), ram, ..Self::default() }
    }

    /// Frames of 4 KiB in a page.
    pub(crate) fn page_frames(&self) -> u64 {
        self.page_size / 4096
    }

    pub(crate) fn has_dump_avail(&self) -> bool {
        self.arch.has_dump_avail(self.version)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let newest = self.arch.newest_version();
        if self.version == 0 || self.version > newest {
            return bad("version", self.version, format!("1 to {newest} on {}", self.arch));
        }
        let sixteen = self.arch == Arch::Arm64 && self.version == 3;
        if self.page_size != 4096 && !(self.page_size == 16384 && sixteen) {
            return bad("page size", self.page_size, "4096, or 16384 on arm64 in version 3");
        }
        if self.pae && self.arch != Arch::I386 {
            return bad("pae", format!("set on {}", self.arch), "unset except on i386");
        }
        let page = self.page_size;
        let most = self.most_ram();
        if self.ram > most || self.ram < 16 << 20 || !self.ram.is_multiple_of(page) {
            return bad(
                "ram",
                format!("{} bytes", self.ram),
                format!("{} to {most} on {}, in whole pages of {page}", 16 << 20, self.arch),
            );
        }
        if self.dump > self.ram || !self.dump.is_multiple_of(page) {
            return bad(
                "dump",
                format!("{} bytes", self.dump),
                format!("at most the machine's memory, in whole pages of {page}"),
            );
        }
        if self.run_pages == 0 {
            return bad("run_pages", 0, "at least 1");
        }
        if self.procs > MOST_PROCS {
            return bad("procs", self.procs, format!("at most {MOST_PROCS}"));
        }
        self.check_defects()?;
        self.check_avail()
    }

    pub(crate) fn has(&self, defect: Defect) -> bool {
        self.defects.contains(&defect)
    }

    fn check_defects(&self) -> Result<(), Error> {
        for &defect in &self.defects {
            let why = match defect {
                d if d.is_of_minidumps() && self.format != Format::Minidump => {
                    Some("one of minidumps in a minidump only")
                }
                d if d.is_of_dump_avail() && !self.has_dump_avail() => {
                    Some("none of dump_avail in a version without it")
                }
                Defect::DumpAvailWidth if !self.arch.is_32_bit() => Some("this on i386 and arm"),
                Defect::MissingPtPage if self.arch != Arch::Amd64 || self.version == 1 => {
                    Some("this on amd64 from version 2 on")
                }
                Defect::BadPte if matches!(self.arch, Arch::Powerpc64 | Arch::Powerpc64le) => {
                    Some("this on all but powerpc64")
                }
                _ => None,
            };
            if let Some(why) = why {
                return bad("defect", defect, why);
            }
        }
        Ok(())
    }

    fn check_avail(&self) -> Result<(), Error> {
        if self.avail.len() > MOST_RANGES {
            return bad("avail", format!("{} ranges", self.avail.len()), "at most 255 ranges");
        }
        let mut last = 0;
        let mut sum = 0u64;
        let limit = self.most_address();
        for &(start, end) in &self.avail {
            let whole = start.is_multiple_of(self.page_size) && end.is_multiple_of(self.page_size);
            if start < last || end <= start || end > limit || !whole {
                return bad(
                    "avail",
                    format!("{start:#x}-{end:#x}"),
                    format!(
                        "ascending ranges in whole pages of {} below {limit:#x}",
                        self.page_size
                    ),
                );
            }
            last = end;
            sum += end - start;
        }
        if !self.avail.is_empty() && sum != self.ram {
            return bad(
                "ram",
                format!("{} bytes", self.ram),
                format!("what avail adds up to, {sum}"),
            );
        }
        Ok(())
    }

    /// Physical addresses stay below this.
    fn most_address(&self) -> u64 {
        match self.arch {
            // PAE has 36 address bits, but p_paddr of its ELF has 32.
            Arch::I386 if self.pae && self.format == Format::Minidump => 1 << 36,
            // 32-bit vm_paddr_t, and the end itself must fit.
            Arch::I386 | Arch::Arm => (1 << 32) - self.page_size,
            // What Sv39's direct map holds, from 2 GiB on.
            Arch::Riscv => (2 << 30) + (128 << 30),
            _ => 2 * MOST_RAM - (1 << 40),
        }
    }

    /// Most memory that [`crate::ranges::avail`] can place.
    fn most_ram(&self) -> u64 {
        match self.arch {
            _ if !self.avail.is_empty() => MOST_RAM,
            Arch::Arm => (2 << 30) - self.page_size,
            Arch::I386 if self.most_address() < 1 << 32 => 3 << 30,
            Arch::I386 => 32 << 30,
            Arch::Riscv => 96 << 30,
            _ => MOST_RAM,
        }
    }
}

/// An [`Error::Argument`].
pub(crate) fn bad<T>(
    argument: &'static str,
    found: impl std::fmt::Display,
    expected: impl Into<String>,
) -> Result<T, Error> {
    Err(Error::Argument { argument, found: found.to_string(), expected: expected.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_text() {
        let spec = Spec {
            arch: Arch::I386,
            pae: true,
            version: 1,
            format: Format::Elf,
            avail: vec![(0, 0x9f000), (0x10_0000, 0x4000_0000)],
            profile: Profile::Text,
            sparse: true,
            seed: u64::MAX,
            defects: vec![Defect::Truncate(7), Defect::BadPte],
            ..Spec::default()
        };
        assert_eq!(spec.to_string().parse::<Spec>().unwrap(), spec);
        let page = format!("{}\0\0more", Spec::of(Arch::Arm64));
        assert_eq!(page.parse::<Spec>().unwrap(), Spec::of(Arch::Arm64));
        for broken in ["", "vmcask-synth arch", "vmcask-synth arch=vax", "vmcask-synth x=1"] {
            assert!(broken.parse::<Spec>().is_err());
        }
    }
}
