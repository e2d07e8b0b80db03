//! Conversions of conversions, and archives of them: what comes back is what
//! went in.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vmcask_convert::{Dump, Input, Target, archive, view::target};
use vmcask_dump::ReadAt;

use crate::base::{SMALL, pick};
use crate::containers::small_options;
use crate::dumps::open;
use crate::mutant::{self, decode};
use crate::shown;

/// Views longer than this are mostly holes, and not read whole.
const MOST: u64 = 4 << 20;

pub fn convert(data: &[u8]) {
    let Some((file, _)) = decode(data, pick(&SMALL, data)) else { return };
    let input = match open(file) {
        Ok(input) => input,
        Err(e) => return shown(&e),
    };
    if input.stream.is_some() {
        return;
    }
    archived(&input);
    for to in [Target::Elf, Target::KernelView] {
        there_and_back(&input, to);
    }
}

fn whole(source: &dyn ReadAt) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(source.len()).ok().filter(|&n| n as u64 <= MOST)?];
    source.read_exact_at(0, &mut bytes).ok()?;
    Some(bytes)
}

fn view(input: &Input, to: Target) -> Option<(Arc<dyn ReadAt>, bool)> {
    match target::of(input, to, &target::Options::default()) {
        Ok(view) => {
            let lossless = view.losses.is_empty();
            Some((Arc::new(view), lossless))
        }
        Err(e) => {
            shown(&e);
            None
        }
    }
}

/// A minidump that became a core without loss comes back exactly.
fn there_and_back(input: &Input, to: Target) {
    let Some((core, lossless)) = view(input, to) else { return };
    let Some(core) = whole(&*core) else { return };
    // What we write, we read.
    let core = Input::of_source(Path::new("core"), Arc::new(core)).expect("a core of our own");
    archived(&core);
    let Some((back, lossless_back)) = view(&core, Target::Minidump { version: None }) else {
        assert!(
            !matches!(input.dump, Dump::Minidump(_)) || !lossless,
            "no minidump of a minidump's core"
        );
        return;
    };
    if matches!(input.dump, Dump::Minidump(_)) && lossless && lossless_back {
        assert!(whole(&*back) == whole(&*input.source), "another minidump came back");
    }
}

/// An archive gives back every byte, and finds every page.
fn archived(input: &Input) {
    let Some(original) = whole(&*input.source) else { return };
    let plan = match archive::plan(input) {
        Ok(plan) => plan,
        Err(e) => return shown(&e),
    };
    let (mut bytes, stop) = (Vec::new(), AtomicBool::new(false));
    archive::write_to(input, &plan, &small_options(), &mut bytes, &|_| {}, &stop)
        .expect("an archive of bytes in memory");
    let again = Input::of_source(Path::new("archive"), Arc::new(bytes)).expect("our archive");
    assert!(whole(&*again.source).as_ref() == Some(&original), "other bytes came back");
    for pa in (0..64).map(|n| n * 4096 + 17) {
        let at = |input: &Input| input.dump.phys().locate(vmcask_dump::PhysAddr(pa)).ok();
        assert_eq!(at(input), at(&again), "where {pa:#x} is");
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    mutant::seeds(SMALL.len())
}
