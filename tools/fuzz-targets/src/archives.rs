//! Archives, damaged and lying: read, verified, recovered.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};

use vmcask_archive::{ArchiveReader, MinidumpPages, PageMap, Plan, PtLoad, WriteOptions, write};
use vmcask_dump::{PhysAddr, ReadAt};

use crate::base::{Recipe, pick, plain};
use crate::model::memory;
use crate::mutant::{self, decode};
use crate::{seal, shown, words};

/// Archives of all sorts.
static ARCHIVES: LazyLock<Vec<Recipe>> = LazyLock::new(|| {
    let minidump = PageMap::Minidump(MinidumpPages {
        page_shift: 12,
        first_page: 0x5000,
        pages: 100,
        dump_avail: vec![(0, 0x10000), (0x20000, 0x74000)],
        words: vec![u64::MAX, 0xff, 0, 0],
        blocks: vec![72],
        supers: vec![0, 72],
    });
    let load = PtLoad { p_paddr: 0x1000, p_vaddr: 2, p_offset: 3, p_filesz: 9000, p_memsz: 9000 };
    let small = WriteOptions { cells_per_checkpoint: 8, ..crate::containers::small_options() };
    let blocks = WriteOptions { cells_per_frame: 12, cells_per_block: 4, ..small.clone() };
    let unordered = WriteOptions { cells_in_order: 0, ..small.clone() };
    let lone = WriteOptions { plain: true, ..small.clone() };
    let holes = |len| vec![0..81_920, 131_072..len];
    let all = [
        (Some(minidump), small),
        (Some(PageMap::Segments(vec![load, load])), lone),
        (None, blocks),
        (None, unordered),
    ];
    all.into_iter()
        .map(|(page_map, opts)| {
            Recipe::new(move || {
                let original = memory(60, 9);
                let extents = holes(original.len() as u64);
                let plan = Plan { extents, page_map: page_map.clone(), ..Plan::default() };
                let (mut bytes, go) = (Vec::new(), AtomicBool::new(false));
                write(&original, &plan, &opts, &mut bytes, &|_| {}, &go).expect("an archive");
                let map = seal::map(&bytes);
                let places = [map.locator, map.directory, map.locator + 64, bytes.len() - 17];
                let mut anchors: Vec<u64> = places.iter().map(|&at| at as u64).collect();
                anchors.extend(map.sections.iter().map(|s| s.1.start as u64));
                plain(bytes, anchors)
            })
        })
        .collect()
});

/// The archive of an input, its checksums right where the last byte says so
/// and they can be found.
fn mutated(data: &[u8]) -> Option<Vec<u8>> {
    let base = pick(&ARCHIVES, data);
    let intact = base.bytes.as_slice();
    let (file, _) = decode(data, base)?;
    let mut bytes = file.bytes();
    let sealed = data.last().is_some_and(|b| b % 4 != 0);
    if sealed && bytes.len() == intact.len() {
        seal::seal(&mut bytes, &seal::map(intact));
    }
    Some(bytes)
}

/// A source whose bytes can't be had in place.
struct NotMemory(Vec<u8>);

impl ReadAt for NotMemory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read_at(off, buf)
    }
}

fn source(data: &[u8]) -> Option<Arc<dyn ReadAt>> {
    let bytes = mutated(data)?;
    Some(if data.len().is_multiple_of(3) { Arc::new(NotMemory(bytes)) } else { Arc::new(bytes) })
}

pub fn archive(data: &[u8]) {
    let Some(src) = source(data) else { return };
    let reader = match ArchiveReader::open(src) {
        Ok(reader) => reader,
        Err(e) => return shown(&e),
    };
    let mut buf = vec![0; 20_000];
    let len = reader.len();
    for off in words(data).chain([0, 1, 4095, 100_000, len / 2, len.saturating_sub(5000), len]) {
        match reader.read_at(off, &mut buf) {
            Ok(n) => assert_eq!(n as u64, len.saturating_sub(off).min(buf.len() as u64)),
            Err(e) => shown(&e),
        }
        let mut at = off;
        for _ in 0..50 {
            match reader.next_data(at) {
                Ok(Some(range)) => {
                    assert!(range.start >= at && range.end > range.start && range.end <= len);
                    at = range.end;
                }
                _ => break,
            }
        }
        let _ = reader.locate(PhysAddr(off)).map_err(|e| shown(&e));
    }
    let _ = reader.page_map().map_err(|e| shown(&e));
    let _ = reader.extents().map_err(|e| shown(&e));
    let stats = reader.stats();
    assert!(stats.zero_cells <= stats.cells);
    // What only lengths bound is not walked whole.
    if stats.cells < 1 << 16 {
        match vmcask_archive::verify(&reader, 1, &|_| {}, &AtomicBool::new(false)) {
            Ok(report) => {
                report.damages.iter().for_each(|d| shown(&d.error));
                report.index.iter().chain(&report.others).for_each(|e| shown(e));
            }
            Err(e) => shown(&e),
        }
    }
}

pub fn recover(data: &[u8]) {
    let Some(src) = source(data) else { return };
    let recovered = match vmcask_archive::recover(&src, 1, &|_| {}, &AtomicBool::new(false)) {
        Ok(recovered) => recovered,
        Err(e) => return shown(&e),
    };
    let len = recovered.len();
    let mut before = 0;
    for lost in recovered.lost() {
        assert!(lost.start >= before && lost.end > lost.start && lost.end <= len);
        before = lost.end;
    }
    let mut buf = vec![0; 20_000];
    for off in words(data).chain([0, len / 2, len.saturating_sub(9000), len]) {
        // What isn't lost can be read.
        let n = recovered.read_at(off, &mut buf).expect("what isn't lost");
        assert_eq!(n as u64, len.saturating_sub(off).min(buf.len() as u64));
        let _ = recovered.next_data(off);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = mutant::seeds(ARCHIVES.len());
    for base in 0..ARCHIVES.len() as u8 {
        for anchor in 0..24 {
            for field in [0, 8, 16, 24] {
                seeds.push(vec![base, 7, anchor, field, 0, 0xff, 0, 0, 0, 1, 0, 0, 0, 1]);
            }
        }
    }
    seeds
}
