//! A source that remembers what went wrong with it.
//!
//! Much of a dump can be read without some part of it: a note that isn't one,
//! a page table that leads nowhere. Whoever looks for such parts goes on
//! without them, and mustn't take a bad sector for their absence: the output
//! would lack them and say nothing. Asking the source at the end is one place
//! to get right instead of many.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use vmcask_dump::ReadAt;
use vmcask_dump::source::{Sink, Wanted};

use crate::lock;

/// A read that failed, or came back short of the source's end.
#[derive(Clone, Copy)]
struct Failure {
    off: u64,
    len: usize,
    kind: io::ErrorKind,
    os: Option<i32>,
}

/// A source with the first of its failures.
pub(crate) struct Watched {
    inner: Arc<dyn ReadAt>,
    failure: Mutex<Option<Failure>>,
}

impl Watched {
    pub(crate) fn new(inner: Arc<dyn ReadAt>) -> Self {
        Self { inner, failure: Mutex::new(None) }
    }

    /// Offset and length of the first read that failed, and why.
    pub(crate) fn failure(&self) -> Option<(u64, usize, io::Error)> {
        let failure = *lock(&self.failure);
        let Failure { off, len, kind, os } = failure?;
        Some((off, len, os.map_or_else(|| kind.into(), io::Error::from_raw_os_error)))
    }

    fn failed(&self, off: u64, len: usize, e: &io::Error) {
        let failure = Failure { off, len, kind: e.kind(), os: e.raw_os_error() };
        lock(&self.failure).get_or_insert(failure);
    }
}

impl ReadAt for Watched {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let result = self.inner.read_at(off, buf);
        match &result {
            Ok(n) if *n == buf.len() => {}
            Ok(n) => {
                let there = self.len().saturating_sub(off).min(buf.len() as u64);
                if (*n as u64) < there {
                    self.failed(off, buf.len(), &io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(e) => self.failed(off, buf.len(), e),
        }
        result
    }

    fn slice(&self, off: u64, len: usize) -> Option<&[u8]> {
        self.inner.slice(off, len)
    }

    fn in_file(&self, off: u64) -> Option<(&File, u64, u64)> {
        self.inner.in_file(off)
    }

    fn scatter(&self, wanted: &[Wanted], threads: usize, to: &dyn Sink) -> io::Result<bool> {
        self.inner.scatter(wanted, threads, to)
    }

    fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
        let result = self.inner.next_data(off);
        if let Err(e) = &result {
            self.failed(off, 0, e);
        }
        result
    }

    fn check_unchanged(&self) -> io::Result<()> {
        self.inner.check_unchanged()
    }
}
