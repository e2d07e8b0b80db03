//! The command line. Flags mean the same in every subcommand.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use vmcask_convert::OutputFile;

use crate::named::{self, Named};
use crate::size;

mod generate;
mod measure;

pub use generate::{GenArch, GenArgs, GenCompression, GenFormat, GenProfile};
pub use measure::{BenchArgs, BenchLookup, BenchReading, Run};

#[derive(Parser)]
#[command(
    name = "vmcask",
    version = crate::version::short(),
    long_version = crate::version::long(),
    about = "FreeBSD kernel crash dumps: convert, archive, generate, read, measure",
    after_help = "Formats are told from content, never from names. Wherever a dump or archive is \
                  read, its URL will do: http://, https://, s3://, gs://, az://. Exit codes: 0 done; \
                  1 failed; 2 wrong usage; 3 done, but the output lacks something the input \
                  promised; 75 failed, and may succeed later (the network, a store); 130 \
                  interrupted.\n\nStart with: vmcask demo",
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Print no progress and no remarks; warnings and errors remain
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Print how many requests and bytes went over the network
    #[cfg(feature = "remote")]
    #[arg(long, global = true)]
    pub stats: bool,

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
                            vmcask convert vmcore.0.cask vmcore.0.minidump\n  \
                            vmcask convert vmcore.0.zst vmcore.0.elf\n  \
                            vmcask convert vmcore.0 kv.elf --to kernel-view && gdb kernel kv.elf\n  \
                            vmcask convert full.core vmcore.1 --to minidump --kernel kernel\n  \
                            zcat vmcore.2.gz | vmcask convert - vmcore.2.cask\n  \
                            vmcask convert vmcore.0 s3://dumps/host7/vmcore.0.cask\n  \
                            vmcask convert /var/crash/ /archive/ --to archive\n\n\
                            Minidump to ELF and back, and anything to an archive and back, is exact \
                            to the byte.")]
    Convert(ConvertArgs),

    /// Check an archive against its checksums, or a dump's structure against its size
    #[command(after_help = "Example: vmcask verify vmcore.0.cask")]
    Verify(VerifyArgs),

    /// List the runs of physical memory that a dump holds
    #[command(after_help = "Example: vmcask pages vmcore.0 --json")]
    Pages(PagesArgs),
    /// Get back what is intact of a damaged or cut archive
    #[command(
        after_help = "What is lost is left as a hole, and listed: ranges of the dump and the \
                            physical addresses they held. Exit code 3 then.\n\n\
                            Example: vmcask recover damaged.cask vmcore.0"
    )]
    Recover(RecoverArgs),

    /// Read memory out of a dump or an archive
    #[command(after_help = "Examples:\n  vmcask read vmcore.0 --va 0xffffffff81cd4c0c 4\n  \
                            vmcask read vmcore.0 --symbol hz --kernel kernel\n  \
                            vmcask read vmcore.0.cask --pa 0x1000 4K --raw > page")]
    Read(ReadArgs),

    /// List processes and threads
    #[command(after_help = "Example: vmcask ps vmcore.0 --kernel /boot/kernel/kernel")]
    Ps(PsArgs),

    /// Show registers and backtraces: of the crashed thread, of one, or of all
    #[command(after_help = "Examples:\n  vmcask bt vmcore.0.cask --kernel kernel\n  \
                            vmcask bt vmcore.0 --kernel kernel --all --json")]
    Bt(BtArgs),

    /// Print the kernel's messages
    #[command(after_help = "Examples:\n  vmcask dmesg vmcore.0\n  \
                            vmcask dmesg vmcore.0.cask --kernel /boot/kernel/kernel")]
    Dmesg(DmesgArgs),

    /// Tell the first facts of a crash on one page
    #[command(after_help = "Examples:\n  vmcask triage vmcore.0 --kernel /boot/kernel/kernel\n  \
                            vmcask triage vmcore.0.cask --json")]
    Triage(TriageArgs),

    /// Make a synthetic dump
    #[command(after_help = "Example: vmcask gen vmcore.0 --ram 64GiB --dump 2GiB --seed 1")]
    Gen(GenArgs),

    /// Time page lookups, and what crash tools ask, on a dump of your own
    #[command(
        after_help = "Each run is a process of its own; lookups take turns. What the tools of \
                            crashinfo read is a model: see README.\n\n\
                            Example: vmcask bench vmcore.0 --kernel /boot/kernel/kernel"
    )]
    Bench(BenchArgs),

    /// Make a dump, archive it, check it, restore it, read from it, time lookups in it
    #[command(after_help = "Example: vmcask demo")]
    Demo(DemoArgs),

    /// Show a dump or archive as files in a folder, for programs that know nothing of archives
    #[command(after_help = "Files of the folder, made as they are read:\n  \
                            vmcore           the dump, byte for byte\n  \
                            vmcore.elf       as an ELF core of physical memory\n  \
                            kernel-view.elf  as an ELF core with the kernel's addresses\n  \
                            info.json        what `vmcask info --json` says\n  \
                            dmesg.txt        what `vmcask dmesg` says\n\n\
                            Examples:\n  vmcask mount vmcore.0.cask /mnt\n  \
                            gdb kernel /mnt/kernel-view.elf\n  \
                            fusermount3 -u /mnt        # on Linux; elsewhere umount /mnt\n  \
                            vmcask mount vmcore.0 /mnt --foreground    # until Ctrl-C")]
    Mount(MountArgs),

    /// Print a script that completes command lines
    #[command(after_help = "Examples:\n  \
                            vmcask completions bash > ~/.local/share/bash-completion/completions/vmcask\n  \
                            vmcask completions zsh > ~/.zfunc/_vmcask\n  \
                            vmcask completions fish > ~/.config/fish/completions/vmcask.fish")]
    Completions(CompletionsArgs),

    /// Print a manual page, or write all of them
    #[command(after_help = "Examples:\n  vmcask man convert | man -l -\n  \
                            vmcask man --dir /usr/local/share/man/man1")]
    Man(ManArgs),
}

#[derive(Args)]
pub struct InfoArgs {
    /// The dump or archive; compressed dumps and `-` (standard input) too
    #[arg(value_parser = named::parser())]
    pub file: Named,

    #[command(flatten)]
    pub kernel: KernelArg,

    /// Print JSON (see SCHEMA.md)
    #[arg(long)]
    pub json: bool,
}

/// The kernel image, where a command may need it.
#[derive(Args, Clone)]
pub struct KernelArg {
    /// The image of the kernel that was running: its symbols, and where page tables are
    #[arg(long = "kernel", value_name = "FILE", value_parser = named::parser())]
    path: Option<Named>,
}

impl KernelArg {
    pub fn get(&self) -> Option<&Named> {
        self.path.as_ref()
    }
}

#[derive(Args)]
pub struct PagesArgs {
    /// The dump or archive
    #[arg(value_parser = named::parser())]
    pub file: Named,

    /// Print JSON (see SCHEMA.md)
    #[arg(long)]
    pub json: bool,
}

/// Output formats.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum To {
    /// A minidump
    Minidump,
    /// An ELF core of physical memory
    Elf,
    /// An ELF core with the kernel's addresses, for gdb, lldb and drgn
    KernelView,
    /// A vmcask archive
    Archive,
}

#[derive(Args)]
pub struct ConvertArgs {
    /// The dump or archive to read, or a folder of dumps; `-` is standard input
    #[arg(value_parser = named::parser())]
    pub input: Named,

    /// The file to write, or s3://BUCKET/KEY, gs:// or az://; `-` is standard output
    #[arg(value_parser = named::parser())]
    pub output: Named,

    /// Output format; else OUTPUT's suffix tells (.cask, .zst: archive; .elf; .minidump)
    #[arg(long, value_name = "FORMAT")]
    pub to: Option<To>,

    /// Version of the minidump to write (default: the input's, or the newest)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3))]
    pub minidump_version: Option<u32>,

    /// Leave out pages full of zeros; how many is told, and noted in the output
    #[arg(long)]
    pub drop_zero: bool,

    #[command(flatten)]
    pub kernel: KernelArg,

    /// Archive in file order without zero and duplicate tables: `zstd -d` gives back the dump
    #[arg(long)]
    pub plain: bool,

    /// zstd level of an archive
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=22))]
    pub level: i32,

    /// Memory to use for an archive, from 64 MiB on [default: 256MiB; of a folder's dumps 1GiB]
    ///
    /// Less finds fewer pages that are alike: the archive gets larger. A folder's dumps are
    /// converted side by side as far as it reaches.
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,

    /// An output that is there already is no error: nothing is done then
    #[arg(long, conflicts_with = "force")]
    pub skip_existing: bool,

    /// Print a line of JSON for each thing that happens (see SCHEMA.md)
    #[arg(long)]
    pub json: bool,

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

    /// Permissions of the output, as for chmod: a dump holds all that the machine did
    #[arg(long, value_name = "OCTAL", value_parser = mode, default_value = "600")]
    pub mode: u32,
}

fn memory(text: &str) -> Result<u64, String> {
    match size::number(text)? {
        bytes if bytes >= 64 << 20 => Ok(bytes),
        bytes => Err(format!("{bytes} bytes are too little: 64 MiB are needed")),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|&mode| mode <= 0o777);
    mode.ok_or_else(|| "expected octal permissions, 0 to 777".into())
}

impl OutputArgs {
    /// Prepares the output at `path`.
    pub fn create(&self, path: &Path) -> Result<OutputFile, vmcask_convert::Error> {
        OutputFile::with_mode(path, self.force, self.mode)
    }

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
    #[arg(value_parser = named::parser())]
    pub file: Named,

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
    #[arg(value_parser = named::parser())]
    pub input: Named,

    /// The dump to write, in the format that the archive holds
    #[arg(value_parser = named::local())]
    pub output: PathBuf,

    /// Print JSON (see SCHEMA.md)
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub output_args: OutputArgs,
}

#[derive(Args)]
pub struct ReadArgs {
    /// The dump or archive, and how many bytes to read (default: the symbol's size, or 256)
    ///
    /// The order doesn't matter: `FILE --va ADDR LEN` and `--va ADDR LEN FILE` are the same.
    #[arg(value_names = ["FILE", "LEN"], num_args = 1..=2, required = true)]
    file_and_length: Vec<OsString>,

    /// Kernel virtual address
    #[arg(long, value_name = "ADDR", value_parser = size::number,
          required_unless_present_any = ["pa", "symbol"], conflicts_with_all = ["pa", "symbol"])]
    pub va: Option<u64>,

    /// Physical address
    #[arg(long, value_name = "ADDR", value_parser = size::number, conflicts_with = "symbol")]
    pub pa: Option<u64>,

    /// The address of this symbol of the kernel image
    #[arg(long, value_name = "NAME", requires = "path")]
    pub symbol: Option<String>,

    /// How many bytes
    #[arg(short = 'n', long, alias = "len", value_name = "LEN", value_parser = size::number)]
    length: Option<u64>,

    #[command(flatten)]
    pub kernel: KernelArg,

    /// Write the bytes alone, no hexdump
    #[arg(long)]
    pub raw: bool,
}

impl ReadArgs {
    /// File and length, in whichever order they came; usage errors end the
    /// process as clap's own do.
    pub fn file_and_length(&self) -> (Named, Option<u64>) {
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
            (length, option) => length.or(option),
        };
        let file = Named::new(file).unwrap_or_else(|e| usage(&e));
        (file, length)
    }
}

/// Ends the process as clap's own usage errors do.
pub fn usage(what: &str) -> ! {
    Cli::command().error(clap::error::ErrorKind::ValueValidation, what).exit()
}

#[derive(Args)]
pub struct PsArgs {
    /// The dump or archive
    #[arg(value_parser = named::parser())]
    pub file: Named,

    /// The image of the kernel that was running
    #[arg(long, value_name = "FILE", value_parser = named::parser())]
    pub kernel: Named,

    /// Print JSON (see SCHEMA.md)
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct BtArgs {
    /// The dump or archive
    #[arg(value_parser = named::parser())]
    pub file: Named,

    /// The image of the kernel that was running
    #[arg(long, value_name = "FILE", value_parser = named::parser())]
    pub kernel: Named,

    /// The thread with this number instead of the crashed one
    #[arg(long, value_name = "N", conflicts_with = "all")]
    pub tid: Option<i32>,

    /// All threads
    #[arg(long)]
    pub all: bool,

    /// Threads to use (default: one a core)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// Print JSON (see SCHEMA.md)
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct DmesgArgs {
    /// The dump or archive
    #[arg(value_parser = named::parser())]
    pub file: Named,

    #[command(flatten)]
    pub kernel: KernelArg,

    /// Print JSON (see SCHEMA.md)
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct TriageArgs {
    /// The dump or archive
    #[arg(value_parser = named::parser())]
    pub file: Named,

    #[command(flatten)]
    pub kernel: KernelArg,

    /// Print JSON (see SCHEMA.md)
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct DemoArgs {
    /// Keep the files in this folder (made if missing) instead of a temporary one
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

#[derive(Args)]
pub struct MountArgs {
    /// The dump or archive
    #[arg(value_parser = named::parser())]
    pub file: Named,

    /// The folder to mount on
    pub dir: PathBuf,

    #[command(flatten)]
    pub kernel: KernelArg,

    /// Stay until Ctrl-C instead of going to the background
    #[arg(long)]
    pub foreground: bool,

    /// This process is the one in the background
    #[arg(long, hide = true, conflicts_with = "foreground")]
    pub behind: bool,
}

#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Args)]
pub struct ManArgs {
    /// The subcommand whose page to print [default: the page of vmcask itself]
    pub command: Option<String>,

    /// Write the pages of all subcommands to this folder (made if missing)
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub dir: Option<PathBuf>,
}
