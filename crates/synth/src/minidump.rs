//! The dump as a file: where each part lies, and what is in any page of it.
//! Order and rounding as in `sys/amd64/amd64/minidump_machdep.c`.

use std::ops::Range;

use crate::content::{self, Kind, Page};
use crate::error::Error;
use crate::kernel::{DMAP_MIN_ADDRESS, Kernel};
use crate::memory::{self, Frame, PAGE_SIZE, Run};
use crate::msgbuf;
use crate::spec::Spec;

/// `struct minidumphdr` of `sys/amd64/include/minidump.h`, version 3, packed
/// by hand: offsets of its fields.
mod hdr {
    pub(super) const VERSION: usize = 24;
    pub(super) const MSGBUFSIZE: usize = 28;
    pub(super) const BITMAPSIZE: usize = 32;
    pub(super) const PMAPSIZE: usize = 36;
    pub(super) const KERNBASE: usize = 40;
    pub(super) const DMAPBASE: usize = 48;
    pub(super) const DMAPEND: usize = 56;
    pub(super) const DUMPAVAILSIZE: usize = 64;
}

/// Bytes of `dump_avail` as the kernel dumps it: a page.
const DUMPAVAIL_SIZE: u64 = PAGE_SIZE;

/// A synthetic minidump: any byte of it, on demand.
#[derive(Clone, Debug)]
pub struct SynthDump {
    pub(crate) spec: Spec,
    pub(crate) kernel: Kernel,
    pub(crate) avail: Vec<Range<u64>>,
    pub(crate) runs: Vec<Run>,
    pub(crate) log: String,
    ring: Vec<u8>,
    header: Vec<u8>,
    /// First file page of each part: message buffer, dump_avail, bitmap,
    /// pmap, pages; and the end.
    starts: [u64; 6],
}

impl SynthDump {
    /// Lays the dump out. Takes 32 bytes a run of dumped pages.
    pub fn new(spec: Spec) -> Result<Self, Error> {
        spec.check()?;
        let avail = memory::avail(spec.ram);
        let top = avail.last().map_or(0, |r| r.end);
        let kernel = Kernel::new(spec.version, spec.dump, top);
        let fixed = kernel.frames();
        let total = spec.dump / PAGE_SIZE;
        let least = fixed.end - fixed.start;
        if total < least || !avail.iter().any(|r| r.start <= fixed.start && fixed.end <= r.end) {
            return Err(Error::Argument {
                argument: "dump",
                found: format!("{} bytes of {} bytes of memory", spec.dump, spec.ram),
                expected: format!("at least {} for the kernel's own pages", least * PAGE_SIZE),
            });
        }
        // Version 3 counts bits through the ranges, older ones from page 0.
        let mut bits = 0;
        let bit_of_range: Vec<u64> = avail
            .iter()
            .map(|r| {
                let first = if spec.version == 3 { bits } else { r.start };
                bits = first + (r.end - r.start);
                first
            })
            .collect();
        let runs = memory::runs(&avail, &bit_of_range, &fixed, total, spec.run_pages, spec.seed);
        let (log, ring) = msgbuf::msgbuf(spec.ram, spec.seed);

        let bitmap_size = bits.div_ceil(8).next_multiple_of(PAGE_SIZE);
        let dumpavail_size = if spec.version == 3 { DUMPAVAIL_SIZE } else { 0 };
        let mut starts = [1; 6];
        for (i, size) in
            [ring.len() as u64, dumpavail_size, bitmap_size, kernel.pmap_size(), spec.dump]
                .into_iter()
                .enumerate()
        {
            starts[i + 1] = starts[i] + size.div_ceil(PAGE_SIZE);
        }

        let mut header = vec![0; PAGE_SIZE as usize];
        header[..22].copy_from_slice(b"minidump FreeBSD/amd64");
        let mut put32 = |at: usize, n: u64| {
            header[at..at + 4].copy_from_slice(&(n as u32).to_le_bytes());
        };
        put32(hdr::VERSION, spec.version.into());
        put32(hdr::MSGBUFSIZE, ring.len() as u64);
        put32(hdr::BITMAPSIZE, bitmap_size);
        put32(hdr::PMAPSIZE, kernel.pmap_size());
        put32(hdr::DUMPAVAILSIZE, dumpavail_size);
        for (at, n) in [
            (hdr::KERNBASE, kernel.kernbase()),
            (hdr::DMAPBASE, DMAP_MIN_ADDRESS),
            (hdr::DMAPEND, kernel.dmap_end()),
        ] {
            header[at..at + 8].copy_from_slice(&n.to_le_bytes());
        }
        Ok(Self { spec, kernel, avail, runs, log, ring, header, starts })
    }

    /// Bytes of the dump.
    pub fn len(&self) -> u64 {
        self.starts[5] * PAGE_SIZE
    }

    /// Never: a dump has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What the dump was made from.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Copies the bytes at `off` into `buf`; returns how many there were.
    pub fn read_at(&self, off: u64, buf: &mut [u8]) -> usize {
        let end = self.len().min(off.saturating_add(buf.len() as u64));
        let total = end.saturating_sub(off) as usize;
        let mut page = [0; PAGE_SIZE as usize];
        let mut done = 0;
        while done < total {
            let at = off + done as u64;
            let within = (at % PAGE_SIZE) as usize;
            let n = (page.len() - within).min(total - done);
            self.file_page(at / PAGE_SIZE, &mut page);
            buf[done..done + n].copy_from_slice(&page[within..within + n]);
            done += n;
        }
        total
    }

    /// The first range at or after `off` outside of which, up to there,
    /// everything is zero; `None` when only zeros follow.
    pub fn next_data(&self, off: u64) -> Option<Range<u64>> {
        let last = self.starts[5];
        let mut first = off / PAGE_SIZE;
        while first < last && self.is_zero(first) {
            first += 1;
        }
        if first >= last {
            return None;
        }
        // Found a piece at a time: callers seldom want all of a long one.
        let most = last.min(first + 4096);
        let end = (first + 1..most).find(|&p| self.is_zero(p)).unwrap_or(most);
        Some((first * PAGE_SIZE).max(off)..end * PAGE_SIZE)
    }

    /// Fills `page` with the memory at physical address `pa`, a multiple of
    /// 4096; false where the page isn't dumped.
    pub fn page(&self, pa: u64, page: &mut [u8; 4096]) -> bool {
        let frame = Frame(pa / PAGE_SIZE);
        let i = self.runs.partition_point(|r| r.frame + r.pages <= frame.0);
        let present = self.runs.get(i).is_some_and(|r| r.frame <= frame.0);
        if present {
            self.memory_page(frame, page);
        }
        present
    }

    fn memory_page(&self, frame: Frame, page: &mut Page) {
        if self.kernel.page_table(frame, page) {
            return;
        }
        content::fill(self.spec.seed, frame, page);
        if self.kernel.frames().contains(&frame.0) {
            // The kernel's own pages are never zero, and tell where they are.
            page[..8].copy_from_slice(b"vmcask\0\0");
            page[8..16].copy_from_slice(&(frame.0 * PAGE_SIZE).to_le_bytes());
        }
    }

    fn frame_of(&self, ordinal: u64) -> Frame {
        let i = self.runs.partition_point(|r| r.ordinal + r.pages <= ordinal);
        let run = self.runs[i.min(self.runs.len() - 1)];
        Frame(run.frame + ordinal.saturating_sub(run.ordinal))
    }

    /// Whether a page of the file is known to be zero without being made.
    pub(crate) fn is_zero(&self, number: u64) -> bool {
        let [_, dump_avail, bitmap, pmap, pages, _] = self.starts;
        if number < dump_avail {
            number >= 1 && Self::part(&self.ring, number - 1).iter().all(|&b| b == 0)
        } else if number < bitmap {
            false
        } else if number < pmap {
            let bits = Self::bits_of(number - bitmap);
            let i = self.runs.partition_point(|r| r.bit + r.pages <= bits.start);
            self.runs.get(i).is_none_or(|r| r.bit >= bits.end)
        } else if number < pages {
            !self.kernel.pmap_page_used(number - pmap)
        } else {
            let frame = self.frame_of(number - pages);
            content::kind(self.spec.seed, frame) == Kind::Zero
                && !self.kernel.frames().contains(&frame.0)
        }
    }

    /// Page `number` of the file.
    pub(crate) fn file_page(&self, number: u64, page: &mut Page) {
        let [msgbuf, dump_avail, bitmap, pmap, pages, end] = self.starts;
        page.fill(0);
        if number < msgbuf {
            page.copy_from_slice(&self.header);
        } else if number < dump_avail {
            let part = Self::part(&self.ring, number - msgbuf);
            page[..part.len()].copy_from_slice(part);
        } else if number < bitmap {
            for (pair, r) in page.chunks_exact_mut(16).zip(&self.avail) {
                pair[..8].copy_from_slice(&(r.start * PAGE_SIZE).to_le_bytes());
                pair[8..].copy_from_slice(&(r.end * PAGE_SIZE).to_le_bytes());
            }
        } else if number < pmap {
            self.bitmap_page(number - bitmap, page);
        } else if number < pages {
            self.kernel.pmap_page(number - pmap, page);
        } else if number < end {
            self.memory_page(self.frame_of(number - pages), page);
        }
    }

    fn part(bytes: &[u8], number: u64) -> &[u8] {
        let start = (number * PAGE_SIZE) as usize;
        &bytes[start.min(bytes.len())..(start + PAGE_SIZE as usize).min(bytes.len())]
    }

    fn bits_of(number: u64) -> Range<u64> {
        number * PAGE_SIZE * 8..(number + 1) * PAGE_SIZE * 8
    }

    fn bitmap_page(&self, number: u64, page: &mut Page) {
        let bits = Self::bits_of(number);
        let first = self.runs.partition_point(|r| r.bit + r.pages <= bits.start);
        for run in self.runs[first..].iter().take_while(|r| r.bit < bits.end) {
            let from = run.bit.max(bits.start) - bits.start;
            let to = (run.bit + run.pages).min(bits.end) - bits.start;
            let mut bit = from;
            while bit < to {
                if bit.is_multiple_of(8) && to - bit >= 8 {
                    page[(bit / 8) as usize] = 0xff;
                    bit += 8;
                } else {
                    page[(bit / 8) as usize] |= 1 << (bit % 8);
                    bit += 1;
                }
            }
        }
    }
}
