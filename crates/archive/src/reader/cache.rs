//! Decoded frames, a few of them, and decompression contexts. Shared by all
//! threads that read, without one lock for all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zstd_safe::{DCtx, DParameter};

/// Independent parts, so that threads seldom wait for each other.
const SHARDS: usize = 16;
/// Bytes of decoded frames kept in all.
const CACHE_BYTES: usize = 8 << 20;

type Frame = (u64, Arc<Vec<u8>>);

pub(super) struct FrameCache {
    shards: Vec<Mutex<Vec<Option<Frame>>>>,
    contexts: Mutex<Vec<DCtx<'static>>>,
    /// Frames' bytes are known to be those that were written.
    checked: bool,
}

/// What is behind these locks is whole at every moment: a thread that
/// panicked elsewhere while holding one has broken nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A context that writes where it is told to, and where frames have been
/// `checked` leaves zstd's checksum of the content alone: hashing that too takes
/// a tenth of a page's time.
fn context(checked: bool) -> DCtx<'static> {
    let mut context = DCtx::create();
    for parameter in [DParameter::StableOutBuffer(true), DParameter::ForceIgnoreChecksum(checked)] {
        // Nothing is lost but speed where zstd doesn't know one.
        let _ = context.set_parameter(parameter);
    }
    context
}

impl FrameCache {
    pub(super) fn new(frame_len: usize, checked: bool) -> Self {
        let places = (CACHE_BYTES / SHARDS / frame_len).max(1);
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(vec![None; places])).collect(),
            contexts: Mutex::new(Vec::new()),
            checked,
        }
    }

    /// Neighbours go to different shards, and to different places of them.
    fn shard(&self, frame: u64) -> (MutexGuard<'_, Vec<Option<Frame>>>, usize) {
        let shard = lock(&self.shards[frame as usize % SHARDS]);
        let place = (frame / SHARDS as u64) as usize % shard.len();
        (shard, place)
    }

    pub(super) fn get(&self, frame: u64) -> Option<Arc<Vec<u8>>> {
        let (shard, place) = self.shard(frame);
        shard[place].as_ref().filter(|f| f.0 == frame).map(|f| f.1.clone())
    }

    pub(super) fn put(&self, frame: u64, content: Arc<Vec<u8>>) {
        let (mut shard, place) = self.shard(frame);
        shard[place] = Some((frame, content));
    }

    /// Runs `f` with a context of its own; contexts are costly to make.
    pub(super) fn with_context<R>(&self, f: impl FnOnce(&mut DCtx<'static>) -> R) -> R {
        let mut context = lock(&self.contexts).pop().unwrap_or_else(|| context(self.checked));
        let result = f(&mut context);
        lock(&self.contexts).push(context);
        result
    }
}
