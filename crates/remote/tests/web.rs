//! Files of a web server, and everything that can go wrong with one: the right
//! bytes, or an error that says what it was, and never other bytes.

#[path = "web/mod.rs"]
mod web;

use std::sync::Arc;
use std::time::Duration;

use vmcask_dump::ReadAt;
use vmcask_remote::{Error, Location, Options, RemoteSource};
use web::{Fault, Web};

/// Bytes that differ everywhere.
fn bytes(len: usize) -> Vec<u8> {
    let mut x = 0x2545_f491_4f6c_dd1d_u64;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

/// Little patience.
fn hasty() -> Options {
    Options {
        read_timeout: Duration::from_millis(1500),
        retries: 3,
        first_pause: Duration::from_millis(5),
        ..Options::default()
    }
}

fn open_with(web: &Web, options: &Options) -> Result<RemoteSource, Error> {
    let at = Location::parse(&format!("{}?sig=s3cr3t", web.url)).expect("a URL")?;
    RemoteSource::open(&at, options)
}

fn open(web: &Web) -> Result<RemoteSource, Error> {
    open_with(web, &hasty())
}

/// The error that reading gives; what it says has nothing secret.
#[track_caller]
fn error(result: std::io::Result<usize>) -> Error {
    let e = result.expect_err("an error");
    harmless(e.downcast().expect("this crate's error"))
}

#[track_caller]
fn harmless(e: Error) -> Error {
    let text = format!("{e} {e:?}");
    assert!(!text.contains("s3cr3t"), "{text}");
    assert!(!e.to_string().contains('\n'), "{text}");
    e
}

const LEN: usize = 3_000_001;

#[test]
fn any_bytes_from_any_thread() {
    let body = bytes(LEN);
    let web = Web::new(body.clone());
    let source = open(&web).unwrap();
    assert_eq!(source.len(), LEN as u64);
    std::thread::scope(|scope| {
        for t in 0..4_usize {
            let (source, body) = (&source, &body);
            scope.spawn(move || {
                let mut buf = vec![0; 300_000];
                for i in 0..60 {
                    let off = (t * 977 + i * 104_729) % (LEN + 10);
                    let want = buf.len().min(LEN.saturating_sub(off)).min(1 + i * 5003);
                    let n = source.read_at(off as u64, &mut buf[..=i * 5003]).unwrap();
                    assert_eq!(n, want, "at {off}");
                    assert_eq!(buf[..n], body[off.min(LEN)..][..n], "at {off}");
                }
            });
        }
    });
    // The query went with every request; the path as it was written.
    let log = web.site.log.lock().unwrap();
    assert!(log.iter().all(|(path, _)| path == "/dir/vm%20core.0?sig=s3cr3t"), "{log:?}");
    // Everything is kept: no byte came twice, but in small gaps.
    assert!(web.site.sent.load(std::sync::atomic::Ordering::SeqCst) <= LEN * 5 / 4, "{log:?}");
}

#[test]
fn what_lies_together_is_asked_for_together() {
    let body = bytes(20 << 20);
    let web = Web::new(body.clone());
    let source = open(&web).unwrap();
    let mut buf = vec![0; 5 << 20];
    source.read_exact_at(9 << 20, &mut buf).unwrap();
    assert_eq!(buf, body[9 << 20..14 << 20]);
    assert_eq!(web.requests(), 2);
    // From front to back: ranges get longer.
    let mut all = Vec::new();
    while all.len() < body.len() {
        let n = source.read_at(all.len() as u64, &mut buf[..4096]).unwrap();
        all.extend_from_slice(&buf[..n]);
    }
    assert_eq!(all, body);
    assert!(web.requests() < 20, "{}", web.requests());
}

#[test]
fn memory_is_bounded() {
    let body = bytes(40 << 20);
    let web = Web::new(body.clone());
    let source = open_with(&web, &Options { cache_bytes: 0, ..hasty() }).unwrap();
    let mut buf = vec![0; 40 << 20];
    source.read_exact_at(0, &mut buf).unwrap();
    assert_eq!(buf, body);
    // 16 MiB are kept: the beginning isn't any more.
    let before = web.requests();
    source.read_exact_at(0, &mut buf[..1]).unwrap();
    assert_eq!(web.requests(), before + 1);
    assert_eq!(buf[0], body[0]);
}

/// One request fails, the first or a later one: nobody notices.
#[test]
fn one_failure_is_made_good() {
    let body = bytes(LEN);
    for fault in [
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(429),
        Fault::HalfBody,
        Fault::HalfLength,
        Fault::HalfChunked,
        Fault::Close,
        Fault::Stall,
    ] {
        for (nth, tagged) in [(0, true), (2, true), (2, false)] {
            let web =
                Web::failing(body.clone(), move |n| if n == nth { fault } else { Fault::None });
            if !tagged {
                *web.site.e_tag.lock().unwrap() = None;
            }
            let source = open(&web).unwrap_or_else(|e| panic!("{fault:?} {nth}: {e}"));
            for off in [1_000_000, 2_500_000] {
                let mut buf = vec![0; 100_000];
                let result = source.read_exact_at(off, &mut buf);
                result.unwrap_or_else(|e| panic!("{fault:?} {nth} {tagged}: {e}"));
                assert_eq!(buf, body[off as usize..][..buf.len()], "{fault:?} {nth}");
            }
            assert!(web.requests() > nth, "{fault:?}");
        }
    }
}

/// It fails each time: an error, after as many requests as were promised.
#[test]
fn failing_always_is_an_error() {
    let body = bytes(LEN);
    for fault in [
        Fault::Status(500),
        Fault::HalfBody,
        Fault::HalfLength,
        Fault::HalfChunked,
        Fault::OtherRange,
        Fault::Close,
        Fault::Stall,
        Fault::EndlessError,
    ] {
        let web = Web::failing(body.clone(), move |n| if n > 0 { fault } else { Fault::None });
        let source = open(&web).unwrap();
        let mut buf = vec![0; 100_000];
        let e = error(source.read_at(1_000_000, &mut buf));
        match (fault, &e) {
            (Fault::Status(500), Error::Status { status: 500, tries: 4, .. })
            | (Fault::EndlessError, Error::Status { .. } | Error::Transport { .. })
            | (_, Error::Transport { .. }) => {}
            _ => panic!("{fault:?}: {e:?}"),
        }
        assert!((2..=17).contains(&web.requests()), "{fault:?}: {} requests", web.requests());
        assert!(e.is_temporary() || fault == Fault::EndlessError, "{fault:?}");
    }
}

#[test]
fn another_version_is_an_error() {
    type Change = fn(&Web);
    let body = bytes(LEN);
    let changes: [(&str, Change, Change); 4] = [
        ("a strong ETag", |_| (), |web| *web.site.e_tag.lock().unwrap() = Some("\"v2\"".into())),
        (
            "a weak ETag",
            |web| *web.site.e_tag.lock().unwrap() = Some("W/\"v1\"".into()),
            |web| *web.site.e_tag.lock().unwrap() = Some("W/\"v2\"".into()),
        ),
        (
            "no ETag, a time",
            |web| *web.site.e_tag.lock().unwrap() = None,
            |web| *web.site.modified.lock().unwrap() = Some("Tue, 14 Nov 2023 22:13:21 GMT"),
        ),
        (
            "nothing but a length",
            |web| {
                *web.site.e_tag.lock().unwrap() = None;
                *web.site.modified.lock().unwrap() = None;
            },
            |web| *web.site.body.lock().unwrap() = Arc::new(bytes(LEN + 1)),
        ),
    ];
    for (what, before, after) in changes {
        let web = Web::new(body.clone());
        before(&web);
        let source = open(&web).unwrap();
        let mut buf = vec![0; 1000];
        source.read_exact_at(2_000_000, &mut buf).unwrap();
        assert_eq!(buf, body[2_000_000..2_001_000]);
        after(&web);
        let e = error(source.read_at(1_000_000, &mut buf));
        assert!(matches!(e, Error::Changed { .. }), "{what}: {e:?}");
        // What has come is still right.
        source.read_exact_at(2_000_000, &mut buf).unwrap();
        assert_eq!(buf, body[2_000_000..2_001_000], "{what}");
    }
}

#[test]
fn servers_without_ranges_are_refused() {
    let web = Web::failing(bytes(LEN), |_| Fault::Whole);
    let e = harmless(open(&web).err().expect("an error"));
    assert!(matches!(e, Error::NoRanges { .. }), "{e:?}");
    assert_eq!(web.requests(), 1);
}

#[test]
fn answers_that_no_retry_changes() {
    for status in [401, 403, 404, 410] {
        let web = Web::failing(bytes(LEN), move |_| Fault::Status(status));
        let e = harmless(open(&web).err().expect("an error"));
        match (status, &e) {
            (401 | 403, Error::Denied { status: said, .. }) if *said == status => {}
            (404 | 410, Error::NotFound { .. }) => {}
            _ => panic!("{status}: {e:?}"),
        }
        assert!(!e.is_temporary());
        assert_eq!(web.requests(), 1, "{status}");
    }
}

#[test]
fn short_and_empty_files() {
    for len in [0, 1, 16_384, 16_385] {
        let body = bytes(len);
        let web = Web::new(body.clone());
        let source = open(&web).unwrap();
        assert_eq!(source.len(), len as u64);
        let mut buf = vec![0; len + 10];
        assert_eq!(source.read_at(0, &mut buf).unwrap(), len);
        assert_eq!(buf[..len], body);
        assert_eq!(source.read_at(len as u64, &mut buf).unwrap(), 0);
    }
}

#[test]
fn nobody_listens() {
    let at = Location::parse("http://127.0.0.1:1/x?s3cr3t").unwrap().unwrap();
    let e = harmless(RemoteSource::open(&at, &hasty()).err().expect("an error"));
    assert!(matches!(&e, Error::Transport { what, .. } if what.contains("connect")), "{e:?}");
    let at = Location::parse("http://127.0.0.1:1/x").unwrap().unwrap();
    let e = harmless(vmcask_remote::Upload::create(&at, 1, false, &hasty()).err().unwrap());
    assert!(matches!(e, Error::Unsupported { .. }), "{e:?}");
}
