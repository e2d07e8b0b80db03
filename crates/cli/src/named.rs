//! Files, and objects in stores, as named on the command line.

use std::ffi::{OsStr, OsString};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmcask_convert::{Error, Input, input};
use vmcask_dump::ReadAt;
use vmcask_dump::source::FileSource;

/// A file, or the URL of an object. As a [`Path`] it is what may be shown: a
/// URL without its query, which may be a signature.
#[derive(Clone, Debug)]
pub struct Named {
    shown: PathBuf,
    #[cfg(feature = "remote")]
    at: Option<vmcask_remote::Location>,
    /// What stood on the command line, for a process that is to get it, too.
    raw: Raw,
}

/// Not shown in debugging output either.
#[derive(Clone)]
struct Raw(OsString);

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("...")
    }
}

impl Deref for Named {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.shown
    }
}

impl From<PathBuf> for Named {
    /// The file of this name, whatever it looks like.
    fn from(path: PathBuf) -> Self {
        Self {
            raw: Raw(path.clone().into()),
            #[cfg(feature = "remote")]
            at: None,
            shown: path,
        }
    }
}

/// Whether `text` begins like a URL of an object.
fn is_url(text: &str) -> bool {
    ["http://", "https://", "s3://", "gs://", "az://"].iter().any(|s| text.starts_with(s))
}

// Without the feature there is less that can fail.
#[cfg_attr(not(feature = "remote"), expect(clippy::unused_self, clippy::unnecessary_wraps))]
impl Named {
    /// What the command line says. Fails where it is a URL that can't be read.
    pub fn new(raw: &OsStr) -> Result<Self, String> {
        #[cfg(feature = "remote")]
        let at = match raw.to_str().and_then(vmcask_remote::Location::parse) {
            None => None,
            Some(at) => Some(at.map_err(|e| e.to_string())?),
        };
        #[cfg(feature = "remote")]
        let shown = at.as_ref().map_or_else(|| PathBuf::from(raw), |at| at.to_string().into());
        #[cfg(not(feature = "remote"))]
        let shown = PathBuf::from(raw);
        if cfg!(not(feature = "remote")) && raw.to_str().is_some_and(is_url) {
            return Err(
                "this vmcask was built without the feature `remote`, which reads URLs".into()
            );
        }
        Ok(Self {
            shown,
            #[cfg(feature = "remote")]
            at,
            raw: Raw(raw.to_owned()),
        })
    }

    /// As it was on the command line, secrets and all.
    pub fn raw(&self) -> &OsStr {
        &self.raw.0
    }

    /// Whether it is a URL.
    pub fn is_remote(&self) -> bool {
        self.raw.0.to_str().is_some_and(is_url)
    }

    /// Where it lies, if it is a URL.
    #[cfg(feature = "remote")]
    pub fn location(&self) -> Option<&vmcask_remote::Location> {
        self.at.as_ref()
    }

    /// The object, if it is a URL.
    fn remote(&self) -> Result<Option<Arc<dyn ReadAt>>, Error> {
        #[cfg(feature = "remote")]
        if let Some(at) = &self.at {
            let source = vmcask_remote::RemoteSource::open(at, &vmcask_remote::Options::default());
            return Ok(Some(Arc::new(source.map_err(remote_error)?)));
        }
        Ok(None)
    }

    /// Whether there is something.
    pub fn exists(&self) -> Result<bool, Error> {
        #[cfg(feature = "remote")]
        if let Some(at) = &self.at {
            let options = vmcask_remote::Options::default();
            return vmcask_remote::exists(at, &options).map_err(remote_error);
        }
        Ok(self.symlink_metadata().is_ok())
    }

    /// What has this name in the folder that this is. Fails where names of
    /// files aren't names of objects.
    pub fn join_name(&self, name: &OsStr) -> Result<Self, String> {
        #[cfg(feature = "remote")]
        if let Some(at) = &self.at {
            let name = name.to_str().ok_or("a file's name isn't UTF-8, as an object's must be")?;
            let at = at.join(name).map_err(|e| e.to_string())?;
            return Self::new(OsStr::new(&at.to_string()));
        }
        Ok(Self::from(self.join(name)))
    }

    /// Its bytes, wherever they are.
    pub fn source(&self) -> Result<Arc<dyn ReadAt>, Error> {
        if let Some(source) = self.remote()? {
            return Ok(source);
        }
        let unopened = |source| Error::Open { path: self.to_path_buf(), source };
        Ok(Arc::new(FileSource::open(self).map_err(unopened)?))
    }

    /// [`input::open`].
    pub fn open(&self) -> Result<Input, Error> {
        match self.remote()? {
            Some(source) => input::seekable(Input::of_source(self, source)?),
            None => input::open(self),
        }
    }

    /// [`input::open_streams_too`].
    pub fn open_streams_too(&self) -> Result<Input, Error> {
        match self.remote()? {
            Some(source) => Input::of_source(self, source),
            None => input::open_streams_too(self),
        }
    }
}

/// What the network's crate says names its object already.
#[cfg(feature = "remote")]
pub fn remote_error(e: vmcask_remote::Error) -> Error {
    Error::Remote(e.into())
}

/// For clap.
pub fn parser() -> impl clap::builder::TypedValueParser<Value = Named> {
    use clap::builder::TypedValueParser;
    // clap's own error would quote the URL, secrets and all.
    clap::builder::OsStringValueParser::new()
        .map(|raw| Named::new(&raw).unwrap_or_else(|e| crate::args::usage(&e)))
}

/// For clap: files alone, where an object in a store can't be.
pub fn local() -> impl clap::builder::TypedValueParser<Value = PathBuf> {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().map(|raw| {
        if raw.to_str().is_some_and(is_url) {
            crate::args::usage("a file of this machine is needed where a URL is given");
        }
        PathBuf::from(raw)
    })
}
