//! Where a conversion's output goes: a file, or an object in a store.

use std::io::Write;

use vmcask_archive::{Plan, WriteOptions, Written};
use vmcask_convert::{Error, Input, OutputFile, archive};

use crate::args::OutputArgs;
use crate::interrupt;
use crate::named::Named;

/// An output that appears whole, at [`Destination::commit`], or not at all.
pub enum Destination {
    File(OutputFile),
    #[cfg(feature = "remote")]
    Object(Box<vmcask_remote::Upload>),
}

impl Destination {
    /// Prepares `to` for at most `most` bytes. Fails where it is there already
    /// and `--force` wasn't given.
    pub fn create(to: &Named, most: u64, args: &OutputArgs) -> Result<Self, Error> {
        #[cfg(feature = "remote")]
        if let Some(at) = to.location() {
            let options = vmcask_remote::Options::default();
            let upload = vmcask_remote::Upload::create(at, most, args.force, &options);
            return Ok(Self::Object(Box::new(upload.map_err(crate::named::remote_error)?)));
        }
        let _ = most;
        args.create(to).map(Self::File)
    }

    /// Fills it with an archive of `input`.
    pub fn archive(
        &mut self,
        input: &Input,
        plan: &Plan,
        options: &WriteOptions,
        progress: &dyn Fn(u64),
    ) -> Result<Written, Error> {
        match self {
            Self::File(out) => {
                archive::write(input, plan, options, out, progress, interrupt::flag())
            }
            #[cfg(feature = "remote")]
            Self::Object(out) => {
                let flag = interrupt::flag();
                archive::write_to(input, plan, options, &mut **out, progress, flag).map_err(named)
            }
        }
    }

    /// Copies `bytes` to it.
    pub fn copy(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self {
            Self::File(out) => {
                let path = out.path().to_owned();
                out.file().write_all(bytes).map_err(|source| Error::Write { path, source })
            }
            #[cfg(feature = "remote")]
            Self::Object(out) => out.write_all(bytes).map_err(|e| named(Error::Pipe(e))),
        }
    }

    /// Makes it appear, and says how many bytes it has.
    pub fn commit(self) -> Result<u64, Error> {
        match self {
            Self::File(out) => {
                let written = out.file().metadata().map_or(0, |m| m.len());
                out.commit()?;
                Ok(written)
            }
            #[cfg(feature = "remote")]
            Self::Object(out) => out.finish().map_err(crate::named::remote_error),
        }
    }
}

/// An upload's errors name the object; that it was a pipe says nothing.
#[cfg(feature = "remote")]
pub fn named(e: Error) -> Error {
    match e {
        Error::Pipe(e) => match e.downcast::<vmcask_remote::Error>() {
            Ok(e) => crate::named::remote_error(e),
            Err(e) => Error::Pipe(e),
        },
        e => e,
    }
}

/// Whether an output is there already that `e` didn't want to replace.
pub fn is_there(e: &Error) -> bool {
    match e {
        Error::Exists { .. } => true,
        #[cfg(feature = "remote")]
        Error::Remote(e) => matches!(
            e.downcast_ref::<vmcask_remote::Error>(),
            Some(vmcask_remote::Error::Exists { .. })
        ),
        _ => false,
    }
}
