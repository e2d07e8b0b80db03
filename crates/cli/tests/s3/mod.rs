//! An S3 store over a folder, in this process: crates.io's s3s and s3s-fs.

#![allow(dead_code)] // each user has its own part of this

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex};

use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;

pub const BUCKET: &str = "dumps";
pub const KEY_ID: &str = "AKIDVMCASKTEST";
pub const SECRET: &str = "s3cr3t-of-the-test";

/// Of a request's number, method and path: the status of the error to answer.
type Fault = Box<dyn Fn(usize, &Method, &str) -> Option<u16> + Send>;

/// What the server was asked, and what it is to answer wrongly.
#[derive(Default)]
pub struct Log {
    /// Method, path with query, range.
    pub requests: Vec<(Method, String, Option<String>)>,
    /// Asked before each request, with its number from 0: an error to answer.
    pub fault: Option<Fault>,
}

/// A store, which ends with the process.
pub struct S3 {
    pub addr: SocketAddr,
    pub log: Arc<Mutex<Log>>,
}

impl S3 {
    /// Serves the folders in `root` as buckets; makes the bucket [`BUCKET`].
    pub fn new(root: &Path) -> Self {
        Self::on(root, 0)
    }

    /// [`S3::new`], on a given port.
    pub fn on(root: &Path, port: u16) -> Self {
        std::fs::create_dir_all(root.join(BUCKET)).expect("a folder");
        let log = Arc::new(Mutex::new(Log::default()));
        let service = {
            let mut builder =
                S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).expect("a store"));
            builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
            builder.build()
        };
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let addr = listener.local_addr().expect("bound");
        let logged = log.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                loop {
                    let Ok((socket, _)) = listener.accept().await else { continue };
                    let (service, log) = (service.clone(), logged.clone());
                    let answer = service_fn(move |request: Request<Incoming>| {
                        let fault = note(&log, &request);
                        let service = service.clone();
                        async move {
                            if let Some(status) = fault {
                                drain(request.into_body()).await;
                                let mut response = Response::new(s3s::Body::empty());
                                *response.status_mut() =
                                    StatusCode::from_u16(status).expect("a status");
                                return Ok::<_, Infallible>(response);
                            }
                            Ok(service.call(request.map(s3s::Body::from)).await.unwrap_or_else(
                                |_| {
                                    let mut response = Response::new(s3s::Body::empty());
                                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                                    response
                                },
                            ))
                        }
                    });
                    tokio::spawn(async move {
                        let server = auto::Builder::new(TokioExecutor::new());
                        // Clients may go whenever they like.
                        let _ = server.serve_connection(TokioIo::new(socket), answer).await;
                    });
                }
            });
        });
        Self { addr, log }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Tells `command` where the store is and who asks.
    pub fn env<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("AWS_ENDPOINT_URL", self.endpoint())
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.log.lock().expect("unpoisoned").requests.len()
    }

    /// Makes requests fail.
    pub fn fail(&self, fault: impl Fn(usize, &Method, &str) -> Option<u16> + Send + 'static) {
        self.log.lock().expect("unpoisoned").fault = Some(Box::new(fault));
    }
}

/// An answer before the body is read would end the connection, and with it
/// requests that nobody wants to fail.
async fn drain(mut body: Incoming) {
    let mut body = Pin::new(&mut body);
    while poll_fn(|cx| body.as_mut().poll_frame(cx)).await.is_some_and(|frame| frame.is_ok()) {}
}

fn note(log: &Mutex<Log>, request: &Request<Incoming>) -> Option<u16> {
    let mut log = log.lock().expect("unpoisoned");
    let path = request.uri().path_and_query().map_or("", |p| p.as_str()).to_owned();
    let range = request.headers().get("range").and_then(|r| r.to_str().ok()).map(str::to_owned);
    let n = log.requests.len();
    let fault = log.fault.as_ref().and_then(|f| f(n, request.method(), &path));
    log.requests.push((request.method().clone(), path, range));
    fault
}
