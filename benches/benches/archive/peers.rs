//! The archive beside zstd, zeekstd and libkdumpfile.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use vmcask_archive::WriteOptions;
use vmcask_benches::program::{have, vmcask};
use vmcask_benches::quick::Extent;
use vmcask_benches::record::{Cell, Spread, Table};
use vmcask_convert::{Dump, input};
use zstd_safe::CParameter;

use crate::pages::{self, Kdumpfile, Times};
use crate::run::{Making, Runs, in_turn};
use crate::{Memory, reader};

/// Programs that packing is compared with; the first is ours. `$1` is vmcask,
/// `$2` the memory, `$3` the folder, `$4` this program.
const PACKERS: [(&str, &str, &str); 3] = [
    (
        "vmcask convert --to archive",
        "m.cask",
        r#""$1" -q convert -f --to archive "$2" "$3"/m.cask"#,
    ),
    ("zstd -3 -T2", "m.3.zst", r#"zstd -qf -3 -T2 "$2" -o "$3"/m.3.zst; sync "$3"/m.3.zst"#),
    ("zstd -9 -T2", "m.9.zst", r#"zstd -qf -9 -T2 "$2" -o "$3"/m.9.zst; sync "$3"/m.9.zst"#),
];

/// Columns of tables of packers, but for the last.
const PACKED: [(&str, &str); 6] = [
    ("program", ""),
    ("size", "bytes"),
    ("ratio", ""),
    ("wall", "s"),
    ("CPU", "s"),
    ("peak memory", "MiB"),
];

fn packed(title: &str, beside: &'static str) -> Table {
    Table::new(title, &[PACKED.as_slice(), &[(beside, "")]].concat())
}

const NOT_INSTALLED: &str = "not installed";

impl Memory {
    fn run(&self, commands: &[Making<'_>], passes: usize) -> Vec<Runs> {
        let own = std::env::current_exe().expect("this program");
        in_turn(commands, &[&vmcask(), &self.path, self.dir.path(), &own], passes)
    }

    fn len_of(&self, name: &str) -> u64 {
        std::fs::metadata(self.dir.path().join(name)).expect("an output").len()
    }

    fn passes(&self, extent: Extent) -> usize {
        let large = self.src.len() > 1 << 30;
        extent.either(1, if large { 3 } else { 5 })
    }

    /// A row of a table of packers.
    fn row(&self, table: &mut Table, name: &str, bytes: u64, runs: &Runs, beside: &Runs) {
        table.row([
            name.into(),
            (bytes as f64).into(),
            self.ratio(bytes).into(),
            runs.wall().into(),
            runs.cpu().into(),
            runs.peak_mib().into(),
            runs.beside(beside).into(),
        ]);
    }
}

fn absent(table: &mut Table, name: &str) {
    let nothing = std::iter::repeat_n(Cell::Nothing, table.columns.len() - 2);
    table.row([name.into(), NOT_INSTALLED.into()].into_iter().chain(nothing));
}

/// Size, time, memory.
pub fn packing(memory: &Memory, extent: Extent) -> Table {
    let mut table = packed("A dump packed", "wall / zstd -3");
    let commands = PACKERS
        .each_ref()
        .map(|(_, file, script)| Making { script, files: std::slice::from_ref(file) });
    if !have("zstd") {
        let runs = memory.run(&commands[..1], memory.passes(extent));
        memory.row(&mut table, PACKERS[0].0, memory.len_of(PACKERS[0].1), &runs[0], &runs[0]);
        PACKERS[1..].iter().for_each(|p| absent(&mut table, p.0));
        return table;
    }
    let runs = memory.run(&commands[..2], memory.passes(extent));
    for ((name, file, _), runs_of) in PACKERS.iter().zip(&runs) {
        memory.row(&mut table, name, memory.len_of(file), runs_of, &runs[1]);
    }
    // zstd -9 once: it takes five times as long, and its size is what matters.
    let (name, file, _) = PACKERS[2];
    let slow = memory.run(&commands[2..], 1).remove(0);
    memory.row(&mut table, name, memory.len_of(file), &slow, &runs[1]);
    for (name, _, script) in PACKERS {
        table.note(format!("{name}: `{script}`"));
    }
    table
}

/// Back to a file.
pub fn unpacking(memory: &Memory, extent: Extent) -> Table {
    let mut table = Table::new(
        "A dump unpacked",
        &[
            ("program", ""),
            ("wall", "s"),
            ("CPU", "s"),
            ("peak memory", "MiB"),
            ("zstd / this", ""),
        ],
    );
    let opened = input::open(&memory.path).expect("a dump");
    let to = if matches!(opened.dump, Dump::Elf(_)) { "elf" } else { "minidump" };
    let to_file = format!(r#""$1" -q convert -f --to {to} "$3"/m.cask "$3"/back"#);
    let to_pipe =
        format!(r#""$1" -q convert --to {to} "$3"/m.cask - > "$3"/pback; sync "$3"/pback"#);
    let theirs = r#"zstd -dcq "$3"/m.3.zst > "$3"/zback; sync "$3"/zback"#;
    let copy = r#"dd if="$2" of="$3"/copy bs=1M conv=fsync status=none"#;
    let programs = [
        ("vmcask convert", &*to_file, "back"),
        ("vmcask convert - > file", &*to_pipe, "pback"),
        ("(dd: writing alone)", copy, "copy"),
        ("zstd -d -c > file", theirs, "zback"),
    ];
    let installed = &programs[..if have("zstd") { 4 } else { 3 }];
    let commands: Vec<_> = installed
        .iter()
        .map(|(_, script, file)| Making { script, files: std::slice::from_ref(file) })
        .collect();
    let runs = memory.run(&commands, memory.passes(extent));
    let same = r#"cmp "$2" "$3"/back; cmp "$2" "$3"/pback"#;
    memory.run(&[Making { script: same, files: &[] }], 1);
    for (n, (name, script, _)) in installed.iter().enumerate() {
        let [wall, cpu] = [runs[n].wall(), runs[n].cpu()].map(Cell::from);
        let ratio = runs.get(3).map(|zstd| zstd.beside(&runs[n]));
        table.row([(*name).into(), wall, cpu, runs[n].peak_mib().into(), ratio.into()]);
        table.note(format!("{name}: `{script}`"));
    }
    if runs.len() < programs.len() {
        absent(&mut table, programs[3].0);
    }
    table.note("`dd` does nothing but write: first to memory, then, in fsync, to the disk.");
    table
}

/// `--plain`, beside what has frames of the same size.
pub fn plain(memory: &Memory, extent: Extent) -> Table {
    let mut table = packed("A dump packed with --plain", "wall / libzstd");
    // What `--plain` has, whatever the size of the dump.
    let frame = WriteOptions::default().cells_per_frame * 4096;
    let ours = r#""$1" -q convert -f --plain --to archive "$2" "$3"/m.plain.zst"#;
    let same = format!(r#""$4" {LIBZSTD} {frame} "$2" "$3""#);
    let commands = [
        Making { script: ours, files: &["m.plain.zst"] },
        Making { script: &same, files: &HALVES },
        Making { script: PACKERS[1].2, files: &[PACKERS[1].1] },
    ];
    let n = if have("zstd") { 3 } else { 2 };
    let runs = memory.run(&commands[..n], memory.passes(extent));
    let name = format!("libzstd, 2 threads, {} KiB a frame", frame >> 10);
    let rows = [
        ("vmcask convert --plain", "m.plain.zst"),
        (&*name, HALVES[0]),
        (PACKERS[1].0, PACKERS[1].1),
    ];
    for ((name, file), of) in rows.into_iter().zip(&runs) {
        let bytes = if file == HALVES[0] {
            HALVES.iter().map(|half| memory.len_of(half)).sum()
        } else {
            memory.len_of(file)
        };
        memory.row(&mut table, name, bytes, of, &runs[1]);
    }
    if n == 2 {
        absent(&mut table, PACKERS[1].0);
    }
    let start = Instant::now();
    let bytes = zeekstd(memory, frame).len() as u64;
    let alone = start.elapsed().as_secs_f64();
    table.row([
        format!("zeekstd, 1 thread, {} KiB a frame", frame >> 10).into(),
        (bytes as f64).into(),
        memory.ratio(bytes).into(),
        alone.into(),
        alone.into(),
        Cell::Nothing,
        Cell::Nothing,
    ]);
    table.note(format!("vmcask: `{ours}`, {} KiB a frame.", frame >> 10));
    table.note(
        "zstd's own frames are whole jobs of 8 MiB and more. libzstd: a process whose two threads \
         each compress a half of the memory frame by frame and write it, and nothing else; zeekstd \
         leaves its output in memory.",
    );
    table
}

/// The word that makes this program [`libzstd`].
pub const LIBZSTD: &str = "libzstd";
/// What it writes.
const HALVES: [&str; 2] = ["half.1", "half.2"];

/// What `zstd -T2` would be if it could make small frames: the library at level 3
/// with checksums, a half of the memory for each of two threads, on the disk at
/// the end. Its words: bytes of a frame, input, folder.
pub fn libzstd(words: &[String]) {
    let frame: usize = words[0].parse().expect("bytes");
    let len = std::fs::metadata(&words[1]).expect("the memory").len();
    let middle = len.div_ceil(2).next_multiple_of(frame as u64).min(len);
    let half = |name: &str, from: u64, to: u64| {
        let source = File::open(&words[1]).expect("the memory");
        let file = File::create(Path::new(&words[2]).join(name)).expect("room");
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let mut context = zstd_safe::CCtx::create();
        context.set_parameter(CParameter::CompressionLevel(3)).expect("a level");
        context.set_parameter(CParameter::ChecksumFlag(true)).expect("a flag");
        let mut content = vec![0; frame];
        let mut compressed = vec![0; zstd_safe::compress_bound(frame)];
        let mut at = from;
        while at < to {
            let content = &mut content[..(to - at).min(frame as u64) as usize];
            source.read_exact_at(content, at).expect("the memory");
            let n = context.compress2(&mut compressed[..], content).expect("room");
            out.write_all(&compressed[..n]).expect("room");
            at += content.len() as u64;
        }
        out.into_inner().expect("room").sync_all().expect("room");
    };
    std::thread::scope(|s| {
        s.spawn(|| half(HALVES[0], 0, middle));
        half(HALVES[1], middle, len);
    });
}

/// The memory in zstd's seekable format, level 3.
fn zeekstd(memory: &Memory, frame: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = zeekstd::EncodeOptions::new()
        .frame_size_policy(zeekstd::FrameSizePolicy::Uncompressed(frame))
        .checksum_flag(true)
        .compression_level(3)
        .into_encoder(&mut file)
        .expect("an encoder");
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    while at < memory.src.len() {
        let n = memory.src.read_at(at, &mut buf).expect("the memory");
        let mut done = 0;
        while done < n {
            done += encoder.compress(&buf[done..n]).expect("room");
        }
        at += n as u64;
    }
    encoder.finish().expect("room");
    file
}

const KDUMPFILE: &str = "libkdumpfile, kdump-zlib";

/// One page of 4 KiB anywhere.
pub fn random_pages(memory: &Memory, extent: Extent) -> Table {
    let mut table = Table::new(
        "A random page that is not zero, read alone",
        &[("reader", ""), ("median", "us"), ("90th percentile", "us"), ("this / vmcask", "")],
    );
    let archive = reader(memory.pack(&memory.options()).0);
    let places = &pages::places(&archive, &*memory.src);
    let mut readers: Vec<(String, Box<dyn Fn() -> Times + '_>)> =
        vec![("vmcask archive".into(), Box::new(|| pages::archive(&archive, places)))];
    for frame in [memory.options().cells_per_frame * 4096, 64 << 10] {
        let file = zeekstd(memory, frame);
        let name = format!("zeekstd, {} KiB a frame", frame >> 10);
        readers.push((name, Box::new(move || pages::zeekstd(&file, places))));
    }
    let missing = match Kdumpfile::build() {
        Ok(kdumpfile) => {
            readers.push((KDUMPFILE.into(), Box::new(move || kdumpfile.time())));
            None
        }
        Err(why) => Some(why),
    };
    let passes = extent.either(2, 7);
    let mut times = vec![Vec::new(); readers.len()];
    for _ in 0..passes {
        for ((_, read), times) in readers.iter().zip(&mut times) {
            times.push(read());
        }
    }
    let of = |times: &[Times], f: fn(&Times) -> f64| Spread::of(times.iter().map(f).collect());
    for ((name, _), found) in readers.iter().zip(&times) {
        let beside = found.iter().zip(&times[0]).map(|(t, ours)| t.median / ours.median);
        table.row([
            name.clone().into(),
            of(found, |t| t.median).into(),
            of(found, |t| t.p90).into(),
            Spread::of(beside.collect()).into(),
        ]);
    }
    if let Some(why) = missing {
        table.row([KDUMPFILE.into(), why.into(), Cell::Nothing, Cell::Nothing]);
    }
    table.note(format!(
        "{} pages in each of {passes} passes in turn, each as likely as any other; medians over the passes, least and \
         most; files cached, decoded frames not (vmcask keeps 8 MiB).",
        pages::PROBES
    ));
    table
}
