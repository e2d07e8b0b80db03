//! `vmcask read`: memory by physical or virtual address.

use std::io::{self, BufWriter, Write};

use anyhow::{Context, Result, bail};
use vmcask_convert::{Dump, Input};
use vmcask_dump::{Error, PhysAddr, VirtAddr};
use vmcask_inspect::{Kernel, check};

use super::kernel::{open_image, warn_of_other_kernel};
use super::print_warnings;
use crate::args::ReadArgs;
use crate::{Outcome, hexdump, interrupt};

/// Memory is fetched in pieces of this many bytes, never across a page.
const PIECE: u64 = 4096;

/// Bytes shown where neither a length nor a symbol's size is given.
const DEFAULT_LEN: u64 = 256;

/// An address of either kind, with the dump it is read from.
enum Space<'a> {
    Phys(&'a Dump),
    Virt(&'a Dump),
}

impl Space<'_> {
    fn read(&self, addr: u64, buf: &mut [u8]) -> vmcask_dump::Result<()> {
        match self {
            Self::Phys(dump) => dump.phys().read_phys(PhysAddr(addr), buf),
            Self::Virt(dump) => dump.virt().read_virt(VirtAddr(addr), buf),
        }
    }
}

pub fn run(args: &ReadArgs) -> Result<Outcome> {
    let (file, len) = args.file_and_length();
    let mut input = file.open()?;
    print_warnings(&input);
    let image = args.kernel.get().map(|path| open_image(&mut input, path)).transpose()?;
    let context = || file.display().to_string();
    let mut default_len = DEFAULT_LEN;
    let (addr, physical) = match (args.va, args.pa, &args.symbol, &image) {
        (Some(va), ..) => (va, false),
        (_, Some(pa), ..) => (pa, true),
        (_, _, Some(name), Some(image)) => {
            let Some(symbol) = image.symbol(name) else {
                bail!("the kernel image has no symbol {name}");
            };
            if symbol.size > 0 {
                default_len = symbol.size;
            }
            (symbol.addr.0, false)
        }
        _ => bail!("--va, --pa or --symbol is needed"),
    };
    let len = len.unwrap_or(default_len);
    // The last byte's address, not the one behind it: the top of the address
    // space can be read.
    if len > 0 && addr.checked_add(len - 1).is_none() {
        bail!("{len} bytes from {addr:#x} run past the end of the address space");
    }
    if let Some(image) = &image {
        let kernel = Kernel::new(input.dump.virt(), image).with_context(context)?;
        warn_of_other_kernel(&file, &check::image(&kernel, &kernel.memory(), || None));
    }
    let space = if physical { Space::Phys(&input.dump) } else { Space::Virt(&input.dump) };
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = if args.raw {
        raw(&input, &space, addr, len, &mut out)?;
        Outcome::Done
    } else {
        dump(&input, &space, addr, len, &mut out)?
    };
    out.flush()?;
    interrupt::check()?;
    input.check_source()?;
    Ok(outcome)
}

/// Cuts `[addr, addr + len)` at multiples of [`PIECE`]; ends early when
/// interrupted.
fn pieces(addr: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len || interrupt::raised() {
            return None;
        }
        let at = addr + done;
        let n = (PIECE - at % PIECE).min(len - done);
        done += n;
        Some((at, n as usize))
    })
}

/// Bytes alone can't say which of them are missing: all or an error.
fn raw(input: &Input, space: &Space<'_>, addr: u64, len: u64, out: &mut impl Write) -> Result<()> {
    let mut buf = [0; PIECE as usize];
    for (at, n) in pieces(addr, len) {
        space.read(at, &mut buf[..n]).with_context(|| input.path.display().to_string())?;
        out.write_all(&buf[..n])?;
    }
    Ok(())
}

/// A hexdump shows what there is and says what there isn't.
fn dump(
    input: &Input,
    space: &Space<'_>,
    addr: u64,
    len: u64,
    out: &mut impl Write,
) -> Result<Outcome> {
    let mut buf = [0; PIECE as usize];
    let mut missing = Missing::default();
    let mut shown = 0u64;
    for (at, n) in pieces(addr, len) {
        match space.read(at, &mut buf[..n]) {
            Ok(()) => {
                missing.flush(out)?;
                hexdump::write(out, at, &buf[..n])?;
                shown += n as u64;
            }
            Err(e @ (Error::Absent { .. } | Error::Truncated { .. } | Error::NotMapped { .. })) => {
                missing.add(at, n as u64, e, out)?;
            }
            Err(e) => return Err(e).with_context(|| input.path.display().to_string()),
        }
    }
    if shown == 0
        && let Some(e) = missing.first.take()
    {
        return Err(e).with_context(|| input.path.display().to_string());
    }
    missing.flush(out)?;
    Ok(if missing.any { Outcome::Incomplete } else { Outcome::Done })
}

/// A run of addresses that can't be read for the same reason, told in one
/// line: a range of terabytes has holes of terabytes.
#[derive(Default)]
struct Missing {
    run: Option<(u64, u64, &'static str)>,
    /// The first reason, for when nothing at all could be read.
    first: Option<Error>,
    any: bool,
}

impl Missing {
    fn add(&mut self, at: u64, len: u64, e: Error, out: &mut impl Write) -> io::Result<()> {
        let why = match e {
            Error::Absent { .. } => "not in the dump",
            Error::Truncated { .. } => "lost: the file ends before it",
            _ => "not mapped",
        };
        self.any = true;
        match &mut self.run {
            Some((_, n, w)) if *w == why => *n += len,
            _ => {
                // Nothing is printed before something could be read.
                if self.first.is_some() {
                    self.flush(out)?;
                }
                self.run = Some((at, len, why));
            }
        }
        self.first.get_or_insert(e);
        Ok(())
    }

    fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        if let Some((at, len, why)) = self.run.take() {
            writeln!(out, "{at:016x}  {len} bytes {why}")?;
        }
        Ok(())
    }
}
