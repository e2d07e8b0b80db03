//! Stores as the environment describes them, and their errors in words that
//! give nothing away.

use std::error::Error as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};

use crate::error::{Error, Result};
use crate::location::{Location, Place, Store};
use crate::meter::{Meter, Said, listen};
use crate::{profile, runtime};

/// How patient to be, and how much to keep.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long nothing may arrive while something is awaited.
    pub read_timeout: Duration,
    /// How often a request is made again after a time-out, an error of the
    /// server (5xx, 429) or half an answer.
    pub retries: usize,
    /// The pause before the first of them; each further one is twice as long.
    pub first_pause: Duration,
    /// Bytes of an object that are kept, at least 16 MiB.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            retries: 4,
            first_pause: Duration::from_millis(200),
            cache_bytes: 64 << 20,
        }
    }
}

/// Retries end after this, however many are left.
const RETRY_FOR: Duration = Duration::from_secs(150);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A store and the object in it.
pub(crate) struct Opened {
    pub(crate) store: Box<dyn ObjectStore>,
    pub(crate) key: Key,
}

/// The store of `at`. With `create`, multipart uploads don't replace objects.
pub(crate) fn open(at: &Location, options: &Options, create: bool) -> Result<Opened> {
    // Clients want the TLS library ready.
    let _entered = runtime::get()?.enter();
    let meter = Meter { create };
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: options.first_pause,
            max_backoff: LONGEST_PAUSE,
            base: 2.0,
        },
        max_retries: options.retries,
        retry_timeout: RETRY_FOR,
    };
    let client = |allow_http: bool| {
        ClientOptions::new()
            .with_connect_timeout(options.connect_timeout)
            .with_read_timeout(options.read_timeout)
            // A large range takes as long as it takes.
            .with_timeout_disabled()
            .with_allow_http(allow_http)
    };
    let (store, key): (object_store::Result<Box<dyn ObjectStore>>, _) = match &*at.place {
        Place::Web(url) => {
            let builder = HttpBuilder::new()
                .with_url(url.as_str())
                .with_client_options(client(url.scheme() == "http"))
                .with_retry(retry)
                .with_http_connector(meter);
            // The URL is the object's own: query and encoding stay as they are.
            (builder.build().map(|s| Box::new(s) as _), Key::default())
        }
        Place::Object(Store::S3, bucket, key) => {
            let builder = profile::add(AmazonS3Builder::from_env())
                .map_err(|what| Error::Config { at: at.clone(), what })?
                .with_client_options(client(plain_http(
                    "AWS_ALLOW_HTTP",
                    &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"],
                )))
                .with_bucket_name(bucket)
                .with_retry(retry)
                .with_http_connector(meter);
            (builder.build().map(|s| Box::new(s) as _), key.clone())
        }
        Place::Object(Store::Gcs, bucket, key) => {
            let builder = GoogleCloudStorageBuilder::from_env()
                .with_client_options(client(plain_http("GOOGLE_ALLOW_HTTP", &["GOOGLE_BASE_URL"])))
                .with_bucket_name(bucket)
                .with_retry(retry)
                .with_http_connector(meter);
            (builder.build().map(|s| Box::new(s) as _), key.clone())
        }
        Place::Object(Store::Azure, container, key) => {
            let builder = MicrosoftAzureBuilder::from_env()
                .with_client_options(client(plain_http(
                    "AZURE_ALLOW_HTTP",
                    &["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"],
                )))
                .with_container_name(container)
                .with_retry(retry)
                .with_http_connector(meter);
            (builder.build().map(|s| Box::new(s) as _), key.clone())
        }
    };
    let store = store.map_err(|e| Error::Config { at: at.clone(), what: config_words(&e) })?;
    Ok(Opened { store, key })
}

/// Whether the environment allows, or names, a store without TLS.
fn plain_http(allow: &str, endpoints: &[&str]) -> bool {
    let is_true = |v: String| matches!(&*v.to_ascii_lowercase(), "1" | "true" | "yes" | "on");
    std::env::var(allow).is_ok_and(is_true)
        || endpoints
            .iter()
            .find_map(|name| std::env::var(name).ok())
            .is_some_and(|url| url.starts_with("http://"))
}

/// What a builder says may quote a key file; the first line of it is enough,
/// and anything long isn't a sentence of its own.
fn config_words(e: &object_store::Error) -> String {
    let text = match e {
        object_store::Error::Generic { source, .. } => source.to_string(),
        e => e.to_string(),
    };
    let line = text.lines().next().unwrap_or("");
    if line.len() <= 160 { line.to_owned() } else { "one of its variables can't be used".into() }
}

/// Whether there is an object at `at`.
pub fn exists(at: &Location, options: &Options) -> Result<bool> {
    length(at, options).map(|len| len.is_some())
}

/// The bytes of the object at `at`; `None` where there is none.
pub fn length(at: &Location, options: &Options) -> Result<Option<u64>> {
    let opened = open(at, options, false)?;
    let (head, said) = runtime::get()?.block_on(listen(opened.store.head(&opened.key)));
    match head {
        Ok(meta) => Ok(Some(meta.size)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(failed(at, "asking for its length", &e, &said)),
    }
}

/// What is said of an answer whose headers contradict the request.
pub(crate) const ODD: &str = "the answer isn't one that such a store gives";

/// `e` in this crate's words.
pub(crate) fn failed(at: &Location, doing: &str, e: &object_store::Error, said: &Said) -> Error {
    use object_store::Error as E;
    let at = at.clone();
    let doing = doing.to_owned();
    let status = said.status.load(Ordering::Relaxed);
    let tries = said.tries.load(Ordering::Relaxed);
    if said.no_ranges.load(Ordering::Relaxed) {
        return Error::NoRanges { at };
    }
    match e {
        E::NotFound { .. } => Error::NotFound { at },
        E::PermissionDenied { .. } => Error::Denied { at, status: 403 },
        E::Unauthenticated { .. } => Error::Denied { at, status: 401 },
        E::Precondition { .. } | E::NotModified { .. } => Error::Changed { at },
        E::AlreadyExists { .. } => Error::Exists { at },
        E::NotImplemented { .. } | E::NotSupported { .. } => {
            Error::Unsupported { at, what: format!("{doing}: the store can't do that") }
        }
        _ => match (transport(e), status) {
            (Some(what), _) => Error::Transport { at, doing, what, tries },
            (None, 404 | 410) => Error::NotFound { at },
            (None, status @ (401 | 403)) => Error::Denied { at, status },
            (None, 0) => Error::Transport { at, doing, what: ODD.into(), tries },
            (None, status) => Error::Status { at, doing, status, tries },
        },
    }
}

/// Why the network failed, where it was that: the innermost cause names
/// neither URL nor headers.
fn transport(e: &object_store::Error) -> Option<String> {
    let mut cause = e.source();
    let mut found = None;
    while let Some(e) = cause {
        if let Some(http) = e.downcast_ref::<HttpError>() {
            found = Some(http.kind());
        }
        let next = e.source();
        if let (Some(kind), None) = (found, next) {
            return Some(match kind {
                HttpErrorKind::Timeout => "no answer in time".into(),
                HttpErrorKind::Connect => format!("can't connect: {e}"),
                _ => format!("half an answer: {e}"),
            });
        }
        cause = next;
    }
    None
}
