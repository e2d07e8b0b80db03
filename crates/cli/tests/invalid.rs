//! Bad input: one clear line, exit code 1, no panic, no output left, and no
//! allocation beyond the file's own size plus a constant.

mod common;

use std::path::Path;

use common::{fails, gen_dump, names, ok, vmcask, vmcask_within};

/// Address space for a process that opens one of these files (all under
/// 64 MiB): code, libraries, stacks of two threads, a map of the file, the
/// bitmap. What a hostile header asks for is gigabytes.
const LIMIT_MIB: u64 = 512;

/// Every command must refuse `bytes`.
#[track_caller]
fn refused(what: &str, bytes: &[u8], says: &str) {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad");
    std::fs::write(&bad, bytes).unwrap();
    refused_file(what, dir.path(), &bad, says);
}

#[track_caller]
fn refused_file(what: &str, dir: &Path, bad: &Path, says: &str) {
    let before = names(dir);
    let commands: [&[&str]; 4] =
        [&["info"], &["verify"], &["read", "--pa", "0x1000", "16"], &["convert"]];
    for words in commands {
        let mut command = vmcask_within(LIMIT_MIB);
        command.arg("-q").args(words).arg(bad);
        if words[0] == "convert" {
            command.arg(dir.join("out.cask"));
        }
        let err = fails(&mut command, 1);
        assert!(err.contains(says), "{what}: {words:?} says {err:?}, not {says:?}");
        assert_eq!(names(dir), before, "{what}: {words:?} left something behind");
    }
}

#[test]
fn not_a_dump() {
    refused("empty file", b"", "empty");
    refused("text file", b"Dear kernel,\nplease don't panic.\n", "not a dump");
    refused("one byte", b"m", "not a dump");
    refused("magic alone", b"minidump FreeBSD/amd64", "header");
    refused("an unknown architecture", b"minidump FreeBSD/sparc64\0\0\0\0", "magic");
    refused("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\0\0\0\0\0\0\0", "gzip");

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    refused_file("directory", dir.path(), &dir.path().join("folder"), "directory");
    refused_file("nothing", dir.path(), &dir.path().join("missing"), "missing");
}

/// Offsets in amd64's `struct minidumphdr`, written down here once more: the
/// reader's own layout must not vouch for itself.
mod amd64 {
    pub const VERSION: usize = 24;
    pub const MSGBUFSIZE: usize = 28;
    pub const BITMAPSIZE: usize = 32;
    pub const PMAPSIZE: usize = 36;
    pub const DUMPAVAILSIZE: usize = 64;
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn put32(bytes: &[u8], at: usize, value: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    bytes
}

fn small_dump() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::read(gen_dump(dir.path(), "dump")).unwrap()
}

#[test]
fn headers_that_lie() {
    let dump = small_dump();
    for version in [0, 4, 255, u32::MAX] {
        refused("version", &put32(&dump, amd64::VERSION, version), "version");
    }
    for (field, part) in [
        (amd64::MSGBUFSIZE, "msgbuf"),
        (amd64::BITMAPSIZE, "bitmap"),
        (amd64::PMAPSIZE, "pmap"),
        (amd64::DUMPAVAILSIZE, "dump_avail"),
    ] {
        for value in [1 << 30, 1 << 31, u32::MAX - 4096, u32::MAX - 1, u32::MAX] {
            refused(part, &put32(&dump, field, value), "ends at offset");
        }
    }
    // All sizes at their largest: their sum is past 2^32, not past 2^64.
    let mut all = dump.clone();
    for field in [amd64::MSGBUFSIZE, amd64::BITMAPSIZE, amd64::PMAPSIZE, amd64::DUMPAVAILSIZE] {
        all = put32(&all, field, u32::MAX);
    }
    refused("all sizes", &all, "ends at offset");
    // Cut inside each part.
    for len in [72, 100, 4095, 4096, 4097, 100_000] {
        refused("cut", &dump[..len], "ends at offset");
    }
}

/// A mebibyte.
const M: u64 = 1 << 20;

#[test]
fn dump_avail_that_lies() {
    let dump = small_dump();
    let at = 4096 + u32_at(&dump, amd64::MSGBUFSIZE).next_multiple_of(4096) as usize;
    let bits = u64::from(u32_at(&dump, amd64::BITMAPSIZE)) * 8;
    let pairs = |pairs: &[(u64, u64)]| {
        let mut bytes = dump.clone();
        for (i, value) in pairs.iter().flat_map(|&(start, end)| [start, end]).enumerate() {
            bytes[at + i * 8..][..8].copy_from_slice(&u64::to_le_bytes(value));
        }
        bytes
    };
    refused("overlapping", &pairs(&[(0, 2 * M), (M, 3 * M), (0, 0)]), "dump_avail");
    refused("unsorted", &pairs(&[(2 * M, 3 * M), (0, M), (0, 0)]), "dump_avail");
    refused("inverted", &pairs(&[(2 * M, M), (0, 0)]), "dump_avail");
    refused("near 2^64", &pairs(&[(0, u64::MAX), (0, 0)]), "dump_avail");
    refused("at 2^64", &pairs(&[(u64::MAX - 1, u64::MAX), (M, 2 * M), (0, 0)]), "dump_avail");
    refused("more pages than bits", &pairs(&[(0, (bits + 1) * 4096), (0, 0)]), "dump_avail");
    // No terminating pair: the part is full of valid ranges.
    let size = u32_at(&dump, amd64::DUMPAVAILSIZE) as u64;
    let full: Vec<_> = (0..size / 16).map(|i| (i * 8192, i * 8192 + 4096)).collect();
    refused("no end", &pairs(&full), "dump_avail");
    // An odd number of entries.
    let odd = put32(&pairs(&[(0, M)]), amd64::DUMPAVAILSIZE, 24);
    refused("odd", &odd, "dump_avail");
}

#[test]
fn a_full_bitmap_on_a_short_file() {
    let dump = small_dump();
    let mut end = 4096;
    for field in [amd64::MSGBUFSIZE, amd64::DUMPAVAILSIZE] {
        end += u32_at(&dump, field).next_multiple_of(4096) as usize;
    }
    let bitmap = end..end + u32_at(&dump, amd64::BITMAPSIZE) as usize;
    let mut full = dump.clone();
    full[bitmap].fill(0xff);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full");
    std::fs::write(&path, full).unwrap();
    // Not invalid, only truncated: it is read as far as it goes.
    let out = ok(vmcask_within(LIMIT_MIB).arg("info").arg(&path));
    assert!(common::stderr(&out).contains("truncated"), "{}", common::stderr(&out));
    let last = fails(vmcask().args(["read", "--pa", "0x3ffff000", "16"]).arg(&path), 1);
    assert!(last.contains("lost"), "{last}");
}
