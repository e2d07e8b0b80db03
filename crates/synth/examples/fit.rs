//! How well the profile `real` resembles real memory: a table of shares and
//! compression ratios, for every file named and for the profile.
//!
//! ```text
//! cargo run --release -p vmcask-synth --example fit -- memory.elf
//! ```
//!
//! Files are ELF cores (64-bit, little-endian) or else raw memory. With
//! `--histogram`, how many pages compress to which size, in steps of 128
//! bytes.

use std::collections::HashSet;
use std::error::Error;

use vmcask_synth::{Format, Profile, Spec, SynthDump};

const PAGE: usize = 4096;
const LEVEL: i32 = 3;
/// Memory made to compare with.
const MADE: u64 = 192 << 20;

struct Figures {
    /// Of all pages.
    zero: f64,
    /// Of pages that aren't zero: those seen before.
    duplicate: f64,
    /// Of all bytes, zstd level 3: each 4 KiB by itself, each 64 KiB by
    /// itself, one stream.
    ratios: [f64; 3],
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut files: Vec<String> = std::env::args().skip(1).collect();
    let histogram = files.iter().any(|f| f == "--histogram");
    files.retain(|f| !f.starts_with("--"));
    let mut rows = Vec::new();
    for file in files {
        let memory = memory_of(std::fs::read(&file)?);
        rows.push((file, figures(&memory, histogram)?));
    }
    for seed in [1, 2] {
        let memory = made(seed)?;
        rows.push((format!("profile real, seed {seed}"), figures(&memory, histogram)?));
    }
    println!("| memory | zero | duplicate | 4 KiB | 64 KiB | stream |");
    println!("|---|---|---|---|---|---|");
    for (name, f) in &rows {
        let [a, b, c] = f.ratios;
        let (zero, duplicate) = (f.zero * 100.0, f.duplicate * 100.0);
        println!("| {name} | {zero:.2} % | {duplicate:.2} % | {a:.3} | {b:.3} | {c:.3} |");
    }
    Ok(())
}

/// The segments of a core, one after the other.
fn memory_of(file: Vec<u8>) -> Vec<u8> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return file;
    }
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&file[at..at + 8]);
        u64::from_le_bytes(bytes) as usize
    };
    let mut memory = Vec::new();
    for i in 0..word(56) & 0xffff {
        let at = word(32) + i * 56;
        // p_type is PT_LOAD.
        if word(at) & 0xffff_ffff == 1 {
            let (off, size) = (word(at + 8), word(at + 32));
            memory.extend_from_slice(&file[off..off + size]);
        }
    }
    memory
}

/// Memory of the profile, without the kernel's own pages.
fn made(seed: u64) -> Result<Vec<u8>, Box<dyn Error>> {
    let spec = Spec {
        seed,
        format: Format::Elf,
        profile: Profile::Real,
        ram: 1 << 30,
        dump: 1 << 30,
        ..Spec::default()
    };
    let dump = SynthDump::new(spec)?;
    let mut memory = vec![0; MADE as usize];
    for (page, pa) in memory.chunks_exact_mut(PAGE).zip((512 << 20..).step_by(PAGE)) {
        let mut bytes = [0; PAGE];
        dump.page(pa, &mut bytes);
        page.copy_from_slice(&bytes);
    }
    Ok(memory)
}

fn figures(memory: &[u8], histogram: bool) -> Result<Figures, Box<dyn Error>> {
    let mut seen = HashSet::new();
    let (mut pages, mut zero, mut duplicate) = (0u64, 0u64, 0u64);
    for page in memory.chunks_exact(PAGE) {
        pages += 1;
        if page.iter().all(|&b| b == 0) {
            zero += 1;
        } else if !seen.insert(*blake3::hash(page).as_bytes()) {
            duplicate += 1;
        }
    }
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    let mut small = 0;
    let mut bins = [0u32; 33];
    for page in memory.chunks(PAGE) {
        let size = compressor.compress(page)?.len();
        bins[(size / 128).min(32)] += 1;
        small += size;
    }
    let mut large = 0;
    for block in memory.chunks(1 << 16) {
        large += compressor.compress(block)?.len();
    }
    let stream = zstd::stream::encode_all(memory, LEVEL)?.len();
    if histogram {
        let shares: Vec<String> =
            bins.iter().map(|&n| format!("{:.1}", f64::from(n) * 100.0 / pages as f64)).collect();
        println!("{}", shares.join(" "));
    }
    let ratio = |bytes: usize| memory.len() as f64 / bytes as f64;
    Ok(Figures {
        zero: zero as f64 / pages as f64,
        duplicate: duplicate as f64 / (pages - zero).max(1) as f64,
        ratios: [ratio(small), ratio(large), ratio(stream)],
    })
}
