//! The physical memory that a dump holds, whatever its format.

use crate::addr::{FileOff, PhysAddr};
use crate::error::{Error, Result};
use crate::source::ReadAt;

/// Physical memory, a run of file bytes at a time.
pub trait PhysMem: Send + Sync {
    /// The dump's bytes.
    fn source(&self) -> &dyn ReadAt;

    /// Where the byte at `pa` lies in the file, and how many bytes from there
    /// on are both present and contiguous in physical memory (at least 1).
    ///
    /// Fails with [`Error::Absent`] where the dump doesn't have the address
    /// and [`Error::Truncated`] where it should, but the file ends before it.
    fn locate(&self, pa: PhysAddr) -> Result<(FileOff, u64)>;

    /// Fills `buf` with physical memory from `pa` on. All of it must be
    /// present.
    fn read_phys(&self, pa: PhysAddr, buf: &mut [u8]) -> Result<()> {
        // Memory doesn't wrap: nothing lies past 2^64.
        let past_end = Error::Absent { pa: PhysAddr(u64::MAX) };
        fill(self.source(), pa.0, buf, past_end, &|pa| self.locate(PhysAddr(pa)))
    }
}

/// Fills `buf` with what lies at `address` and behind it, run by run: `locate`
/// says where in the file each begins and how long it is.
pub(crate) fn fill(
    source: &dyn ReadAt,
    mut address: u64,
    mut buf: &mut [u8],
    past_end: Error,
    locate: &dyn Fn(u64) -> Result<(FileOff, u64)>,
) -> Result<()> {
    while !buf.is_empty() {
        let (off, run) = locate(address)?;
        let n = usize::try_from(run).unwrap_or(usize::MAX).min(buf.len());
        let (now, rest) = buf.split_at_mut(n);
        source.read_exact_at(off.0, now).map_err(|source| Error::Io {
            off: off.0,
            len: n,
            source,
        })?;
        buf = rest;
        match address.checked_add(n as u64) {
            Some(next) => address = next,
            None if buf.is_empty() => {}
            None => return Err(past_end),
        }
    }
    Ok(())
}
