//! `vmcask gen`: what the generator knows and what the readers find.

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{fails, ok, vmcask};
use vmcask_dump::source::FileSource;
use vmcask_dump::{Minidump, PhysAddr, PhysMem, VirtAddr};
use vmcask_synth::{Arch, Spec, SynthDump};

/// Every architecture and version that minidumps are made of.
fn all_minidumps() -> Vec<Spec> {
    let mut specs = Vec::new();
    for arch in Arch::ALL {
        for version in 1..=arch.newest_version() {
            let spec = Spec { version, dump: 8 << 20, seed: 7, ..Spec::of(arch) };
            if arch == Arch::I386 {
                specs.push(Spec { pae: true, ..spec.clone() });
            }
            if arch == Arch::Arm64 && version == 3 {
                specs.push(Spec { page_size: 16384, ..spec.clone() });
            }
            specs.push(spec);
        }
    }
    specs
}

/// The command line that makes `spec`.
fn generate(spec: &Spec, out: &Path) -> Command {
    let mut command = vmcask();
    command.args(["-q", "gen", "--arch", spec.arch.name()]).arg(out);
    for (flag, value) in [
        ("--version", u64::from(spec.version)),
        ("--page-size", spec.page_size),
        ("--ram", spec.ram),
        ("--dump", spec.dump),
        ("--seed", spec.seed),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    if spec.pae {
        command.arg("--pae");
    }
    command
}

fn open(path: &Path) -> Minidump {
    Minidump::open(Arc::new(FileSource::open(path).unwrap())).unwrap()
}

#[test]
fn minidumps_of_every_architecture_and_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump");
    for spec in all_minidumps() {
        let what = format!("{} {} pae {} {}", spec.arch, spec.version, spec.pae, spec.page_size);
        ok(generate(&spec, &path).arg("--force"));
        let synth = SynthDump::new(spec).unwrap();
        let truth = synth.truth();
        let dump = open(&path);
        let spec = synth.spec();
        assert_eq!(dump.header().version, spec.version, "{what}");
        assert_eq!(dump.header().arch.name(), spec.arch.name(), "{what}");
        assert_eq!(dump.page_size(), spec.page_size, "{what}");
        assert_eq!(dump.pages_present(), truth.pages, "{what}");
        assert!(dump.warnings().is_empty(), "{what}: {:?}", dump.warnings());
        assert_eq!(path.metadata().unwrap().len(), dump.parts().pages.end, "{what}");
        let has_avail = !dump.dump_avail().is_empty();
        assert_eq!(has_avail, spec.version > 1 + u32::from(spec.arch == Arch::Amd64), "{what}");
        if has_avail {
            assert_eq!(dump.dump_avail(), truth.dump_avail, "{what}");
        }
        pages_are_the_same(&dump, &synth, &what);
        for &pa in &truth.absent {
            let found = dump.locate(PhysAddr(pa));
            assert!(matches!(found, Err(vmcask_dump::Error::Absent { .. })), "{what}: {found:?}");
        }
        assert!(truth.mapped.len() > 10);
        for page in &truth.mapped {
            let mapping = match dump.translate(VirtAddr(page.va)) {
                Err(vmcask_dump::Error::Unsupported(_)) => {
                    eprintln!("skipped: {} at {:#x}", spec.arch, page.va);
                    continue;
                }
                found => found.unwrap(),
            };
            assert_eq!(mapping.pa, PhysAddr(page.pa), "{what}: {page:x?}");
            let mut bytes = vec![0; page.bytes.len()];
            dump.read_virt(VirtAddr(page.va), &mut bytes).unwrap();
            assert_eq!(bytes, page.bytes, "{what}: {page:x?}");
        }
        for &va in &truth.unmapped {
            let found = dump.translate(VirtAddr(va));
            assert!(
                matches!(
                    found,
                    Err(vmcask_dump::Error::NotMapped { .. } | vmcask_dump::Error::Unsupported(_))
                ),
                "{what}: {va:x}: {found:?}"
            );
        }
    }
}

/// Every page that the reader finds is the one that was made, and it finds
/// all of them.
fn pages_are_the_same(dump: &Minidump, synth: &SynthDump, what: &str) {
    let mut pages = 0;
    let (mut want, mut found) = ([0; 4096], [0; 4096]);
    for ordinal in 0..dump.pages_present() {
        let first = dump.page_address(ordinal).unwrap();
        for pa in (first.0..first.0 + dump.page_size()).step_by(4096) {
            assert!(synth.page(pa, &mut want), "{what}: {pa:x}");
            dump.read_phys(PhysAddr(pa), &mut found).unwrap();
            assert!(want == found, "{what}: {pa:x}");
        }
        pages += 1;
    }
    assert_eq!(pages, synth.truth().pages, "{what}");
}

#[test]
fn impossible_arguments_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    for (args, says) in [
        (&["--arch", "riscv", "--version", "3"][..], "version is 3"),
        (&["--version", "0"], "version is 0"),
        (&["--page-size", "16K"], "page size is 16384"),
        (&["--arch", "arm64-16k", "--version", "2"], "page size is 16384"),
        (&["--pae"], "pae is set on amd64"),
        (&["--ram", "17TiB"], "ram is"),
        (&["--ram", "1MiB"], "ram is"),
        (&["--ram", "4GiB", "--arch", "arm"], "ram is"),
        (&["--dump", "5GiB"], "dump is"),
        (&["--dump", "1MiB"], "for the kernel's own pages"),
        (&["--dump", "4097"], "dump is 4097"),
    ] {
        let err = fails(vmcask().arg("gen").arg(&out).args(args), 1);
        assert!(err.contains(says), "{args:?}: {err}");
        assert!(!out.exists());
    }
}

/// The largest machine and as small a dump as there is; both once took far
/// too much.
#[test]
fn extremes() {
    let dir = tempfile::tempdir().unwrap();
    for (args, last) in [
        (&["--ram", "16TiB", "--dump", "8MiB"][..], 16u64 << 40),
        (&["--ram", "16MiB", "--dump", "4MiB"], 16 << 20),
    ] {
        let path = dir.path().join(last.to_string());
        ok(vmcask().args(["-q", "gen"]).args(args).args(["--threads", "1024"]).arg(&path));
        let dump = open(&path);
        assert_eq!(dump.dump_avail().iter().map(|r| r.1 - r.0).sum::<u64>(), last);
    }
}
