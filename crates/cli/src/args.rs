//! The command line. Flags mean the same in every subcommand.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::size;

#[derive(Parser)]
#[command(
    name = "vmcask",
    version,
    about = "FreeBSD kernel crash dumps: convert, archive, generate, read, measure",
    after_help = "Formats are told from content, never from names. Exit codes: 0 done; 1 failed; \
                  2 wrong usage; 3 done, but the output lacks something the input promised; \
                  130 interrupted.\n\nStart with: vmcask demo",
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Print no progress and no remarks; warnings and errors remain
    #[arg(short, long, global = true)]
    pub quiet: bool,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Say what a dump or an archive is and holds
    #[command(after_help = "Example: vmcask info /var/crash/vmcore.0")]
    Info(InfoArgs),

    /// Convert a dump to another format
    #[command(after_help = "Examples:\n  vmcask convert vmcore.0 vmcore.0.cask\n  \
                            vmcask convert vmcore.0.cask vmcore.0.minidump")]
    Convert(ConvertArgs),

    /// Check an archive against its checksums, or a dump's structure against its size
    #[command(after_help = "Example: vmcask verify vmcore.0.cask")]
    Verify(VerifyArgs),

    /// Get back what is intact of a damaged or cut archive
    #[command(
        after_help = "What is lost is left as a hole, and listed: ranges of the dump and the \
                            physical addresses they held. Exit code 3 then.\n\n\
                            Example: vmcask recover damaged.cask vmcore.0"
    )]
    Recover(RecoverArgs),

    /// Read memory out of a dump or an archive
    #[command(after_help = "Examples:\n  vmcask read vmcore.0 --va 0xffffffff81cd4c0c 4\n  \
                            vmcask read vmcore.0.cask --pa 0x1000 4K --raw > page")]
    Read(ReadArgs),

    /// Make a synthetic dump
    #[command(after_help = "Example: vmcask gen vmcore.0 --ram 64GiB --dump 2GiB --seed 1")]
    Gen(GenArgs),

    /// Make a dump, archive it, check it, restore it, read from it, time lookups in it
    #[command(after_help = "Example: vmcask demo")]
    Demo(DemoArgs),
}

#[derive(Args)]
pub struct InfoArgs {
    /// The dump or archive
    pub file: PathBuf,

    /// Print JSON (see SCHEMA.md)
    #[arg(long)]
    pub json: bool,
}

/// Output formats.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum To {
    /// A minidump
    Minidump,
    /// A vmcask archive
    Archive,
}

#[derive(Args)]
pub struct ConvertArgs {
    /// The dump or archive to read
    pub input: PathBuf,

    /// The file to write
    pub output: PathBuf,

    /// Output format; else OUTPUT's suffix tells (.cask, .zst: archive; .minidump)
    #[arg(long, value_name = "FORMAT")]
    pub to: Option<To>,

    /// Archive in file order without zero and duplicate tables: `zstd -d` gives back the dump
    #[arg(long)]
    pub plain: bool,

    /// zstd level of an archive
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=22))]
    pub level: i32,

    #[command(flatten)]
    pub output_args: OutputArgs,
}

/// Flags of every subcommand that writes a file.
#[derive(Args, Clone)]
pub struct OutputArgs {
    /// Replace an existing output file
    #[arg(short, long)]
    pub force: bool,

    /// Threads to use (default: one a core)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl OutputArgs {
    pub fn threads(&self) -> usize {
        threads(self.threads)
    }
}

pub fn threads(asked: Option<u16>) -> usize {
    asked.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
}

#[derive(Args)]
pub struct VerifyArgs {
    /// The dump or archive
    pub file: PathBuf,

    /// Threads to use (default: one a core)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// Print JSON (see SCHEMA.md)
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct RecoverArgs {
    /// The archive
    pub input: PathBuf,

    /// The dump to write, in the format that the archive holds
    pub output: PathBuf,

    /// Print JSON (see SCHEMA.md)
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub output_args: OutputArgs,
}

#[derive(Args)]
pub struct ReadArgs {
    /// The dump or archive, and how many bytes to read (default: 256)
    ///
    /// The order doesn't matter: `FILE --va ADDR LEN` and `--va ADDR LEN FILE` are the same.
    #[arg(value_names = ["FILE", "LEN"], num_args = 1..=2, required = true)]
    file_and_length: Vec<OsString>,

    /// Kernel virtual address
    #[arg(long, value_name = "ADDR", value_parser = size::number,
          required_unless_present = "pa", conflicts_with = "pa")]
    pub va: Option<u64>,

    /// Physical address
    #[arg(long, value_name = "ADDR", value_parser = size::number)]
    pub pa: Option<u64>,

    /// How many bytes
    #[arg(short = 'n', long, alias = "len", value_name = "LEN", value_parser = size::number)]
    length: Option<u64>,

    /// Write the bytes alone, no hexdump
    #[arg(long)]
    pub raw: bool,
}

/// Bytes shown where no length is given.
const DEFAULT_LEN: u64 = 256;

impl ReadArgs {
    /// File and length, in whichever order they came; usage errors end the
    /// process as clap's own do.
    pub fn file_and_length(&self) -> (PathBuf, u64) {
        let number = |word: &OsString| word.to_str().and_then(|w| size::number(w).ok());
        let (file, length) = match &self.file_and_length[..] {
            [file] => (file, None),
            [first, second] => match (number(first), number(second)) {
                (_, Some(length)) => (first, Some(length)),
                (Some(length), None) => (second, Some(length)),
                (None, None) => usage(&format!(
                    "neither {} nor {} is a length",
                    first.display(),
                    second.display()
                )),
            },
            _ => usage("FILE is missing"),
        };
        let length = match (length, self.length) {
            (Some(_), Some(_)) => usage("the length is given twice"),
            (length, option) => length.or(option).unwrap_or(DEFAULT_LEN),
        };
        (file.into(), length)
    }
}

fn usage(what: &str) -> ! {
    Cli::command().error(clap::error::ErrorKind::ValueValidation, what).exit()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum GenArch {
    Amd64,
}

#[derive(Args)]
pub struct GenArgs {
    /// The file to write
    pub output: PathBuf,

    /// Physical memory of the machine
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = size::number)]
    pub ram: u64,

    /// Bytes of dumped pages
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size::number)]
    pub dump: u64,

    /// Architecture
    #[arg(long, value_enum, default_value = "amd64")]
    pub arch: GenArch,

    /// Minidump version: 1 and 2 have no dump_avail, 1 has PTEs in its pmap
    #[arg(long = "version", value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=3))]
    pub minidump_version: u32,

    /// The same arguments with the same seed give the same bytes, on every machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    #[command(flatten)]
    pub output_args: OutputArgs,
}

#[derive(Args)]
pub struct DemoArgs {
    /// Keep the files in this folder (made if missing) instead of a temporary one
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}
