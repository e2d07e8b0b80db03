//! What a dump is made from.

use crate::error::Error;
use crate::memory::PAGE_SIZE;

/// The arguments of a synthetic dump. The same spec gives the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Minidump version: 1 (PTEs, bit n is page n), 2 (PDEs, bit n is page n)
    /// or 3 (PDEs, dump_avail).
    pub version: u32,
    /// Bytes of physical memory the machine has, in whole pages; up to 16 TiB.
    pub ram: u64,
    /// Bytes of dumped pages, in whole pages.
    pub dump: u64,
    /// Decides which pages are dumped and what is in them.
    pub seed: u64,
    /// Mean length of a run of dumped pages.
    pub run_pages: u64,
}

impl Default for Spec {
    fn default() -> Self {
        Self { version: 3, ram: 4 << 30, dump: 256 << 20, seed: 1, run_pages: 64 }
    }
}

/// More memory than this is more than one direct-map slot of 8 PML4 entries
/// holds (`NDMPML4E`, `sys/amd64/include/vmparam.h`: 4 TiB to 32 TiB).
const MOST_RAM: u64 = 16 << 40;

impl Spec {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |argument, found: String, expected: &str| {
            Err(Error::Argument { argument, found, expected: expected.into() })
        };
        if !(1..=3).contains(&self.version) {
            return bad("version", self.version.to_string(), "1, 2 or 3");
        }
        if self.ram > MOST_RAM || self.ram < 16 << 20 || !self.ram.is_multiple_of(PAGE_SIZE) {
            let found = format!("{} bytes", self.ram);
            return bad("ram", found, "16 MiB to 16 TiB, in whole pages of 4 KiB");
        }
        if self.dump > self.ram || !self.dump.is_multiple_of(PAGE_SIZE) {
            let found = format!("{} bytes", self.dump);
            return bad("dump", found, "at most the machine's memory, in whole pages of 4 KiB");
        }
        if self.run_pages == 0 {
            return bad("run_pages", "0".into(), "at least 1");
        }
        Ok(())
    }
}
