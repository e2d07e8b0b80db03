//! Objects written in parts, which appear whole or not at all.

use std::io::{self, Write};
use std::sync::Arc;

use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::location::{Location, Place, Store};
use crate::meter::{Said, listen};
use crate::runtime;
use crate::store::{self, Opened, Options, exists, failed};

/// Bytes of a part, at least.
const PART: u64 = 8 << 20;
/// Parts that stores take; S3 has the fewest.
const MOST_PARTS: u64 = 10_000;
/// Parts on their way at a time.
const AT_ONCE: usize = 3;

/// An object on its way. Dropped without [`Upload::finish`], nothing of it
/// remains as long as the store answers; else its rule for uploads that nobody
/// ended removes the parts.
///
/// Memory: four parts, 32 MiB in all for objects of at most 80 GB.
pub struct Upload {
    at: Location,
    options: Options,
    store: Box<dyn ObjectStore>,
    key: Key,
    force: bool,
    part_len: usize,
    part: Vec<u8>,
    parts: Option<Box<dyn MultipartUpload>>,
    tasks: JoinSet<(object_store::Result<()>, Arc<Said>)>,
    written: u64,
}

impl Upload {
    /// Prepares an object at `at` of at most `most` bytes. Unless `force` is
    /// given, fails where one is there already, now or at the end.
    pub fn create(at: &Location, most: u64, force: bool, options: &Options) -> Result<Self> {
        if matches!(*at.place, Place::Web(_)) {
            return Err(Error::Unsupported {
                at: at.clone(),
                what: "web servers can't be written to; s3://, gs:// and az:// can".into(),
            });
        }
        let part_len = most.div_ceil(MOST_PARTS).next_multiple_of(1 << 20).max(PART);
        if !force && exists(at, options)? {
            return Err(Error::Exists { at: at.clone() });
        }
        let Opened { store, key } = store::open(at, options, !force)?;
        Ok(Self {
            at: at.clone(),
            options: options.clone(),
            store,
            key,
            force,
            part_len: part_len as usize,
            part: Vec::new(),
            parts: None,
            tasks: JoinSet::new(),
            written: 0,
        })
    }

    /// Where it will appear.
    pub fn location(&self) -> &Location {
        &self.at
    }

    /// Makes the object appear, and says how many bytes it has. Where another
    /// has appeared meanwhile and `force` wasn't given, that one stays, and this
    /// is [`Error::Exists`]. Of objects in parts (over 8 MiB), only S3 compares
    /// at the very end; Google's and Azure's stores are asked just before it.
    pub fn finish(mut self) -> Result<u64> {
        if self.parts.is_none() {
            return self.put_whole();
        }
        let doing = "ending the upload";
        if !self.part.is_empty() {
            self.send_part()?;
        }
        while self.one_sent()? {}
        let compares = matches!(*self.at.place, Place::Object(Store::S3, ..));
        if !self.force && !compares && exists(&self.at, &self.options)? {
            return Err(Error::Exists { at: self.at.clone() });
        }
        let Some(parts) = &mut self.parts else { return Ok(self.written) };
        let (result, said) = runtime::get()?.block_on(listen(parts.complete()));
        match result.map_err(|e| failed(&self.at, doing, &e, &said)) {
            Ok(_) => {
                self.parts = None;
                Ok(self.written)
            }
            // The condition was the one that nothing is there. 409: another
            // upload ends at this moment.
            Err(Error::Changed { at } | Error::Status { at, status: 409 | 412, .. }) => {
                Err(Error::Exists { at })
            }
            Err(e) => Err(e),
        }
    }

    /// An object that is no longer than a part.
    fn put_whole(&mut self) -> Result<u64> {
        let payload = PutPayload::from(std::mem::take(&mut self.part));
        let put = |mode: PutMode| {
            let put = self.store.put_opts(&self.key, payload.clone(), PutOptions::from(mode));
            Ok(runtime::get()?.block_on(listen(put)))
        };
        let mode = if self.force { PutMode::Overwrite } else { PutMode::Create };
        let (mut result, mut said) = put(mode)?;
        let lacks = matches!(result, Err(object_store::Error::NotImplemented { .. }))
            || said.status.load(std::sync::atomic::Ordering::Relaxed) == 501;
        if !self.force && lacks {
            // A store without conditions: asking before is all that can be done.
            if exists(&self.at, &self.options)? {
                return Err(Error::Exists { at: self.at.clone() });
            }
            (result, said) = put(PutMode::Overwrite)?;
        }
        match result {
            Ok(_) => Ok(self.written),
            Err(e) => Err(failed(&self.at, "writing the object", &e, &said)),
        }
    }

    /// Sends what is gathered as the next part.
    fn send_part(&mut self) -> Result<()> {
        let runtime = runtime::get()?;
        if self.parts.is_none() {
            let begin = self.store.put_multipart(&self.key);
            let (begun, said) = runtime.block_on(listen(begin));
            self.parts = Some(
                begun.map_err(|e| failed(&self.at, "beginning an upload in parts", &e, &said))?,
            );
        }
        while self.tasks.len() >= AT_ONCE {
            self.one_sent()?;
        }
        if let Some(parts) = &mut self.parts {
            let sending = parts.put_part(std::mem::take(&mut self.part).into());
            self.tasks.spawn_on(listen(sending), runtime.handle());
        }
        Ok(())
    }

    /// Waits for a part to have arrived; `false` where none is on its way.
    fn one_sent(&mut self) -> Result<bool> {
        let doing = "writing a part";
        match runtime::get()?.block_on(self.tasks.join_next()) {
            None => Ok(false),
            Some(Ok((Ok(()), _))) => Ok(true),
            Some(Ok((Err(e), said))) => Err(failed(&self.at, doing, &e, &said)),
            Some(Err(e)) => Err(Error::Runtime(e.to_string())),
        }
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A part is sent once more comes: what fits into one goes as a whole.
        if self.part.len() == self.part_len && !bytes.is_empty() {
            self.send_part()?;
        }
        let n = bytes.len().min(self.part_len - self.part.len());
        self.part.extend_from_slice(&bytes[..n]);
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else { return };
        if let Ok(runtime) = runtime::get() {
            runtime.block_on(async {
                self.tasks.shutdown().await;
                // Whoever dropped it has a reason to tell already.
                let _ = parts.abort().await;
            });
        }
    }
}
