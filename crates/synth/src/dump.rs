//! The dump as a file: where each part lies, and what is in any page of it.

use std::ops::Range;
use std::sync::Mutex;

use crate::arch::{Arch, Fields};
use crate::content::{Content, FRAME_SIZE, Frame, Page};
use crate::defect::Defect;
use crate::elf;
use crate::error::Error;
use crate::kernel::{Kernel, Sizes};
use crate::msgbuf;
use crate::program::{self, Plan, Program, Thread};
use crate::ranges;
use crate::runs::{Cursor, Run, Runs};
use crate::spec::{Format, Spec, bad};

/// Bits set by [`Defect::BitmapSpareBits`].
const SPARE_BITS: u64 = 3;

/// A part of the file.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Bytes(Vec<u8>),
    Bitmap,
    Pmap,
    Pages,
}

/// A synthetic dump: any byte of it, on demand.
#[derive(Debug)]
pub struct SynthDump {
    pub(crate) spec: Spec,
    pub(crate) kernel: Kernel,
    /// In pages.
    pub(crate) avail: Vec<Range<u64>>,
    pub(crate) runs: Runs,
    pub(crate) content: Content,
    pub(crate) log: String,
    pub(crate) program: Option<Program>,
    pub(crate) threads: Vec<Thread>,
    /// With the number of the first 4 KiB of each.
    parts: Vec<(u64, Part)>,
    /// Bytes of the file.
    len: u64,
    /// Look-ups go on where the last ones ended.
    cursors: Mutex<Vec<Cursor>>,
}

impl SynthDump {
    /// Lays the dump out. Takes a few hundred KiB, and some KiB a process,
    /// however large the dump is.
    pub fn new(mut spec: Spec) -> Result<Self, Error> {
        if spec.format == Format::Elf {
            spec.version = spec.arch.newest_version();
        }
        spec.check()?;
        let avail = ranges::avail(&spec);
        let page = spec.page_size;
        let (log, ring) = msgbuf::msgbuf(&spec);
        let mut program = Program::new(&spec);
        let plan = Plan::new(spec.procs);
        // Without a program there is nothing that runs.
        let (slab, stacks) = match program {
            Some(_) => (plan.slab(), plan.threads()),
            None => (0, 0),
        };
        let mut kernel = Kernel::new(&spec, &avail, msgbuf::SIZE + slab, stacks)?;
        kernel.put(kernel.slab_pa(), &ring);
        let mut threads = Vec::new();
        if let Some(program) = &mut program {
            program.absolute("kernbase", kernel.link_base());
            threads = program::write(&mut kernel, program, &plan, &ring, log.len());
        }
        kernel.put(kernel.image_pa(), format!("{spec}\n\0").as_bytes());

        let per_page = spec.page_frames();
        let frames = kernel.frames();
        let fixed = frames.start / per_page..frames.end / per_page;
        let total = spec.dump / page;
        let least = fixed.end - fixed.start;
        if total < least {
            return Err(Error::Argument {
                argument: "dump",
                found: format!("{} bytes", spec.dump),
                expected: format!("at least {} for the kernel's own pages", least * page),
            });
        }
        let minidump = spec.format == Format::Minidump;
        let identity = minidump && !spec.has_dump_avail();
        let most_runs = if minidump { u64::MAX } else { elf::MOST_RUNS };
        let runs = Runs::new(&avail, identity, fixed, total, spec.run_pages, most_runs, spec.seed);
        let mut parts = if minidump {
            minidump_parts(&spec, &kernel, &avail, &runs, ring)?
        } else {
            elf::parts(&spec, &kernel, &runs)?
        };

        if spec.has(Defect::BadPte) || spec.has(Defect::MissingPtPage) {
            // A page of memory that isn't dumped, or, where all is, one that
            // doesn't exist.
            let top = avail.last().map_or(0, |r| r.end);
            let mut gaps = runs.merged().map(|r| r.pfn + r.pages);
            let gap = gaps.find(|&pfn| avail.iter().any(|r| r.contains(&pfn))).unwrap_or(top);
            let (pte, table) = (spec.has(Defect::BadPte), spec.has(Defect::MissingPtPage));
            kernel.break_tables(gap * page, pte, table);
        }
        if let Some((_, Part::Bytes(header))) = parts.first_mut() {
            break_header(&spec, header);
        }
        if spec.has(Defect::Trailing) {
            parts.push((8192, Part::Bytes(vec![0xa5; 8192])));
        }
        let mut starts = Vec::new();
        let mut end = 0;
        for (size, part) in parts {
            starts.push((end, part));
            end += size.next_multiple_of(page) / FRAME_SIZE;
        }
        let content = Content::new(&spec);
        let mut len = end * FRAME_SIZE;
        for defect in &spec.defects {
            if let Defect::Truncate(percent) = defect {
                // In the middle of a page, as it comes.
                len = len * u64::from(*percent) / 100;
            }
        }
        Ok(Self {
            spec,
            kernel,
            avail,
            runs,
            content,
            log,
            program,
            threads,
            parts: starts,
            len,
            cursors: Mutex::default(),
        })
    }

    /// Bytes of the dump.
    pub fn len(&self) -> u64 {
        self.len
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
        let mut page = [0; FRAME_SIZE as usize];
        self.with_cursor(|cursor| {
            let mut done = 0;
            while done < total {
                let at = off + done as u64;
                let within = (at % FRAME_SIZE) as usize;
                let n = (page.len() - within).min(total - done);
                self.file_page(at / FRAME_SIZE, &mut page, cursor);
                buf[done..done + n].copy_from_slice(&page[within..within + n]);
                done += n;
            }
        });
        total
    }

    /// The first range at or after `off` outside of which, up to there,
    /// everything is zero; `None` when only zeros follow. Found a piece at a
    /// time: two of them may meet.
    pub fn next_data(&self, off: u64) -> Option<Range<u64>> {
        self.with_cursor(|cursor| {
            let units = self.units();
            let first = self.next_nonzero(off / FRAME_SIZE, units, cursor)?;
            // Callers seldom want all of a long one.
            let most = units.min(first + 4096);
            let end = (first + 1..most).find(|&n| self.is_zero(n, cursor)).unwrap_or(most);
            let found = (first * FRAME_SIZE).max(off)..(end * FRAME_SIZE).min(self.len);
            (!found.is_empty()).then_some(found)
        })
    }

    /// Fills `page` with the memory at physical address `pa`, a multiple of
    /// 4096; false where the page isn't dumped.
    pub fn page(&self, pa: u64, page: &mut [u8; 4096]) -> bool {
        let frame = Frame(pa / FRAME_SIZE);
        let pfn = pa / self.spec.page_size;
        let run = self.with_cursor(|cursor| self.runs.at_or_after_pfn(pfn, cursor));
        let present = run.is_some_and(|r| r.pfn <= pfn);
        if present {
            self.memory_page(frame, page);
        }
        present
    }

    fn with_cursor<T>(&self, f: impl FnOnce(&mut Cursor) -> T) -> T {
        let lock = || self.cursors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let kept = lock().pop();
        let mut cursor = kept.unwrap_or_default();
        let out = f(&mut cursor);
        lock().push(cursor);
        out
    }

    fn memory_page(&self, frame: Frame, page: &mut Page) {
        if self.kernel.frames().contains(&frame.0) {
            self.kernel.fill(&self.content, frame, page);
        } else {
            self.content.fill(frame, page);
        }
    }

    /// The part that 4 KiB of the file belong to, and which of its are meant.
    fn part(&self, number: u64) -> Option<(&Part, u64)> {
        let i = self.parts.partition_point(|(start, _)| *start <= number).checked_sub(1)?;
        let (start, part) = &self.parts[i];
        (number < self.units()).then_some((part, number - start))
    }

    /// The frame at 4 KiB of the pages part, and how many follow it in the
    /// file and in memory.
    fn frames_at(&self, number: u64, cursor: &mut Cursor) -> Range<u64> {
        let per_page = self.spec.page_frames();
        let run = self.runs.by_ordinal(number / per_page, cursor);
        let first = run.pfn * per_page + (number - run.ordinal * per_page);
        first..(run.pfn + run.pages) * per_page
    }

    /// Whether 4 KiB of the file are known to be zero without being made.
    fn is_zero(&self, number: u64, cursor: &mut Cursor) -> bool {
        match self.part(number) {
            None => true,
            Some((Part::Bytes(bytes), n)) => slice(bytes, n).iter().all(|&b| b == 0),
            Some((Part::Bitmap, n)) => {
                let bits = bits_of(n);
                if self.spec.has(Defect::BitmapSpareBits) && bits.contains(&self.runs.bits) {
                    return false;
                }
                self.runs.at_or_after_bit(bits.start, cursor).is_none_or(|r| r.bit >= bits.end)
            }
            Some((Part::Pmap, n)) => !self.kernel.pmap_page_used(n),
            Some((Part::Pages, n)) => {
                let frame = self.frames_at(n, cursor).start;
                !self.kernel.frames().contains(&frame) && self.content.is_zero(Frame(frame))
            }
        }
    }

    /// The first 4 KiB in the range that may be other than zero.
    pub(crate) fn next_nonzero(
        &self,
        mut number: u64,
        end: u64,
        cursor: &mut Cursor,
    ) -> Option<u64> {
        let kernel = self.kernel.frames();
        while number < end {
            let Some((Part::Pages, n)) = self.part(number) else {
                if !self.is_zero(number, cursor) {
                    return Some(number);
                }
                number += 1;
                continue;
            };
            let mut frames = self.frames_at(n, cursor);
            frames.end = frames.end.min(frames.start + (end - number));
            // The kernel's own pages are never skipped.
            let until = if frames.start < kernel.end && kernel.start < frames.end {
                frames.start.max(kernel.start)
            } else {
                frames.end
            };
            let found = self
                .content
                .next_nonzero(frames.start..until)
                .or_else(|| (until < frames.end).then_some(until));
            if let Some(frame) = found {
                return Some(number + (frame - frames.start));
            }
            number += frames.end - frames.start;
        }
        None
    }

    /// 4 KiB of the file.
    pub(crate) fn file_page(&self, number: u64, page: &mut Page, cursor: &mut Cursor) {
        match self.part(number) {
            None => page.fill(0),
            Some((Part::Bytes(bytes), n)) => {
                page.fill(0);
                let part = slice(bytes, n);
                page[..part.len()].copy_from_slice(part);
            }
            Some((Part::Bitmap, n)) => self.bitmap_page(n, page, cursor),
            Some((Part::Pmap, n)) => self.kernel.pmap_page(n, page),
            Some((Part::Pages, n)) => {
                self.memory_page(Frame(self.frames_at(n, cursor).start), page);
            }
        }
    }

    /// 4 KiB units of the file; the last may end sooner.
    pub(crate) fn units(&self) -> u64 {
        self.len.div_ceil(FRAME_SIZE)
    }

    fn bitmap_page(&self, number: u64, page: &mut Page, cursor: &mut Cursor) {
        page.fill(0);
        let bits = bits_of(number);
        let mut at = bits.start;
        while at < bits.end
            && let Some(run) = self.runs.at_or_after_bit(at, cursor)
        {
            let from = run.bit.max(bits.start);
            let to = (run.bit + run.pages).min(bits.end);
            if from < to {
                set_bits(page, from - bits.start..to - bits.start);
            }
            at = run.bit + run.pages;
        }
        if self.spec.has(Defect::BitmapSpareBits) && bits.contains(&self.runs.bits) {
            let first = self.runs.bits - bits.start;
            set_bits(page, first..(first + SPARE_BITS).min(FRAME_SIZE * 8));
        }
        if self.spec.arch.is_big_endian() {
            page.chunks_exact_mut(8).for_each(<[u8]>::reverse);
        }
    }

    /// The run that holds the dumped page at `ordinal`: physical address of
    /// that page, and how many from there on follow each other. `None` past
    /// the last page.
    pub fn run_at(&self, ordinal: u64) -> Option<(u64, u64)> {
        (ordinal < self.runs.total()).then(|| {
            let run = self.with_cursor(|cursor| self.runs.by_ordinal(ordinal, cursor));
            let within = ordinal - run.ordinal;
            ((run.pfn + within) * self.spec.page_size, run.pages - within)
        })
    }

    /// Dumped pages.
    pub fn pages(&self) -> u64 {
        self.runs.total()
    }

    /// The kernel image that belongs to the dump; `None` on arm and powerpc64,
    /// for which none is made.
    pub fn kernel_image(&self) -> Option<Vec<u8>> {
        Some(self.program.as_ref()?.image(self.kernel.image_va()))
    }

    /// Runs of dumped pages, merged.
    pub(crate) fn merged_runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.runs.merged()
    }
}

fn set_bits(page: &mut Page, bits: Range<u64>) {
    let mut bit = bits.start;
    while bit < bits.end {
        if bit.is_multiple_of(8) && bits.end - bit >= 8 {
            page[(bit / 8) as usize] = 0xff;
            bit += 8;
        } else {
            page[(bit / 8) as usize] |= 1 << (bit % 8);
            bit += 1;
        }
    }
}

fn slice(bytes: &[u8], number: u64) -> &[u8] {
    let start = ((number * FRAME_SIZE) as usize).min(bytes.len());
    &bytes[start..(start + FRAME_SIZE as usize).min(bytes.len())]
}

fn bits_of(number: u64) -> Range<u64> {
    number * FRAME_SIZE * 8..(number + 1) * FRAME_SIZE * 8
}

/// A minidump's parts and their sizes in bytes. Order and rounding as in
/// `sys/*/*/minidump_machdep.c`.
fn minidump_parts(
    spec: &Spec,
    kernel: &Kernel,
    avail: &[Range<u64>],
    runs: &Runs,
    ring: Vec<u8>,
) -> Result<Vec<(u64, Part)>, Error> {
    let page = spec.page_size;
    let spare = if spec.has(Defect::BitmapSpareBits) { SPARE_BITS } else { 0 };
    let bitmap = (runs.bits + spare).div_ceil(8).next_multiple_of(page);
    if bitmap > u64::from(u32::MAX) {
        return Err(Error::Argument {
            argument: "avail",
            found: format!("a bitmap of {bitmap} bytes"),
            expected: "one whose size fits into 32 bits".into(),
        });
    }
    // The kernel dumps the whole array: a page.
    let dump_avail = if spec.has_dump_avail() { page } else { 0 };
    let sizes = Sizes { msgbuf: ring.len() as u64, dump_avail, bitmap };
    let mut parts =
        vec![(page, Part::Bytes(kernel.header(&sizes))), (sizes.msgbuf, Part::Bytes(ring))];
    let two_ranges = [Defect::DumpAvailUnsorted, Defect::DumpAvailOverlap];
    if let Some(&defect) = two_ranges.iter().find(|&&d| avail.len() < 2 && spec.has(d)) {
        return bad("defect", defect, "one that this memory can have: it is one range");
    }
    if dump_avail > 0 {
        parts.push((dump_avail, Part::Bytes(dump_avail_bytes(spec, avail))));
    }
    parts.push((bitmap, Part::Bitmap));
    parts.push((kernel.pmap_size(), Part::Pmap));
    parts.push((spec.dump, Part::Pages));
    Ok(parts)
}

/// Pairs of `vm_paddr_t`: 64 bits but on arm, ended by a pair of zeros.
fn dump_avail_bytes(spec: &Spec, avail: &[Range<u64>]) -> Vec<u8> {
    let narrow = (spec.arch == Arch::Arm) != spec.has(Defect::DumpAvailWidth);
    let width = if narrow { 4 } else { 8 };
    let mut bytes = vec![0; spec.page_size as usize];
    let mut fields = Fields { bytes: &mut bytes, big: spec.arch.is_big_endian() };
    let mut ends: Vec<u64> =
        avail.iter().flat_map(|r| [r.start, r.end]).map(|pfn| pfn * spec.page_size).collect();
    if ends.len() > 2 {
        if spec.has(Defect::DumpAvailUnsorted) {
            ends.swap(0, 2);
            ends.swap(1, 3);
        }
        if spec.has(Defect::DumpAvailOverlap) {
            ends[2] = ends[1] - spec.page_size;
        }
    }
    if spec.has(Defect::DumpAvailOpen) {
        let (mut at, step) = (ends[ends.len() - 1] + spec.page_size, 2 * spec.page_size);
        while ends.len() * width < spec.page_size as usize {
            ends.push(at);
            at += step / 2;
        }
    }
    for (i, &end) in ends.iter().enumerate() {
        if narrow {
            fields.u32(i * width, end);
        } else {
            fields.u64(i * width, end);
        }
    }
    bytes
}

/// The defects of a header.
fn break_header(spec: &Spec, header: &mut [u8]) {
    if spec.has(Defect::BadMagic) {
        header[0] ^= 0x20;
    }
    let powerpc = matches!(spec.arch, Arch::Powerpc64 | Arch::Powerpc64le);
    let version = if powerpc { 64 } else { 24 };
    let mut f = Fields { bytes: header, big: spec.arch.is_big_endian() };
    if spec.has(Defect::BadVersion) {
        f.u32(version, 99);
    }
    if spec.has(Defect::HugeSizes) {
        // bitmapsize, pmapsize
        f.u32(version + 8, 0xffff_f000).u32(version + 12, 0xffff_f000);
    }
}
