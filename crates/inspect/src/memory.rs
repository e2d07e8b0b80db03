//! Kernel memory as structures: integers, pointers, strings, through a cache
//! of pages. Structures lie close together, and a page of an archive costs
//! microseconds.

use std::cell::RefCell;
use std::collections::HashMap;

use vmcask_dump::{Result, VirtAddr, VirtMem};

use crate::machine::Machine;

const PAGE: usize = 4096;
/// Pages kept: 16 MiB. When it is full, it starts anew: lists and stacks are
/// walked once, so a cleverer choice would gain nothing.
const MOST_PAGES: usize = 4096;

/// Kernel memory of one dump, for one thread.
pub struct Memory<'a> {
    dump: &'a dyn VirtMem,
    machine: Machine,
    /// `None`: every read goes to the dump.
    pages: Option<RefCell<HashMap<u64, Box<[u8; PAGE]>>>>,
}

impl<'a> Memory<'a> {
    /// Memory with an empty cache.
    pub fn new(dump: &'a dyn VirtMem, machine: Machine) -> Self {
        Self { dump, machine, pages: Some(RefCell::default()) }
    }

    /// Memory without a cache.
    pub(crate) fn uncached(dump: &'a dyn VirtMem, machine: Machine) -> Self {
        Self { dump, machine, pages: None }
    }

    /// The dump's machine.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// Fills `buf` from `va` on.
    pub fn read(&self, va: VirtAddr, buf: &mut [u8]) -> Result<()> {
        let mut at = va;
        let mut rest = buf;
        loop {
            let within = at.0 as usize % PAGE;
            let n = rest.len().min(PAGE - within);
            let (now, more) = rest.split_at_mut(n);
            self.read_within_page(at, within, now)?;
            if more.is_empty() {
                return Ok(());
            }
            at = at.checked_add(n as u64).ok_or(vmcask_dump::Error::NotMapped {
                va,
                reason: "the address space ends there",
            })?;
            rest = more;
        }
    }

    fn read_within_page(&self, at: VirtAddr, within: usize, buf: &mut [u8]) -> Result<()> {
        let Some(pages) = &self.pages else { return self.dump.read_virt(at, buf) };
        let number = at.0 / PAGE as u64;
        let mut pages = pages.borrow_mut();
        if let Some(page) = pages.get(&number) {
            buf.copy_from_slice(&page[within..within + buf.len()]);
            return Ok(());
        }
        let mut page = Box::new([0; PAGE]);
        if self.dump.read_virt(VirtAddr(number * PAGE as u64), &mut page[..]).is_err() {
            // A part of a page may be there: segments of cores end anywhere.
            return self.dump.read_virt(at, buf);
        }
        buf.copy_from_slice(&page[within..within + buf.len()]);
        if pages.len() >= MOST_PAGES {
            pages.clear();
        }
        pages.insert(number, page);
        Ok(())
    }

    /// The pointer (or `long`) at `va`.
    pub fn pointer(&self, va: VirtAddr) -> Result<VirtAddr> {
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..self.machine.pointer_bytes()];
        self.read(va, bytes)?;
        Ok(VirtAddr(self.machine.int(bytes)))
    }

    /// The `unsigned int` at `va`.
    pub fn u32(&self, va: VirtAddr) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read(va, &mut bytes)?;
        Ok(self.machine.int(&bytes) as u32)
    }

    /// The `int` at `va`.
    pub fn i32(&self, va: VirtAddr) -> Result<i32> {
        self.u32(va).map(u32::cast_signed)
    }

    /// The string at `va`, up to its NUL or `most` bytes; bytes that can't be
    /// read end it where others came before.
    pub fn string(&self, va: VirtAddr, most: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < most {
            let Some(at) = va.checked_add(out.len() as u64) else { break };
            let mut piece = [0; 64];
            let n = (most - out.len()).min(piece.len()).min(PAGE - at.0 as usize % PAGE);
            let piece = &mut piece[..n];
            match self.read(at, piece) {
                Ok(()) => {}
                Err(e) if out.is_empty() => return Err(e),
                Err(_) => break,
            }
            if let Some(len) = piece.iter().position(|&b| b == 0) {
                out.extend(&piece[..len]);
                break;
            }
            out.extend(&*piece);
        }
        Ok(out)
    }
}
