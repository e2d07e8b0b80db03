//! FORMAT.md says what the code does.

mod common;

use std::mem::{offset_of, size_of};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vmcask_archive::layout::{self, Checkpoint, DirectoryEntry, Head, Locator, Summary, kind};
use vmcask_archive::{ArchiveReader, PageMap, Plan, PtLoad, WriteOptions, verify, write};
use vmcask_dump::ReadAt;

const TEXT: &str = include_str!("../FORMAT.md");

/// The value of column `column` in the row of section `heading` that has
/// `name`.
fn row(heading: &str, name: &str) -> Vec<String> {
    let section = TEXT.split("\n## ").find(|s| s.starts_with(heading)).expect("the section");
    let line = section
        .lines()
        .find(|l| l.starts_with('|') && l.contains(name))
        .unwrap_or_else(|| panic!("{name} in {heading}"));
    line.split('|').map(|c| c.trim().to_owned()).collect()
}

#[track_caller]
fn offset(heading: &str, name: &str, expected: usize) {
    assert_eq!(row(heading, &format!("`{name}`"))[1], expected.to_string(), "{name}");
}

#[test]
fn constants_are_those_of_the_text() {
    for (name, value) in [
        ("0x184D2A50", layout::HEAD_FRAME),
        ("0x184D2A51", layout::INDEX_FRAME),
        ("0x184D2A52", layout::LOCATOR_FRAME),
        ("0x184D2A5E", layout::SEEK_TABLE_FRAME),
        ("0x8F92EAB1", layout::SEEKABLE_MAGIC),
    ] {
        assert_eq!(format!("0x{value:08X}"), name);
        assert!(TEXT.contains(name), "{name}");
    }
    assert!(TEXT.contains("chunks of 65,536 bytes") && layout::CHUNK_LEN == 65_536);
    assert!(TEXT.contains("2^27 frames") && layout::MAX_FRAMES == 1 << 27);
    assert!(TEXT.contains("at most 16 MiB") && layout::HOLE_FRAME_LEN == 16 << 20);
    assert_eq!(layout::MAX_CELLS_PER_FRAME as usize * layout::CELL_SIZE, 16 << 20);
    assert_eq!(layout::HEAD_MAGIC, *b"vmcask\r\n");
    assert!(TEXT.contains(r"`vmcask\r\n`") && TEXT.contains("`vmcaskLC`"));
}

#[test]
fn offsets_are_those_of_the_text() {
    assert!(TEXT.contains("head        skippable frame, 48 bytes") && size_of::<Head>() == 48);
    offset("2. Head", "magic", offset_of!(Head, magic));
    offset("2. Head", "format_version", offset_of!(Head, format_version));
    offset("2. Head", "cell_size", offset_of!(Head, cell_size));
    offset("2. Head", "cells_per_frame", offset_of!(Head, cells_per_frame));
    offset("2. Head", "cells_per_block", offset_of!(Head, cells_per_block));
    offset("2. Head", "incompatible", offset_of!(Head, incompatible));
    offset("2. Head", "compatible", offset_of!(Head, compatible));

    assert!(TEXT.contains("one entry of 32 bytes") && size_of::<DirectoryEntry>() == 32);
    offset("4. Index", "kind", offset_of!(DirectoryEntry, kind));
    offset("4. Index", "flags", offset_of!(DirectoryEntry, flags));
    offset("4. Index", "offset", offset_of!(DirectoryEntry, offset));
    offset("4. Index", "length", offset_of!(DirectoryEntry, length));
    offset("4. Index", "checksum", offset_of!(DirectoryEntry, checksum));
    assert_eq!(size_of::<Summary>(), 48);

    assert!(TEXT.contains("locator     skippable frame, 64 bytes") && size_of::<Locator>() == 64);
    offset("5. Locator", "index_offset", offset_of!(Locator, index_offset));
    offset("5. Locator", "index_length", offset_of!(Locator, index_length));
    offset("5. Locator", "directory_offset", offset_of!(Locator, directory_offset));
    offset("5. Locator", "sections", offset_of!(Locator, sections));
    offset("5. Locator", "head_checksum", offset_of!(Locator, head_checksum));
    offset("5. Locator", "directory_checksum", offset_of!(Locator, directory_checksum));
    offset("5. Locator", "checksum", offset_of!(Locator, checksum));
}

#[test]
fn kinds_are_those_of_the_text() {
    for (kind, what) in [
        (kind::SUMMARY, "summary"),
        (kind::EXTENTS, "extents"),
        (kind::CELL_WORDS, "cell words"),
        (kind::CELL_BLOCKS, "cell blocks"),
        (kind::CELL_SUPERBLOCKS, "cell superblocks"),
        (kind::SLOT_TABLE, "slot table"),
        (kind::FRAME_BASES, "frame bases"),
        (kind::FRAME_OFFSETS, "frame offsets"),
        (kind::FRAME_CHECKS, "frame checks"),
        (kind::PAGE_MAP, "page map"),
        (kind::SEGMENTS, "segments"),
        (kind::METADATA, "metadata"),
        (kind::DIGEST, "digest"),
    ] {
        assert_eq!(row("4. Index", &format!("| {kind} | {what} |"))[1], kind.to_string());
    }
    assert!(TEXT.contains("| 17, 18, 19 | page words, blocks, superblocks |"));
    assert_eq!((kind::PAGE_WORDS, kind::PAGE_BLOCKS, kind::PAGE_SUPERBLOCKS), (17, 18, 19));
}

/// The archive of section 18, and the parts of it that don't depend on what
/// zstd makes of the content: offset, bytes, what they are.
fn example() -> Vec<(usize, Vec<u8>, &'static str)> {
    let mut original = vec![b'a'; 4096];
    original.resize(8192, 0);
    original.extend_from_slice(b"end");
    let opts = WriteOptions { cells_per_frame: 2, ..WriteOptions::default() };
    let mut archive = Vec::new();
    let plan = Plan::whole(original.len() as u64);
    write(&original, &plan, &opts, &mut archive, &|_| {}, &AtomicBool::new(false)).unwrap();
    let u64_at = |at: usize| u64::from_le_bytes(archive[at..at + 8].try_into().unwrap()) as usize;
    let n = archive.len();
    let frames = archive[n - 9] as usize;
    let locator = n - 17 - frames * 8 - 64;
    let directory = u64_at(locator + 32);
    let section = |kind: u32| {
        let entry = (directory..locator)
            .step_by(32)
            .find(|&at| archive[at..at + 4] == kind.to_le_bytes())
            .expect("the section");
        (u64_at(entry + 8), u64_at(entry + 16))
    };
    let mut parts = Vec::new();
    let mut part =
        |at: usize, len: usize, what| parts.push((at, archive[at..at + len].to_vec(), what));
    part(0, 48, "head");
    part(48, 4, "checkpoint: magic");
    part(56, 8, "its name");
    part(72, 16, "original_length 8195, first_cell 0");
    part(88, 24, "first_slot 0, new_slots 2, next_frame 0");
    part(112, 20, "3 cells, 1 extent, 2 a frame, last, 19 bytes");
    for (kind, what) in [
        (kind::SUMMARY, "summary"),
        (kind::EXTENTS, "extents"),
        (kind::CELL_WORDS, "cell words"),
        (kind::CELL_BLOCKS, "cell blocks"),
        (kind::CELL_SUPERBLOCKS, "cell superblocks"),
        (kind::METADATA, "metadata"),
        (kind::DIGEST, "digest"),
    ] {
        let (at, len) = section(kind);
        part(at, len, what);
    }
    part(locator, 16, "locator");
    part(n - 9, 9, "footer: 5 frames");
    parts
}

#[test]
fn the_example_is_right() {
    let section = TEXT.split("\n## ").find(|s| s.starts_with("18.")).expect("the example");
    let mut lines = String::new();
    // Offsets behind the data frame depend on its length: names stand alone.
    for (at, bytes, what) in example() {
        let at = if at < 132 { format!("{at:04x}") } else { "    ".into() };
        for (i, row) in bytes.chunks(16).enumerate() {
            let hex: Vec<String> = row.iter().map(|b| format!("{b:02x}")).collect();
            let (at, what) = if i == 0 { (at.as_str(), what) } else { ("    ", "") };
            let line = format!("{at}  {:<47}  {what}", hex.join(" "));
            lines += line.trim_end();
            lines += "\n";
        }
    }
    assert!(section.contains(&lines), "expected:\n{lines}");
}

#[test]
fn checkpoints_are_those_of_the_text() {
    let h = "11. Checkpoints";
    assert_eq!(format!("0x{:08X}", layout::CHECKPOINT_FRAME), "0x184D2A53");
    assert!(TEXT.contains("0x184D2A53") && TEXT.contains("`vmcaskCP`"));
    assert!(TEXT.contains("up to 4096 consecutive cells") && layout::WINDOW_CELLS == 4096);
    offset(h, "magic", offset_of!(Checkpoint, magic));
    offset(h, "checksum", offset_of!(Checkpoint, checksum));
    offset(h, "original_length", offset_of!(Checkpoint, original_length));
    offset(h, "first_cell", offset_of!(Checkpoint, first_cell));
    offset(h, "first_slot", offset_of!(Checkpoint, first_slot));
    offset(h, "new_slots", offset_of!(Checkpoint, new_slots));
    offset(h, "next_frame", offset_of!(Checkpoint, next_frame));
    offset(h, "cells", offset_of!(Checkpoint, cells));
    offset(h, "extents", offset_of!(Checkpoint, extents));
    offset(h, "cells_per_frame", offset_of!(Checkpoint, cells_per_frame));
    offset(h, "flags", offset_of!(Checkpoint, flags));
    offset(h, "body_length", offset_of!(Checkpoint, body_length));
    assert_eq!(row(h, "| body |")[1], size_of::<Checkpoint>().to_string());
}

/// Every test that an invariant names is there.
#[test]
fn invariants_name_tests_that_exist() {
    let section = TEXT.split("\n## ").find(|s| s.starts_with("13.")).expect("the invariants");
    let names: Vec<_> = section.split('`').filter_map(|word| word.split_once("::")).collect();
    assert!(names.len() > 12);
    for (file, test) in names {
        let source = match file {
            "archive" => include_str!("archive.rs"),
            "hostile" => include_str!("hostile.rs"),
            "recover" => include_str!("recover.rs"),
            other => panic!("no test file {other}"),
        };
        assert!(source.contains(&format!("fn {test}()")), "{file}::{test}");
    }
}

/// Archives of all past versions stay readable.
#[test]
fn golden_archives_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let mut read = 0;
    for line in readme.lines().filter(|l| l.contains(".cask`")) {
        let cells: Vec<_> = line.split('|').map(|c| c.trim().trim_matches('`')).collect();
        let (name, blake3, original, digest) = (cells[1], cells[3], cells[4], cells[5]);
        let bytes = std::fs::read(folder.join(name)).unwrap();
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), blake3, "{name} has changed");
        let reader = ArchiveReader::open(Arc::new(bytes)).unwrap();
        let mut content = vec![0; reader.len() as usize];
        reader.read_exact_at(0, &mut content).unwrap();
        assert_eq!(blake3::hash(&content).to_hex().as_str(), original, "{name}");
        assert_eq!(reader.digest().to_string(), digest, "{name}");
        assert!(verify(&reader, 1, &|_| {}, &AtomicBool::new(false)).unwrap().is_intact());
        read += 1;
    }
    assert!(read >= 3, "{read} golden archives");
}

/// Makes the golden archives' contents; they stay as they are once released.
#[test]
#[ignore = "writes testdata/; the README there says when"]
fn write_golden_archives() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let original = common::related(120, 2026);
    let load =
        PtLoad { p_paddr: 0x10_0000, p_vaddr: 0, p_offset: 0, p_filesz: 81_920, p_memsz: 81_920 };
    let name = "v1-ordered.cask";
    let len = original.len() as u64;
    let mut bytes = original.clone();
    bytes[81_920..131_072].fill(0);
    let plan = Plan {
        extents: vec![0..81_920, 131_072..len],
        page_map: Some(PageMap::Segments(vec![load])),
        ..Plan::default()
    };
    let opts = WriteOptions { cells_per_checkpoint: 50, ..WriteOptions::default() };
    let (archive, written) = common::pack(&bytes, &plan, &opts);
    std::fs::write(folder.join(name), &archive).unwrap();
    let hash = |b: &[u8]| blake3::hash(b).to_hex();
    println!("| `{name}` | | `{}` | `{}` | `{}` |", hash(&archive), hash(&bytes), written.digest);
}
