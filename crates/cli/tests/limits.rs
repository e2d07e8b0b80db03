//! Files that ask for more than they are: bombs, sizes near 2^63, a million
//! segments, a billion pages, tables that lead round in circles. Each is
//! refused or bounded, in memory and in time.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{gen_dump, ok, vmcask};

/// What has to do with one page takes less; what takes longer than this goes
/// on for hours.
const LONG: Duration = Duration::from_secs(60);
/// Enough for every command whatever the dump's size, without tables that the
/// file itself has.
const USUAL_MIB: u64 = 256;

/// Runs `vmcask`; its exit code, standard error, and peak memory in MiB (0
/// where the system doesn't tell).
fn run(words: &[&str], files: &[&Path]) -> (i32, String, u64) {
    let mut child = vmcask()
        .arg("-q")
        .args(words)
        .args(files)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let (start, mut peak) = (Instant::now(), 0);
    let ended = loop {
        // The high-water mark, as it was at most a moment before the end.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        // Spawning returns once the child has left this process's memory, and a
        // moment before it counts as having its own; it is renamed after that.
        let text = if text.starts_with("Name:\tvmcask\n") { text } else { String::new() };
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = kib.unwrap_or(0).max(peak);
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        if start.elapsed() > LONG {
            child.kill().unwrap();
            panic!("{words:?} {files:?}: still running after {LONG:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(!err.contains("panicked"), "{words:?} {files:?}: {err}");
    let code = ended.code().unwrap_or_else(|| panic!("{words:?} {files:?}: {ended}: {err}"));
    (code, err, peak / 1024)
}

/// All that can be done with a dump, within `mib`. What each says.
fn within(what: &str, file: &Path, mib: u64) -> Vec<(i32, String)> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut said = Vec::new();
    let mut most = 0;
    for words in [
        &["info"][..],
        &["verify"],
        &["pages"],
        &["dmesg"],
        &["read", "--pa", "0x1000", "16"],
        &["convert", "--to", "archive"],
        &["convert", "--to", "elf"],
        &["convert", "--to", "kernel-view"],
        &["convert", "--to", "minidump"],
        &["recover"],
    ] {
        let writes = matches!(words[0], "convert" | "recover");
        let files = [file, &out];
        let (code, err, peak) = run(words, &files[..=usize::from(writes)]);
        assert!(matches!(code, 0 | 1 | 3), "{what}: {words:?}: {code}: {err}");
        assert!(peak <= mib, "{what}: {words:?} took {peak} MiB");
        most = most.max(peak);
        said.push((code, err));
        let _ = std::fs::remove_file(&out);
        assert!(common::names(folder.path()).is_empty(), "{what}: {words:?} left something");
    }
    println!(
        "{what}: at most {most} MiB; exit codes {:?}",
        said.iter().map(|s| s.0).collect::<Vec<_>>()
    );
    said
}

fn refused(what: &str, file: &Path, why: &str) {
    for (code, err) in within(what, file, 64) {
        assert_eq!(code, 1, "{what}: {err}");
        assert!(err.contains(why) || err.contains("nothing can be recovered"), "{what}: {err}");
    }
}

/// A file with holes.
struct Sparse(File);

impl Sparse {
    fn create(path: &Path, len: u64) -> Self {
        let file = File::create(path).unwrap();
        file.set_len(len).unwrap();
        Self(file)
    }

    fn put(&self, at: u64, bytes: &[u8]) -> &Self {
        self.0.write_all_at(bytes, at).unwrap();
        self
    }
}

/// amd64's `struct minidumphdr`, version 3.
fn minidump_header(msgbuf: u32, bitmap: u32, pmap: u32, avail: u32) -> Vec<u8> {
    let mut h = b"minidump FreeBSD/amd64\0\0".to_vec();
    for word in [3, msgbuf, bitmap, pmap] {
        h.extend(word.to_le_bytes());
    }
    for address in [0xffff_fe00_0000_0000u64, 0xffff_f800_0000_0000, 0xffff_f880_0000_0000] {
        h.extend(address.to_le_bytes());
    }
    h.extend(avail.to_le_bytes());
    h.resize(4096, 0);
    h
}

fn u64s(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// An ELF header of an amd64 core.
fn elf_header(phoff: u64, phnum: u16, shoff: u64) -> Vec<u8> {
    let mut h = b"\x7fELF\x02\x01\x01\xff".to_vec();
    h.resize(16, 0);
    h.extend(4u16.to_le_bytes());
    h.extend(62u16.to_le_bytes());
    h.extend(1u32.to_le_bytes());
    h.extend(u64s(&[0, phoff, shoff]));
    h.extend(0u32.to_le_bytes());
    for half in [64u16, 56, phnum, 64, u16::from(shoff > 0), 0] {
        h.extend(half.to_le_bytes());
    }
    h
}

fn pt_load(off: u64, pa: u64, filesz: u64, memsz: u64) -> Vec<u8> {
    let mut p = 1u32.to_le_bytes().to_vec();
    p.extend(4u32.to_le_bytes());
    p.extend(u64s(&[off, pa, pa, filesz, memsz, 4096]));
    p
}

#[test]
fn minidump_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump");
    // The file has holes: all of the parts are there, and cost nothing.
    for (what, header, why) in [
        ("a bitmap of 4 GiB", minidump_header(4096, u32::MAX, 4096, 64), "bitmapsize"),
        (
            "a dump_avail of 4 GiB",
            minidump_header(4096, 4096, 4096, u32::MAX - 15),
            "dumpavailsize",
        ),
    ] {
        Sparse::create(&path, 1 << 36).put(0, &header);
        refused(what, &path, why);
    }
    Sparse::create(&path, 1 << 36).put(0, &minidump_header(u32::MAX, 4096, 512 << 20, 64));
    within("a message buffer of 4 GiB and a pmap of 512 MiB", &path, USUAL_MIB);
}

/// 2^30 pages of memory: 4 TiB, whose bitmap takes 128 MiB.
#[test]
fn a_billion_pages() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump");
    let bitmap = 128u32 << 20;
    let pages_at = 4096 * 3 + u64::from(bitmap);
    let file = Sparse::create(&path, pages_at);
    file.put(0, &minidump_header(0, bitmap, 0, 32)).put(4096, &u64s(&[0, 1 << 42, 0, 0]));
    // Once for the bitmap, its counts, and copies of both in an archive's map.
    within("a billion pages, none dumped", &path, 512);
    // Every other page: as many runs as there are pages.
    file.put(8192, &vec![0x55; bitmap as usize]);
    file.0.set_len(pages_at + (1 << 41)).unwrap();
    for words in [&["info"][..], &["pages"], &["read", "--pa", "0x2000", "16"]] {
        let (code, err, peak) = run(words, &[&path]);
        assert!(matches!(code, 0 | 1), "{words:?}: {err}");
        assert!(peak <= 320, "{words:?} took {peak} MiB");
    }
    let out = dir.path().join("out");
    for to in ["elf", "kernel-view"] {
        let (code, err, peak) = run(&["convert", "--to", to], &[&path, &out]);
        assert!(code == 1 && err.contains("runs"), "{to}: {code}: {err}");
        assert!(peak <= 640, "{to} took {peak} MiB");
    }
}

#[test]
fn elf_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    let huge = [1u64 << 63, u64::MAX, (1 << 63) - 1, 1 << 52];
    for (what, load) in [
        ("filesz", huge.map(|n| pt_load(4096, 0, n, n))),
        ("memsz", huge.map(|n| pt_load(4096, 0, 4096, n))),
        ("offset", huge.map(|n| pt_load(n, 0, 4096, 4096))),
        ("paddr", huge.map(|n| pt_load(4096, n, 8192, 8192))),
    ] {
        for load in load {
            let file = Sparse::create(&path, 8192);
            file.put(0, &elf_header(64, 1, 0)).put(64, &load);
            within(what, &path, USUAL_MIB);
        }
    }
    // As many program headers as 32 bits can say, all of them in the file.
    let file = Sparse::create(&path, 1 << 38);
    let mut section = vec![0; 64];
    section[44..48].copy_from_slice(&u32::MAX.to_le_bytes());
    file.put(0, &elf_header(8192, 0xffff, 4096)).put(4096, &section);
    refused("2^32 program headers", &path, "program headers");
}

/// How long a compressed core is, its program headers alone tell beforehand.
#[test]
fn sizes_that_a_stream_promises() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core.zst");
    for n in [1 << 50, 1 << 59, 1 << 63] {
        for load in [pt_load(4096, 0, n, n), pt_load(n, 0, 4096, 4096)] {
            let mut core = [elf_header(64, 1, 0), load].concat();
            core.resize(8192, 1);
            let packed = zstd::encode_all(&core[..], 1).unwrap();
            for len in [packed.len(), packed.len() - 1] {
                std::fs::write(&path, &packed[..len]).unwrap();
                within("what a stream promises", &path, USUAL_MIB);
            }
        }
    }
}

/// Half a million segments, none of which meets another.
#[test]
fn half_a_million_segments() {
    const N: u32 = 500_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    let data = (8192 + 56 * u64::from(N)).next_multiple_of(4096);
    let file = Sparse::create(&path, data + 4096 * u64::from(N));
    let mut section = vec![0; 64];
    section[44..48].copy_from_slice(&N.to_le_bytes());
    file.put(0, &elf_header(8192, 0xffff, 4096)).put(4096, &section);
    let table: Vec<u8> =
        (0..u64::from(N)).flat_map(|i| pt_load(data + i * 4096, i * 8192, 4096, 4096)).collect();
    file.put(8192, &table);
    // Some 200 bytes for each of them, wherever it goes.
    within("half a million segments", &path, 256);
}

/// Page tables that are each other's tables.
#[test]
fn tables_in_circles() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    let pages = 8u64;
    let file = Sparse::create(&path, 4096 + pages * 4096);
    file.put(0, &elf_header(64, 1, 0)).put(64, &pt_load(4096, 0x1000, pages * 4096, pages * 4096));
    let full = |pa: u64| u64s(&[pa | 3; 512]);
    let at = |pa: u64| pa;
    // A root that maps itself, and every table the next one, 512 times over.
    for (what, tables) in [
        ("one table", vec![full(0x1000)]),
        ("a chain with nothing at its end", (1..5).map(|n| full((n + 1) * 0x1000)).collect()),
        ("a ring", (1..=pages).map(|n| full((n % pages + 1) * 0x1000)).collect()),
    ] {
        for (i, mut table) in tables.into_iter().enumerate() {
            if i == 0 {
                // The recursive slot, by which the root is found.
                table[256 * 8..257 * 8].copy_from_slice(&(0x1000u64 | 3).to_le_bytes());
            }
            file.put(at(4096 + i as u64 * 4096), &table);
        }
        within(what, &path, USUAL_MIB);
    }
}

/// Small files that unpack to large ones.
#[test]
fn bombs() {
    const ZEROS: usize = 2 << 30;
    let dir = tempfile::tempdir().unwrap();
    let dump = std::fs::read(gen_dump(dir.path(), "dump")).unwrap();
    let path = dir.path().join("bomb");
    // Zeros that no dump has promised, behind one, and headers that promise
    // them.
    let head = minidump_header(0, 4096, 200 << 20, 0);
    let more = minidump_header(0, 4096, 600 << 20, 0);
    let zstd = |bytes: &[u8]| {
        let mut out = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        out.write_all(bytes).unwrap();
        let piece = vec![0; 1 << 20];
        (0..ZEROS >> 20).for_each(|_| out.write_all(&piece).unwrap());
        out.finish().unwrap()
    };
    for (what, bytes, mib) in [
        ("zeros behind a dump", zstd(&dump), USUAL_MIB),
        ("a pmap of zeros", zstd(&head), USUAL_MIB + 200),
        ("a pmap of more zeros", zstd(&more), USUAL_MIB),
        ("nothing but zeros", zstd(b""), 64),
    ] {
        assert!(bytes.len() < 16 << 20, "{what}");
        std::fs::write(&path, bytes).unwrap();
        within(what, &path, mib);
    }
    // A frame that wants a window of 2 GiB: the tables alone would be as large.
    let mut window = b"\x28\xb5\x2f\xfd\x00\xa8".to_vec();
    window.extend([0x02 | 0x01, 0x10, 0x00, 0x00]);
    std::fs::write(&path, window).unwrap();
    refused("a window of 2 GiB", &path, "zstd");
}

/// An ELF file with sections and symbols that lie over each other.
fn image(sections: &[(u32, u64, u64, u32)], bytes: &[u8]) -> Vec<u8> {
    let shoff = (64 + bytes.len() as u64).next_multiple_of(64);
    let mut out = elf_header(0, 0, shoff);
    out[16] = 2; // ET_EXEC
    let count = sections.len() as u64;
    // More than 65,279 are counted in the first.
    if count < 0xff00 {
        out[60..62].copy_from_slice(&(count as u16).to_le_bytes());
    } else {
        out[60..62].copy_from_slice(&[0, 0]);
    }
    out.extend_from_slice(bytes);
    out.resize(shoff as usize, 0);
    for (i, &(kind, offset, size, link)) in sections.iter().enumerate() {
        let mut s = 0u32.to_le_bytes().to_vec();
        s.extend(kind.to_le_bytes());
        let size = if i == 0 && count >= 0xff00 { count } else { size };
        s.extend(u64s(&[2, 0xffff_ffff_8000_0000, offset, size])); // SHF_ALLOC
        s.extend(link.to_le_bytes());
        s.extend(1u32.to_le_bytes());
        s.extend(u64s(&[1, if kind == 2 { 24 } else { 0 }]));
        out.extend(s);
    }
    out
}

#[test]
fn kernel_images() {
    let dir = tempfile::tempdir().unwrap();
    let dump = gen_dump(dir.path(), "dump");
    let kernel = dir.path().join("kernel");
    let refused = |what: &str, image: &[u8]| {
        std::fs::write(&kernel, image).unwrap();
        for words in [&["ps"][..], &["bt"], &["dmesg"], &["triage"], &["read", "--symbol", "hz"]] {
            let words = [words, &["--kernel", kernel.to_str().unwrap()]].concat();
            let (code, err, peak) = run(&words, &[&dump]);
            assert_eq!(code, 1, "{what}: {words:?}: {err}");
            assert!(peak <= USUAL_MIB, "{what}: {words:?} took {peak} MiB");
        }
    };
    // 100,000 symbols, the name of each all the rest of 8 MiB without a NUL.
    let symbols: Vec<u8> = (0..100_000u32)
        .flat_map(|i| {
            let mut s = (i + 1).to_le_bytes().to_vec();
            s.extend([0x12, 0, 1, 0]);
            s.extend(u64s(&[0xffff_ffff_8000_0000 + u64::from(i), 1]));
            s
        })
        .collect();
    let strings = [vec![b'a'; 8 << 20], vec![0]].concat();
    let bytes = [&symbols[..], &strings].concat();
    let (n, m) = (symbols.len() as u64, strings.len() as u64);
    refused("endless names", &image(&[(0, 0, 0, 0), (2, 64, n, 2), (3, 64 + n, m, 0)], &bytes));
    // Names that lie behind the string table's end, and before it.
    refused("names outside", &image(&[(0, 0, 0, 0), (2, 64, n, 2), (3, 64 + n, 5, 0)], &bytes));
    refused("names nowhere", &image(&[(0, 0, 0, 0), (2, 64, n, 9)], &bytes));
    // 200,000 sections, each of which has the whole file.
    let many = vec![(1, 64, m, 0); 200_000];
    refused("sections over each other", &image(&many, &strings));
    let sizes = [(0, 0, 0, 0), (1, 1 << 63, 1 << 63, 0), (2, 64, 1 << 63, 2), (3, 64, u64::MAX, 0)];
    refused("sizes of 2^63", &image(&sizes, &strings));

    // A file with a hole of a terabyte.
    Sparse::create(&kernel, 1 << 40).put(0, &elf_header(0, 0, 0));
    let words = ["ps", "--kernel", kernel.to_str().unwrap()];
    let (code, err, peak) = run(&words, &[&dump]);
    assert!(code == 1 && peak < 64, "{code}: {err}: {peak} MiB");
    ok(vmcask().arg("info").arg(&dump));
}

/// Text dumps whose files have names and sizes of gigabytes.
#[test]
fn text_dumps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("textdump.tar");
    for (what, kind) in [("a long name", b'L'), ("a large file", b'0'), ("a pax header", b'x')] {
        let mut header = vec![0u8; 512];
        header[..4].copy_from_slice(b"name");
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(b"77777777777"); // 8 GiB
        header[156] = kind;
        header[257..263].copy_from_slice(b"ustar\0");
        header[263..265].copy_from_slice(b"00");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        Sparse::create(&path, 1 << 36).put(0, &header);
        for (i, (code, err)) in within(what, &path, 64).into_iter().enumerate() {
            // `info` tells what it is.
            assert_eq!(code, i32::from(i > 0), "{what}: {err}");
        }
    }
}
