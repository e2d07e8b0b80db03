//! An array of the index, used straight from the source's memory where it
//! has one.

use std::sync::Arc;

use vmcask_dump::ReadAt;
use zerocopy::{FromBytes, Immutable};

use crate::error::{Error, Result};

/// An integer as the index stores it.
pub(crate) trait Word: FromBytes + Immutable + Copy + Send + Sync + 'static {
    fn to_native(self) -> Self;
}

macro_rules! word {
    ($($ty:ty)*) => {$(
        impl Word for $ty {
            fn to_native(self) -> Self {
                <$ty>::from_le(self)
            }
        }
    )*};
}
word!(u16 u32 u64);

/// `len` integers.
pub(crate) enum Table<T> {
    Mapped { src: Arc<dyn ReadAt>, off: u64, bytes: usize },
    Owned(Vec<T>),
}

impl<T: Word> Table<T> {
    /// The table in `bytes` bytes at `off`, which lie inside `src`: mapped
    /// where the source is memory and this machine little-endian, else a
    /// copy.
    pub(crate) fn new(src: &Arc<dyn ReadAt>, off: u64, bytes: usize) -> Result<Self> {
        if cfg!(target_endian = "little")
            && src.slice(off, bytes).is_some_and(|b| <[T]>::ref_from_bytes(b).is_ok())
        {
            return Ok(Self::Mapped { src: src.clone(), off, bytes });
        }
        let mut copy = vec![0; bytes];
        src.read_exact_at(off, &mut copy).map_err(|source| Error::Read {
            off,
            len: bytes,
            source,
        })?;
        let words = copy
            .chunks_exact(size_of::<T>())
            .filter_map(|b| T::read_from_bytes(b).ok())
            .map(T::to_native)
            .collect();
        Ok(Self::Owned(words))
    }
}

impl<T: Word> AsRef<[T]> for Table<T> {
    fn as_ref(&self) -> &[T] {
        match self {
            // Both have succeeded once; a source keeps its memory.
            Self::Mapped { src, off, bytes } => src
                .slice(*off, *bytes)
                .and_then(|b| <[T]>::ref_from_bytes(b).ok())
                .unwrap_or_default(),
            Self::Owned(words) => words,
        }
    }
}
