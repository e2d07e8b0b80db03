//! `vmcask mount`, through the kernel: files as other programs see them.

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{assert_same, fails, gen_dump, have, names, ok, stderr, stdout, vmcask};

/// Long enough for a machine under load; a test that gets there has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether anything can be mounted here; says `skipped` where not.
fn can_mount() -> bool {
    if let Err(e) = File::options().read(true).write(true).open("/dev/fuse") {
        eprintln!("skipped: /dev/fuse: {e}");
        return false;
    }
    have("fusermount3")
}

/// A mount that a process in the foreground serves. Dropped, it is unmounted
/// whatever became of the test.
struct Mount {
    server: Child,
    dir: PathBuf,
}

impl Mount {
    fn new(file: &Path, dir: &Path, more: &[&str]) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let mut command = vmcask();
        command.arg("mount").arg(file).arg(dir).arg("--foreground").args(more);
        let mut server =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let mut line = String::new();
        BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let mount = Self { server, dir: dir.to_owned() };
        assert!(line.contains("mounted"), "{line:?}");
        mount
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn signal(&self, name: &str) {
        ok(Command::new("kill").arg(name).arg(self.server.id().to_string()));
    }

    /// Sends a signal and waits for the end: exit code and standard error.
    fn end_by(mut self, signal: &str) -> (Option<i32>, String) {
        self.signal(signal);
        let status = wait(&mut self.server);
        let mut err = String::new();
        self.server.stderr.as_mut().unwrap().read_to_string(&mut err).unwrap();
        assert!(!is_mounted(&self.dir), "{signal}: still mounted");
        assert_eq!(names(&self.dir), [""; 0], "{signal}: the folder is its own again");
        (status, err)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.server.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(&self.dir).status();
            let _ = self.server.kill();
            let _ = self.server.wait();
        }
    }
}

#[track_caller]
fn wait(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(start.elapsed() < PATIENCE, "it doesn't end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_mounted(dir: &Path) -> bool {
    let dir = dir.canonicalize().unwrap();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1) == dir.to_str())
}

/// What `vmcask` prints.
fn says(words: &[&str], file: &Path) -> Vec<u8> {
    ok(vmcask().arg("-q").args(words).arg(file)).stdout
}

/// A small dump with its kernel image, an archive of it, an ELF core of it.
fn inputs(dir: &Path) -> (PathBuf, PathBuf, Vec<PathBuf>) {
    let (dump, kernel) = (dir.join("dump"), dir.join("kernel"));
    ok(vmcask()
        .args(["-q", "gen", "--ram", "1GiB", "--dump", "24MiB", "--kernel"])
        .args([&kernel, &dump]));
    let (cask, core) = (dir.join("dump.cask"), dir.join("dump.elf"));
    for out in [&cask, &core] {
        ok(vmcask().arg("convert").arg(&dump).arg(out));
    }
    (dump.clone(), kernel, vec![dump, cask, core])
}

#[test]
fn every_file_is_what_the_commands_write() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_, kernel, files) = inputs(dir.path());
    let kernel = kernel.to_str().unwrap();
    for (i, file) in files.iter().enumerate() {
        let at = dir.path().join(format!("m{i}"));
        let mount = Mount::new(file, &at, &["--kernel", kernel]);
        let listed = ["dmesg.txt", "info.json", "kernel-view.elf", "vmcore", "vmcore.elf"];
        assert_eq!(names(&mount.dir), listed);
        let written = dir.path().join("written");
        for (name, to) in [("vmcore.elf", "elf"), ("kernel-view.elf", "kernel-view")] {
            let mut convert = vmcask();
            convert.args(["convert", "--force", "--kernel", kernel, "--to", to]);
            ok(convert.arg(file).arg(&written));
            assert_same(&mount.file(name), &written);
        }
        // An archive's file is the dump in it.
        let original = if i == 1 { &files[0] } else { file };
        assert_same(&mount.file("vmcore"), original);
        let read = |name| std::fs::read(mount.file(name)).unwrap();
        assert_eq!(read("info.json"), says(&["info", "--json", "--kernel", kernel], file));
        assert_eq!(read("dmesg.txt"), says(&["dmesg", "--kernel", kernel], file));
        assert!(!read("dmesg.txt").is_empty());
        assert_eq!(mount.end_by("-INT").0, Some(0));
    }
}

#[test]
fn other_programs_read_it_several_at_a_time() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (dump, kernel, files) = inputs(dir.path());
    let mount = Mount::new(&files[1], &dir.path().join("m"), &[]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| ok(Command::new("cmp").arg(&dump).arg(mount.file("vmcore"))));
        }
        scope.spawn(|| {
            if have("readelf") {
                let out = ok(Command::new("readelf").arg("-lW").arg(mount.file("vmcore.elf")));
                assert_eq!(stderr(&out), "");
                assert!(stdout(&out).contains("LOAD"), "{}", stdout(&out));
            }
        });
        scope.spawn(|| {
            if have("gdb") {
                gdb_reads(&kernel, &mount.file("kernel-view.elf"), dir.path());
            }
        });
        // Pages here and there, while others read from front to back.
        for seed in 0u64..3 {
            let (dump, mount) = (&dump, &mount);
            scope.spawn(move || {
                let (a, b) = (File::open(dump).unwrap(), File::open(mount.file("vmcore")).unwrap());
                let pages = a.metadata().unwrap().len() / 4096;
                let (mut x, mut y) = ([0; 4096], [0; 4096]);
                for i in 0..500 {
                    let at = (seed + i).wrapping_mul(0x9e37_79b9_7f4a_7c15) % pages * 4096;
                    a.read_exact_at(&mut x, at).unwrap();
                    b.read_exact_at(&mut y, at).unwrap();
                    assert_eq!(x, y, "at {at:#x}");
                }
            });
        }
    });
    // Through a memory map, as libkvm reads.
    let out = ok(vmcask().args(["dmesg", "-q"]).arg(mount.file("vmcore")));
    assert_eq!(out.stdout, std::fs::read(mount.file("dmesg.txt")).unwrap());
    assert_eq!(mount.end_by("-TERM").0, Some(0));
}

/// gdb finds the image's first word where the kernel has it.
fn gdb_reads(kernel: &Path, view: &Path, dir: &Path) {
    // Debian's gdb takes images with FreeBSD's EI_OSABI for 32-bit ones.
    let mut image = std::fs::read(kernel).unwrap();
    image[7] = 0;
    let copy = dir.join("kernel-for-gdb");
    std::fs::write(&copy, image).unwrap();
    let out = ok(Command::new("gdb")
        .args(["-nx", "-batch", "-ex", "x/4xb 0xffffffff80200000"])
        .args([&copy, &view.to_owned()]));
    let want = "0x76\t0x6d\t0x63\t0x61"; // vmca, how gen's kernels begin
    assert!(stdout(&out).contains(want), "{}{}", stdout(&out), stderr(&out));
}

#[test]
fn nothing_can_be_written() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let mount = Mount::new(&dump, &dir.path().join("m"), &[]);
    let is_read_only = |e: std::io::Error| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem;
    let write = File::options().write(true).open(mount.file("vmcore"));
    assert!(is_read_only(write.unwrap_err()));
    assert!(is_read_only(File::create(mount.file("new")).unwrap_err()));
    assert!(is_read_only(std::fs::remove_file(mount.file("vmcore")).unwrap_err()));
    assert!(!mount.file("vmcore.1").exists());
}

/// Who has a file open when Ctrl-C comes reads it to its end.
#[test]
fn open_files_outlive_the_folder() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let mut mount = Mount::new(&dump, &dir.path().join("m"), &[]);
    let mut open = File::open(mount.file("vmcore")).unwrap();
    mount.signal("-INT");
    let start = Instant::now();
    while is_mounted(&mount.dir) {
        assert!(start.elapsed() < PATIENCE, "it stays mounted");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == std::fs::read(&dump).unwrap());
    assert!(mount.server.try_wait().unwrap().is_none(), "it has gone too early");
    drop(open);
    assert_eq!(wait(&mut mount.server), Some(0));
}

#[test]
fn in_the_background_until_it_is_unmounted() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let at = dir.path().join("m");
    std::fs::create_dir(&at).unwrap();
    // Relative paths mean the folder that it was started in.
    let out = ok(vmcask().current_dir(dir.path()).args(["mount", "dump", "m"]));
    assert!(stdout(&out).contains("mounted"), "{}", stdout(&out));
    assert_same(&at.join("vmcore"), &dump);
    ok(Command::new("fusermount3").arg("-u").arg(&at));
    assert_eq!(names(&at), [""; 0]);
}

#[test]
fn what_cannot_be_mounted_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    for more in [&[][..], &["--foreground"]] {
        let mut missing = vmcask();
        missing.arg("mount").arg(&dump).arg(dir.path().join("none")).args(more);
        let err = fails(&mut missing, 1);
        assert!(err.contains("no folder to mount on"), "{err}");
    }
    let err = fails(vmcask().arg("mount").arg(&dump).arg(&dump), 1);
    assert!(err.contains("no folder to mount on"), "{err}");
    let err = fails(vmcask().arg("mount").arg(dir.path().join("none")).arg(dir.path()), 1);
    assert!(err.contains("can't be opened"), "{err}");
    ok(Command::new("gzip").arg(&dump));
    let zipped = dir.path().join("dump.gz");
    let err = fails(vmcask().arg("mount").arg(zipped).arg(dir.path()), 1);
    assert!(err.contains("convert it first"), "{err}");
}

/// The mount is its user's own, whoever that is.
#[test]
fn users_other_than_root_mount_too() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    if dump.metadata().unwrap().uid() != 0 {
        eprintln!("skipped: only root can become another user");
        return;
    }
    if std::fs::metadata("/dev/fuse").is_ok_and(|m| m.mode() & 0o006 != 0o006) {
        eprintln!("skipped: /dev/fuse is root's alone here");
        return;
    }
    // Where the other user can get at: the binary too.
    let binary = dir.path().join("vmcask");
    std::fs::copy(env!("CARGO_BIN_EXE_vmcask"), &binary).unwrap();
    let at = dir.path().join("m");
    std::fs::create_dir(&at).unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for path in [&dump, &at] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let nobody = |program: &Path| {
        let mut command = Command::new(program);
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    };
    ok(nobody(&binary).arg("mount").args([&dump, &at]));
    ok(nobody("cmp".as_ref()).args([&dump, &at.join("vmcore")]));
    assert!(File::open(at.join("vmcore")).is_err(), "root can read another user's mount");
    ok(nobody("fusermount3".as_ref()).arg("-u").arg(&at));
    assert_eq!(names(&at), [""; 0]);
}

/// A damaged frame fails reads of what it held; the rest is there.
#[test]
fn damage_fails_those_reads_alone() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let cask = dir.path().join("cask");
    ok(vmcask().args(["convert", "--to", "archive"]).arg(&dump).arg(&cask));
    let mut bytes = std::fs::read(&cask).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&cask, bytes).unwrap();
    let mount = Mount::new(&cask, &dir.path().join("m"), &[]);
    let (a, b) = (File::open(&dump).unwrap(), File::open(mount.file("vmcore")).unwrap());
    let pages = a.metadata().unwrap().len() / 4096;
    let (mut x, mut y) = ([0; 4096], [0; 4096]);
    let mut lost = 0;
    // Backwards: read-ahead would make a page's neighbours fail with it.
    for page in (0..pages).rev() {
        a.read_exact_at(&mut x, page * 4096).unwrap();
        match b.read_exact_at(&mut y, page * 4096) {
            Ok(()) => assert!(x == y, "page {page}"),
            Err(_) => lost += 1,
        }
    }
    assert!((1..200).contains(&lost), "{lost} pages are lost");
    drop((a, b));
    let (status, err) = mount.end_by("-INT");
    assert_eq!(status, Some(0));
    assert!(err.contains("warning: vmcore: offset 0x"), "{err}");
}
