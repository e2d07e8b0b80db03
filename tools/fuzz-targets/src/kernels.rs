//! A dump and the image of its kernel: symbols, threads, backtraces,
//! messages.

use std::sync::Arc;

use vmcask_dump::{KernelImage, Minidump, ReadAt, VirtAddr};
use vmcask_inspect::{Kernel, MessageBuffer, Registers, backtrace, check, triage};

use crate::base::{MINIDUMPS, pick};
use crate::mutant::{self, RAW, decode};
use crate::{shown, words};

pub fn kernel(data: &[u8]) {
    if let [RAW, image @ ..] = data {
        return symbols(image, data).map(|_| ()).unwrap_or_default();
    }
    let Some((file, Some(image))) = decode(data, pick(&MINIDUMPS, data)) else { return };
    let Some(image) = symbols(&image.bytes(), data) else { return };
    let source: Arc<dyn ReadAt> = Arc::new(file);
    let Ok(dump) = Minidump::open(source) else { return };
    let kernel = match Kernel::new(&dump, &image) {
        Ok(kernel) => kernel,
        Err(e) => return shown(&e),
    };
    let memory = kernel.memory();
    let ring = dump.msgbuf().ok();
    let messages = MessageBuffer::from_kernel(&kernel, &memory, ring.as_deref());
    match &messages {
        Ok(messages) => messages.losses.list().iter().for_each(|l| shown(&l)),
        Err(e) => shown(e),
    }
    shown(&check::image(&kernel, &memory, || None).to_string().replace('\t', " "));
    let mut losses = vmcask_inspect::Losses::default();
    let told = triage::Facts::default();
    let facts = triage::facts(Some((&kernel, &memory)), messages.as_ref().ok(), told, &mut losses);
    for text in [facts.version, facts.panic, facts.uptime].into_iter().flatten() {
        shown(&text.replace('\t', " "));
    }
    match kernel.threads() {
        Ok(list) => {
            list.losses.list().iter().for_each(|l| shown(&l));
            for thread in list.threads.iter().take(64) {
                shown(&thread.name().replace('\t', " "));
                let _ = Registers::of(&memory, list.layout, thread).map_err(|e| shown(&e));
                let trace = backtrace::of(&kernel, list.layout, thread);
                for frame in trace.frames.iter().take(100) {
                    kernel.function(frame.address, true);
                }
                shown(&trace.end);
            }
        }
        Err(e) => shown(&e),
    }
}

fn symbols(image: &[u8], data: &[u8]) -> Option<KernelImage> {
    let image = KernelImage::parse(image).map_err(|e| shown(&e)).ok()?;
    let mut buf = [0; 16];
    for va in words(data).chain(image.symbols().iter().take(20).map(|s| s.addr.0)) {
        if let Some((symbol, off)) = image.nearest(VirtAddr(va)) {
            assert_eq!(symbol.addr.0.checked_add(off), Some(va));
        }
        let _ = image.read(VirtAddr(va), &mut buf);
    }
    for symbol in image.symbols().iter().take(20) {
        assert!(image.symbol(&symbol.name).is_some());
    }
    Some(image)
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = mutant::seeds(MINIDUMPS.len());
    for base in 0..MINIDUMPS.len() as u8 {
        for anchor in [0, 17, 20, 30] {
            seeds.push(vec![base, 15, anchor, 16, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0x80]);
        }
    }
    seeds
}
