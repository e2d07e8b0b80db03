//! Between the stores and the network: counts what goes over it, bounds what
//! comes back, and adds the condition that a multipart upload ends with.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};

/// What went over the network so far, all objects of the process together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests sent, each retry counted.
    pub requests: u64,
    /// Bytes of the answers' bodies.
    pub bytes_received: u64,
    /// Bytes of the requests' bodies.
    pub bytes_sent: u64,
}

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static RECEIVED: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU64 = AtomicU64::new(0);

/// The process's counts.
pub fn stats() -> Stats {
    Stats {
        requests: REQUESTS.load(Ordering::Relaxed),
        bytes_received: RECEIVED.load(Ordering::Relaxed),
        bytes_sent: SENT.load(Ordering::Relaxed),
    }
}

/// Longest answer that isn't an object's bytes: errors, upload ids.
const MOST_OF_OTHERS: u64 = 1 << 20;

/// What the server said while one operation went on, for errors' words.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Status of the last answer, where that was an error; else 0.
    pub(crate) status: AtomicU16,
    /// A range was asked for and a whole file came.
    pub(crate) no_ranges: AtomicBool,
    /// Requests of the operation.
    pub(crate) tries: AtomicUsize,
}

tokio::task_local! {
    /// The operation that a task works on.
    static SAID: Arc<Said>;
}

/// Runs an operation and gives back what the server said meanwhile.
pub(crate) async fn listen<T>(operation: impl Future<Output = T>) -> (T, Arc<Said>) {
    let said = Arc::new(Said::default());
    let result = SAID.scope(said.clone(), operation).await;
    (result, said)
}

fn note(f: impl FnOnce(&Said)) {
    // Outside of operations nobody asks.
    let _ = SAID.try_with(|said| f(said));
}

/// Makes clients that count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    /// Multipart uploads end only where no object has the name yet.
    pub(crate) create: bool,
}

impl HttpConnector for Meter {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Metered { inner, create: self.create }))
    }
}

#[derive(Debug)]
struct Metered {
    inner: HttpClient,
    create: bool,
}

/// The server sent a whole file where a part was asked for.
#[derive(Debug)]
struct WholeFile;

impl fmt::Display for WholeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the whole file came")
    }
}

impl std::error::Error for WholeFile {}

/// An answer longer than any that makes sense.
#[derive(Debug)]
struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer is longer than {MOST_OF_OTHERS} bytes")
    }
}

impl std::error::Error for TooLong {}

#[async_trait]
impl HttpService for Metered {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let ranged = request.headers().contains_key(header::RANGE);
        // S3's signature needn't cover this header; other stores' uploads end
        // in other ways.
        let ends_upload = request.method() == Method::POST
            && request.uri().query().is_some_and(|q| q.contains("uploadId="));
        let conditional = self.create && ends_upload;
        let unconditional = conditional.then(|| request.clone());
        if conditional {
            request.headers_mut().insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let mut response = self.send(request).await?;
        if let Some(request) = unconditional
            && response.status() == StatusCode::NOT_IMPLEMENTED
        {
            response = self.send(request).await?;
        }
        let status = response.status();
        if ranged && status == StatusCode::OK {
            note(|said| said.no_ranges.store(true, Ordering::Relaxed));
            return Err(HttpError::new(HttpErrorKind::Unknown, WholeFile));
        }
        let code = if status.is_success() { 0 } else { status.as_u16() };
        note(|said| said.status.store(code, Ordering::Relaxed));
        // Whoever asks for a range bounds it.
        let most = if status == StatusCode::PARTIAL_CONTENT { u64::MAX } else { MOST_OF_OTHERS };
        Ok(bounded(response, most))
    }
}

impl Metered {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        REQUESTS.fetch_add(1, Ordering::Relaxed);
        note(|said| {
            said.tries.fetch_add(1, Ordering::Relaxed);
            said.status.store(0, Ordering::Relaxed);
        });
        SENT.fetch_add(request.body().content_length() as u64, Ordering::Relaxed);
        self.inner.execute(request).await
    }
}

/// Counts the bytes of the answer as they come, and ends it after `most`.
fn bounded(response: HttpResponse, most: u64) -> HttpResponse {
    let (parts, body) = response.into_parts();
    let mut left = most;
    let counted = BodyExt::into_data_stream(body).map(move |chunk: Result<Bytes, HttpError>| {
        let chunk = chunk?;
        RECEIVED.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        left = left
            .checked_sub(chunk.len() as u64)
            .ok_or_else(|| HttpError::new(HttpErrorKind::Decode, TooLong))?;
        Ok(http_body::Frame::data(chunk))
    });
    HttpResponse::from_parts(parts, HttpResponseBody::new(StreamBody::new(counted)))
}
