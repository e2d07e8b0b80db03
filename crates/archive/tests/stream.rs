//! Archives of streams, whose length nobody knows for sure.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vmcask_archive::{ArchiveReader, Plan, WriteOptions, verify, write};
use vmcask_dump::ReadAt;

/// Says it has `len` bytes, and has those of `bytes`.
struct Claims {
    len: u64,
    bytes: Vec<u8>,
}

impl ReadAt for Claims {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        self.bytes.read_at(off, buf)
    }
}

#[test]
fn streams_that_end_sooner_or_later_than_planned() {
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(|i| (i / 3000).to_le_bytes()).collect();
    let bytes = &bytes[..5_000_001];
    for plain in [false, true] {
        for really in [0, 1, 999, 4096, 1 << 20, 3_000_000, 4_096_000, 5_000_001] {
            for claimed in [0, 1000, 1 << 20, 4_096_000] {
                let src = Claims { len: claimed, bytes: bytes[..really].to_vec() };
                let cuts = [0, 1000, 3_000_000, claimed];
                let extents =
                    cuts.windows(2).filter(|w| w[0] < w[1] && w[1] <= claimed).map(|w| w[0]..w[1]);
                let plan = Plan { open_end: true, extents: extents.collect(), ..Plan::default() };
                let options = WriteOptions { plain, threads: 2, ..WriteOptions::default() };
                let mut archive = Vec::new();
                write(&src, &plan, &options, &mut archive, &|_| {}, &AtomicBool::new(false))
                    .unwrap();
                let reader = ArchiveReader::open(Arc::new(archive)).unwrap();
                assert_eq!(reader.len(), really as u64, "{claimed} claimed");
                let mut back = vec![0; really];
                reader.read_exact_at(0, &mut back).unwrap();
                assert_eq!(back, src.bytes, "{really} bytes, {claimed} claimed");
                let report = verify(&reader, 1, &|_| {}, &AtomicBool::new(false)).unwrap();
                assert!(report.is_intact());
            }
        }
    }
}
