//! The folder as the kernel sees it: one directory, its files, nothing to
//! write to.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, Request,
};

use crate::readahead::{Ahead, Reader};
use crate::{Entry, Options};

/// Nothing here changes as long as it is mounted.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Requests for pages nobody has asked for yet, in flight at a time.
const BACKGROUND: u16 = 64;

/// `lseek`'s whences, the same on all systems that have them.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

pub(crate) struct Folder {
    /// The n-th has inode number n + 2.
    entries: Vec<Entry>,
    options: Options,
    owner: (u32, u32),
    ahead: Ahead,
    open: Mutex<HashMap<u64, Arc<Reader>>>,
    next_handle: AtomicU64,
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folder").field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl Folder {
    pub(crate) fn new(entries: Vec<Entry>, options: Options) -> Self {
        Self {
            ahead: Ahead::new(options.threads),
            entries,
            options,
            owner: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            open: Mutex::default(),
            next_handle: AtomicU64::new(1),
        }
    }

    fn entry(&self, ino: INodeNo) -> Option<&Entry> {
        self.entries.get(usize::try_from(ino.0.checked_sub(2)?).ok()?)
    }

    fn attr(&self, ino: INodeNo) -> Option<FileAttr> {
        let (size, kind, perm, nlink) = if ino == INodeNo::ROOT {
            (0, FileType::Directory, 0o500, 2)
        } else {
            (self.entry(ino)?.source.len(), FileType::RegularFile, 0o400, 1)
        };
        let time = self.options.modified;
        Some(FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn reader(&self, handle: FileHandle) -> Option<Arc<Reader>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&handle.0).cloned()
    }

    fn seek(&self, ino: INodeNo, offset: i64, whence: i32) -> Result<i64, Errno> {
        let source = &self.entry(ino).ok_or(Errno::EINVAL)?.source;
        let len = source.len();
        let offset = u64::try_from(offset).ok().filter(|&at| at < len).ok_or(Errno::ENXIO)?;
        let data = |at| source.next_data(at).map_err(|_| Errno::EIO);
        let found = match whence {
            SEEK_DATA => data(offset)?.ok_or(Errno::ENXIO)?.start,
            SEEK_HOLE => {
                let mut at = offset;
                // Data that follows data is no hole.
                while let Some(range) = data(at)?.filter(|range| range.start == at) {
                    at = range.end;
                }
                at
            }
            _ => return Err(Errno::EINVAL),
        };
        i64::try_from(found).map_err(|_| Errno::EINVAL)
    }
}

impl Filesystem for Folder {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What a kernel doesn't know is slower without, and no more.
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let at = self.entries.iter().position(|e| *e.name == *name);
        let attr = at.and_then(|at| self.attr(INodeNo(at as u64 + 2)));
        match attr.filter(|_| parent == INodeNo::ROOT) {
            Some(attr) => reply.entry(&FOREVER, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&FOREVER, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Some(entry) = self.entry(ino) else { return reply.error(Errno::ENOENT) };
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let reader = Arc::new(Reader::new(entry.source.clone()));
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(handle, reader);
        // Pages that the kernel has read stay true whoever opens the file next.
        reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (Some(entry), Some(reader)) = (self.entry(ino), self.reader(handle)) else {
            return reply.error(Errno::ENOENT);
        };
        let left = entry.source.len().saturating_sub(offset);
        let mut buf = vec![0; left.min(size.into()) as usize];
        match reader.read(&self.ahead, offset, &mut buf) {
            Ok(()) => reply.data(&buf),
            Err(e) => {
                (self.options.on_error)(&entry.name, offset, &e);
                reply.error(Errno::EIO);
            }
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.0);
        reply.ok();
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.seek(ino, offset, whence) {
            Ok(at) => reply.offset(at),
            Err(e) => reply.error(e),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if ino != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let own = [".", ".."].map(|name| (1, FileType::Directory, name));
        let files = self.entries.iter().zip(2..);
        let files = files.map(|(e, ino)| (ino, FileType::RegularFile, &*e.name));
        for ((ino, kind, name), next) in own.into_iter().chain(files).zip(1..) {
            if next > offset && reply.add(INodeNo(ino), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let bytes: u64 = self.entries.iter().fold(0, |sum, e| e.source.len().saturating_add(sum));
        reply.statfs(bytes.div_ceil(4096), 0, 0, self.entries.len() as u64, 0, 4096, 255, 4096);
    }
}
