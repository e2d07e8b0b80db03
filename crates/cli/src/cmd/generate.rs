//! `vmcask gen`: a synthetic dump from a line of text.

use anyhow::{Context, Result};
use vmcask_convert::OutputFile;
use vmcask_synth::{Spec, SynthDump};

use crate::args::{GenArch, GenArgs};
use crate::progress::Progress;
use crate::size::human;
use crate::{Outcome, interrupt};

pub fn run(args: &GenArgs, quiet: bool) -> Result<Outcome> {
    let GenArch::Amd64 = args.arch;
    let dump = SynthDump::new(Spec {
        ram: args.ram,
        dump: args.dump,
        seed: args.seed,
        version: args.minidump_version,
        ..Spec::default()
    })?;
    let out = OutputFile::create(&args.output, args.output_args.force)?;
    write(&dump, &out, args.output_args.threads(), quiet)?;
    out.commit()?;
    if !quiet {
        println!(
            "{}: minidump of {}, {} of a {} machine's memory",
            args.output.display(),
            human(dump.len()),
            human(args.dump),
            human(args.ram)
        );
    }
    Ok(Outcome::Done)
}

/// Fills `out` with the dump, not committed yet.
pub fn write(dump: &SynthDump, out: &OutputFile, threads: usize, quiet: bool) -> Result<()> {
    let progress = Progress::new("generating", dump.len(), quiet);
    dump.write_to(
        out.file(),
        vmcask_synth::WriteOptions { sparse: true, threads },
        &|done| progress.set(done),
        interrupt::flag(),
    )
    .with_context(|| out.path().display().to_string())
}
