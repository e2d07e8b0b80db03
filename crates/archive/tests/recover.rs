//! Cut and damaged archives: verification names the damage, recovery loses
//! the cells of the damaged frames and nothing else.

mod common;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use common::{memory, open, pack, related};
use vmcask_archive::{ArchiveReader, Error, Plan, Recovered, WriteOptions, recover, verify};
use vmcask_dump::ReadAt;

static GO: AtomicBool = AtomicBool::new(false);

fn recovered(archive: &[u8]) -> Result<Recovered, Error> {
    let src: Arc<dyn ReadAt> = Arc::new(archive.to_vec());
    recover(&src, 1, &|_| {}, &GO)
}

/// What a frame of the file is, told from the seek table and the bytes.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Data(usize),
    Checkpoint,
    Other,
}

/// Every frame of an intact archive, in order.
fn frames(archive: &[u8]) -> Vec<(Range<usize>, Kind)> {
    let word = |at: usize| u32::from_le_bytes(archive[at..at + 4].try_into().unwrap());
    let n = word(archive.len() - 9) as usize;
    let table = archive.len() - 9 - n * 8;
    let (mut at, mut data) = (0, 0);
    let mut frames: Vec<_> = (0..n)
        .map(|i| {
            let len = word(table + i * 8) as usize;
            let kind = match word(at) {
                // Longer ones are holes of plain archives.
                0xFD2F_B528 if word(table + i * 8 + 4) <= word(24) * 4096 => {
                    data += 1;
                    Kind::Data(data - 1)
                }
                0x184D_2A53 => Kind::Checkpoint,
                _ => Kind::Other,
            };
            at += len;
            (at - len..at, kind)
        })
        .collect();
    frames.push((at..archive.len(), Kind::Other));
    frames
}

struct Case {
    original: Vec<u8>,
    plan: Plan,
    archive: Vec<u8>,
    frames: Vec<(Range<usize>, Kind)>,
    /// Range of each non-zero cell, and the data frame that holds it.
    cells: Vec<(Range<usize>, usize)>,
}

/// The 4096-byte cells of the data frames, and the frame of each.
fn stored(archive: &[u8], frames: &[(Range<usize>, Kind)]) -> HashMap<Vec<u8>, usize> {
    let mut stored = HashMap::new();
    for (range, kind) in frames {
        let Kind::Data(n) = kind else { continue };
        for cell in zstd::decode_all(&archive[range.clone()]).unwrap().chunks(4096) {
            assert!(stored.insert(cell.to_vec(), *n).is_none(), "a cell is stored twice");
        }
    }
    stored
}

fn case(opts: &WriteOptions) -> Case {
    let mut original = if opts.cells_in_order > 0 { related(300, 42) } else { memory(300, 42) };
    // Two parts that aren't aligned to each other, and a hole.
    original.truncate(299 * 4096 + 1234);
    original[80 * 4096..140 * 4096].fill(0);
    let end = original.len() as u64;
    // Extents' last cells are short: like no whole one with zeros behind it.
    for end in [5000, 80 * 4096, original.len()] {
        original[end - 4..end].copy_from_slice(&(end as u32).to_be_bytes());
    }
    let k = u64::from(opts.cells_per_frame) * 4096;
    let extents = if opts.plain {
        vec![0..20 * k, 35 * k..end]
    } else {
        vec![0..5000, 5000..80 * 4096, 140 * 4096..end]
    };
    let plan = Plan { extents, ..Plan::default() };
    let (archive, _) = pack(&original, &plan, opts);
    let frames = frames(&archive);
    let by_content = if opts.plain { HashMap::new() } else { stored(&archive, &frames) };
    let (mut number, mut cells) = (0, Vec::new());
    for e in &plan.extents {
        for start in (e.start as usize..e.end as usize).step_by(4096) {
            let range = start..(start + 4096).min(e.end as usize);
            let mut bytes = original[range.clone()].to_vec();
            if opts.plain {
                cells.push((range, number / opts.cells_per_frame as usize));
                number += 1;
            } else if bytes.iter().any(|&b| b != 0) {
                bytes.resize(4096, 0);
                cells.push((range, by_content[&bytes]));
            }
        }
    }
    Case { original, plan, archive, frames, cells }
}

impl Case {
    /// Bytes that may be lost with these data frames.
    fn lost_with(&self, frames: &HashSet<usize>) -> Vec<bool> {
        let mut lost = vec![false; self.original.len()];
        for (range, frame) in &self.cells {
            if frames.contains(frame) {
                lost[range.clone()].fill(true);
            }
        }
        lost
    }

    /// Everything that isn't lost is right, and what is lost is just `lost`.
    #[track_caller]
    fn check(&self, bad: &[u8], lost: &[bool], what: &str) {
        let is_lost = self.lost_of(bad, what);
        let differ = |i: &usize| is_lost[*i] != lost[*i];
        if let Some(i) = (is_lost != lost).then(|| (0..lost.len()).find(differ)) {
            panic!("{what}: byte {i:x?} is lost or isn't, against what was expected");
        }
    }

    /// What is lost of a damaged archive; everything else is right.
    #[track_caller]
    fn lost_of(&self, bad: &[u8], what: &str) -> Vec<bool> {
        let r = recovered(bad).unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut bytes = vec![0xaa; self.original.len()];
        assert_eq!(r.len(), bytes.len() as u64, "{what}");
        r.read_exact_at(0, &mut bytes).unwrap();
        let mut is_lost = vec![false; bytes.len()];
        for range in r.lost() {
            is_lost[range.start as usize..range.end as usize].fill(true);
        }
        let mut expected = self.original.clone();
        for range in r.lost() {
            expected[range.start as usize..range.end as usize].fill(0);
        }
        assert!(bytes == expected, "{what}: wrong bytes");
        // What is said to be data covers it all.
        let mut at = 0;
        while let Some(data) = r.next_data(at).unwrap() {
            assert!(data.start >= at && data.end > data.start);
            assert!(bytes[at as usize..data.start as usize].iter().all(|&b| b == 0));
            at = data.end;
        }
        is_lost
    }

    fn verify_names_it(bad: &[u8]) -> bool {
        match open(bad) {
            Err(_) => true,
            Ok(reader) => !verify(&reader, 1, &|_| {}, &GO).unwrap().is_intact(),
        }
    }
}

fn cases() -> Vec<Case> {
    // Plain, cells a frame, a checkpoint, put in order together.
    [(false, 4, 64, 0), (false, 3, 37, 0), (true, 4, 64, 0), (false, 6, 16, 60)]
        .map(|(plain, cells_per_frame, cells_per_checkpoint, cells_in_order)| {
            let c = case(&WriteOptions {
                plain,
                cells_per_frame,
                cells_per_checkpoint,
                cells_in_order,
                ..WriteOptions::default()
            });
            // Flag 3 of checkpoints.
            let reordered = |f: &(Range<usize>, Kind)| {
                f.1 == Kind::Checkpoint && c.archive[f.0.start + 76] & 8 != 0
            };
            assert_eq!(c.frames.iter().any(reordered), cells_in_order > 0);
            c
        })
        .into()
}

/// A stream of numbers that is the same everywhere.
fn random(mut state: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    }
}

#[test]
fn nothing_is_lost_of_intact_archives() {
    for c in cases() {
        let r = recovered(&c.archive).unwrap();
        assert!(r.lost().is_empty() && r.index_damage().is_none());
        c.check(&c.archive, &vec![false; c.original.len()], "intact");
    }
}

#[test]
fn cut_at_every_boundary_and_anywhere() {
    for c in cases() {
        let mut cuts: Vec<usize> = c.frames.iter().map(|f| f.0.end).collect();
        cuts.pop();
        let index = c.frames.iter().rfind(|f| matches!(f.1, Kind::Data(_))).unwrap().0.end;
        cuts.extend((index..c.archive.len()).step_by(64));
        let mut next = random(1);
        cuts.extend((0..200).map(|_| next(c.archive.len())));
        for cut in cuts {
            let bad = &c.archive[..cut];
            assert!(Case::verify_names_it(bad), "cut at {cut}");
            // Cells that a checkpoint before the cut describes, in frames
            // before it, are there; the rest isn't.
            let checkpoints: Vec<_> = c.frames.iter().filter(|f| f.1 == Kind::Checkpoint).collect();
            let whole = checkpoints.iter().filter(|f| f.0.end <= cut).count();
            if whole == 0 {
                assert!(recovered(bad).is_err(), "cut at {cut}");
                continue;
            }
            let missing = c
                .frames
                .iter()
                .filter(|f| f.0.end > cut)
                .filter_map(|f| if let Kind::Data(n) = f.1 { Some(n) } else { None })
                .collect();
            let mut lost = c.lost_with(&missing);
            if whole < checkpoints.len() {
                lost[c.described(whole)..].fill(true);
            }
            c.check(bad, &lost, &format!("cut at {cut}"));
        }
    }
}

impl Case {
    /// Where the original ends that the first `n` checkpoints describe.
    fn described(&self, n: usize) -> usize {
        let (range, _) = self.frames.iter().filter(|f| f.1 == Kind::Checkpoint).nth(n - 1).unwrap();
        let at = |i: usize| {
            let at = range.start + i;
            u64::from_le_bytes(self.archive[at..at + 8].try_into().unwrap())
        };
        // first_cell and cells, FORMAT.md 11.
        let mut left = at(32) + (at(64) & 0xffff_ffff);
        for e in &self.plan.extents {
            let cells = (e.end - e.start).div_ceil(4096);
            if left <= cells {
                return (e.start + left * 4096).min(e.end) as usize;
            }
            left -= cells;
        }
        self.original.len()
    }
}

#[test]
fn one_flipped_bit_anywhere() {
    for c in cases() {
        let mut next = random(2);
        for _ in 0..500 {
            let (at, bit) = (next(c.archive.len()), next(8));
            let mut bad = c.archive.clone();
            bad[at] ^= 1 << bit;
            let what = format!("bit {bit} of byte {at}");
            assert!(Case::verify_names_it(&bad), "{what}");
            c.check(&bad, &c.lost_with(&c.data_frames_in(at..at + 1)), &what);
        }
    }
}

impl Case {
    fn data_frames_in(&self, bytes: Range<usize>) -> HashSet<usize> {
        let hit = |f: &&(Range<usize>, Kind)| f.0.start < bytes.end && f.0.end > bytes.start;
        let number = |f: &(Range<usize>, Kind)| match f.1 {
            Kind::Data(n) => Some(n),
            _ => None,
        };
        self.frames.iter().filter(hit).filter_map(number).collect()
    }
}

/// A sector that takes part of the last frames and of the index with it
/// leaves the checkpoints to go by.
#[test]
fn a_zeroed_sector_anywhere() {
    for c in cases() {
        for at in (0..c.archive.len()).step_by(2048) {
            let end = (at + 4096).min(c.archive.len());
            let mut bad = c.archive.clone();
            bad[at..end].fill(0);
            if bad == c.archive {
                continue;
            }
            let what = format!("zeros at {at}");
            assert!(Case::verify_names_it(&bad), "{what}");
            let lost = c.lost_with(&c.data_frames_in(at..end));
            let checkpoint_hit =
                c.frames.iter().any(|f| f.1 == Kind::Checkpoint && f.0.start < end && f.0.end > at);
            if ArchiveReader::open(Arc::new(bad.clone())).is_err() && checkpoint_hit {
                // Index and checkpoint both gone: what is left is right.
                if let Ok(r) = recovered(&bad) {
                    let mut bytes = vec![0; c.original.len()];
                    r.read_exact_at(0, &mut bytes).unwrap();
                    for range in r.lost() {
                        let range = range.start as usize..range.end as usize;
                        bytes[range.clone()].copy_from_slice(&c.original[range]);
                    }
                    assert!(bytes == c.original, "{what}");
                }
                continue;
            }
            c.check(&bad, &lost, &what);
        }
    }
}

#[test]
fn swapped_frames_are_found_where_they_are() {
    for c in cases() {
        let data: Vec<_> = c.frames.iter().filter(|f| matches!(f.1, Kind::Data(_))).collect();
        let mut next = random(3);
        for _ in 0..60 {
            let (a, b) = (next(data.len()), next(data.len()));
            let (a, b) = (data[a.min(b)].0.clone(), data[a.max(b)].0.clone());
            if c.archive[a.clone()] == c.archive[b.clone()] {
                continue;
            }
            let bad = [
                &c.archive[..a.start],
                &c.archive[b.clone()],
                &c.archive[a.end..b.start],
                &c.archive[a.clone()],
                &c.archive[b.end..],
            ]
            .concat();
            assert!(Case::verify_names_it(&bad));
            c.check(&bad, &vec![false; c.original.len()], &format!("{a:?} and {b:?} swapped"));
        }
    }
}

/// The index gone and a frame as well: only that frame's cells are lost.
#[test]
fn two_damages() {
    for c in cases() {
        for n in [0, 7, 20] {
            let frame = c.frames.iter().find(|f| f.1 == Kind::Data(n)).unwrap();
            // 5 and 6: its size, of which a plain archive's frames of zeros have more.
            for part in [0, 1, 4, 5, 6, 7, frame.0.len() - 1] {
                let mut bad = c.archive.clone();
                let len = bad.len();
                bad[len - 3] ^= 1;
                bad[frame.0.start + part] ^= 0x10;
                let what = format!("no index, byte {part} of frame {n}");
                c.check(&bad, &c.lost_with(&HashSet::from([n])), &what);
            }
        }
        // A lost checkpoint takes its cells with it, no others.
        let checkpoints: Vec<_> = c.frames.iter().filter(|f| f.1 == Kind::Checkpoint).collect();
        let mut bad = c.archive.clone();
        let len = bad.len();
        bad[len - 3] ^= 1;
        bad[checkpoints[1].0.start + 90] ^= 1;
        let mut lost = vec![false; c.original.len()];
        lost[c.described(1)..c.described(2)].fill(true);
        let r = recovered(&bad).unwrap();
        assert!(!r.lost().is_empty());
        for range in r.lost() {
            let inside = |at: u64| c.described(1) as u64 <= at && at <= c.described(2) as u64;
            assert!(inside(range.start) && inside(range.end), "{range:?}");
        }
    }
}

/// Bytes are missing, and the first block of the frame they were in leads exactly
/// to the blocks of another: frames are gone, and nothing looks like a gap.
#[test]
fn frames_joined_to_one() {
    let mut joined = 0;
    for c in cases() {
        let data: Vec<_> = c.frames.iter().filter(|f| matches!(f.1, Kind::Data(_))).collect();
        for (n, pair) in data.windows(3).enumerate() {
            let (one, other) = (pair[0].0.start, pair[2].0.start);
            // RFC 8878, 3.1.1: the header, and the first block's.
            let header = |at: usize| {
                let descriptor = c.archive[at + 4];
                let size = [usize::from(descriptor >> 5 & 1), 2, 4, 8];
                6 - usize::from(descriptor >> 5 & 1) + size[usize::from(descriptor >> 6)]
            };
            let block = one + header(one);
            let word = &c.archive[block..block + 4];
            let word = u32::from_le_bytes(word.try_into().unwrap()) & 0xff_ffff;
            let end = block + 3 + (word >> 3) as usize;
            let to = other + header(other);
            // The last block, one of a byte repeated.
            if word & 1 == 1 || word >> 1 & 3 == 1 || to <= end {
                continue;
            }
            for cut in [false, true] {
                let mut bad = c.archive.clone();
                bad.drain(block + 4..block + 4 + (to - end));
                if cut {
                    bad.truncate(bad.len() - 200);
                }
                let lost = c.lost_of(&bad, &format!("frames {n} and {} joined, {cut}", n + 2));
                assert!(lost.contains(&true));
            }
            joined += 1;
        }
    }
    // Those of several blocks.
    assert!(joined > 0);
}

#[test]
fn what_is_no_archive_is_refused() {
    for bytes in [vec![], vec![0; 10_000], b"\x28\xb5\x2f\xfd".repeat(1000)] {
        assert!(recovered(&bytes).is_err());
    }
}
