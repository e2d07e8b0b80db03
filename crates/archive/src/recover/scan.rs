//! Walking an archive frame by frame without its index, and finding the next
//! frame where one is damaged.

use std::sync::atomic::{AtomicBool, Ordering};

use vmcask_dump::ReadAt;
use zstd_safe::{compress_bound, get_frame_content_size};

use crate::checkpoint::Window;
use crate::error::{Error, Result};
use crate::layout::{
    CELL_SIZE, CHECKPOINT_FRAME, DATA_FRAME, INDEX_FRAME, LOCATOR_FRAME, MAX_CELLS_PER_FRAME,
    MAX_HOLE_FRAME, SEEK_TABLE_FRAME,
};
use crate::reader::frames::frame_len;

/// Longest content of a data frame.
pub(super) const MOST_CONTENT: u64 = MAX_CELLS_PER_FRAME as u64 * CELL_SIZE as u64;
/// Longest checkpoint frame.
const MOST_CHECKPOINT: usize = 256 << 10;
/// Bytes looked through at a time for the next frame.
const STEP: usize = 64 << 10;

/// Something found in the file.
#[derive(Debug)]
pub(super) enum Found {
    /// Frames follow that can't be told apart; the count of those before it
    /// says nothing about those behind it.
    Gap,
    /// A frame with this many bytes of content.
    Frame {
        off: u64,
        len: u64,
        content: u64,
    },
    Checkpoint(Box<Window>),
}

/// Shows `f` everything up to `end`, in order.
pub(super) fn walk(
    src: &dyn ReadAt,
    end: u64,
    cancelled: &AtomicBool,
    mut f: impl FnMut(Found),
) -> Result<()> {
    let end = end.min(src.len());
    let mut at = 0;
    // Where to look from when no frame begins at `at`.
    let mut doubtful = 1;
    let mut copy = Vec::new();
    while at < end {
        if cancelled.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        if let Some((found, len)) = frame_at(src, at, end, &mut copy)? {
            // A data frame's length is guarded by nothing: where it leads
            // nowhere, it may have led over whole frames.
            let is_data = matches!(found, Some(Found::Frame { .. }));
            doubtful = if is_data { at + 1 } else { at + len };
            if let Some(found) = found {
                f(found);
            }
            at += len;
        } else {
            f(Found::Gap);
            match next_magic(src, doubtful, end)? {
                Some(next) => at = next,
                None => return Ok(()),
            }
            doubtful = at + 1;
        }
    }
    Ok(())
}

/// Shows `f` every whole data frame up to `end`: offset and bytes.
pub(super) fn frames(
    src: &dyn ReadAt,
    end: u64,
    cancelled: &AtomicBool,
    mut f: impl FnMut(u64, &[u8]),
) -> Result<()> {
    let mut failed = None;
    walk(src, end, cancelled, |found| {
        if let Found::Frame { off, len, .. } = found {
            let mut copy = Vec::new();
            match bytes(src, off, len as usize, &mut copy) {
                Ok(bytes) => f(off, bytes),
                Err(e) => failed = Some(e),
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}

type FoundAndLength = (Option<Found>, u64);

fn frame_at(
    src: &dyn ReadAt,
    at: u64,
    end: u64,
    copy: &mut Vec<u8>,
) -> Result<Option<FoundAndLength>> {
    let left = (end - at).min(usize::MAX as u64) as usize;
    let header = bytes(src, at, left.min(18), copy)?;
    let word = |i: usize| {
        let bytes = header.get(i..i + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let (Some(magic), Some(size)) = (word(0), word(4)) else { return Ok(None) };
    if magic == DATA_FRAME {
        let Ok(Some(content)) = get_frame_content_size(header) else { return Ok(None) };
        if content > MOST_CONTENT.max(MAX_HOLE_FRAME.into()) {
            return Ok(None);
        }
        let most = compress_bound(content as usize).min(left);
        let frame = bytes(src, at, most, copy)?;
        let Ok(len) = frame_len(frame, content as usize) else { return Ok(None) };
        let len = len as u64;
        return Ok(Some((Some(Found::Frame { off: at, len, content }), len)));
    }
    let len = u64::from(size) + 8;
    if len > left as u64 || magic & 0xffff_fff0 != 0x184D_2A50 {
        return Ok(None);
    }
    match magic {
        CHECKPOINT_FRAME if len as usize <= MOST_CHECKPOINT => {
            let frame = bytes(src, at, len as usize, copy)?;
            let window = Window::decode(frame).map(Box::new);
            Ok(window.map(|w| (Some(Found::Checkpoint(w)), len)))
        }
        CHECKPOINT_FRAME => Ok(None),
        // Only where they lead to another frame or the end: their sizes are
        // guarded by nothing.
        _ => {
            let next = at + len;
            let known =
                [DATA_FRAME, CHECKPOINT_FRAME, INDEX_FRAME, LOCATOR_FRAME, SEEK_TABLE_FRAME];
            let sound = next == end || {
                let mut magic = [0; 4];
                let n = src.read_at(next, &mut magic).map_err(|source| Error::Read {
                    off: next,
                    len: 4,
                    source,
                })?;
                n == 4 && known.contains(&u32::from_le_bytes(magic))
            };
            Ok(sound.then_some((None, len)))
        }
    }
}

fn bytes<'a>(src: &'a dyn ReadAt, off: u64, len: usize, copy: &'a mut Vec<u8>) -> Result<&'a [u8]> {
    if let Some(bytes) = src.slice(off, len) {
        return Ok(bytes);
    }
    copy.resize(len, 0);
    let n = src.read_at(off, copy).map_err(|source| Error::Read { off, len, source })?;
    Ok(&copy[..n])
}

/// The next place at or after `from` where a data frame or a checkpoint may
/// begin.
fn next_magic(src: &dyn ReadAt, from: u64, end: u64) -> Result<Option<u64>> {
    let mut at = from;
    let mut buf = vec![0; STEP + 3];
    while at + 4 <= end {
        let data = src.next_data(at).map_err(|source| Error::Read { off: at, len: 1, source })?;
        match data {
            // A magic number may begin with the hole's last zeros.
            Some(data) => at = at.max(data.start.saturating_sub(3)),
            None => return Ok(None),
        }
        let want = (end - at).min(buf.len() as u64) as usize;
        let n = src.read_at(at, &mut buf[..want]).map_err(|source| Error::Read {
            off: at,
            len: want,
            source,
        })?;
        let found = buf[..n]
            .windows(4)
            .position(|w| w == DATA_FRAME.to_le_bytes() || w == CHECKPOINT_FRAME.to_le_bytes());
        if let Some(i) = found {
            return Ok(Some(at + i as u64));
        }
        if n < 4 {
            break;
        }
        at += n as u64 - 3;
    }
    Ok(None)
}
