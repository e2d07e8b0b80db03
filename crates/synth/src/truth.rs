//! What a correct reader must find in a dump.

use crate::memory::PAGE_SIZE;
use crate::minidump::SynthDump;

/// The answers to questions about a synthetic dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    /// Dumped pages.
    pub pages: u64,
    /// Runs of dumped pages that follow each other physically: physical
    /// address of the first, number of pages.
    pub runs: Vec<(u64, u64)>,
    /// Pairs of dump_avail.
    pub dump_avail: Vec<(u64, u64)>,
    /// Kernel addresses and what is there.
    pub mapped: Vec<MappedPage>,
    /// Kernel addresses that nothing maps.
    pub unmapped: Vec<u64>,
    /// The message buffer's text in order.
    pub msgbuf: String,
}

/// A kernel address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedPage {
    /// Virtual address.
    pub va: u64,
    /// Physical address.
    pub pa: u64,
    /// `2m`, `4k` or `direct`.
    pub kind: &'static str,
    /// Bytes from there on, up to 16, not past the page.
    pub bytes: Vec<u8>,
}

impl SynthDump {
    /// What a correct reader must find.
    pub fn truth(&self) -> Truth {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for run in &self.runs {
            match runs.last_mut() {
                Some((pa, pages)) if *pa / PAGE_SIZE + *pages == run.frame => *pages += run.pages,
                _ => runs.push((run.frame * PAGE_SIZE, run.pages)),
            }
        }
        let mapped = self.kernel.mappings().into_iter().map(|(va, pa, kind)| {
            let mut page = [0; PAGE_SIZE as usize];
            self.page(pa / PAGE_SIZE * PAGE_SIZE, &mut page);
            let at = (pa % PAGE_SIZE) as usize;
            let bytes = page[at..(at + 16).min(page.len())].to_vec();
            MappedPage { va, pa, kind, bytes }
        });
        Truth {
            pages: self.spec.dump / PAGE_SIZE,
            runs,
            dump_avail: self
                .avail
                .iter()
                .map(|r| (r.start * PAGE_SIZE, r.end * PAGE_SIZE))
                .collect(),
            mapped: mapped.collect(),
            unmapped: self.kernel.unmapped(),
            msgbuf: self.log.clone(),
        }
    }
}
