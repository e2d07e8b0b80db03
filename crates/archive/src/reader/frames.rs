//! Data frames: found by the index, decompressed, checked.

use std::borrow::Cow;
use std::sync::Arc;

use zstd_safe::{
    InBuffer, OutBuffer, ResetDirective, WriteBuf, compress_bound, find_frame_compressed_size,
    get_error_name, get_frame_content_size,
};

use super::ArchiveReader;
use super::sections::{field, read};
use crate::error::{Error, Result};
use crate::layout::{CELL_SIZE, DATA_FRAME, FRAMES_PER_BASE, Head};

/// Frames longer than this are decompressed whole: zstd allocates what it
/// decompresses piece by piece.
const MOST_IN_PARTS: usize = 128 << 10;
/// Bytes of frames that are read together at most.
const MOST_NEAR: u64 = 5 << 20;

impl ArchiveReader {
    /// Bytes of a frame's content. At most 16 MiB, as the head was checked.
    pub(crate) fn frame_len(&self, frame: u64) -> usize {
        let full = self.cells_per_frame * CELL_SIZE as u64;
        full.min(self.stored_len.saturating_sub(frame * full)) as usize
    }

    /// Offset of a frame, and at most how far it reaches.
    pub(crate) fn frame_range(&self, frame: u64) -> Result<(u64, u64)> {
        match self.moved.get(&frame) {
            Some(Some((off, len))) => return Ok((*off, off + len)),
            Some(None) => {
                let what = "it isn't where it was written".to_owned();
                return Err(Error::Frame { frame, off: 0, len: 0, what });
            }
            None => {}
        }
        let src = &*self.src;
        let at = |f: u64| {
            let base = self.bases.u64(src, f / FRAMES_PER_BASE as u64)?;
            Ok::<_, Error>(base.saturating_add(self.offsets.u32(src, f)?.into()))
        };
        let (start, next) = (at(frame)?, at(frame + 1)?);
        if start < size_of::<Head>() as u64 || start >= next || next > self.layout.index_offset {
            return Err(field(
                self.layout.index_offset,
                "frame offsets",
                format!("{start:#x} to {next:#x} for frame {frame}"),
                "a range before the index",
            ));
        }
        Ok((start, next))
    }

    pub(super) fn frame_error(&self, frame: u64, what: &str) -> Error {
        let (off, end) = self.frame_range(frame).unwrap_or_default();
        Error::Frame { frame, off, len: end - off, what: what.to_owned() }
    }

    /// The first `wanted` bytes of a decoded frame, or more of them, from the
    /// cache or into it.
    pub(super) fn frame(&self, frame: u64, wanted: usize) -> Result<Arc<Vec<u8>>> {
        if let Some(content) = self.cache.get(frame).filter(|c| c.len() >= wanted) {
            return Ok(content);
        }
        let len = self.frame_len(frame);
        let compressed = self.compressed(frame, len, None)?;
        // Not filled with zeros first: that would take a tenth of the time.
        let mut content = Vec::with_capacity(len);
        if !self.first_blocks(&compressed, wanted, len, &mut content) {
            self.decompress(frame, &compressed, len, &mut content)?;
        }
        let content = Arc::new(content);
        self.cache.put(frame, content.clone());
        Ok(content)
    }

    /// Decompresses only the blocks that hold the first `wanted` bytes; `false`
    /// where that can't be done or saves nothing.
    fn first_blocks(
        &self,
        compressed: &[u8],
        wanted: usize,
        len: usize,
        content: &mut Vec<u8>,
    ) -> bool {
        let block = self.cells_per_block as usize * CELL_SIZE;
        if block == 0 || len > MOST_IN_PARTS {
            return false;
        }
        let blocks = wanted.div_ceil(block);
        if blocks * block >= len {
            return false;
        }
        let Some(end) = blocks_end(compressed, blocks) else { return false };
        let mut output = OutBuffer::around(content);
        let mut input = InBuffer::around(&compressed[..end]);
        let done = self.cache.with_context(|context| {
            context.reset(ResetDirective::SessionOnly)?;
            let done = context.decompress_stream(&mut output, &mut input);
            // It waits for the other blocks.
            context.reset(ResetDirective::SessionOnly)?;
            done
        });
        done.is_ok() && output.pos() == blocks * block
    }

    /// Decompresses a frame into `content`, which has its length.
    pub(crate) fn decode(&self, frame: u64, content: &mut [u8]) -> Result<()> {
        self.decode_near(frame, &Near::default(), content)
    }

    /// [`Self::decode`], of what has been read if it has.
    pub(super) fn decode_near(&self, frame: u64, near: &Near, content: &mut [u8]) -> Result<()> {
        let len = content.len();
        let compressed = self.compressed(frame, len, Some(near))?;
        self.decompress(frame, &compressed, len, content)
    }

    fn decompress(
        &self,
        frame: u64,
        compressed: &[u8],
        len: usize,
        content: &mut (impl WriteBuf + ?Sized),
    ) -> Result<()> {
        let wrong = |what: &str| self.frame_error(frame, what);
        let n = self
            .cache
            .with_context(|context| context.decompress(content, compressed))
            .map_err(|code| wrong(get_error_name(code)))?;
        if n != len {
            return Err(wrong("its content is shorter than its cells"));
        }
        Ok(())
    }

    /// A frame's bytes, of which `content` come out; those that were written,
    /// as their CRC says.
    fn compressed<'a>(
        &'a self,
        frame: u64,
        content: usize,
        near: Option<&'a Near>,
    ) -> Result<Cow<'a, [u8]>> {
        let (start, next) = self.frame_range(frame)?;
        // Frames that the index doesn't name may follow; this one can't be
        // longer than what zstd makes of incompressible content.
        let most = (next - start).min(compress_bound(content) as u64) as usize;
        let mut compressed =
            match near.and_then(|n| n.get(start, most)).or_else(|| self.src.slice(start, most)) {
                Some(bytes) => Cow::Borrowed(bytes),
                None => Cow::Owned(read(&*self.src, start, most, "data frame")?),
            };
        let check = self.checks.u32(&*self.src, frame)?;
        let wrong = |what: &str| self.frame_error(frame, what);
        let len = frame_len(&compressed, content).map_err(wrong)?;
        match &mut compressed {
            Cow::Borrowed(bytes) => *bytes = &bytes[..len],
            Cow::Owned(bytes) => bytes.truncate(len),
        }
        // zstd's own checksum is of the content: it lets pass what doesn't
        // change that, and frames that have changed places.
        if crc32fast::hash(&compressed) != check {
            return Err(wrong("it is damaged, or another frame"));
        }
        Ok(compressed)
    }

    /// Reads frames from `first` to `last` at once, unless much else lies between
    /// them, or they are in memory anyway. What fails here fails again where the
    /// frame at fault is read alone.
    pub(super) fn read_near(&self, first: u64, last: u64, near: &mut Near) {
        near.len = 0;
        let (Ok((start, _)), Ok((_, end))) = (self.frame_range(first), self.frame_range(last))
        else {
            return;
        };
        let content = (last - first + 1).saturating_mul(self.cells_per_frame * CELL_SIZE as u64);
        let len = end.saturating_sub(start);
        // What can't be compressed is a little longer.
        let most = MOST_NEAR.min(content.saturating_add(content / 8));
        if first == last || len > most || self.src.slice(start, 1).is_some() {
            return;
        }
        let len = len as usize;
        if near.bytes.len() < len {
            near.bytes.resize(len, 0);
        }
        if self.src.read_exact_at(start, &mut near.bytes[..len]).is_ok() {
            (near.start, near.len) = (start, len);
        }
    }
}

/// Bytes of the archive that have been read together.
#[derive(Default)]
pub(super) struct Near {
    start: u64,
    len: usize,
    /// Those, and others of before.
    bytes: Vec<u8>,
}

impl Near {
    fn get(&self, off: u64, len: usize) -> Option<&[u8]> {
        let from = usize::try_from(off.checked_sub(self.start)?).ok()?;
        self.bytes[..self.len].get(from..from.checked_add(len)?)
    }
}

/// Where the first `blocks` blocks of a whole frame end; `None` where it has
/// no more than those.
fn blocks_end(frame: &[u8], blocks: usize) -> Option<usize> {
    let descriptor = *frame.get(4)?;
    let single_segment = descriptor & 0x20 != 0;
    // RFC 8878, 3.1.1.1: window descriptor, dictionary, content size.
    let window = usize::from(!single_segment);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = [usize::from(single_segment), 2, 4, 8][usize::from(descriptor >> 6)];
    let mut at = 5 + window + dictionary + size;
    for _ in 0..blocks {
        let header = frame.get(at..at + 3)?;
        let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        let (last, kind, size) = (header & 1 != 0, header >> 1 & 3, header as usize >> 3);
        // A block of one byte repeated has that byte alone.
        at += 3 + if kind == 1 { 1 } else { size };
        if last {
            return None;
        }
    }
    (at < frame.len()).then_some(at)
}

/// Bytes of the data frame that `bytes` begins with, which must promise
/// `content` bytes and their checksum.
pub(crate) fn frame_len(bytes: &[u8], content: usize) -> Result<usize, &'static str> {
    // No skippable frames, and none of zstd's formats before 1.0.
    if !bytes.starts_with(&DATA_FRAME.to_le_bytes()) {
        return Err("no data frame begins there");
    }
    match get_frame_content_size(bytes) {
        Ok(Some(promised)) if promised == content as u64 => {}
        _ => return Err("its content has another size than its cells"),
    }
    // Bit 2 of the frame header descriptor: a content checksum follows. Bit 4
    // is unused; zstd ignores it, and a flip there would go unnoticed.
    if bytes.get(4).is_none_or(|descriptor| descriptor & 0x14 != 4) {
        return Err("its header isn't one that an archive has");
    }
    match find_frame_compressed_size(bytes) {
        Ok(len) if (9..=bytes.len()).contains(&len) => Ok(len),
        Ok(_) => Err("it is cut short"),
        Err(code) => Err(get_error_name(code)),
    }
}

/// Looks into a plain archive's frames of zeros. Nearly all are alike: only the
/// first of those is decompressed.
#[derive(Default)]
pub(crate) struct Zeros {
    /// The last that was right, and its content.
    known: Option<(Vec<u8>, usize)>,
}

impl Zeros {
    /// Whether a frame is whole and holds `content` zeros.
    pub(crate) fn are_in(&mut self, bytes: Vec<u8>, content: usize) -> bool {
        let known = self.known.as_ref().is_some_and(|(b, c)| (b, *c) == (&bytes, content));
        if !known && !holds_zeros(&bytes, content) {
            return false;
        }
        self.known = Some((bytes, content));
        true
    }
}

fn holds_zeros(bytes: &[u8], content: usize) -> bool {
    if frame_len(bytes, content) != Ok(bytes.len()) {
        return false;
    }
    let mut zeros = vec![1; content];
    zstd_safe::decompress(&mut zeros[..], bytes) == Ok(content) && zeros.iter().all(|&b| b == 0)
}
