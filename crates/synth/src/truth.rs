//! What a correct reader must find in a dump.

use crate::content::FRAME_SIZE;
use crate::dump::SynthDump;
use crate::program::Thread;

/// The answers to questions about a synthetic dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    /// Dumped pages.
    pub pages: u64,
    /// Runs of dumped pages that follow each other physically: physical
    /// address of the first, number of pages. The first 4096 of them.
    pub runs: Vec<(u64, u64)>,
    /// Pairs of dump_avail, in bytes; what they would be in versions without.
    pub dump_avail: Vec<(u64, u64)>,
    /// Kernel addresses and what is there.
    pub mapped: Vec<MappedPage>,
    /// Kernel addresses that nothing maps.
    pub unmapped: Vec<u64>,
    /// Kernel addresses that are mapped, but, by a defect, to what isn't in
    /// the dump.
    pub broken: Vec<u64>,
    /// Physical addresses of pages that the dump doesn't have: in gaps
    /// between runs, in holes of memory, past its end.
    pub absent: Vec<u64>,
    /// The message buffer's text in order.
    pub msgbuf: String,
    /// Threads by process id, each process's in their order. Empty where
    /// there is no kernel image.
    pub threads: Vec<Thread>,
}

/// A kernel address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedPage {
    /// Virtual address.
    pub va: u64,
    /// Physical address.
    pub pa: u64,
    /// What maps it: a page of `4k`, `16k`, `2m` or `1g`, or `direct`.
    pub kind: &'static str,
    /// Bytes from there on, up to 16, not past the page.
    pub bytes: Vec<u8>,
}

/// Runs named in a [`Truth`].
const MOST_RUNS: usize = 4096;

impl SynthDump {
    /// What a correct reader must find.
    pub fn truth(&self) -> Truth {
        let page_size = self.spec.page_size;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for run in self.merged_runs().take(MOST_RUNS) {
            // Ranges of memory may meet, with no gap in the addresses.
            match runs.last_mut() {
                Some((pa, pages)) if *pa / page_size + *pages == run.pfn => *pages += run.pages,
                _ => runs.push((run.pfn * page_size, run.pages)),
            }
        }
        let mapped = self.kernel.mappings().into_iter().map(|(va, pa, kind)| MappedPage {
            va,
            pa,
            kind,
            bytes: self.bytes_at(pa, 16),
        });
        let dump_avail: Vec<(u64, u64)> =
            self.avail.iter().map(|r| (r.start * page_size, r.end * page_size)).collect();
        let gaps = runs.windows(2).map(|w| w[0].0 + w[0].1 * page_size).take(8);
        let holes = dump_avail.windows(2).map(|w| w[1].0 - page_size);
        let past = dump_avail.last().map(|r| r.1);
        let absent = gaps.chain(holes).chain(past).filter(|&pa| !self.has(pa));
        Truth {
            pages: self.runs.total(),
            mapped: mapped.collect(),
            unmapped: self.kernel.unmapped(),
            broken: self.kernel.broken(),
            absent: absent.collect(),
            msgbuf: self.log.clone(),
            threads: self.threads.clone(),
            runs,
            dump_avail,
        }
    }

    fn has(&self, pa: u64) -> bool {
        self.page(pa, &mut [0; FRAME_SIZE as usize])
    }

    /// Bytes of a dumped page, not past it.
    fn bytes_at(&self, pa: u64, most: usize) -> Vec<u8> {
        let mut page = [0; FRAME_SIZE as usize];
        self.page(pa / FRAME_SIZE * FRAME_SIZE, &mut page);
        let at = (pa % FRAME_SIZE) as usize;
        page[at..(at + most).min(page.len())].to_vec()
    }
}
