//! What crash tools ask of a dump, each time with a dump opened anew.
//!
//! Which tools there are, what each of them walks, and how many objects it
//! reads is a **model** ([`crashinfo`] has its numbers); what the walks find,
//! how long they take and how many pages they look up is measured. Kernel
//! memory is read as libkvm reads it: every field with a read of its own,
//! nothing cached.

mod bt_all;
pub mod crashinfo;
mod scan;

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write};
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use vmcask_dump::source::FileSource;
use vmcask_dump::{KernelImage, PhysAddr, ReadAt};
use vmcask_inspect::Kernel;

use crate::error::{Error, Result};
use crate::lookup::Lookup;
use crate::open::{self, Opened, Reading};

pub use bt_all::bt_all;
pub use scan::scan;

/// How the dump is opened.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The dump.
    pub file: &'a Path,
    /// The image of its kernel.
    pub kernel: &'a Path,
    /// The table that finds pages.
    pub lookup: Lookup,
    /// How the file is read.
    pub reading: Reading,
    /// Whether lookups are counted; not for what is timed.
    pub count: bool,
}

/// What a workload did. With different lookups, all but `lookup_bytes` are
/// the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Of everything it would have printed, or of the pages it read.
    pub digest: u64,
    /// Bytes of memory that the table took.
    pub lookup_bytes: u64,
    /// Pages looked up, where they were counted.
    pub lookups: Option<u64>,
}

impl Setup<'_> {
    fn open(&self) -> Result<Opened> {
        open::open(self.file, self.lookup, self.reading, self.count)
    }

    fn image(&self) -> Result<KernelImage> {
        let path = self.kernel;
        let file =
            FileSource::open(path).map_err(|source| Error::File { path: path.into(), source })?;
        let file: std::sync::Arc<dyn ReadAt> = std::sync::Arc::new(file);
        KernelImage::open(&file).map_err(|source| Error::Dump { path: path.into(), source })
    }
}

fn done(opened: Opened, digest: u64) -> Done {
    let done = Done { digest, lookup_bytes: opened.lookup_bytes, lookups: opened.lookups() };
    // Tools end without closing the dump: nothing is charged for freeing two
    // million nodes one by one.
    std::mem::forget(opened);
    done
}

fn kernel<'a>(opened: &'a Opened, image: &'a KernelImage) -> Result<Kernel<'a>> {
    Ok(Kernel::new(&opened.dump, image)?.uncached())
}

/// Addresses of `n` objects in dumped pages, `per_page` to a page, in random
/// order: where the kernel's allocator has put what lists lead to. The same
/// for the same arguments.
pub fn objects(file: &Path, n: usize, per_page: usize) -> Result<Vec<PhysAddr>> {
    let opened = open::open(file, Lookup::Rank, Reading::Mmap, false)?;
    let dump = &opened.dump;
    let present = dump.pages_present();
    if present == 0 {
        return Err(Error::NoPages);
    }
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
    let page = dump.page_size();
    let mut objects = Vec::with_capacity(n);
    for _ in 0..n.div_ceil(per_page) {
        let start = dump.page_address(rng.next_u64() % present)?.ok_or(Error::NoPages)?;
        let step = page / per_page as u64;
        objects.extend((0..per_page as u64).map(|i| PhysAddr(start.0 + i * step)));
    }
    objects.truncate(n);
    for i in (1..objects.len()).rev() {
        objects.swap(i, (rng.next_u64() % (i as u64 + 1)) as usize);
    }
    Ok(objects)
}

/// Takes what a tool prints, and keeps a digest of it alone.
#[derive(Default)]
struct Digest(DefaultHasher);

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
