//! What `bench` takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::KernelArg;
use crate::named;

/// What `bench` runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Run {
    /// Some twenty tools, as crashinfo(8) runs them
    Crashinfo,
    /// `thread apply all bt`
    BtAll,
    /// Reads pages by physical address
    Scan,
    /// The bare lookups
    #[value(hide = true)]
    Lookups,
    /// Chooses what crashinfo's tools read
    #[value(hide = true)]
    Objects,
}

impl Run {
    pub fn name(self) -> &'static str {
        match self {
            Self::Crashinfo => "crashinfo",
            Self::BtAll => "bt-all",
            Self::Scan => "scan",
            Self::Lookups => "lookups",
            Self::Objects => "objects",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BenchLookup {
    /// libkvm's hash table, until 2016
    Hash,
    /// libkvm's population counts, since
    Popcount,
    /// vmcask's rank index
    Rank,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BenchReading {
    /// A system call for each read
    Pread,
    /// A memory map
    Mmap,
}

#[derive(Args)]
pub struct BenchArgs {
    /// The minidump, or an archive of one
    #[arg(value_parser = named::local())]
    pub file: PathBuf,

    #[command(flatten)]
    kernel: KernelArg,

    /// Passes to take the median of
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub passes: u32,

    /// This workload alone; may be given several times
    #[arg(long, value_enum, value_name = "WORKLOAD")]
    pub only: Vec<Run>,

    /// Only this way of reading the file
    #[arg(long, value_enum)]
    pub reading: Option<BenchReading>,

    /// With all three lookups, scan at most this many pages; the hash table takes a fifth of a
    /// millisecond and more for each
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    pub scan_pages: u64,

    /// Print JSON (see SCHEMA.md)
    #[arg(long)]
    pub json: bool,

    /// Run one workload once in this process, for profilers; prints what it found, no times
    #[arg(long, value_enum, value_name = "WORKLOAD", conflicts_with_all = ["json", "only"])]
    pub run: Option<Run>,

    /// With --run: the table that finds pages
    #[arg(long, value_enum, default_value = "rank")]
    pub lookup: BenchLookup,

    /// With --run crashinfo: which of its tools, from 0
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    pub tool: usize,

    /// With --run scan: one page in N
    #[arg(long, value_name = "N", default_value_t = 1, hide = true)]
    pub every: u64,

    /// With --run: count lookups
    #[arg(long, hide = true)]
    pub count: bool,

    /// With --run: where the addresses are that crashinfo's tools read
    #[arg(long, value_name = "FILE", hide = true)]
    pub objects: Option<PathBuf>,
}

impl BenchArgs {
    pub fn dump_kernel(&self) -> Option<&std::path::Path> {
        self.kernel.get().map(|k| &**k)
    }
}
