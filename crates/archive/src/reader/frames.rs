//! Data frames: found by the index, decompressed, checked.

use std::sync::Arc;

use zstd_safe::{
    compress_bound, find_frame_compressed_size, get_error_name, get_frame_content_size,
};

use super::ArchiveReader;
use super::sections::{field, read};
use crate::error::{Error, Result};
use crate::layout::{CELL_SIZE, DATA_FRAME, FRAMES_PER_BASE, Head};

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

    /// A decoded frame, from the cache or into it.
    pub(super) fn frame(&self, frame: u64) -> Result<Arc<[u8]>> {
        if let Some(content) = self.cache.get(frame) {
            return Ok(content);
        }
        let mut content = vec![0; self.frame_len(frame)];
        self.decode(frame, &mut content)?;
        let content: Arc<[u8]> = content.into();
        self.cache.put(frame, content.clone());
        Ok(content)
    }

    /// Decompresses a frame into `content`, which has its length. zstd checks
    /// the content's checksum.
    pub(crate) fn decode(&self, frame: u64, content: &mut [u8]) -> Result<()> {
        let (start, next) = self.frame_range(frame)?;
        // Frames that the index doesn't name may follow; this one can't be
        // longer than what zstd makes of incompressible content.
        let most = (next - start).min(compress_bound(content.len()) as u64) as usize;
        let copy;
        let compressed = if let Some(bytes) = self.src.slice(start, most) {
            bytes
        } else {
            copy = read(&*self.src, start, most, "data frame")?;
            &copy
        };
        let check = self.checks.u32(&*self.src, frame)?;
        let wrong = |what: &str| self.frame_error(frame, what);
        let len = frame_len(compressed, content.len()).map_err(wrong)?;
        // zstd's own checksum is of the content: it lets pass what doesn't
        // change that, and frames that have changed places.
        if crc32fast::hash(&compressed[..len]) != check {
            return Err(wrong("it is damaged, or another frame"));
        }
        let n = self
            .cache
            .with_context(|context| context.decompress(content, &compressed[..len]))
            .map_err(|code| wrong(get_error_name(code)))?;
        if n != content.len() {
            return Err(wrong("its content is shorter than its cells"));
        }
        Ok(())
    }
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

/// Whether a frame is whole and holds `content` zeros.
pub(super) fn holds_zeros(bytes: &[u8], content: usize) -> bool {
    if frame_len(bytes, content) != Ok(bytes.len()) {
        return false;
    }
    let mut zeros = vec![1; content];
    zstd_safe::decompress(&mut zeros[..], bytes) == Ok(content) && zeros.iter().all(|&b| b == 0)
}
