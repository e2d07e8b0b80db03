//! What goes wrong while it works: killed, interrupted, the disk full, the
//! input cut off. Outputs are whole or not there, and nothing is left over.
//!
//! More moments than CI has time for, with another seed:
//! `VMCASK_FAULTS=50 VMCASK_SEED=7 cargo test --release -p vmcask --test faults -- --nocapture`.

mod common;

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{assert_same, gen_dump, names, ok, stderr, vmcask};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |n| n.parse().expect("a number"))
}

/// Moments tried with each command.
fn moments() -> u64 {
    number("VMCASK_FAULTS", 2)
}

fn dice() -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(number("VMCASK_SEED", 1))
}

/// A command that writes one file, and what that must be.
struct Case {
    words: Vec<String>,
    expected: PathBuf,
}

impl Case {
    fn command(&self, out: &Path) -> Command {
        let mut command = vmcask();
        command.args(&self.words).arg(out);
        command
    }

    fn name(&self) -> String {
        self.words.join(" ")
    }
}

/// Every way of writing a file, its inputs and outputs made in `dir`.
fn cases(dir: &Path) -> Vec<Case> {
    let dump = gen_dump(dir, "dump");
    let path = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
    let mut cases = Vec::new();
    let mut case = |words: &[&str], name: &str| {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let expected = dir.join(name);
        ok(vmcask().args(&words).arg(&expected));
        cases.push(Case { words, expected });
    };
    let dump = dump.to_str().expect("UTF-8");
    case(&["-q", "convert", "--to", "archive", dump], "archive");
    case(&["-q", "convert", "--to", "archive", "--plain", dump], "plain");
    case(&["-q", "convert", "--to", "elf", dump], "elf");
    case(&["-q", "convert", "--to", "kernel-view", dump], "view");
    case(&["-q", "convert", "--to", "minidump", &path("archive")], "restored");
    case(&["-q", "convert", "--to", "minidump", &path("elf")], "back");
    case(&["-q", "recover", &path("archive")], "recovered");
    case(&["-q", "gen", "--ram", "1GiB", "--dump", "32MiB"], "made");
    // A compressed dump is read as a stream.
    let gzip = Command::new("gzip").args(["-k", "-1", dump]).status();
    if gzip.is_ok_and(|s| s.success()) {
        case(&["-q", "convert", "--to", "elf", &path("dump.gz")], "of-gzip");
    }
    cases
}

/// Runs for `wait`, then gets `signal`. How it ended.
fn signalled(mut child: Child, wait: Duration, signal: &str) -> std::process::Output {
    std::thread::sleep(wait);
    // It may have ended by itself.
    let _ =
        Command::new("kill").arg(signal).arg(child.id().to_string()).stderr(Stdio::null()).status();
    let mut err = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut err).unwrap();
    let status = child.wait().unwrap();
    std::process::Output { status, stdout: Vec::new(), stderr: err }
}

fn spawn(command: &mut Command) -> Child {
    command.stderr(Stdio::piped()).spawn().unwrap()
}

/// Killed at any moment: the output isn't there or is whole, and the next run
/// succeeds and clears up.
#[test]
fn killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = dice();
    let (mut tried, mut killed, mut left) = (0, 0, 0);
    for case in cases(dir.path()) {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let start = Instant::now();
        ok(&mut case.command(&out));
        let whole = start.elapsed();
        std::fs::remove_file(&out).unwrap();
        for _ in 0..moments() {
            let wait = whole.mul_f64(dice.random_range(0.0..1.1));
            let ended = signalled(spawn(&mut case.command(&out)), wait, "-KILL");
            tried += 1;
            killed += u32::from(ended.status.code().is_none());
            if out.exists() {
                assert_same(&out, &case.expected);
                std::fs::remove_file(&out).unwrap();
            }
            left += names(folder.path()).len();
            ok(&mut case.command(&out));
            assert_eq!(names(folder.path()), ["out"], "{}", case.name());
            assert_same(&out, &case.expected);
            std::fs::remove_file(&out).unwrap();
        }
    }
    println!("{tried} runs, {killed} killed before their end, {left} temporary files cleared up");
    assert!(killed > 0 && left > 0, "{killed} of {tried} were killed, {left} left something");
}

/// Interrupted: exit code 130, and nothing is left.
#[test]
fn interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = dice();
    let mut caught = 0;
    for case in cases(dir.path()) {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let start = Instant::now();
        ok(&mut case.command(&out));
        let whole = start.elapsed();
        std::fs::remove_file(&out).unwrap();
        for signal in ["-INT", "-TERM"].into_iter().cycle().take(moments() as usize) {
            let wait = whole.mul_f64(dice.random_range(0.2..1.0));
            let ended = signalled(spawn(&mut case.command(&out)), wait, signal);
            match ended.status.code() {
                Some(130) => {
                    assert!(
                        stderr(&ended).ends_with("vmcask: interrupted\n"),
                        "{}",
                        stderr(&ended)
                    );
                    assert!(names(folder.path()).is_empty(), "{}: {signal}", case.name());
                    caught += 1;
                }
                // It was done before.
                Some(0) => {
                    assert_same(&out, &case.expected);
                    std::fs::remove_file(&out).unwrap();
                }
                // The handler wasn't there yet: nothing was either.
                None => assert!(names(folder.path()).is_empty(), "{}: {signal}", case.name()),
                code => panic!("{}: {signal}: {code:?}: {}", case.name(), stderr(&ended)),
            }
        }
    }
    println!("{caught} interrupted");
    assert!(caught > 0);
}

/// A small file system, gone with the test.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn of(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|s| s.success()).then(|| Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Disks that are full at any point: one line that says so, nothing left.
#[test]
fn disk_full() {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = dice();
    let (mut full, mut done) = (0, 0);
    for case in cases(dir.path()) {
        let needed = std::fs::metadata(&case.expected).unwrap().len();
        for _ in 0..moments() {
            let size = dice.random_range(4096..needed + needed / 8);
            let Some(disk) = Tmpfs::of(size) else {
                println!("skipped: a tmpfs can't be mounted");
                return;
            };
            let out = disk.0.path().join("out");
            let ended = case.command(&out).output().unwrap();
            let err = stderr(&ended);
            match ended.status.code() {
                Some(1) => {
                    assert!(err.contains("No space left on device"), "{}: {err}", case.name());
                    assert_eq!(err.lines().count(), 1, "{err}");
                    assert!(names(disk.0.path()).is_empty(), "{}: {size} bytes", case.name());
                    full += 1;
                }
                Some(0) => {
                    assert_same(&out, &case.expected);
                    done += 1;
                }
                code => panic!("{} on {size} bytes: {code:?}: {err}", case.name()),
            }
        }
    }
    println!("{full} ran out of space, {done} had enough");
    assert!(full > 0);
}

/// The input is cut off while it is read: an error that says so, not the
/// death by SIGBUS that a map would bring.
#[test]
fn input_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let archive = dir.path().join("archive");
    ok(vmcask().args(["-q", "convert", "--to", "archive"]).arg(&dump).arg(&archive));
    let mut noticed = 0;
    for (input, to) in [(&dump, "minidump"), (&dump, "elf"), (&archive, "minidump")] {
        let whole = std::fs::metadata(input).unwrap().len();
        let expected = dir.path().join("expected");
        ok(vmcask().args(["-q", "convert", "--force", "--to", to]).arg(input).arg(&expected));
        let expected = std::fs::read(expected).unwrap();
        for keep in [0, 4096, whole / 3, whole / 2] {
            let copy = dir.path().join("copy");
            std::fs::copy(input, &copy).unwrap();
            let mut child = vmcask()
                .args(["-q", "convert", "--to", to])
                .arg(&copy)
                .arg("-")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            // It has begun, and waits for the pipe to be emptied.
            let mut pipe = child.stdout.take().unwrap();
            let mut all = vec![0; 1000];
            pipe.read_exact(&mut all).unwrap();
            std::fs::File::options().write(true).open(&copy).unwrap().set_len(keep).unwrap();
            pipe.read_to_end(&mut all).unwrap();
            let ended = child.wait_with_output().unwrap();
            let what = format!("{} to {to}, cut to {keep}", input.display());
            if ended.status.code() == Some(0) {
                // It had read on and needed no more.
                assert!(all == expected, "{what}: done, but with other bytes");
            } else {
                assert_eq!(ended.status.code(), Some(1), "{what}: {:?}", ended.status);
                assert_eq!(stderr(&ended).lines().count(), 1, "{what}: {}", stderr(&ended));
                noticed += 1;
            }
        }
    }
    println!("{noticed} of 12 noticed");
    assert!(noticed > 0);
}

/// How a run ended, what it printed, and what it wrote.
#[derive(PartialEq)]
struct Ended {
    code: Option<i32>,
    printed: Vec<u8>,
    written: Option<Vec<u8>>,
    said: String,
}

/// Runs `words` on `input`, with an output in `folder` where `writes`, and
/// meanwhile does `change`.
fn while_it_runs(
    (words, writes): (&[&str], bool),
    input: &Path,
    folder: &Path,
    change: impl FnOnce(),
) -> Ended {
    let out = folder.join("out");
    let mut command = vmcask();
    command.arg("-q").args(words).arg(input).stdout(Stdio::piped());
    if writes {
        command.arg(&out);
    }
    let mut child = spawn(&mut command);
    let mut pipe = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut printed = Vec::new();
        pipe.read_to_end(&mut printed).unwrap();
        printed
    });
    change();
    let ended = child.wait_with_output().unwrap();
    let written = out.exists().then(|| std::fs::read(&out).unwrap());
    let _ = std::fs::remove_file(&out);
    assert!(names(folder).is_empty(), "{words:?} left something");
    let printed = reader.join().unwrap();
    Ended { code: ended.status.code(), printed, written, said: stderr(&ended) }
}

/// The input is overwritten with another dump, or cut, while it is read: what
/// comes out is of the one or of the other, or there is an error and no
/// output. No mixture, and no death by SIGBUS.
#[test]
fn input_changes() {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = dice();
    let dump = gen_dump(dir.path(), "dump");
    let other = dir.path().join("other");
    let spec = ["-q", "gen", "--ram", "1GiB", "--dump", "32MiB", "--seed", "2"];
    ok(vmcask().args(spec).arg(&other));
    let of_both = |name: &str, words: &[&str]| {
        [&dump, &other].map(|from| {
            let to = from.with_extension(name);
            ok(vmcask().args(["-q", "convert"]).args(words).arg(from).arg(&to));
            to
        })
    };
    let archives = of_both("cask", &[]);
    let cores = of_both("elf", &[]);
    let dumps = [dump.clone(), other.clone()];
    let commands: [(&[&str], bool, &[PathBuf; 2]); 14] = [
        (&["convert", "--to", "minidump"], true, &dumps),
        (&["convert", "--to", "elf"], true, &dumps),
        (&["convert", "--to", "kernel-view"], true, &dumps),
        (&["convert", "--to", "archive"], true, &dumps),
        (&["convert", "--to", "archive", "--plain"], true, &dumps),
        (&["convert", "--to", "minidump"], true, &cores),
        (&["convert", "--to", "minidump"], true, &archives),
        (&["recover"], true, &archives),
        (&["verify"], false, &dumps),
        (&["verify"], false, &archives),
        (&["info", "--json"], false, &cores),
        (&["pages"], false, &dumps),
        (&["read", "--raw", "--pa", "0x100000", "4MiB"], false, &dumps),
        (&["triage", "--json"], false, &archives),
    ];
    let (mut old, mut new, mut refused) = (0, 0, 0);
    for (words, writes, [first, second]) in commands {
        let folder = tempfile::tempdir().unwrap();
        let input = dir.path().join("input");
        let run = |change: &dyn Fn()| while_it_runs((words, writes), &input, folder.path(), change);
        let (first, second) = (std::fs::read(first).unwrap(), std::fs::read(second).unwrap());
        std::fs::write(&input, &first).unwrap();
        let start = Instant::now();
        let before = run(&|| ());
        let whole = start.elapsed();
        std::fs::write(&input, &second).unwrap();
        let overwritten = run(&|| ());
        for _ in 0..moments() {
            for cut in [false, true] {
                std::fs::write(&input, &first).unwrap();
                let wait = whole.mul_f64(dice.random_range(0.0..1.0));
                let keep = dice.random_range(0..first.len() as u64);
                let ended = run(&|| {
                    std::thread::sleep(wait);
                    let file = std::fs::File::options().write(true).open(&input).unwrap();
                    if cut {
                        file.set_len(keep).unwrap();
                    } else {
                        file.write_all_at(&second, 0).unwrap();
                        file.set_len(second.len() as u64).unwrap();
                    }
                });
                let what = format!("{words:?}, {}", if cut { "cut" } else { "overwritten" });
                if ended == before {
                    old += 1;
                } else if ended == overwritten || cut && ended == run(&|| ()) {
                    new += 1;
                } else {
                    let Ended { code, written, said, .. } = ended;
                    assert_eq!(code, Some(1), "{what}: {said}");
                    assert!(written.is_none(), "{what}: an output in spite of {said}");
                    let errors = said.lines().filter(|l| !l.contains("warning: "));
                    assert_eq!(errors.count(), 1, "{what}: {said}");
                    refused += 1;
                }
            }
        }
    }
    println!("{old} of the old file, {new} of the new one, {refused} refused");
    assert!(refused > 0);
}

/// Whoever reads our output has read enough: no message, no failure, no file.
#[test]
fn closed_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    for words in [&["pages"][..], &["info", "--json"], &["read", "--pa", "0x100000", "16MiB"]] {
        let mut child = spawn(vmcask().args(words).arg(&dump).stdout(Stdio::piped()));
        drop(child.stdout.take());
        let ended = signalled(child, Duration::ZERO, "-0");
        assert!(!stderr(&ended).contains("panicked"), "{words:?}: {}", stderr(&ended));
        assert!(matches!(ended.status.code(), Some(0 | 3)), "{words:?}: {ended:?}");
    }
    assert_eq!(names(dir.path()), ["dump"]);
}
