//! Compressed dumps, pipes and dump devices.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{
    assert_same, fails, gen_dump, have, names, ok, stderr, stdout, vmcask, vmcask_within,
};

/// Packs `from` with a program's own defaults.
fn pack(program: &str, from: &Path, to: &Path) {
    let out = ok(Command::new(program).arg("-c").arg(from));
    fs::write(to, out.stdout).unwrap();
}

#[test]
fn compressed_dumps_in_one_pass() {
    let dir = tempfile::tempdir().unwrap();
    // Large enough for several chunks, small enough for bzip2.
    let whole = dir.path().join("whole");
    ok(vmcask().args(["-q", "gen", "--ram", "512MiB", "--dump", "6MiB"]).arg(&whole));
    let bytes = fs::read(&whole).unwrap();
    let cut = dir.path().join("cut");
    fs::write(&cut, &bytes[..bytes.len() - 3_000_001]).unwrap();
    let longer = dir.path().join("longer");
    fs::write(&longer, [&bytes[..], b"and more"].concat()).unwrap();
    let core = dir.path().join("core");
    ok(vmcask().args(["-q", "convert", "--to", "elf"]).arg(&whole).arg(&core));

    let (packed, out, back) = (dir.path().join("z"), dir.path().join("out"), dir.path().join("b"));
    for (program, name) in [("gzip", "gzip"), ("zstd", "zstd"), ("bzip2", "bzip2")] {
        if !have(program) {
            continue;
        }
        for dump in [&whole, &cut, &longer, &core] {
            pack(program, dump, &packed);
            let info = stdout(&ok(vmcask().arg("info").arg(&packed)));
            assert!(info.contains(name) && info.contains("amd64"), "{info}");

            // To an archive and back: the very bytes, however long.
            ok(vmcask().args(["-q", "convert", "-f", "--to", "archive"]).arg(&packed).arg(&out));
            ok(vmcask().args(["-q", "verify"]).arg(&out));
            let same = if dump == &core { "elf" } else { "minidump" };
            ok(vmcask().args(["-q", "convert", "-f", "--to", same]).arg(&out).arg(&back));
            assert_same(dump, &back);
            // Unpacked as it is.
            ok(vmcask().args(["-q", "convert", "-f", "--to", same]).arg(&packed).arg(&back));
            assert_same(dump, &back);

            // To ELF: as from the file; what is lost is named.
            let run = vmcask()
                .args(["-q", "convert", "-f", "--to", "elf"])
                .args([&packed, &out])
                .output()
                .unwrap();
            let lost = dump == &cut || dump == &longer;
            assert_eq!(run.status.code(), Some(if lost { 3 } else { 0 }), "{}", stderr(&run));
            assert_eq!(stderr(&run).contains("incomplete"), lost, "{}", stderr(&run));
            if dump != &longer {
                let direct = vmcask()
                    .args(["-q", "convert", "-f", "--to", "elf"])
                    .args([dump, &back])
                    .output()
                    .unwrap();
                assert_eq!(direct.status.code(), run.status.code());
                // The cut one's headers were written twice, the second time
                // for fewer pages: its pages may lie further back.
                if dump != &cut {
                    assert_same(&out, &back);
                }
                ok(vmcask().args(["-q", "convert", "-f", "--to", "minidump"]).args([&out, &back]));
                assert_same(if dump == &core { &whole } else { dump }, &back);
            }

            // What can't be done in one pass says what to do.
            for words in [&["read", "--pa", "0x200000"][..], &["pages"], &["verify"]] {
                let err = fails(vmcask().args(words).arg(&packed), 1);
                assert!(err.contains("vmcask convert"), "{err}");
            }
            let mut view = vmcask();
            view.args(["convert", "-f", "--to", "kernel-view"]).args([&packed, &out]);
            let err = fails(&mut view, 1);
            assert!(err.contains("vmcask convert"), "{err}");
        }
    }
}

/// Runs with a file's bytes coming through a pipe.
fn piped(file: &Path, args: &[&str], out: &Path) -> std::process::Output {
    let mut child = vmcask()
        .args(args)
        .arg("-")
        .arg(out)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let bytes = fs::read(file).unwrap();
    // A thread of its own: what comes out is read meanwhile. The other end may
    // have seen enough.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    out
}

#[test]
fn pipes() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let (cask, back) = (dir.path().join("cask"), dir.path().join("back"));
    let run = piped(&dump, &["-q", "convert", "--to", "archive"], &cask);
    assert!(run.status.success(), "{}", stderr(&run));
    ok(vmcask().args(["-q", "verify"]).arg(&cask));
    // Out through a pipe.
    let run = ok(vmcask().args(["-q", "convert", "--to", "minidump"]).arg(&cask).arg("-"));
    assert!(run.stdout == fs::read(&dump).unwrap());
    // In through a pipe and out through another: all of it, however long; or
    // an error where it is too short for what has gone out already.
    let bytes = fs::read(&dump).unwrap();
    let stream = dir.path().join("stream");
    for (bytes, elf) in [
        (bytes.clone(), Some(0)),
        ([&bytes[..], b"and more"].concat(), Some(3)),
        (bytes[..bytes.len() - 70_001].to_vec(), Some(1)),
    ] {
        fs::write(&stream, &bytes).unwrap();
        let run = piped(&stream, &["-q", "convert", "--to", "minidump"], Path::new("-"));
        assert!(run.status.success() && run.stdout == bytes, "{}", stderr(&run));
        let run = piped(&stream, &["-q", "convert", "--to", "elf"], Path::new("-"));
        assert_eq!(run.status.code(), elf, "{}", stderr(&run));
        let run = piped(&stream, &["-q", "convert", "--to", "kernel-view"], Path::new("-"));
        assert_eq!(run.status.code(), Some(1));
        assert!(stderr(&run).contains("vmcask convert"), "{}", stderr(&run));
    }
    fs::remove_file(&stream).unwrap();
    // Standard input that is a file can be read anywhere.
    let mut info = vmcask();
    info.args(["info", "-"]).stdin(File::open(&cask).unwrap());
    assert!(stdout(&ok(&mut info)).contains("archive"));
    // An archive in a pipe has its index at the end.
    let run = piped(&cask, &["-q", "convert", "--to", "minidump"], &back);
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("archive in a pipe"), "{}", stderr(&run));
    // Nothing at all.
    let nothing = dir.path().join("nothing");
    fs::write(&nothing, "").unwrap();
    let run = piped(&nothing, &["-q", "convert", "--to", "archive"], &back);
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("empty"), "{}", stderr(&run));
    assert_eq!(names(dir.path()), ["cask", "dump", "nothing"]);
}

#[test]
fn damaged_containers() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let (packed, out) = (dir.path().join("z"), dir.path().join("out.cask"));
    for program in ["gzip", "zstd", "bzip2"] {
        if !have(program) {
            continue;
        }
        pack(program, &dump, &packed);
        let whole = fs::read(&packed).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        // Cut in its header and in the dump's header; flipped.
        for bytes in [&whole[..3], &whole[..20], &flipped] {
            fs::write(&packed, bytes).unwrap();
            let mut convert = vmcask_within(1024);
            convert.args(["-q", "convert", "--to", "archive"]).args([&packed, &out]);
            let err = fails(&mut convert, 1);
            assert!(!err.contains("panicked"), "{err}");
            assert!(err.contains(packed.to_str().unwrap()), "{err}");
            assert!(bytes.len() != 20 || err.contains("ends too early"), "{err}");
            assert_eq!(names(dir.path()), ["dump", "z"], "{program}");
        }
    }
}

/// A core's program headers can be long: it's the data that end among them,
/// whatever of the core was unpacked.
#[test]
fn cut_in_program_headers() {
    let dir = tempfile::tempdir().unwrap();
    let (core, packed) = (dir.path().join("core"), dir.path().join("z"));
    let shape = ["--ram", "1GiB", "--dump", "40MiB", "--run-pages", "3"];
    ok(vmcask().args(["-q", "gen", "--format", "elf"]).args(shape).arg(&core));
    for program in ["gzip", "zstd", "bzip2"] {
        if !have(program) {
            continue;
        }
        pack(program, &core, &packed);
        let whole = fs::read(&packed).unwrap();
        fs::write(&packed, &whole[..300]).unwrap();
        for output in ["out.elf", "out.cask"] {
            let err = fails(vmcask().arg("convert").args([&packed, &dir.path().join(output)]), 1);
            assert!(err.contains("ends too early"), "{program}: {err}");
        }
        assert_eq!(names(dir.path()), ["core", "z"], "{program}");
    }
}

/// What the programs themselves unpack of a cut file, and its loss is told.
#[test]
fn cut_containers() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, crash) = (dir.path().join("dump"), dir.path().join("crash"));
    ok(vmcask().args(["-q", "gen", "--ram", "512MiB", "--dump", "6MiB"]).arg(&dump));
    let bytes = fs::read(&dump).unwrap();
    fs::create_dir(&crash).unwrap();
    let packed = crash.join("vmcore.0");
    let (out, back) = (dir.path().join("out"), dir.path().join("back"));
    let incomplete = |args: &[&str], output: &Path| {
        let mut convert = vmcask();
        let err =
            fails(convert.args(["-q", "convert", "-f"]).args(args).args([&*packed, output]), 3);
        assert!(err.contains("incomplete") && err.contains("end too early"), "{err}");
        assert_eq!(err.lines().count(), err.matches("incomplete").count(), "{err}");
    };
    for program in ["gzip", "zstd", "bzip2"] {
        if !have(program) {
            continue;
        }
        pack(program, &dump, &packed);
        let whole = fs::read(&packed).unwrap();
        for len in [whole.len() * 2 / 3, whole.len() - 1] {
            fs::write(&packed, &whole[..len]).unwrap();
            // Whose buffers end where, only the program knows.
            let theirs = Command::new(program).arg("-dc").arg(&packed).output().unwrap().stdout;
            incomplete(&["--to", "minidump"], &out);
            let ours = fs::read(&out).unwrap();
            assert!(bytes.starts_with(&ours) && ours.len() > 2 << 20, "{program}: {}", ours.len());
            assert!(ours.len().abs_diff(theirs.len()) < 1 << 17, "{program}: {}", theirs.len());
            // Through a pipe, too.
            let mut convert = vmcask();
            convert.args(["-q", "convert", "--to", "minidump"]).arg(&packed).arg("-");
            let run = convert.output().unwrap();
            assert!(run.status.code() == Some(3) && run.stdout == ours, "{}", stderr(&run));

            incomplete(&["--to", "archive"], &out);
            ok(vmcask().args(["-q", "verify"]).arg(&out));
            ok(vmcask().args(["-q", "convert", "-f", "--to", "minidump"]).args([&out, &back]));
            assert!(fs::read(&back).unwrap() == ours, "{program}");

            // All of the pages that came.
            incomplete(&["--to", "elf"], &out);
            ok(vmcask().args(["-q", "convert", "-f", "--to", "minidump"]).args([&out, &back]));
            let pages = fs::read(&back).unwrap();
            assert!(ours.starts_with(&pages) && ours.len() - pages.len() < 4096, "{program}");
        }
        // A folder's dumps as well.
        let mut fleet = vmcask();
        let err = fails(fleet.args(["convert", "-f"]).args([&crash, &back.with_extension("d")]), 3);
        assert!(err.contains("end too early"), "{err}");
    }
}

/// Version 4's header, by FORMATS' offsets.
fn header(magic: &str, dumplength: u64, keysize: u32) -> [u8; 512] {
    let mut h = [0u8; 512];
    h[..magic.len()].copy_from_slice(magic.as_bytes());
    h[20..25].copy_from_slice(b"amd64");
    h[32..36].copy_from_slice(&4u32.to_be_bytes());
    h[36..40].copy_from_slice(&2u32.to_be_bytes());
    h[40..48].copy_from_slice(&dumplength.to_be_bytes());
    h[48..56].copy_from_slice(&1_700_000_000u64.to_be_bytes());
    h[56..60].copy_from_slice(&keysize.to_be_bytes());
    h[60..64].copy_from_slice(&512u32.to_be_bytes());
    h[64..68].copy_from_slice(b"host");
    h[320..325].copy_from_slice(b"\x1b[2Jx");
    h[496..504].copy_from_slice(&dumplength.to_be_bytes());
    mend(&mut h);
    h
}

/// Makes the parity right.
fn mend(h: &mut [u8; 512]) {
    h[508..].fill(0);
    let mut parity = [0u8; 4];
    for word in h.chunks(4) {
        parity.iter_mut().zip(word).for_each(|(p, w)| *p ^= w);
    }
    h[508..].copy_from_slice(&parity);
}

/// A device: 64 KiB that are never used, header, key, dump, header.
fn device(h: &[u8; 512], key: usize, dump: &[u8]) -> Vec<u8> {
    [&vec![0xee; 65536][..], h, &vec![0x55; key], dump, h].concat()
}

#[test]
fn dump_devices_and_what_is_wrong_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let dump = fs::read(gen_dump(dir.path(), "dump")).unwrap();
    let path = dir.path().join("device");
    let len = dump.len() as u64;
    let info = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        vmcask_within(512).arg("info").arg(&path).output().unwrap()
    };
    let good = header("FreeBSD Kernel Dump", len, 0);
    let out = info(&device(&good, 0, &dump));
    assert!(out.status.success(), "{}", stderr(&out));
    for fact in ["host", "2023-11-14T22:13:20Z", "minidump, version 3", "\\x1b[2Jx"] {
        assert!(stdout(&out).contains(fact), "{fact} is not in {}", stdout(&out));
    }
    assert!(!stdout(&out).contains('\x1b'), "a dump must not speak to the terminal");
    let back = dir.path().join("back");
    ok(vmcask().args(["-q", "convert", "--to", "minidump"]).args([&path, &back]));
    assert!(fs::read(&back).unwrap() == dump);

    // A bad leading header is told; the dump is read.
    let mut bytes = device(&good, 0, &dump);
    bytes[65536 + 100] ^= 1;
    let out = info(&bytes);
    assert!(out.status.success() && stderr(&out).contains("headers before and behind"));
    // savecore's mark: still there to be read.
    let cleared = header("Cleared Kernel Dump", len, 0);
    let out = info(&device(&cleared, 0, &dump));
    assert!(out.status.success() && stderr(&out).contains("cleared"), "{}", stderr(&out));

    let refused = |bytes: &[u8], says: &str| {
        let out = info(bytes);
        assert_eq!(out.status.code(), Some(1), "{says}");
        let err = stderr(&out);
        assert!(err.contains(says) && err.lines().count() == 1, "{says}: {err}");
    };
    // Encrypted: refused with the command that helps.
    let secret = header("FreeBSD Kernel Dump", len, 512);
    refused(&device(&secret, 512, &dump), "decryptcore");
    // One bit anywhere in the header behind the magic.
    for at in (20..512).step_by(13) {
        let mut bytes = device(&good, 0, &dump);
        let end = bytes.len();
        bytes[end - 512 + at] ^= 0x20;
        refused(&bytes, "parity");
    }
    // Fields that lie, with a parity that fits.
    for (at, value, says) in [
        (32, 0u64 << 32, "version"),
        (32, 5 << 32, "version"),
        (32, u64::MAX, "version"),
        (40, u64::MAX, "dumplength"),
        (40, len + 1, "dumplength"),
        (496, u64::MAX, "dumpextent"),
        (496, 1 << 40, "dumpextent"),
        (495, 0x0300_0000_0000_0000, "compression"),
    ] {
        let mut h = good;
        h[at..at + 8].copy_from_slice(&value.to_be_bytes());
        mend(&mut h);
        refused(&device(&h, 0, &dump), says);
    }
}

#[test]
fn text_dumps_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    // A tar archive by tar, and on a device: blocks of 512, last first.
    fs::write(dir.path().join("ddb.txt"), "db> bt\n").unwrap();
    fs::write(dir.path().join("panic.txt"), "page fault\n").unwrap();
    if !have("tar") {
        return;
    }
    let tar = ok(Command::new("tar")
        .args(["--format=ustar", "-cf", "-", "-C"])
        .arg(dir.path())
        .args(["ddb.txt", "panic.txt"]))
    .stdout;
    let reversed: Vec<u8> = tar.rchunks(512).flatten().copied().collect();
    let h = header("FreeBSD Text Dump", tar.len() as u64, 0);
    let path = dir.path().join("dump");
    for bytes in [tar, device(&h, 0, &reversed)] {
        let on_device = bytes.starts_with(&[0xee]);
        fs::write(&path, bytes).unwrap();
        let info = stdout(&ok(vmcask().arg("info").arg(&path)));
        for fact in ["text dump", "ddb.txt", "panic.txt", " 11"] {
            assert!(info.contains(fact), "{info}");
        }
        assert_eq!(info.contains("hostname    host"), on_device);
        let json = stdout(&ok(vmcask().args(["info", "--json"]).arg(&path)));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["format"], "text dump");
        assert_eq!(json["text_files"][0]["bytes"], 7);
        let err = fails(vmcask().args(["read", "--pa", "0"]).arg(&path), 1);
        assert!(err.contains("text dump") && err.contains("ddb.txt"), "{err}");
    }
}
