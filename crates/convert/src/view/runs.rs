//! The physical memory of a dump as runs of its bytes.

use vmcask_dump::elf::MOST_PHDRS;
use vmcask_dump::{ElfCore, Minidump, PhysMem, ReadAt};

use super::elf_headers::too_many_runs;
use crate::error::{Error, Result};

/// Physical memory `[pa, pa + len)`, at offset `off` of the dump's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Physical address.
    pub pa: u64,
    /// Offset in the dump's bytes.
    pub off: u64,
    /// Bytes, at least 1.
    pub len: u64,
}

/// All memory that a dump holds: ascending, disjoint; adjacent runs are
/// merged where their bytes are adjacent too.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    runs: Vec<Run>,
    /// Whole pages of zeros that were left out.
    pub dropped: u64,
}

/// Bytes looked at at a time when zero pages are dropped.
const PIECE: usize = 1 << 20;

impl Runs {
    /// The pages that are in a minidump's file; of the last page of a cut
    /// file, the part that is.
    pub fn of_minidump(dump: &Minidump) -> Result<Self> {
        let shift = dump.header().page_shift();
        let end = dump.source().len();
        let mut out = Self::default();
        for (pfn, pages, ordinal) in dump.index().map_err(Error::Bitmap)?.page_runs() {
            let off = dump.parts().pages.start + (ordinal << shift);
            let len = (pages << shift).min(end.saturating_sub(off));
            if len == 0 {
                break;
            }
            out.push(Run { pa: pfn.0 << shift, off, len });
            if out.len() > MOST_PHDRS as usize {
                return Err(too_many_runs());
            }
        }
        Ok(out)
    }

    /// The segments of an ELF core, as far as they are in the file.
    pub fn of_elf(core: &ElfCore) -> Self {
        let mut out = Self::default();
        for (pa, off, len) in core.phys_runs() {
            out.push(Run { pa: pa.0, off: off.0, len });
        }
        out
    }

    fn push(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut()
            && last.pa + last.len == run.pa
            && last.off + last.len == run.off
        {
            last.len += run.len;
        } else {
            self.runs.push(run);
        }
    }

    /// The runs without their whole pages of zeros.
    pub fn without_zero_pages(&self, src: &dyn ReadAt, page: u64) -> Result<Self> {
        let mut out = Self { dropped: self.dropped, ..Self::default() };
        let mut buf = vec![0; PIECE];
        for run in &self.runs {
            let mut at = 0;
            while at < run.len {
                let n = (run.len - at).min(PIECE as u64) as usize;
                let off = run.off + at;
                src.read_exact_at(off, &mut buf[..n]).map_err(|source| Error::Read {
                    off,
                    len: n,
                    source,
                })?;
                let mut within = 0;
                while within < n {
                    let pa = run.pa + at + within as u64;
                    let len = ((page - pa % page) as usize).min(n - within);
                    let bytes = &buf[within..within + len];
                    if len as u64 == page && bytes.iter().all(|&b| b == 0) {
                        out.dropped += 1;
                    } else {
                        out.push(Run { pa, off: off + within as u64, len: len as u64 });
                    }
                    within += len;
                }
                at += n as u64;
            }
        }
        Ok(out)
    }

    /// The runs cut to whole pages, and the bytes that this loses.
    pub fn whole_pages(&self, page: u64) -> (Self, u64) {
        let mut out = Self { dropped: self.dropped, ..Self::default() };
        // A page may be whole though two runs hold a part of it each; cores
        // that do that with file offsets in step are merged already, and
        // others aren't known.
        for run in &self.runs {
            let Some(start) = run.pa.checked_next_multiple_of(page) else { break };
            let end = (run.pa + run.len) / page * page;
            if start < end {
                out.push(Run { pa: start, off: run.off + (start - run.pa), len: end - start });
            }
        }
        let lost = self.bytes() - out.bytes();
        (out, lost)
    }

    /// The runs, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Run> {
        self.runs.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether there is no memory at all.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes of memory in all.
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|r| r.len).sum()
    }

    /// The index of the run that holds `pa`, else of the next one.
    pub fn first_ending_after(&self, pa: u64) -> usize {
        self.runs.partition_point(|r| r.pa + r.len <= pa)
    }

    /// The run at an index.
    pub fn get(&self, index: usize) -> Option<&Run> {
        self.runs.get(index)
    }
}
