//! What `gen` takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::OutputArgs;
use crate::named::{self, Named};
use crate::size;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum GenArch {
    Amd64,
    Arm64,
    /// arm64 with pages of 16 KiB
    #[value(name = "arm64-16k")]
    Arm64P16k,
    Riscv,
    I386,
    Arm,
    Powerpc64,
    Powerpc64le,
}

/// What `gen` writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum GenFormat {
    /// A minidump
    Minidump,
    /// An ELF core, as the kernel's full dumps are
    Elf,
    /// An archive of a minidump, without the minidump in between
    Archive,
    /// The device that a kernel dumped a minidump to
    Device,
}

/// How a kernel compresses its dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum GenCompression {
    /// As gzip
    Gzip,
    /// As zstd
    Zstd,
}

/// What pages hold that aren't the kernel's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum GenProfile {
    /// A mix that compresses and repeats like a server's memory
    Real,
    /// Zeros
    Zeros,
    /// Random bytes
    Random,
    /// Words
    Text,
}

#[derive(Args)]
pub struct GenArgs {
    /// The file to write
    #[arg(required_unless_present_any = ["check", "print_truth"], value_parser = named::local())]
    pub output: Option<PathBuf>,

    /// What to write
    #[arg(long, value_enum, default_value = "minidump")]
    pub format: GenFormat,

    /// With --format device: version of the kernel dump header
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=4))]
    pub header_version: u32,

    /// With --format device: the dump as a compressing kernel writes it
    #[arg(long, value_enum, value_name = "METHOD")]
    pub compress: Option<GenCompression>,

    /// Physical memory of the machine [default: 4GiB, 1GiB on 32-bit machines]
    #[arg(long, value_name = "SIZE", value_parser = size::number)]
    pub ram: Option<u64>,

    /// Bytes of dumped pages [default: 256MiB; for ELF cores what --ram says]
    #[arg(long, value_name = "SIZE", value_parser = size::number)]
    pub dump: Option<u64>,

    /// Architecture
    #[arg(long, value_enum, default_value = "amd64")]
    pub arch: GenArch,

    /// Page size: 4K, or 16K on arm64
    #[arg(long, value_name = "SIZE", value_parser = size::number)]
    pub page_size: Option<u64>,

    /// i386: page table entries of 8 bytes
    #[arg(long)]
    pub pae: bool,

    /// Minidump version [default: the architecture's newest]
    ///
    /// Versions before 3 on amd64, before 2 elsewhere, have no dump_avail; amd64's version 1 has
    /// PTEs in its pmap.
    #[arg(long = "version", value_name = "N")]
    pub minidump_version: Option<u32>,

    /// The same arguments with the same seed give the same bytes, on every machine [default: 1]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// What pages hold
    #[arg(long, value_enum, default_value = "real")]
    pub profile: GenProfile,

    /// Fill one in 4096 clusters of 64 KiB only: a dump far larger than the disk
    #[arg(long)]
    pub sparse: bool,

    /// Write every page; otherwise zero pages become holes
    #[arg(long, conflicts_with = "sparse")]
    pub dense: bool,

    /// Mean length of a run of dumped pages
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub run_pages: u64,

    /// Ranges of physical memory instead of --ram, ascending
    #[arg(long, value_name = "START-END,...", value_parser = range, value_delimiter = ',',
          conflicts_with = "ram")]
    pub avail: Vec<(u64, u64)>,

    /// Processes besides the kernel's own, each with one to three threads
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub procs: u32,

    /// What shall be wrong: truncate=PERCENT, trailing, bad-magic, bad-version, huge-sizes,
    /// bitmap-spare-bits, dump-avail-unsorted, dump-avail-overlap, dump-avail-open,
    /// dump-avail-width, bad-pte, missing-pt-page; of devices bad-parity, headers-differ, cleared.
    /// May be given several times
    #[arg(long = "defect", value_name = "DEFECT")]
    pub defects: Vec<vmcask_synth::Defect>,

    /// Write the kernel image that belongs to the dump, too (amd64, arm64, riscv, i386)
    #[arg(long, value_name = "FILE", requires = "output")]
    pub kernel: Option<PathBuf>,

    /// Print what a correct reader must find, as JSON (see SCHEMA.md)
    #[arg(long)]
    pub print_truth: bool,

    /// Check a dump or archive against what its own line of text says it was made from
    #[arg(long, value_name = "FILE", conflicts_with_all = ["output", "print_truth"],
          value_parser = named::parser())]
    pub check: Option<Named>,

    /// With --check: this many random pages instead of all
    #[arg(long, value_name = "N", requires = "check")]
    pub sample: Option<u64>,

    #[command(flatten)]
    pub output_args: OutputArgs,
}

/// `0x100000-0xc0000000`, or with sizes: `4GiB-6GiB`.
fn range(text: &str) -> Result<(u64, u64), String> {
    let (start, end) = text.split_once('-').ok_or("not a range: write it like 4GiB-6GiB")?;
    Ok((size::number(start)?, size::number(end)?))
}
