//! Damaged archives through the binary.

mod common;

use common::{assert_same, fails, gen_dump, names, ok, stdout, vmcask, vmcask_within};

/// Cut anywhere or flipped anywhere that matters: one line, exit code 1.
#[test]
fn damaged_archives_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let cask = dir.path().join("good.cask");
    ok(vmcask().arg("convert").arg(&dump).arg(&cask));
    let good = std::fs::read(&cask).unwrap();
    let bad_path = dir.path().join("bad.cask");
    let before = [names(dir.path()), vec!["bad.cask".into()]].concat();

    std::fs::write(&bad_path, &good).unwrap();
    let good_info = ok(vmcask().args(["info", "--json"]).arg(&bad_path)).stdout;
    let mut cuts: Vec<usize> = (1..16).map(|i| good.len() * i / 16).collect();
    cuts.extend([16, 47, 48, good.len() - 1, good.len() - 9, good.len() - 20]);
    for cut in cuts {
        std::fs::write(&bad_path, &good[..cut]).unwrap();
        for words in [&["info"][..], &["verify"], &["read", "--pa", "0x200000"]] {
            fails(vmcask_within(512).args(words).arg(&bad_path), 1);
        }
    }

    // The index: 4 KiB in front of the seek table and back, a bit every so often;
    // its sections are found by their alignment.
    let footer = &good[good.len() - 9..];
    let frames = u32::from_le_bytes(footer[..4].try_into().unwrap()) as usize;
    let locator = good.len() - 17 - frames * 8 - 64;
    let index = u64::from_le_bytes(good[locator + 16..locator + 24].try_into().unwrap()) as usize;
    let directory =
        u64::from_le_bytes(good[locator + 32..locator + 40].try_into().unwrap()) as usize;
    let sections: Vec<(usize, usize)> = good[directory..locator]
        .chunks(32)
        .map(|e| {
            let word = |at: usize| u64::from_le_bytes(e[at..at + 8].try_into().unwrap()) as usize;
            (word(8), word(16))
        })
        .collect();
    assert!(sections.len() >= 12 && index < directory);
    let mut flips: Vec<usize> =
        sections.iter().flat_map(|&(at, len)| [at, at + len / 2, at + len - 1]).collect();
    flips.extend([
        8,
        17,
        21,
        25,
        33,
        directory,
        directory + 9,
        locator + 8,
        locator + 50,
        good.len() - 1,
    ]);
    for (i, at) in flips.into_iter().enumerate() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&bad_path, &bad).unwrap();
        fails(vmcask_within(512).arg("verify").arg(&bad_path), 1);
        if i % 8 == 3 {
            // Nothing is lost: the checkpoints say what the index did.
            let out = dir.path().join("out.minidump");
            ok(vmcask_within(512).arg("recover").arg(&bad_path).arg(&out));
            assert_same(&dump, &out);
            std::fs::remove_file(&out).unwrap();
        }
        // Other commands may not need that part of the index; they may not
        // give anything wrong.
        let info = vmcask_within(512).args(["info", "--json"]).arg(&bad_path).output().unwrap();
        assert!(matches!(info.status.code(), Some(0 | 1)));
        assert!(info.status.code() == Some(1) || info.stdout == good_info);
    }

    // A data frame: found by verify and by a conversion, which leaves nothing.
    let mut bad = good.clone();
    bad[index / 2] ^= 1;
    std::fs::write(&bad_path, &bad).unwrap();
    ok(vmcask().arg("info").arg(&bad_path));
    let err = fails(vmcask().arg("verify").arg(&bad_path), 1);
    assert!(err.contains("damaged"), "{err}");
    let out = dir.path().join("out.minidump");
    let err = fails(vmcask().arg("convert").arg(&bad_path).arg(&out), 1);
    assert!(err.contains("data frame"), "{err}");
    let mut expected = before;
    expected.sort();
    assert_eq!(names(dir.path()), expected);
}

/// A damaged frame: exit code 3, what was lost is named with the addresses of
/// its pages, and nothing else is missing.
#[test]
fn recovery_names_what_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let cask = dir.path().join("bad.cask");
    ok(vmcask().arg("convert").arg(&dump).arg(&cask));
    let good = std::fs::read(&cask).unwrap();
    let original = std::fs::read(&dump).unwrap();
    let out = dir.path().join("out.minidump");

    let third = good.len() / 3;
    let damages: [(&str, Vec<u8>); 3] = [
        ("a sector", {
            let mut bad = good.clone();
            bad[third..third + 512].fill(0);
            bad
        }),
        ("the end", good[..good.len() * 2 / 3].to_vec()),
        ("a sector and the end", {
            let mut bad = good[..good.len() - 100].to_vec();
            bad[third..third + 512].fill(0);
            bad
        }),
    ];
    for (what, bad) in damages {
        std::fs::write(&cask, bad).unwrap();
        fails(vmcask().arg("verify").arg(&cask), 1);
        let result =
            vmcask().args(["recover", "--force", "--json"]).args([&cask, &out]).output().unwrap();
        assert_eq!(result.status.code(), Some(3), "{what}: {}", stdout(&result));
        let report: serde_json::Value = serde_json::from_slice(&result.stdout).unwrap();
        let mut expected = original.clone();
        let (mut bytes, mut physical) = (0, 0);
        for lost in report["lost"].as_array().unwrap() {
            let at = lost["offset"].as_u64().unwrap() as usize;
            let n = lost["bytes"].as_u64().unwrap() as usize;
            expected[at..at + n].fill(0);
            bytes += n;
            for p in lost["physical"].as_array().unwrap() {
                physical += p["bytes"].as_u64().unwrap() as usize;
                // The page is at that address in the whole dump, there where
                // the loss is.
                let address = p["address"].as_str().unwrap();
                let read =
                    vmcask().args(["read", "--raw", "--pa", address, "4096"]).arg(&dump).output();
                let page = ok_bytes(read.unwrap());
                assert!(original[at..at + n].windows(4096).step_by(4096).any(|w| w == page));
            }
        }
        assert!(bytes > 0 && physical == bytes, "{what}: {report}");
        assert_eq!(report["bytes_lost"].as_u64().unwrap() as usize, bytes);
        assert!(std::fs::read(&out).unwrap() == expected, "{what}");
        // In words.
        let words = vmcask().args(["recover", "--force"]).args([&cask, &out]).output().unwrap();
        assert_eq!(words.status.code(), Some(3));
        assert!(stdout(&words).contains("lost: offset 0x"), "{}", stdout(&words));
    }

    std::fs::write(&cask, &good).unwrap();
    ok(vmcask().args(["recover", "--force"]).args([&cask, &out]));
    assert_same(&dump, &out);
    fails(vmcask().arg("recover").args([&cask, &out]), 1);
    fails(vmcask().args(["recover", "--force"]).args([&dump, &out]), 1);
}

fn ok_bytes(out: std::process::Output) -> Vec<u8> {
    assert!(out.status.success());
    out.stdout
}
