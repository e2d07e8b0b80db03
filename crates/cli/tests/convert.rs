//! Conversions through the binary: byte for byte, whole or not at all.

mod common;

use common::{assert_same, fails, gen_dump, have, names, ok, real, stderr, stdout, vmcask};

#[test]
fn minidump_to_archive_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let (cask, back) = (dir.path().join("dump.cask"), dir.path().join("back"));
    for plain in [false, true] {
        let mut convert = vmcask();
        convert.arg("convert").arg(&dump).arg(&cask);
        if plain {
            convert.args(["--plain", "--force"]);
        }
        ok(&mut convert);
        ok(vmcask().arg("verify").arg(&cask));
        ok(vmcask().args(["convert", "--to", "minidump", "--force"]).arg(&cask).arg(&back));
        assert_same(&dump, &back);
        if have("zstd") {
            ok(std::process::Command::new("zstd").arg("-tq").arg(&cask));
            if plain {
                let out = ok(std::process::Command::new("zstd").arg("-dcq").arg(&cask));
                assert_eq!(out.stdout, std::fs::read(&dump).unwrap());
            }
        }
    }
    // Archive to archive is packed anew.
    let again = dir.path().join("again.zst");
    ok(vmcask().args(["convert", "--level", "1"]).arg(&cask).arg(&again));
    ok(vmcask().args(["convert", "--to", "minidump", "-f"]).arg(&again).arg(&back));
    assert_same(&dump, &back);
}

#[test]
fn restored_dumps_are_sparse() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump");
    ok(vmcask().args(["gen", "--ram", "64GiB", "--dump", "16MiB"]).arg(&dump));
    let cask = dir.path().join("c.cask");
    let back = dir.path().join("b.minidump");
    ok(vmcask().arg("convert").arg(&dump).arg(&cask));
    ok(vmcask().arg("convert").arg(&cask).arg(&back));
    assert_same(&dump, &back);
    let allocated = |p: &std::path::Path| p.metadata().unwrap().blocks() * 512;
    assert!(allocated(&back) <= allocated(&dump) + (1 << 20));
    assert!(allocated(&back) < dump.metadata().unwrap().len());
}

#[test]
fn the_real_dump() {
    let dir = tempfile::tempdir().unwrap();
    let Some(dump) = real(dir.path(), "amd64-minidump.vmcore.bz2", "bzip2") else { return };
    let cask = dir.path().join("real.cask");
    let back = dir.path().join("back.minidump");

    let info = ok(vmcask().arg("info").arg(&dump));
    for fact in ["minidump, version 3, amd64", "24,144 promised", "22,751 present"] {
        assert!(stdout(&info).contains(fact), "{}", stdout(&info));
    }
    assert!(stderr(&info).contains("truncated: 22751 of 24144 pages"));

    let convert = ok(vmcask().arg("convert").arg(&dump).arg(&cask));
    assert!(stderr(&convert).contains("truncated"));
    ok(vmcask().arg("verify").arg(&cask));
    ok(vmcask().arg("convert").arg(&cask).arg(&back));
    assert_same(&dump, &back);
    for file in [&dump, &cask] {
        // expected.json: hz and allproc.
        for (va, len, bytes) in [
            ("0xffffffff81cd4c0c", "4", "64 00 00 00 "),
            ("0xffffffff81c9a2f0", "8", "28 b5 c3 02 00 f8 ff ff "),
        ] {
            let out = ok(vmcask().arg("read").arg(file).args(["--va", va, len]));
            assert!(stdout(&out).contains(bytes), "{}", stdout(&out));
            assert!(stderr(&out).contains("truncated"));
        }
    }
}

#[test]
fn existing_outputs_stay() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let out = dir.path().join("out.cask");
    std::fs::write(&out, "precious").unwrap();
    let err = fails(vmcask().arg("convert").arg(&dump).arg(&out), 1);
    assert!(err.contains("--force"), "{err}");
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    let err = fails(vmcask().args(["gen", "--dump", "8MiB"]).arg(&out), 1);
    assert!(err.contains("--force"), "{err}");
    ok(vmcask().args(["convert", "--force"]).arg(&dump).arg(&out));
    ok(vmcask().arg("verify").arg(&out));
    // Not even --force replaces the input by its own conversion.
    let err = fails(vmcask().args(["convert", "-f", "--to", "archive"]).arg(&dump).arg(&dump), 1);
    assert!(err.contains("input itself"), "{err}");
    assert_eq!(names(dir.path()), ["dump", "out.cask"]);
}

#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump");
    ok(vmcask().args(["gen", "--ram", "8GiB", "--dump", "400MiB"]).arg(&dump));
    let out = dir.path().join("out.cask");
    let mut child = vmcask()
        .args(["convert", "--level", "19", "--threads", "1"])
        .arg(&dump)
        .arg(&out)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Level 19 takes minutes: it is under way as soon as its file is there.
    while names(dir.path()).len() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it began");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let id = child.id().to_string();
    ok(std::process::Command::new("kill").args(["-INT", &id]));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert_eq!(names(dir.path()), ["dump"]);
}

#[test]
fn outputs_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    assert_eq!(dump.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}
