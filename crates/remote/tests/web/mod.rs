//! A web server that answers range requests, and that can be told to fail.

#![allow(dead_code)] // each test file uses its own part of this

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// An error of the server, with something secret in its body.
    Status(u16),
    /// Nothing comes.
    Stall,
    /// The connection ends after half of the body.
    HalfBody,
    /// Half of the body, and headers that say this is all there is.
    HalfLength,
    /// Half of the body in chunks, ended in order.
    HalfChunked,
    /// The bytes of another range, rightly called that.
    OtherRange,
    /// A bit of the body flipped.
    Flip,
    /// The connection ends before any answer.
    Close,
    /// The whole file, as from a server that knows no ranges.
    Whole,
    /// An error with a body that doesn't end.
    EndlessError,
}

/// What a server has and does.
pub struct Site {
    pub body: Mutex<Arc<Vec<u8>>>,
    /// The ETag with its quotes.
    pub e_tag: Mutex<Option<String>>,
    pub modified: Mutex<Option<&'static str>>,
    /// Called with the number of the request, from 0.
    pub fault: Box<dyn Fn(usize) -> Fault + Send + Sync>,
    pub requests: AtomicUsize,
    /// Ranges asked for, and paths with their queries.
    pub log: Mutex<Vec<(String, Option<Range<u64>>)>>,
    /// Bytes of bodies sent.
    pub sent: AtomicUsize,
}

/// A server on a port of its own; it ends with the process.
pub struct Web {
    pub site: Arc<Site>,
    pub url: String,
}

impl Web {
    pub fn new(body: Vec<u8>) -> Self {
        Self::failing(body, |_| Fault::None)
    }

    pub fn failing(body: Vec<u8>, fault: impl Fn(usize) -> Fault + Send + Sync + 'static) -> Self {
        let site = Arc::new(Site {
            body: Mutex::new(Arc::new(body)),
            e_tag: Mutex::new(Some("\"v1\"".into())),
            modified: Mutex::new(Some("Tue, 14 Nov 2023 22:13:20 GMT")),
            fault: Box::new(fault),
            requests: AtomicUsize::new(0),
            log: Mutex::default(),
            sent: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/dir/vm%20core.0", listener.local_addr().expect("bound"));
        let serving = site.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let site = serving.clone();
                std::thread::spawn(move || {
                    // Clients may go whenever they like.
                    let _ = serve(&site, stream);
                });
            }
        });
        Self { site, url }
    }

    pub fn requests(&self) -> usize {
        self.site.requests.load(Ordering::SeqCst)
    }
}

fn serve(site: &Site, stream: TcpStream) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    loop {
        let Some(first) = lines.next().transpose()? else { return Ok(()) };
        let (mut range, mut if_match) = (None, None);
        while let Some(line) = lines.next().transpose()?.filter(|l| !l.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
            match &*name.to_ascii_lowercase() {
                "range" => {
                    let (a, b) = value["bytes=".len()..].split_once('-').expect("a range");
                    range = Some(a.parse().expect("start")..b.parse::<u64>().expect("end") + 1);
                }
                "if-match" => if_match = Some(value.to_owned()),
                _ => {}
            }
        }
        let n = site.requests.fetch_add(1, Ordering::SeqCst);
        let mut words = first.split(' ');
        let head = words.next() == Some("HEAD");
        let path = words.next().unwrap_or("").to_owned();
        site.log.lock().expect("unpoisoned").push((path, range.clone()));
        let body = site.body.lock().expect("unpoisoned").clone();
        let e_tag = site.e_tag.lock().expect("unpoisoned").clone();
        let fault = (site.fault)(n);
        let len = body.len() as u64;
        let mut headers = String::new();
        if let Some(tag) = &e_tag {
            headers.extend(["ETag: ", tag, "\r\n"]);
        }
        if let Some(time) = *site.modified.lock().expect("unpoisoned") {
            headers.extend(["Last-Modified: ", time, "\r\n"]);
        }
        let mut error = |status: u16| {
            let text = "<Error>s3cr3t</Error>";
            write!(out, "HTTP/1.1 {status} No\r\nContent-Length: {}\r\n\r\n{text}", text.len())
        };
        match (fault, &mut range) {
            (Fault::Status(status), _) => {
                error(status)?;
                continue;
            }
            (Fault::Stall, _) => {
                std::thread::sleep(Duration::from_secs(60));
                return Ok(());
            }
            (Fault::Close, _) => return Ok(()),
            (Fault::EndlessError, _) => {
                write!(out, "HTTP/1.1 400 No\r\n\r\n")?;
                loop {
                    out.write_all(&[b'x'; 4096])?;
                }
            }
            _ if if_match.is_some_and(|m| Some(m) != e_tag) => {
                error(412)?;
                continue;
            }
            (_, Some(r)) if r.start >= len => {
                error(416)?;
                continue;
            }
            (Fault::OtherRange, Some(r)) => r.start = r.start.saturating_sub(1),
            _ => {}
        }
        let range = range.filter(|_| fault != Fault::Whole).map(|r| r.start..r.end.min(len));
        let mut bytes = match &range {
            Some(r) => body[r.start as usize..r.end as usize].to_vec(),
            None => body.to_vec(),
        };
        let promised = bytes.len();
        match fault {
            Fault::HalfBody | Fault::HalfLength | Fault::HalfChunked => {
                bytes.truncate(promised / 2);
            }
            Fault::Flip => bytes[promised / 2] ^= 1,
            _ => {}
        }
        let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
        if let Some(r) = &range {
            let span = format!("{}-{}/{len}", r.start, r.end - 1);
            headers.extend(["Content-Range: bytes ", &span, "\r\n"]);
        }
        if fault == Fault::HalfChunked {
            write!(out, "HTTP/1.1 {status}\r\n{headers}Transfer-Encoding: chunked\r\n\r\n")?;
            write!(out, "{:x}\r\n", bytes.len())?;
            out.write_all(&bytes)?;
            write!(out, "\r\n0\r\n\r\n")?;
            continue;
        }
        let length = if fault == Fault::HalfLength { bytes.len() } else { promised };
        write!(out, "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n")?;
        if !head {
            site.sent.fetch_add(bytes.len(), Ordering::SeqCst);
            out.write_all(&bytes)?;
        }
        if fault == Fault::HalfBody {
            return Ok(());
        }
    }
}
