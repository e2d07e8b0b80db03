//! An object's bytes, read by ranges.

use std::io;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};
use vmcask_dump::ReadAt;

use crate::blocks::{BLOCK, Blocks, Step};
use crate::error::{Error, Result};
use crate::location::Location;
use crate::meter::{Said, listen};
use crate::runtime;
use crate::store::{self, ODD, Opened, Options, failed};

/// An object in a store or a file on a web server. Its bytes are fetched by
/// ranges as they are read, a bounded number of them kept.
///
/// All of them are of one version of the object: a change is an
/// [`Error::Changed`], as far as the server tells versions apart (by ETag, or
/// else by time and length).
pub struct RemoteSource {
    at: Location,
    store: Box<dyn ObjectStore>,
    key: Key,
    version: Version,
    retries: usize,
    first_pause: Duration,
    blocks: Mutex<Blocks>,
    /// Blocks have come, or won't.
    arrived: Condvar,
}

/// What tells one version of an object from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    len: u64,
    e_tag: Option<String>,
    /// Seconds since 1970.
    modified: i64,
}

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        Self { len: meta.size, e_tag: meta.e_tag.clone(), modified: meta.last_modified.timestamp() }
    }

    /// What the server is to compare. Weak ETags never match there (RFC 9110,
    /// 13.1.1).
    fn if_match(&self) -> Option<String> {
        self.e_tag.clone().filter(|tag| !tag.starts_with("W/"))
    }
}

impl RemoteSource {
    /// Opens the object at `at` with a first request, for its first bytes.
    /// Fails where there is none, it can't be read, or the server doesn't
    /// answer range requests.
    pub fn open(at: &Location, options: &Options) -> Result<Self> {
        let Opened { store, key } = store::open(at, options, false)?;
        let mut source = Self {
            at: at.clone(),
            store,
            key,
            version: Version { len: 0, e_tag: None, modified: 0 },
            retries: options.retries,
            first_pause: options.first_pause,
            blocks: Mutex::new(Blocks::new(0, options.cache_bytes)),
            arrived: Condvar::new(),
        };
        match source.get(0..BLOCK, None) {
            Ok((bytes, version)) => {
                source.version = version;
                let mut blocks = Blocks::new(source.version.len, options.cache_bytes);
                blocks.done(0..1, Some(&bytes));
                source.blocks = Mutex::new(blocks);
            }
            // No range of nothing can be had.
            Err(e) => {
                let perhaps = match &e {
                    Error::Status { status, .. } => *status == 416,
                    Error::Transport { what, .. } => what == ODD,
                    _ => false,
                };
                if !perhaps || store::length(at, options)? != Some(0) {
                    return Err(e);
                }
            }
        }
        Ok(source)
    }

    /// Where it lies.
    pub fn location(&self) -> &Location {
        &self.at
    }

    /// The bytes of `range`, cut at the object's end, and the version that
    /// they are of.
    fn get(&self, range: Range<u64>, of: Option<&Version>) -> Result<(Bytes, Version)> {
        let doing =
            format!("reading {} bytes at offset {:#x}", range.end - range.start, range.start);
        let mut pause = self.first_pause;
        let mut tries = 0;
        // The store's client makes failed requests again itself. What it can't
        // know is that an answer was too short.
        loop {
            tries += 1;
            let attempt = listen(self.get_once(range.clone(), of));
            let (result, said) = runtime::get()?.block_on(attempt);
            let short = match result {
                Ok(got) => return Ok(got),
                Err(Attempt::Final(e)) => return Err(e),
                Err(Attempt::Store(e)) => {
                    let e = failed(&self.at, &doing, &e, &said);
                    if !matches!(e, Error::Transport { .. }) || asked(&said) > 1 {
                        return Err(e);
                    }
                    e
                }
                Err(Attempt::Short { got, wanted }) => Error::Transport {
                    at: self.at.clone(),
                    doing: doing.clone(),
                    what: format!("{got} of {wanted} bytes came"),
                    tries,
                },
            };
            if tries > self.retries {
                return Err(match short {
                    Error::Transport { at, doing, what, .. } => {
                        Error::Transport { at, doing, what, tries }
                    }
                    e => e,
                });
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
    }

    async fn get_once(
        &self,
        range: Range<u64>,
        of: Option<&Version>,
    ) -> Result<(Bytes, Version), Attempt> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: of.and_then(Version::if_match),
            ..GetOptions::default()
        };
        let result = self.store.get_opts(&self.key, options).await.map_err(Attempt::Store)?;
        let version = Version::of(&result.meta);
        if of.is_some_and(|of| *of != version) {
            return Err(Attempt::Final(Error::Changed { at: self.at.clone() }));
        }
        // At most what was asked for: the client has compared the ranges.
        let wanted = result.range.end.saturating_sub(result.range.start) as usize;
        let mut bytes = BytesMut::with_capacity(wanted.min((range.end - range.start) as usize));
        let mut stream = result.into_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(Attempt::Store)?;
            if chunk.len() > wanted - bytes.len() {
                break;
            }
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() != wanted {
            return Err(Attempt::Short { got: bytes.len(), wanted });
        }
        Ok((bytes.freeze(), version))
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Block `block`, for a reader that wants those up to `until`.
    fn block(&self, block: u64, until: u64) -> Result<Bytes> {
        let mut blocks = self.lock();
        let range = loop {
            match blocks.step(block, until) {
                Step::Have(bytes) => return Ok(bytes),
                Step::Fetch(range) => break range,
                Step::Wait => {
                    blocks = self.arrived.wait(blocks).unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(blocks);
        let bytes = range.start * BLOCK..(range.end * BLOCK).min(self.version.len);
        let got = self.get(bytes, Some(&self.version)).map(|(bytes, _)| bytes);
        let from = ((block - range.start) * BLOCK) as usize;
        self.lock().done(range, got.as_ref().ok());
        self.arrived.notify_all();
        let got = got?;
        Ok(got.slice(from.min(got.len())..got.len().min(from + BLOCK as usize)))
    }
}

/// Why one attempt failed.
enum Attempt {
    Store(object_store::Error),
    Short {
        got: usize,
        wanted: usize,
    },
    /// Another attempt would be no better.
    Final(Error),
}

fn asked(said: &Said) -> usize {
    said.tries.load(std::sync::atomic::Ordering::Relaxed)
}

impl ReadAt for RemoteSource {
    fn len(&self) -> u64 {
        self.version.len
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.version.len;
        let want = usize::try_from(len.saturating_sub(off)).map_or(buf.len(), |n| n.min(buf.len()));
        let until = (off.saturating_add(want as u64)).div_ceil(BLOCK);
        let mut done = 0;
        while done < want {
            let at = off + done as u64;
            let bytes = self.block(at / BLOCK, until)?;
            let rest = bytes.get((at % BLOCK) as usize..).unwrap_or_default();
            let n = rest.len().min(want - done);
            if n == 0 {
                // A block shorter than the object's length says.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buf[done..done + n].copy_from_slice(&rest[..n]);
            done += n;
        }
        Ok(done)
    }
}
