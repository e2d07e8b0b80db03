//! Any arguments: refused with a message, or a dump that holds together.

use proptest::prelude::*;
use proptest::sample::select;
use std::sync::atomic::AtomicBool;
use vmcask_synth::{Arch, Defect, Format, Profile, Spec, SynthDump, WriteOptions};

fn avail() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let page = |n: u64| n * 16384;
    prop::collection::vec((0u64..2000, 1u64..6000), 0..5).prop_map(move |pairs| {
        let mut at = 0;
        let mut out = Vec::new();
        for (gap, pages) in pairs {
            out.push((at + page(gap), at + page(gap + pages)));
            at += page(gap + pages);
        }
        out
    })
}

fn specs() -> impl Strategy<Value = Spec> {
    let sizes = (0u64..10_000, 0u64..6_000, 1u64..100);
    let kinds = (
        select(Arch::ALL.to_vec()),
        0u32..5,
        any::<bool>(),
        select(vec![4096u64, 4096, 16384, 8192]),
        select(vec![Format::Minidump, Format::Elf]),
        select(Profile::ALL.to_vec()),
    );
    let rest = (
        any::<bool>(),
        0u32..20,
        avail(),
        prop::collection::vec(select(Defect::ALL.to_vec()), 0..3),
        any::<u64>(),
    );
    (sizes, kinds, rest).prop_map(|(sizes, kinds, rest)| {
        let (ram, dump, run_pages) = sizes;
        let (arch, version, pae, page_size, format, profile) = kinds;
        let (sparse, procs, avail, defects, seed) = rest;
        let sum: u64 = avail.iter().map(|r| r.1 - r.0).sum();
        Spec {
            arch,
            page_size,
            pae,
            version,
            format,
            ram: if avail.is_empty() { ram * 65536 } else { sum },
            dump: dump * 16384,
            seed,
            run_pages,
            avail,
            profile,
            sparse,
            procs,
            defects,
        }
    })
}

/// Refused, or as large as it should be.
fn make(spec: Spec) -> Option<SynthDump> {
    match SynthDump::new(spec) {
        Ok(dump) => Some(dump),
        Err(e) => {
            assert!(e.to_string().contains("expected"), "{e}");
            None
        }
    }
}

fn holds_together(dump: &SynthDump, offsets: &[prop::sample::Index]) {
    let spec = dump.spec();
    // The line of text makes the same dump again.
    let again: Spec = spec.to_string().parse().unwrap();
    assert_eq!(&again, spec);
    assert_eq!(dump.pages() * spec.page_size, spec.dump);

    // The truth is true.
    let truth = dump.truth();
    assert_eq!(truth.pages, dump.pages());
    for page in &truth.mapped {
        let mut bytes = [0; 4096];
        assert!(dump.page(page.pa & !4095, &mut bytes), "{page:x?}");
        let at = (page.pa & 4095) as usize;
        assert_eq!(&bytes[at..at + page.bytes.len()], &page.bytes[..]);
    }
    for &pa in &truth.absent {
        assert!(!dump.page(pa, &mut [0; 4096]));
    }
    assert!(truth.threads.iter().filter(|t| t.crashed).count() <= 1);

    // Reads agree with each other, wherever they start.
    let len = dump.len();
    let mut whole = vec![0; 8192];
    for offset in offsets {
        let off = offset.index(len as usize) as u64;
        let n = dump.read_at(off, &mut whole);
        assert_eq!(n as u64, (len - off).min(8192));
        let mut one = [0];
        assert_eq!(dump.read_at(off + n as u64 - 1, &mut one), 1);
        assert_eq!(one[0], whole[n - 1]);
        // Outside of data there are zeros.
        let data = dump.next_data(off).unwrap_or(len..len);
        assert!(data.start >= off && data.end <= len && data.start <= data.end);
        let zeros = (data.start - off).min(n as u64) as usize;
        assert!(whole[..zeros].iter().all(|&b| b == 0));
    }
    assert_eq!(dump.read_at(len, &mut [0]), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_arguments(
        spec in specs(),
        offsets in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
    ) {
        if let Some(dump) = make(spec) {
            holds_together(&dump, &offsets);
        }
    }

    /// Most of the arguments above make no sense together; these do.
    #[test]
    fn sensible_arguments(
        spec in specs(),
        arch in select(Arch::ALL.to_vec()),
        more in 0u64..2000,
        offsets in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
    ) {
        let spec = Spec {
            page_size: 4096,
            pae: false,
            version: 1 + spec.version % arch.newest_version(),
            arch,
            ram: 64 << 20,
            dump: (8 << 20) + more * 4096,
            avail: Vec::new(),
            defects: Vec::new(),
            ..spec
        };
        let dump = SynthDump::new(spec).unwrap();
        holds_together(&dump, &offsets);
    }
}

/// The file is what can be read, with holes and without, on any number of
/// threads.
#[test]
fn files_are_what_is_read() {
    for defects in [vec![], vec![Defect::Truncate(61)]] {
        let spec = Spec { ram: 1 << 30, dump: 9 << 20, defects, run_pages: 5, ..Spec::default() };
        let dump = SynthDump::new(spec).unwrap();
        let mut want = vec![0; dump.len() as usize];
        assert_eq!(dump.read_at(0, &mut want), want.len());
        for (sparse, threads) in [(true, 1), (true, 7), (false, 3), (false, 10_000)] {
            let file = tempfile::tempfile().unwrap();
            let options = WriteOptions { sparse, threads };
            dump.write_to(&file, options, &|_| {}, &AtomicBool::new(false)).unwrap();
            let mut found = vec![0; want.len()];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, 0).unwrap();
            assert!(found == want, "{sparse} {threads}");
            assert_eq!(file.metadata().unwrap().len(), dump.len());
        }
    }
}

#[test]
fn a_cancelled_write_says_so() {
    let dump = SynthDump::new(Spec::default()).unwrap();
    let options = WriteOptions { sparse: true, threads: 2 };
    let file = tempfile::tempfile().unwrap();
    let result = dump.write_to(&file, options, &|_| {}, &AtomicBool::new(true));
    assert!(matches!(result, Err(vmcask_synth::Error::Cancelled)));
}

/// A defect that would change nothing is refused: whoever asked for it takes
/// the dump for a broken one.
#[test]
fn one_range_is_always_in_order() {
    for defect in [Defect::DumpAvailUnsorted, Defect::DumpAvailOverlap] {
        let spec = Spec { ram: 32 << 20, dump: 8 << 20, ..Spec::of(Arch::Arm64) };
        assert!(SynthDump::new(spec.clone()).is_ok());
        let e = SynthDump::new(Spec { defects: vec![defect], ..spec }).err().unwrap();
        assert!(e.to_string().contains("one range"), "{e}");
    }
}
