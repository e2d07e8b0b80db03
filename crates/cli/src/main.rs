//! `vmcask`: FreeBSD kernel crash dumps on the command line. Arguments in
//! [`args`], one file a subcommand in [`cmd`]; the work is done in the
//! crates below.

#![forbid(unsafe_code)]

mod args;
mod cmd;
mod hexdump;
mod interrupt;
mod json;
mod named;
mod progress;
mod size;
mod terminal;
mod version;

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

/// How a command that didn't fail ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Everything asked for was done: exit code 0.
    Done,
    /// Done, but the output lacks something, already named: exit code 3.
    Incomplete,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    progress::begin(cli.quiet);
    // Failing to install handlers is no reason not to work.
    let _ = interrupt::install();
    let quiet = cli.quiet;
    let result = match cli.command {
        Command::Info(args) => cmd::info::run(&args),
        Command::Convert(args) => cmd::convert::run(&args, quiet),
        Command::Verify(args) => cmd::verify::run(&args, quiet),
        Command::Pages(args) => cmd::pages::run(&args),
        Command::Recover(args) => cmd::recover::run(&args, quiet),
        Command::Read(args) => cmd::read::run(&args),
        Command::Ps(args) => cmd::ps::run(&args),
        Command::Bt(args) => cmd::bt::run(&args),
        Command::Dmesg(args) => cmd::dmesg::run(&args, quiet),
        Command::Triage(args) => cmd::triage::run(&args),
        Command::Gen(args) => cmd::generate::run(&args, quiet),
        Command::Bench(args) => cmd::bench::run(&args, quiet),
        Command::Demo(args) => cmd::demo::run(&args, quiet),
        Command::Mount(args) => cmd::mount::run(&args, quiet),
        Command::Completions(args) => cmd::manual::completions(&args),
        Command::Man(args) => cmd::manual::man(&args),
    };
    #[cfg(feature = "remote")]
    if cli.stats {
        print_stats();
    }
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Incomplete) => ExitCode::from(3),
        Err(e) if broken_pipe(&e) => ExitCode::SUCCESS,
        Err(_) if interrupt::raised() => {
            remark("interrupted");
            ExitCode::from(interrupt::EXIT_INTERRUPTED)
        }
        Err(e) => {
            remark(format_args!("{e:#}"));
            if temporary(&e) { ExitCode::from(EXIT_TEMPORARY) } else { ExitCode::FAILURE }
        }
    }
}

/// Exit code where the network or a store failed, and may not the next time:
/// sysexits' EX_TEMPFAIL.
const EXIT_TEMPORARY: u8 = 75;

/// Whether the same command may succeed later.
#[cfg(feature = "remote")]
fn temporary(e: &anyhow::Error) -> bool {
    // Errors that stand for another show that one's causes, not itself.
    e.chain().any(|e| {
        let direct = e.downcast_ref::<vmcask_remote::Error>();
        let wrapped = || match e.downcast_ref::<vmcask_convert::Error>() {
            Some(vmcask_convert::Error::Remote(e)) => e.downcast_ref(),
            _ => None,
        };
        let io = || e.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref();
        direct.or_else(wrapped).or_else(io).is_some_and(vmcask_remote::Error::is_temporary)
    })
}

#[cfg(not(feature = "remote"))]
fn temporary(_: &anyhow::Error) -> bool {
    false
}

/// `--stats`.
#[cfg(feature = "remote")]
fn print_stats() {
    let s = vmcask_remote::stats();
    remark(format_args!(
        "network: {} requests, {} bytes received, {} bytes sent",
        s.requests, s.bytes_received, s.bytes_sent
    ));
}

/// Whoever reads our standard output has read enough: `vmcask ... | head`.
fn broken_pipe(e: &anyhow::Error) -> bool {
    e.chain().any(|e| {
        let kind = e.downcast_ref::<io::Error>().map(io::Error::kind);
        // JSON is written by serde_json, which hides what the writer said.
        let json = || e.downcast_ref::<serde_json::Error>()?.io_error_kind();
        kind.or_else(json) == Some(ErrorKind::BrokenPipe)
    })
}

/// A remark that doesn't stop the work.
fn warn(file: &std::path::Path, what: impl std::fmt::Display) {
    remark(format_args!("warning: {}: {what}", file.display()));
}

/// A line on standard error, in one piece: others write there, too. That nobody
/// reads it is no reason to fail.
fn remark(what: impl std::fmt::Display) {
    let _ = io::stderr().write_all(format!("vmcask: {what}\n").as_bytes());
}
