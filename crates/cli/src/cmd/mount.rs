//! `vmcask mount`: a dump or archive as files that any program can read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use vmcask_convert::view::target::{self, Target};
use vmcask_convert::{Input, View};
use vmcask_dump::{KernelImage, ReadAt};
use vmcask_inspect::Kernel;
use vmcask_mount::{Entry, Options, mount};

use super::{convert, dmesg, info, kernel, print_warnings, use_kernel};
use crate::args::{MountArgs, threads};
use crate::progress::spin;
use crate::{Outcome, interrupt, remark, warn};

/// What a server in the background writes when everything can be read.
const READY: &[u8] = b"ready\n";

pub fn run(args: &MountArgs, quiet: bool) -> Result<Outcome> {
    if args.foreground || args.behind { serve(args, quiet) } else { background(args, quiet) }
}

/// Starts this program once more as the server, and waits until it has
/// mounted, or tells why it can't.
fn background(args: &MountArgs, quiet: bool) -> Result<Outcome> {
    let program = std::env::current_exe().context("finding this program to run it once more")?;
    let mut server = Command::new(program);
    server.args(["mount", "--behind"]);
    if quiet {
        server.arg("--quiet");
    }
    if let Some(kernel) = args.kernel.get() {
        server.arg("--kernel").arg(kernel.raw());
    }
    let mut server = server
        .arg("--")
        .arg(args.file.raw())
        .arg(&args.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the server")?;
    let mut said = Vec::new();
    if let Some(mut stdout) = server.stdout.take() {
        stdout.read_to_end(&mut said)?;
    }
    if !said.ends_with(READY) {
        let status = server.wait()?;
        // It has said why.
        std::process::exit(status.code().unwrap_or(1));
    }
    if !quiet {
        let dir = args.dir.display();
        writeln!(io::stdout(), "{dir}: mounted; `{} {dir}` unmounts it", unmount_command())?;
    }
    Ok(Outcome::Done)
}

/// What unmounts for whoever has mounted.
fn unmount_command() -> &'static str {
    if cfg!(target_os = "linux") { "fusermount3 -u" } else { "umount" }
}

fn serve(args: &MountArgs, quiet: bool) -> Result<Outcome> {
    let mut input = args.file.open()?;
    print_warnings(&input);
    let image = use_kernel(&mut input, args.kernel.get())?;
    let entries = spin("mounting", || entries(&input, image.as_ref(), quiet));
    let foreground = args.foreground;
    let file = args.file.canonicalize().unwrap_or_else(|_| args.file.to_path_buf());
    let options = Options {
        source: file.display().to_string(),
        modified: args.file.metadata().and_then(|m| m.modified()).unwrap_or(std::time::UNIX_EPOCH),
        threads: threads(None),
        on_error: Arc::new(move |name, offset, e| {
            if foreground {
                warn(Path::new(name), format_args!("offset {offset:#x}: {e}"));
            }
        }),
    };
    let mounted = mount(&args.dir, entries, options)?;
    let unmounter = mounted.unmounter();
    let dir = args.dir.clone();
    interrupt::then(move || match unmounter.unmount() {
        Ok(true) if foreground => {
            let what = "unmounted; files of it are open, and served until they are closed";
            warn(&dir, what);
        }
        Ok(_) => {}
        Err(e) => warn(&dir, format_args!("{:#}", anyhow::Error::from(e))),
    });
    if args.behind {
        detach()?;
    } else if !quiet {
        let dir = args.dir.display();
        writeln!(io::stdout(), "{dir}: mounted; Ctrl-C unmounts it")?;
    }
    mounted.serve()?;
    Ok(Outcome::Done)
}

/// Leaves the terminal and the folder this was started from, and says that
/// it is ready.
fn detach() -> Result<()> {
    // Fails where there is no session to leave.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut stdout = io::stdout();
    stdout.write_all(READY)?;
    stdout.flush()?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// The files. Those that can't be made of this dump are left out, with a
/// remark.
fn entries(input: &Input, image: Option<&KernelImage>, quiet: bool) -> Vec<Entry> {
    let mut entries = vec![Entry { name: "vmcore".into(), source: input.source.clone() }];
    let mut add = |name: &str, source: Result<Arc<dyn ReadAt>>| match source {
        Ok(source) => entries.push(Entry { name: name.into(), source }),
        Err(e) if quiet => drop(e),
        Err(e) => remark(format_args!("no {name}: {e:#}")),
    };
    let told = |name: &str, view: View| -> Arc<dyn ReadAt> {
        for loss in &view.losses {
            warn(Path::new(name), format_args!("incomplete: {loss}"));
        }
        Arc::new(view)
    };
    let threads = image.map(|image| convert::threads_of(input, image, quiet)).unwrap_or_default();
    let options =
        target::Options { kernel: image, threads: &threads, ..target::Options::default() };
    for (name, to) in [("vmcore.elf", Target::Elf), ("kernel-view.elf", Target::KernelView)] {
        let view = target::of(input, to, &options);
        add(name, view.map(|view| told(name, view)).map_err(Into::into));
    }
    let bytes = |text: Vec<u8>| -> Arc<dyn ReadAt> { Arc::new(text) };
    add("info.json", info::json(input).map(bytes));
    add("dmesg.txt", messages(input, image).map(bytes));
    entries
}

/// What `vmcask dmesg` prints.
fn messages(input: &Input, image: Option<&KernelImage>) -> Result<Vec<u8>> {
    let kernel = image.map(|image| kernel::kernel_of(input, image)).transpose()?;
    let memory = kernel.as_ref().map(Kernel::memory);
    let (messages, _) = kernel::messages(input, kernel.as_ref().zip(memory.as_ref()))?;
    let mut text = Vec::new();
    dmesg::write(&messages, &mut text)?;
    Ok(text)
}
