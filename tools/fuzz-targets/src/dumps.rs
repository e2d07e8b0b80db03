//! Minidumps, ELF cores, dump devices: opened and asked.

use std::path::Path;
use std::sync::Arc;

use vmcask_convert::{Dump, Input, Target, view::target};
use vmcask_dump::device::Device;
use vmcask_dump::{ElfCore, Minidump, PhysAddr, ReadAt, VirtAddr};
use vmcask_inspect::MessageBuffer;

use crate::base::{CORES, DEVICES, MINIDUMPS, SMALL, pick};
use crate::mutant::{self, Mutant, decode};
use crate::{shown, words};

/// Steps after which a walk has shown what it can.
const STEPS: usize = 1000;

pub fn minidump(data: &[u8]) {
    // Half of the inputs take small ones, for speed.
    let (recipes, data) = match data.split_first() {
        Some((0, data)) => (&*SMALL, data),
        Some((_, data)) => (&*MINIDUMPS, data),
        None => return,
    };
    let Some((file, _)) = decode(data, pick(recipes, data)) else { return };
    let source: Arc<dyn ReadAt> = Arc::new(file);
    match Minidump::open(source.clone()) {
        Ok(dump) => ask(&dump.into(), &source, data),
        Err(e) => shown(&e),
    }
}

pub fn minidump_seeds() -> Vec<Vec<u8>> {
    let with =
        |first: u8, n| mutant::seeds(n).into_iter().map(move |s| [&[first], &s[..]].concat());
    with(0, SMALL.len()).chain(with(1, MINIDUMPS.len())).collect()
}

pub fn elf_core(data: &[u8]) {
    let Some((file, kernel)) = decode(data, pick(&CORES, data)) else { return };
    let source: Arc<dyn ReadAt> = Arc::new(file);
    let mut core = match ElfCore::open(source.clone()) {
        Ok(core) => core,
        Err(e) => return shown(&e),
    };
    if let Some(kernel) = kernel
        && data.len().is_multiple_of(2)
    {
        match vmcask_dump::KernelImage::parse(&kernel.bytes()) {
            Ok(image) => {
                if let Err(e) = core.use_kernel(&image) {
                    shown(&e);
                }
            }
            Err(e) => shown(&e),
        }
    }
    ask(&core.into(), &source, data);
}

pub fn elf_core_seeds() -> Vec<Vec<u8>> {
    let mut seeds = mutant::seeds(CORES.len());
    // Small enough to be an input as it is.
    let core = crate::build::generic_core(&[(0x1000, vec![7; 256]), (0x3000, vec![8; 100])]);
    seeds.push([&[mutant::RAW], &core[..]].concat());
    seeds
}

pub fn device(data: &[u8]) {
    let Some((file, _)) = decode(data, pick(&DEVICES, data)) else { return };
    let source: Arc<dyn ReadAt> = Arc::new(file);
    match Device::find(&source) {
        Ok(Some(device)) => {
            let header = device.header();
            assert!(device.dump_range().end <= source.len());
            for w in device.warnings() {
                shown(w);
            }
            let _ = (header, device.dump().map_err(|e| shown(&e)));
        }
        Ok(None) => {}
        Err(e) => shown(&e),
    }
    match Input::of_source(Path::new("device"), source) {
        Ok(input) => {
            for w in input.warnings() {
                shown(w);
            }
            if input.stream.is_none() {
                ask(&input.dump, &input.source, data);
            }
        }
        Err(e) => shown(&e),
    }
}

pub fn device_seeds() -> Vec<Vec<u8>> {
    mutant::seeds(DEVICES.len())
}

/// Asks a dump whatever can be asked.
pub fn ask(dump: &Dump, source: &Arc<dyn ReadAt>, data: &[u8]) {
    for w in dump.warnings() {
        shown(w);
    }
    shown(&dump.name());
    let mut addresses: Vec<u64> = words(data).chain([0, 0xfff, 1 << 20, u64::MAX]).collect();
    match dump {
        Dump::Minidump(d) => {
            ask_minidump(d, data);
            addresses.extend(d.dump_avail().iter().take(8).flat_map(|&(a, b)| [a, b]));
            let base = d.header().kernbase.0;
            addresses.extend([base, base.wrapping_add(1 << 21), base.wrapping_add(0x1234_5678)]);
            addresses.extend(d.header().direct_map().map(|(start, ..)| start.0));
        }
        Dump::Elf(c) => {
            assert!(c.lost_bytes() <= c.memory_bytes());
            let runs: Vec<_> = c.phys_runs().take(STEPS).collect();
            for &(pa, off, len) in &runs {
                assert!(len > 0 && off.0 + len <= source.len(), "{off} and {len} bytes");
                addresses.push(pa.0);
            }
            addresses.extend(c.phdrs().iter().take(8).map(|p| p.p_vaddr));
        }
    }
    let mut buf = [0; 100];
    for address in addresses {
        let pa = PhysAddr(address);
        if let Ok((off, n)) = dump.phys().locate(pa) {
            assert!(n > 0 && off.0 + n <= source.len(), "{pa} is at {off}, {n} bytes");
            // What is located can be read, and is that.
            let n = n.min(buf.len() as u64) as usize;
            let mut there = [0; 100];
            source.read_exact_at(off.0, &mut there[..n]).expect("bytes that are there");
            dump.phys().read_phys(pa, &mut buf[..n]).expect("memory that is there");
            assert_eq!(buf[..n], there[..n]);
        }
        for result in [
            dump.phys().read_phys(pa, &mut buf),
            dump.virt().read_virt(VirtAddr(address), &mut buf),
        ] {
            if let Err(e) = result {
                shown(&e);
            }
        }
    }
    for to in [
        Target::Elf,
        Target::KernelView,
        Target::Minidump { version: None },
        Target::Minidump { version: Some(1) },
    ] {
        match target::of_dump(dump, source, to, &target::Options::default()) {
            Ok(view) => look_at(&view),
            Err(e) => shown(&e),
        }
    }
}

fn ask_minidump(d: &Minidump, data: &[u8]) {
    let promised = d.pages_promised();
    assert!(d.pages_present() <= promised && promised <= d.pages_of_memory());
    let shift = d.header().page_shift();
    // Of a page that two ranges share, the first bit is the one that counts.
    let shared =
        d.dump_avail().windows(2).any(|w| w[0].1.wrapping_sub(1) >> shift >= w[1].0 >> shift);
    for ordinal in words(data).chain([0, 1, promised / 2, promised.saturating_sub(1), promised]) {
        match d.page_address(ordinal) {
            Ok(Some(pa)) => {
                assert!(ordinal < promised);
                let off = d.page_offset(pa.pfn(shift)).expect("a page that has an address");
                assert!(shared || off.0 == d.parts().pages.start + (ordinal << shift));
            }
            Ok(None) => {}
            Err(e) => shown(&e),
        }
    }
    if let Ok(index) = d.index() {
        let pages: u64 = index.page_runs().take(STEPS).map(|(_, n, _)| n).sum();
        assert!(pages <= promised);
    }
    if let Ok(ring) = d.msgbuf() {
        let messages = MessageBuffer::from_ring(&ring);
        for line in messages.lines().take(STEPS) {
            shown(&vmcask_inspect::text::printable(line.text).replace('\t', " "));
        }
    }
}

/// Reads where a view begins and ends, and follows its holes.
fn look_at(view: &vmcask_convert::View) {
    let mut buf = vec![0; 8192];
    let len = view.len();
    for off in [0, len / 2, len.saturating_sub(8192), len, u64::MAX] {
        let _ = view.read_at(off, &mut buf);
    }
    let mut at = 0;
    for _ in 0..STEPS {
        match view.next_data(at) {
            Ok(Some(range)) => {
                assert!(range.start >= at && range.end > range.start && range.end <= len);
                at = range.end;
            }
            _ => break,
        }
    }
    for told in view.losses.iter().chain(&view.remarks) {
        shown(told);
    }
}

/// Opens a mutant as what it is.
pub fn open(file: Mutant) -> Result<Input, vmcask_convert::Error> {
    Input::of_source(Path::new("input"), Arc::new(file))
}
