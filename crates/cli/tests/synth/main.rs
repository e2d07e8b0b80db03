//! `vmcask gen`: what the generator knows and what the readers find.

#[path = "../common/mod.rs"]
mod common;
mod pair;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{fails, ok, vmcask};
use vmcask_dump::source::FileSource;
use vmcask_dump::{ElfCore, Minidump, PhysAddr, PhysMem, VirtAddr, VirtMem, Warning};
use vmcask_synth::{Arch, Format, Spec, SynthDump};

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
        ("--dump", spec.dump),
        ("--seed", spec.seed),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    if spec.avail.is_empty() {
        command.args(["--ram", &spec.ram.to_string()]);
    } else {
        let ranges = spec.avail.iter().map(|(start, end)| format!("{start}-{end}"));
        command.args(["--avail", &ranges.collect::<Vec<_>>().join(",")]);
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
        let first = dump.page_address(ordinal).unwrap().unwrap();
        for pa in (first.0..first.0 + dump.page_size()).step_by(4096) {
            assert!(synth.page(pa, &mut want), "{what}: {pa:x}");
            dump.read_phys(PhysAddr(pa), &mut found).unwrap();
            assert!(want == found, "{what}: {pa:x}");
        }
        pages += 1;
    }
    assert_eq!(pages, synth.truth().pages, "{what}");
}

/// The shape of `dumpsys_generic`, told by hand from the file's bytes, and
/// its memory as the reader finds it.
#[test]
fn elf_cores_of_every_architecture() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    for arch in Arch::ALL {
        let spec = Spec { format: Format::Elf, ram: 16 << 20, dump: 16 << 20, ..Spec::of(arch) };
        let ram = spec.ram.to_string();
        ok(vmcask()
            .args(["-q", "gen", "--force", "--format", "elf", "--arch", arch.name(), "--ram", &ram])
            .arg(&path));
        let synth = SynthDump::new(spec).unwrap();
        let core = ElfCore::open(Arc::new(FileSource::open(&path).unwrap())).unwrap();
        assert!(core.warnings().is_empty(), "{arch}: {:?}", core.warnings());
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[7], 255, "{arch}: EI_OSABI");
        let truth = synth.truth();
        let mut off = 4096;
        let loads: Vec<_> = core.phdrs().iter().filter(|p| p.p_type == 1).collect();
        assert_eq!(loads.len(), truth.dump_avail.len(), "{arch}");
        for (load, range) in loads.iter().zip(&truth.dump_avail) {
            assert_eq!((load.p_paddr, load.p_paddr + load.p_memsz), *range, "{arch}");
            assert_eq!(load.p_filesz, load.p_memsz, "{arch}");
            assert_eq!(load.p_offset, off, "{arch}: no gaps");
            off += load.p_filesz;
        }
        assert_eq!(bytes.len() as u64, off, "{arch}");
        let (mut want, mut found) = ([0; 4096], [0; 4096]);
        for &(start, end) in &truth.dump_avail {
            for pa in (start..end).step_by(4096) {
                assert!(synth.page(pa, &mut want));
                core.read_phys(PhysAddr(pa), &mut found).unwrap();
                assert!(want == found, "{arch}: {pa:x}");
            }
        }
    }
}

#[test]
fn dumps_are_checked_against_their_own_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let gen_args: [&[&str]; 5] = [
        &["--arch", "arm64-16k", "--procs", "3", "--avail", "1GiB-2GiB,0x880000000-0x890000000"],
        &["--format", "elf", "--ram", "1GiB", "--arch", "riscv"],
        &["--profile", "text", "--run-pages", "1"],
        &["--profile", "random", "--seed", "99"],
        &["--profile", "zeros", "--dense", "--ram", "64GiB"],
    ];
    for (i, args) in gen_args.into_iter().enumerate() {
        let path = file(&format!("{i}"));
        ok(vmcask().args(["-q", "gen", "--dump", "8MiB"]).args(args).arg(&path));
        ok(vmcask().args(["gen", "--check"]).arg(&path));
        ok(vmcask().args(["gen", "--sample", "100", "--check"]).arg(&path));
    }
    let archive = file("a.cask");
    ok(vmcask().args(["-q", "gen", "--dump", "8MiB", "--format", "archive"]).arg(&archive));
    ok(vmcask().args(["gen", "--check"]).arg(&archive));
    // The archive made without a dump in between is that of the dump.
    let (dump, converted) = (file("dump"), file("b.cask"));
    ok(vmcask().args(["-q", "gen", "--dump", "8MiB"]).arg(&dump));
    ok(vmcask().args(["-q", "convert"]).arg(&dump).arg(&converted));
    let restored = file("restored.minidump");
    ok(vmcask().args(["-q", "convert"]).arg(&archive).arg(&restored));
    common::assert_same(&dump, &restored);

    // One byte in one page.
    let mut bytes = std::fs::read(&dump).unwrap();
    let at = bytes.len() - 3;
    bytes[at] ^= 1;
    std::fs::write(&dump, &bytes).unwrap();
    let err = fails(vmcask().args(["gen", "--check"]).arg(&dump), 1);
    assert!(err.contains("1 of 2,048 pages differ"), "{err}");
    // A page that isn't there.
    bytes[at] ^= 1;
    std::fs::write(&dump, &bytes[..bytes.len() - 4096]).unwrap();
    let out = vmcask().args(["gen", "--check"]).arg(&dump).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    let err = fails(vmcask().args(["gen", "--seed", "2", "--check"]).arg(&dump), 1);
    assert!(err.contains("made with seed 1"), "{err}");
}

#[test]
fn truth_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump");
    let args = ["gen", "--print-truth", "--ram", "1GiB", "--dump", "8MiB", "--arch", "riscv"];
    let json = ok(vmcask().args(args).arg(&path)).stdout;
    // The same without writing the dump.
    assert_eq!(ok(vmcask().args(args)).stdout, json);
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["file_bytes"], path.metadata().unwrap().len());
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    let addresses = json["virtual_addresses"].as_array().unwrap();
    assert!(addresses.len() > 10);
    for address in addresses {
        let want = text(&address["bytes"]);
        let length = (want.len() / 2).to_string();
        let found = ok(vmcask().arg("read").arg(&path).args([
            "--raw",
            "--va",
            &text(&address["va"]),
            &length,
        ]))
        .stdout;
        let found: Vec<String> = found.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found.concat(), want);
    }
    for va in json["unmapped_virtual_addresses"].as_array().unwrap() {
        fails(vmcask().arg("read").arg(&path).args(["--va", &text(va), "8"]), 1);
    }
    for pa in json["absent_physical_addresses"].as_array().unwrap() {
        fails(vmcask().arg("read").arg(&path).args(["--pa", &text(pa), "8"]), 1);
    }
    let log = text(&json["msgbuf"]);
    let raw = open(&path).msgbuf().unwrap();
    let line = log.lines().next_back().unwrap().as_bytes();
    assert!(raw.windows(line.len()).any(|w| w == line));
}

#[test]
fn interrupts_and_full_disks_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (out, kernel) = (dir.path().join("out"), dir.path().join("kernel"));
    // Compression of random bytes takes its time.
    let mut child = vmcask()
        .args(["gen", "--format", "device", "--compress", "gzip", "--profile", "random"])
        .args(["--dump", "2GiB", "--kernel"])
        .args([&kernel, &out])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while common::names(dir.path()).len() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it began");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    ok(Command::new("kill").args(["-INT", &child.id().to_string()]));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", common::stderr(&output));
    assert!(common::names(dir.path()).is_empty());

    // A limit on files stands for a disk without room.
    for format in ["minidump", "device", "archive"] {
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$@\"", "sh"])
            .arg(env!("CARGO_BIN_EXE_vmcask"))
            .args(["gen", "--profile", "random", "--dump", "16MiB", "--format", format])
            .arg(&out);
        let err = fails(&mut command, 1);
        assert!(err.contains("too large"), "{err}");
        assert!(common::names(dir.path()).is_empty());
    }
}

/// Every header version, and both ways to compress.
#[test]
fn dump_devices() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump");
    let size = ["--ram", "1GiB", "--dump", "8MiB", "--arch", "arm64"];
    ok(vmcask().args(["-q", "gen"]).args(size).arg(&dump));
    let want = std::fs::read(&dump).unwrap();
    for (version, compression) in
        [("1", ""), ("2", ""), ("3", ""), ("4", ""), ("3", "zstd"), ("4", "gzip"), ("4", "zstd")]
    {
        let path = dir.path().join(format!("device{version}{compression}"));
        let mut command = vmcask();
        command.args(["-q", "gen", "--format", "device", "--header-version", version]).args(size);
        if !compression.is_empty() {
            command.args(["--compress", compression]);
        }
        ok(command.arg(&path));
        let bytes = std::fs::read(&path).unwrap();
        let header = &bytes[bytes.len() - 512..];
        assert!(header.starts_with(b"FreeBSD Kernel Dump\0aarch64\0"));
        let xor = header.chunks_exact(4).fold([0; 4], |x, w| std::array::from_fn(|i| x[i] ^ w[i]));
        assert_eq!(xor, [0; 4]);
        let first = bytes.len() - 512 - want.len();
        assert_eq!(&bytes[first - 512..first], header, "the leading header");
        assert!(bytes[..1 << 16].iter().all(|&b| b == 0));
        if compression.is_empty() {
            assert!(bytes[first..bytes.len() - 512] == want);
        }
        // What the reader makes of it.
        let archive = dir.path().join("archive.cask");
        let back = dir.path().join("back.minidump");
        ok(vmcask().args(["-q", "convert", "--force"]).arg(&path).arg(&archive));
        ok(vmcask().args(["-q", "convert", "--force"]).arg(&archive).arg(&back));
        assert!(std::fs::read(&back).unwrap() == want, "{version} {compression}");
        ok(vmcask().arg("info").arg(&path));
    }
}

/// Each defect, and what the readers make of it.
#[test]
fn defects() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump");
    let made = |args: &[&str]| {
        let size = ["-q", "gen", "--force", "--dump", "8MiB"];
        ok(vmcask().args(size).args(args).arg(&path));
    };
    let whole = {
        made(&[]);
        path.metadata().unwrap().len()
    };
    let warnings = || open(&path).warnings().to_vec();
    let refused = || {
        let err = fails(vmcask().arg("info").arg(&path), 1);
        assert_eq!(fails(vmcask().args(["gen", "--check"]).arg(&path), 1), err);
        err
    };

    made(&["--defect", "truncate=70"]);
    let len = path.metadata().unwrap().len();
    assert_eq!(len, whole * 70 / 100);
    assert!(matches!(
        warnings()[..],
        [Warning::Truncated { present, promised: 2048, len: l, .. }] if l == len && present < 2048
    ));
    let out = vmcask().args(["gen", "--check"]).arg(&path).output().unwrap();
    assert_eq!(out.status.code(), Some(3));

    made(&["--defect", "trailing"]);
    assert!(matches!(warnings()[..], [Warning::Trailing { bytes: 8192 }]));
    ok(vmcask().args(["gen", "--check"]).arg(&path));

    made(&["--defect", "bitmap-spare-bits"]);
    assert!(matches!(warnings()[..], [Warning::SpareBits { count: 3 }]));
    ok(vmcask().args(["gen", "--check"]).arg(&path));

    made(&["--defect", "bad-magic"]);
    assert!(refused().contains("no format known"), "{}", refused());
    made(&["--defect", "bad-version"]);
    assert!(refused().contains("version is 99"));
    made(&["--defect", "huge-sizes", "--arch", "powerpc64"]);
    assert!(refused().contains("bitmap"), "{}", refused());
    for defect in ["unsorted", "overlap", "open"] {
        // In the other width, i386's and arm's is no empty list. (arm's has one
        // range, which is always in order.)
        for arch in ["amd64", "i386", "arm"].into_iter().take(2 + usize::from(defect == "open")) {
            made(&["--arch", arch, "--defect", &format!("dump-avail-{defect}")]);
            assert!(refused().contains("dump_avail"), "{arch}, {defect}: {}", refused());
        }
    }
    made(&["--defect", "dump-avail-width", "--arch", "i386"]);
    assert!(matches!(warnings()[..], [Warning::DumpAvailWidth { bits: 32 }]));
    ok(vmcask().args(["gen", "--check"]).arg(&path));
    for args in [
        &["--defect", "bad-pte"][..],
        &["--defect", "bad-pte", "--version", "1"],
        &["--defect", "bad-pte", "--arch", "arm64-16k"],
        &["--defect", "bad-pte", "--arch", "riscv"],
        &["--defect", "bad-pte", "--arch", "i386"],
        &["--defect", "missing-pt-page"],
    ] {
        made(args);
        let json = ok(vmcask().args(["gen", "--print-truth", "--dump", "8MiB"]).args(args)).stdout;
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let dump = open(&path);
        let broken = json["broken_virtual_addresses"].as_array().unwrap();
        assert!(!broken.is_empty(), "{args:?}");
        for va in broken {
            let va = va.as_str().unwrap().trim_start_matches("0x");
            let va = VirtAddr(u64::from_str_radix(va, 16).unwrap());
            let found = dump.read_virt(va, &mut [0; 8]);
            assert!(
                matches!(found, Err(vmcask_dump::Error::Absent { .. })),
                "{args:?}: {va}: {found:?}"
            );
        }
        ok(vmcask().args(["gen", "--check"]).arg(&path));
    }
    for defect in ["bad-parity", "headers-differ", "cleared"] {
        made(&["--format", "device", "--defect", defect]);
        let sound = dir.path().join("sound");
        ok(vmcask()
            .args(["-q", "gen", "--force", "--dump", "8MiB", "--format", "device"])
            .arg(&sound));
        assert!(std::fs::read(&path).unwrap() != std::fs::read(&sound).unwrap(), "{defect}");
        // Whatever it thinks of the header, it doesn't take other bytes for
        // the dump.
        let back = dir.path().join("back");
        let out = vmcask()
            .args(["convert", "--force", "--to", "minidump"])
            .arg(&path)
            .arg(&back)
            .output()
            .unwrap();
        let err = common::stderr(&out);
        assert!(!err.contains("panicked"), "{err}");
        assert!(err.starts_with("vmcask: "), "{defect}: {err}");
    }
    // Defects that a dump can't have.
    for args in [
        &["--defect", "missing-pt-page", "--arch", "arm64"][..],
        &["--defect", "dump-avail-open", "--version", "2"],
        &["--defect", "dump-avail-width"],
        &["--defect", "bad-version", "--format", "elf", "--ram", "16MiB"],
    ] {
        let err =
            fails(vmcask().args(["gen", "--dump", "8MiB", "--force"]).args(args).arg(&path), 1);
        assert!(err.contains("defect is"), "{err}");
    }
    fails(vmcask().args(["gen", "--defect", "ugly"]).arg(&path), 2);
}

/// Command lines whose output must never change by accident.
const GOLDEN: [&str; 26] = [
    "--arch amd64 --version 1",
    "--arch amd64 --version 2",
    "--arch amd64 --version 3",
    "--arch arm64 --version 1",
    "--arch arm64 --version 2",
    "--arch arm64 --version 3",
    "--arch arm64-16k",
    "--arch riscv --version 1",
    "--arch riscv --version 2",
    "--arch i386 --version 1",
    "--arch i386 --version 2",
    "--arch i386 --version 2 --pae",
    "--arch arm --version 1",
    "--arch arm --version 2",
    "--arch powerpc64 --version 1",
    "--arch powerpc64 --version 2",
    "--arch powerpc64le --version 2",
    "--seed 2 --run-pages 1 --procs 12",
    "--profile zeros --dense",
    "--profile random",
    "--profile text",
    "--avail 0-0x9f000,1MiB-1GiB,0x400000000-0x480000000",
    "--ram 6TiB --sparse",
    "--format elf --ram 1GiB",
    "--format device --header-version 1",
    "--defect truncate=77 --defect bitmap-spare-bits",
];

/// The same command gives the same bytes on any machine and with any number
/// of threads. With VMCASK_WRITE_GOLDEN set, the file is written instead.
#[test]
fn golden_digests() {
    use std::fmt::Write;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/synth.blake3");
    let dir = tempfile::tempdir().unwrap();
    let (dump, kernel) = (dir.path().join("dump"), dir.path().join("kernel"));
    let mut found = String::new();
    for (i, args) in GOLDEN.into_iter().enumerate() {
        let size = ["-q", "gen", "--force", "--dump", "4MiB", "--threads"];
        let has_kernel = !args.contains("arm ") && !args.contains("powerpc");
        let mut command = vmcask();
        command.args(size).arg((i % 5 + 1).to_string()).args(args.split(' ')).arg(&dump);
        if has_kernel {
            command.arg("--kernel").arg(&kernel);
        }
        ok(&mut command);
        let digest = |path: &Path| {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(std::fs::File::open(path).unwrap()).unwrap();
            hasher.finalize().to_hex()
        };
        writeln!(found, "{}  dump    {args}", digest(&dump)).unwrap();
        if has_kernel {
            writeln!(found, "{}  kernel  {args}", digest(&kernel)).unwrap();
        }
    }
    if std::env::var_os("VMCASK_WRITE_GOLDEN").is_some() {
        std::fs::write(&file, &found).unwrap();
    }
    let want = std::fs::read_to_string(&file).unwrap();
    for (found, want) in found.lines().zip(want.lines()) {
        assert_eq!(found, want, "see testdata/README.md");
    }
    assert_eq!(found.lines().count(), want.lines().count());
}

/// 300 GiB in a moment and on little disk.
#[test]
fn far_larger_than_the_disk() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump");
    let size = ["--ram", "512GiB", "--dump", "30GiB", "--sparse"];
    ok(vmcask().args(["-q", "gen"]).args(size).arg(&path));
    let meta = path.metadata().unwrap();
    assert!(meta.len() > 30 << 30);
    assert!(meta.blocks() * 512 < 80 << 20, "{}", meta.blocks() * 512);
    ok(vmcask().args(["gen", "--sample", "2000", "--check"]).arg(&path));
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
