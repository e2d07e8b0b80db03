//! `vmcask gen`: a synthetic dump from a line of text.

mod archive;
mod check;
mod truth;

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use vmcask_convert::OutputFile;
use vmcask_synth::{Arch, Compression, DeviceSpec, Format, Profile, Spec, SynthDump, WriteOptions};

use crate::args::{GenArch, GenArgs, GenCompression, GenFormat, GenProfile};
use crate::progress::Progress;
use crate::size::human;
use crate::{Outcome, interrupt};

pub fn run(args: &GenArgs, quiet: bool) -> Result<Outcome> {
    if let Some(file) = &args.check {
        return check::run(file, args, quiet);
    }
    let dump = Arc::new(SynthDump::new(spec(args))?);
    if let Some(path) = &args.output {
        let out = args.output_args.create(path)?;
        let kernel = args.kernel.as_deref().map(|path| kernel(&dump, path, args)).transpose()?;
        let threads = args.output_args.threads();
        match args.format {
            GenFormat::Archive => archive::write(&dump, path, &out, threads, quiet)?,
            GenFormat::Device => {
                let compression = match args.compress {
                    None => Compression::None,
                    Some(GenCompression::Gzip) => Compression::Gzip,
                    Some(GenCompression::Zstd) => Compression::Zstd,
                };
                let device = DeviceSpec { header_version: args.header_version, compression };
                let progress = Progress::new("generating", dump.len(), quiet);
                dump.write_device(
                    out.file(),
                    device,
                    WriteOptions { sparse: !args.dense, threads },
                    &|done| progress.set(done),
                    interrupt::flag(),
                )
                .with_context(|| path.display().to_string())?;
            }
            _ => write(&dump, &out, !args.dense, threads, quiet)?,
        }
        out.commit()?;
        kernel.map(OutputFile::commit).transpose()?;
        if !quiet && !args.print_truth {
            let spec = dump.spec();
            let what = match args.format {
                GenFormat::Minidump => "minidump",
                GenFormat::Elf => "ELF core",
                GenFormat::Archive => "archive of a minidump",
                GenFormat::Device => "dump device with a minidump",
            };
            writeln!(
                io::stdout(),
                "{}: {} {what} of {}, {} of a {} machine's memory",
                path.display(),
                spec.arch,
                human(dump.len()),
                human(spec.dump),
                human(spec.ram)
            )?;
        }
    }
    if args.print_truth {
        truth::print(&dump)?;
    }
    Ok(Outcome::Done)
}

/// The kernel image, not committed yet.
fn kernel(dump: &SynthDump, path: &Path, args: &GenArgs) -> Result<OutputFile> {
    let Some(image) = dump.kernel_image() else {
        bail!("{}: no kernel images are made for {}", path.display(), dump.spec().arch);
    };
    let out = args.output_args.create(path)?;
    out.file().write_all_at(&image, 0).with_context(|| path.display().to_string())?;
    Ok(out)
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
    let mut defaults = Spec::of(arch);
    let format = match args.format {
        GenFormat::Elf => Format::Elf,
        _ => Format::Minidump,
    };
    if format == Format::Elf && args.dump.is_none() {
        // All memory is dumped; some gigabytes would be too much to begin with.
        defaults.ram = defaults.dump;
        defaults.dump = u64::MAX;
    }
    let usual_page = if args.arch == GenArch::Arm64P16k { 16384 } else { 4096 };
    let ram = if args.avail.is_empty() {
        args.ram.unwrap_or(defaults.ram)
    } else {
        args.avail.iter().fold(0u64, |sum, r| sum.saturating_add(r.1.saturating_sub(r.0)))
    };
    Spec {
        page_size: args.page_size.unwrap_or(usual_page),
        pae: args.pae,
        format,
        version: args.minidump_version.unwrap_or(defaults.version),
        ram,
        dump: args.dump.unwrap_or(defaults.dump.min(ram)),
        seed: args.seed.unwrap_or(defaults.seed),
        run_pages: args.run_pages,
        avail: args.avail.clone(),
        profile: match args.profile {
            GenProfile::Real => Profile::Real,
            GenProfile::Zeros => Profile::Zeros,
            GenProfile::Random => Profile::Random,
            GenProfile::Text => Profile::Text,
        },
        sparse: args.sparse,
        procs: args.procs,
        defects: args.defects.clone(),
        ..defaults
    }
}

/// Fills `out` with the dump, not committed yet. With `holes`, zero pages
/// aren't written.
pub fn write(
    dump: &SynthDump,
    out: &OutputFile,
    holes: bool,
    threads: usize,
    quiet: bool,
) -> Result<()> {
    let progress = Progress::new("generating", dump.len(), quiet);
    dump.write_to(
        out.file(),
        WriteOptions { sparse: holes, threads },
        &|done| progress.set(done),
        interrupt::flag(),
    )
    .with_context(|| out.path().display().to_string())
}
