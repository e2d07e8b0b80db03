//! `thread apply all bt`.

use std::hash::Hasher as _;
use std::io::{self, Write};
use std::num::NonZero;

use vmcask_inspect::{Backtrace, Kernel, Thread, backtrace};

use super::{Digest, Done, Setup, done, kernel};
use crate::error::Result;

/// Opens the dump, lists all threads, and prints registers and backtrace of
/// each, one after the other.
pub fn bt_all(setup: &Setup<'_>) -> Result<Done> {
    let opened = setup.open()?;
    let image = setup.image()?;
    let kernel = kernel(&opened, &image)?;
    let list = kernel.threads()?;
    let one = NonZero::<usize>::MIN;
    let traces = backtrace::all(&kernel, list.layout, &list.threads, one);
    let mut out = Digest::default();
    for (thread, trace) in list.threads.iter().zip(&traces) {
        print(&kernel, thread, trace, &mut out)?;
    }
    Ok(done(opened, out.0.finish()))
}

pub(super) fn print(
    kernel: &Kernel<'_>,
    thread: &Thread,
    trace: &Backtrace,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "{}", thread.name())?;
    for (name, value) in trace.registers.iter().flat_map(|r| &r.values) {
        writeln!(out, "{name} {value:#x}")?;
    }
    for (i, frame) in trace.frames.iter().enumerate() {
        match kernel.function(frame.address, i > 0) {
            Some((symbol, offset)) => {
                writeln!(out, "#{i} {} {}+{offset:#x}", frame.address, symbol.name)?;
            }
            None => writeln!(out, "#{i} {}", frame.address)?,
        }
    }
    writeln!(out, "{}", trace.end)
}
