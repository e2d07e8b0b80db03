//! Data frames: found by the index, decompressed, checked.

use std::sync::Arc;

use zstd_safe::{
    compress_bound, find_frame_compressed_size, get_error_name, get_frame_content_size,
};

use super::ArchiveReader;
use super::sections::{field, read};
use crate::error::{Error, Result};
use crate::layout::{CELL_SIZE, FRAMES_PER_BASE, Head};

impl ArchiveReader {
    /// Bytes of a frame's content. At most 16 MiB, as the head was checked.
    pub(super) fn frame_len(&self, frame: u64) -> usize {
        let full = self.cells_per_frame * CELL_SIZE as u64;
        full.min(self.stored_len.saturating_sub(frame * full)) as usize
    }

    /// Offset of a frame, and at most how far it reaches.
    fn frame_range(&self, frame: u64) -> Result<(u64, u64)> {
        let at = |f: u64| {
            let base = self.bases.as_ref().get(f as usize / FRAMES_PER_BASE)?;
            base.checked_add((*self.offsets.as_ref().get(f as usize)?).into())
        };
        match (at(frame), at(frame + 1)) {
            (Some(start), Some(next))
                if start >= size_of::<Head>() as u64
                    && start < next
                    && next <= self.layout.index_offset =>
            {
                Ok((start, next))
            }
            (start, next) => Err(field(
                self.layout.index_offset,
                "frame offsets",
                format!("{start:?} to {next:?} for frame {frame}"),
                "a range before the index",
            )),
        }
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
    pub(super) fn decode(&self, frame: u64, content: &mut [u8]) -> Result<()> {
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
        let zstd = |code| self.frame_error(frame, get_error_name(code));
        let len = find_frame_compressed_size(compressed).map_err(zstd)?;
        match get_frame_content_size(compressed) {
            Ok(Some(promised)) if promised == content.len() as u64 => {}
            _ => return Err(self.frame_error(frame, "its content has another size than its cells")),
        }
        let n = self
            .cache
            .with_context(|context| context.decompress(content, &compressed[..len]))
            .map_err(zstd)?;
        if n != content.len() {
            return Err(self.frame_error(frame, "its content is shorter than its cells"));
        }
        Ok(())
    }
}
