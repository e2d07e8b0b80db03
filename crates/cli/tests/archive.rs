//! Damaged archives through the binary.

mod common;

use common::{fails, gen_dump, names, ok, vmcask, vmcask_within};

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
    for at in flips {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&bad_path, &bad).unwrap();
        fails(vmcask_within(512).arg("info").arg(&bad_path), 1);
        fails(vmcask_within(512).arg("verify").arg(&bad_path), 1);
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
