//! Sources that fail: bad sectors, copies that end too early, network disks.
//! Whatever the input and whatever it becomes, the output is what it would
//! have been, or there is one error and no output. Never other bytes.
//!
//! More moments, with another seed: `VMCASK_FAULTS=500 VMCASK_SEED=7 cargo test
//! --release -p vmcask-convert --test faulty -- --nocapture`.

mod build;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use build::generic_core;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use vmcask_archive::WriteOptions;
use vmcask_convert::view::target::{self, Options};
use vmcask_convert::{Error, Input, OutputFile, Result, Target, archive, forward, restore};
use vmcask_dump::ReadAt;
use vmcask_synth::{Arch, Compression, DeviceSpec, Spec, SynthDump};

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |n| n.parse().expect("a number"))
}

/// How a read goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// EIO, from then on.
    Dead,
    /// EIO once: the next try succeeds.
    Hiccup,
    /// Fewer bytes than there are, from then on: a file that was cut.
    Cut,
    /// Fewer bytes than there are, once.
    Short,
}

const FAULTS: [Fault; 4] = [Fault::Dead, Fault::Hiccup, Fault::Cut, Fault::Short];
const EIO: i32 = 5;

/// A source whose read number `at` goes wrong.
struct Faulty {
    bytes: Arc<Vec<u8>>,
    fault: Fault,
    at: u64,
    reads: AtomicU64,
    /// Whether somebody has seen the fault.
    met: AtomicBool,
}

impl Faulty {
    fn new(bytes: &Arc<Vec<u8>>, fault: Fault, at: u64) -> Arc<Self> {
        let (reads, met) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { bytes: bytes.clone(), fault, at, reads, met })
    }

    fn fault(&self) -> Option<Fault> {
        let now = self.reads.fetch_add(1, Ordering::Relaxed);
        let lasts = matches!(self.fault, Fault::Dead | Fault::Cut);
        let wrong = now == self.at || (now > self.at && lasts);
        self.met.fetch_or(wrong, Ordering::Relaxed);
        wrong.then_some(self.fault)
    }
}

impl ReadAt for Faulty {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self.fault() {
            None => self.bytes.read_at(off, buf),
            Some(Fault::Dead | Fault::Hiccup) => Err(io::Error::from_raw_os_error(EIO)),
            Some(Fault::Cut | Fault::Short) => {
                let n = buf.len() * (off as usize % 7) / 7;
                self.bytes.read_at(off, &mut buf[..n])
            }
        }
    }

    fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
        match self.fault {
            Fault::Dead | Fault::Hiccup if self.fault().is_some() => {
                Err(io::Error::from_raw_os_error(EIO))
            }
            // Short reads say where a file ends, not this.
            _ => Ok((off < self.len()).then_some(off..self.len())),
        }
    }
}

/// What a conversion can be to.
#[derive(Clone, Copy, Debug)]
enum To {
    View(Target),
    Archive {
        plain: bool,
    },
    /// The same as a view, through a pipe.
    Pipe(Target),
}

const TO: [To; 8] = [
    To::View(Target::Elf),
    To::View(Target::KernelView),
    To::View(Target::Minidump { version: None }),
    To::View(Target::Minidump { version: Some(1) }),
    To::Archive { plain: false },
    To::Archive { plain: true },
    To::Pipe(Target::Elf),
    To::Pipe(Target::Minidump { version: None }),
];

/// Converts as `vmcask convert` does. The output's bytes (of an archive, what
/// it holds) and what it is said to lack.
fn convert(
    source: Arc<dyn ReadAt>,
    to: To,
    dir: &Path,
    piped: &mut Vec<u8>,
) -> Result<(Vec<u8>, Vec<String>)> {
    let go = AtomicBool::new(false);
    let path = dir.join("out");
    let input = Input::of_source(Path::new("input"), source)?;
    let out = OutputFile::create(&path, false)?;
    let losses = match (to, &input.stream) {
        (To::Archive { plain }, _) => {
            let plan = archive::plan(&input)?;
            let options = WriteOptions {
                plain,
                threads: 2,
                level: 1,
                cells_in_order: 64,
                dedup_memory: 64 << 10,
                ..WriteOptions::default()
            };
            archive::write(&input, &plan, &options, &out, &|_| {}, &go)?;
            Vec::new()
        }
        (To::View(to), Some(stream)) => {
            forward::from_stream(&input, stream, to, &out, &|_| {}, &go)?
        }
        (To::View(to), None) => {
            let view = target::of(&input, to, &Options::default())?;
            restore::restore(&view, &out, 2, &|_| {}, &go)?;
            view.losses.clone()
        }
        (To::Pipe(to), Some(stream)) => {
            forward::stream_to_pipe(&input, stream, to, piped, &|_| {}, &go)?
        }
        (To::Pipe(to), None) => {
            let view = target::of(&input, to, &Options::default())?;
            forward::to_pipe(&view, 2, piped, &|_| {}, &go)?;
            view.losses.clone()
        }
    };
    input.check_source()?;
    out.commit()?;
    let bytes = match to {
        To::Pipe(_) => piped.clone(),
        _ => std::fs::read(&path).expect("the output"),
    };
    std::fs::remove_file(&path).expect("the output");
    let bytes = match to {
        To::Archive { .. } => {
            let again = Input::of_source(&path, Arc::new(bytes)).expect("an archive of our own");
            let mut all = vec![0; again.source.len() as usize];
            again.source.read_exact_at(0, &mut all).expect("all that it holds");
            all
        }
        _ => bytes,
    };
    Ok((bytes, losses))
}

fn synth(spec: Spec) -> Vec<u8> {
    let synth = SynthDump::new(Spec { ram: 64 << 20, dump: 4 << 20, procs: 1, ..spec }).unwrap();
    let mut bytes = vec![0; synth.len() as usize];
    assert_eq!(synth.read_at(0, &mut bytes), bytes.len());
    bytes
}

fn device(compression: Compression) -> Vec<u8> {
    let spec = Spec { ram: 64 << 20, dump: 4 << 20, procs: 1, ..Spec::default() };
    let file = tempfile::NamedTempFile::new().unwrap();
    let device = DeviceSpec { header_version: 4, compression };
    let options = vmcask_synth::WriteOptions { sparse: false, threads: 1 };
    let go = AtomicBool::new(false);
    let synth = SynthDump::new(spec).unwrap();
    synth.write_device(file.as_file(), device, options, &|_| {}, &go).unwrap();
    std::fs::read(file.path()).unwrap()
}

/// Inputs of every kind.
fn inputs() -> BTreeMap<String, Arc<Vec<u8>>> {
    let mut inputs = BTreeMap::new();
    for arch in Arch::ALL {
        inputs.insert(format!("minidump of {arch}"), synth(Spec::of(arch)));
    }
    let mini = inputs["minidump of amd64"].clone();
    inputs.insert("amd64, version 1".into(), synth(Spec { version: 1, ..Spec::of(Arch::Amd64) }));
    inputs.insert(
        "core of amd64".into(),
        synth(Spec { format: vmcask_synth::Format::Elf, ..Spec::of(Arch::Amd64) }),
    );
    let segments = [(0, vec![1; 40_960]), (1 << 20, vec![2; 300_000])];
    inputs.insert("core without page tables".into(), generic_core(&segments));
    let (view, _) = build::convert(&mini, Target::KernelView);
    inputs.insert("kernel view".into(), view);
    let (elf, _) = build::convert(&mini, Target::Elf);
    inputs.insert("core of a minidump".into(), elf);
    for (name, compression) in [
        ("device", Compression::None),
        ("zstd device", Compression::Zstd),
        ("gzip device", Compression::Gzip),
    ] {
        inputs.insert(name.into(), device(compression));
    }
    let mut gzip = Vec::new();
    let level = flate2::Compression::fast();
    flate2::read::GzEncoder::new(&mini[..], level).read_to_end(&mut gzip).unwrap();
    inputs.insert("gzip".into(), gzip);
    inputs.insert("zstd".into(), zstd::encode_all(&mini[..], 1).unwrap());
    let mut bzip2 = Vec::new();
    let level = bzip2::Compression::fast();
    bzip2::read::BzEncoder::new(&mini[..], level).read_to_end(&mut bzip2).unwrap();
    inputs.insert("bzip2".into(), bzip2);
    for (name, options) in [
        ("archive", WriteOptions::default()),
        ("plain archive", WriteOptions { plain: true, ..WriteOptions::default() }),
    ] {
        let input = Input::of_source(Path::new("dump"), Arc::new(mini.clone())).unwrap();
        let (plan, mut out) = (archive::plan(&input).unwrap(), Vec::new());
        let go = AtomicBool::new(false);
        archive::write_to(&input, &plan, &options, &mut out, &|_| {}, &go).unwrap();
        inputs.insert(name.into(), out);
    }
    inputs.into_iter().map(|(name, bytes)| (name, Arc::new(bytes))).collect()
}

/// An error with its causes, as the command prints it.
fn told(e: &Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        text = format!("{text}: {c}");
        cause = c.source();
    }
    text
}

#[test]
fn right_or_refused() {
    let moments = number("VMCASK_FAULTS", 1);
    let mut dice = Xoshiro256PlusPlus::seed_from_u64(number("VMCASK_SEED", 1));
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (mut conversions, mut refused, mut survived, mut compared) = (0, 0, 0, 0);
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for (name, bytes) in inputs() {
        for to in TO {
            let sound = Faulty::new(&bytes, Fault::Dead, u64::MAX);
            let Ok((expected, losses)) = convert(sound.clone(), to, dir, &mut Vec::new()) else {
                // Some can't be, whatever the source.
                continue;
            };
            conversions += 1;
            let reads = sound.reads.load(Ordering::Relaxed);
            for fault in FAULTS {
                for _ in 0..moments {
                    let at = dice.random_range(0..reads);
                    let source = Faulty::new(&bytes, fault, at);
                    let mut piped = Vec::new();
                    let result = convert(source.clone(), to, dir, &mut piped);
                    let what = format!("{name} to {to:?}: {fault:?} at read {at} of {reads}");
                    match result {
                        Ok((got, lacks)) => {
                            assert!(got == expected, "{what}: other bytes; lacks {lacks:?}");
                            assert_eq!(lacks, losses, "{what}");
                            compared += got.len() as u64;
                            survived += u64::from(source.met.load(Ordering::Relaxed));
                        }
                        Err(e) => {
                            let text = told(&e);
                            assert!(!text.chars().any(char::is_control), "{what}: {text:?}");
                            assert!(
                                expected.starts_with(&piped),
                                "{what}: other bytes in the pipe"
                            );
                            if matches!(fault, Fault::Dead | Fault::Hiccup) {
                                assert!(text.contains("os error 5"), "{what}: {text}");
                            }
                            let number = |w: &str| w.starts_with(|c: char| c.is_ascii_digit());
                            let words = text.split(' ').map(|w| if number(w) { "N" } else { w });
                            let kind = words.collect::<Vec<_>>().join(" ");
                            *kinds.entry(kind).or_default() += 1;
                            refused += 1;
                        }
                    }
                    assert_eq!(dir.read_dir().unwrap().count(), 0, "{what}: something was left");
                }
            }
        }
    }
    for (kind, n) in &kinds {
        println!("{n:>7}  {kind}");
    }
    println!(
        "{conversions} conversions; {refused} ended with an error, {survived} went on past a fault, \
         {compared} bytes compared, none differed"
    );
    assert!(conversions > 100 && refused > conversions, "{conversions}, {refused}");
}

/// A file that loses its end between being opened and being copied: what was
/// there is no hole, and the output no dump with zeros at its end.
#[test]
fn a_file_that_is_cut_has_no_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump");
    std::fs::write(&path, synth(Spec::default())).unwrap();
    for keep in [0, 4096, 1 << 20] {
        let input = vmcask_convert::input::open(&path).unwrap();
        let whole = input.file_len;
        let view = target::of(&input, Target::Elf, &Options::default()).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(keep).unwrap();
        let out = OutputFile::create(&dir.path().join("out"), false).unwrap();
        let e = restore::restore(&view, &out, 1, &|_| {}, &AtomicBool::new(false)).unwrap_err();
        assert!(told(&e).contains("unexpected end of file"), "{}", told(&e));
        assert!(matches!(archive::plan(&input), Err(Error::Read { .. })), "holes in an archive");
        assert!(matches!(input.check_source(), Err(Error::Changed { .. })));
        std::fs::write(&path, synth(Spec::default())).unwrap();
        assert_eq!(path.metadata().unwrap().len(), whole);
    }
}

/// A file that others write to, its length as before.
#[test]
fn a_file_that_is_written_to_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump");
    std::fs::write(&path, synth(Spec::default())).unwrap();
    let input = vmcask_convert::input::open(&path).unwrap();
    input.check_source().unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"x", 1 << 20).unwrap();
    let e = input.check_source().unwrap_err();
    assert!(matches!(e, Error::Changed { .. }) && told(&e).contains("has changed"), "{}", told(&e));
}
