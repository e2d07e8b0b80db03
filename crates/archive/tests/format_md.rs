//! FORMAT.md says what the code does.

use std::mem::{offset_of, size_of};

use vmcask_archive::layout::{self, DirectoryEntry, Head, Locator, Summary, kind};

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
