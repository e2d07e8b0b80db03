//! A dump and its kernel image together.

use vmcask_dump::kernel::Symbol;
use vmcask_dump::{KernelImage, VirtAddr, VirtMem};

use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::threads::{self, ThreadList};

/// A dump and the image of the kernel that wrote it.
#[derive(Clone, Copy)]
pub struct Kernel<'a> {
    dump: &'a dyn VirtMem,
    image: &'a KernelImage,
    machine: Machine,
    cached: bool,
}

impl std::fmt::Debug for Kernel<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel")
            .field("image", &self.image)
            .field("machine", &self.machine)
            .finish_non_exhaustive()
    }
}

impl<'a> Kernel<'a> {
    /// Fails where the two are of different machines.
    pub fn new(dump: &'a dyn VirtMem, image: &'a KernelImage) -> Result<Self> {
        Ok(Self { dump, image, machine: Machine::of(dump, image)?, cached: true })
    }

    /// The same, but every read goes to the dump, as libkvm's do: for
    /// measuring what lookups cost.
    #[must_use]
    pub fn uncached(self) -> Self {
        Self { cached: false, ..self }
    }

    /// The image.
    pub fn image(&self) -> &'a KernelImage {
        self.image
    }

    /// The machine both are of.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// The dump's kernel memory, with a cache of its own.
    pub fn memory(&self) -> Memory<'a> {
        if self.cached {
            Memory::new(self.dump, self.machine)
        } else {
            Memory::uncached(self.dump, self.machine)
        }
    }

    /// Where `symbol` lies.
    pub fn symbol(&self, symbol: &'static str) -> Result<VirtAddr> {
        self.image.symbol(symbol).map(|s| s.addr).ok_or(Error::NoSymbol(symbol))
    }

    /// The kernel's `int` called `symbol`, from the dump.
    pub fn int(&self, symbol: &'static str) -> Result<i32> {
        Ok(self.memory().i32(self.symbol(symbol)?)?)
    }

    /// The function that holds `va`, and the bytes from its start. A return
    /// address lies behind its call, which may be a function's last
    /// instruction (`panic` doesn't return): the byte before decides then.
    pub fn function(&self, va: VirtAddr, is_return: bool) -> Option<(&'a Symbol, u64)> {
        let back = u64::from(is_return);
        let (symbol, offset) = self.image.function(VirtAddr(va.0.checked_sub(back)?))?;
        Some((symbol, offset + back))
    }

    /// All threads of all processes; see [`threads`].
    pub fn threads(&self) -> Result<ThreadList> {
        threads::list(self)
    }
}
