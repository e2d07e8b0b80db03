//! `vmcask gen`: a synthetic dump from a line of text.

use anyhow::{Context, Result};
use vmcask_convert::OutputFile;
use vmcask_synth::{Arch, Spec, SynthDump};

use crate::args::{GenArch, GenArgs};
use crate::progress::Progress;
use crate::size::human;
use crate::{Outcome, interrupt};

pub fn run(args: &GenArgs, quiet: bool) -> Result<Outcome> {
    let dump = SynthDump::new(spec(args))?;
    let out = OutputFile::create(&args.output, args.output_args.force)?;
    write(&dump, &out, args.output_args.threads(), quiet)?;
    out.commit()?;
    if !quiet {
        println!(
            "{}: {} minidump of {}, {} of a {} machine's memory",
            args.output.display(),
            dump.spec().arch,
            human(dump.len()),
            human(dump.spec().dump),
            human(dump.spec().ram)
        );
    }
    Ok(Outcome::Done)
}

fn spec(args: &GenArgs) -> Spec {
    let arch = match args.arch {
        GenArch::Amd64 => Arch::Amd64,
        GenArch::Arm64 | GenArch::Arm64P16k => Arch::Arm64,
        GenArch::Riscv => Arch::Riscv,
        GenArch::I386 => Arch::I386,
        GenArch::Arm => Arch::Arm,
        GenArch::Powerpc64 => Arch::Powerpc64,
        GenArch::Powerpc64le => Arch::Powerpc64le,
    };
    let defaults = Spec::of(arch);
    let usual_page = if args.arch == GenArch::Arm64P16k { 16384 } else { 4096 };
    Spec {
        page_size: args.page_size.unwrap_or(usual_page),
        pae: args.pae,
        version: args.minidump_version.unwrap_or(defaults.version),
        ram: args.ram.unwrap_or(defaults.ram),
        dump: args.dump,
        seed: args.seed,
        ..defaults
    }
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
