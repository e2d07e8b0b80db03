//! `convert --json`: a line of JSON for each thing that happens. Described in
//! SCHEMA.md.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::json;

/// Lines of progress come no closer than this.
const EVERY: Duration = Duration::from_secs(1);

/// One line.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    Started {
        input: &'a str,
        output: &'a str,
        dump_bytes: Option<u64>,
    },
    Progress {
        input: &'a str,
        done_bytes: u64,
        total_bytes: u64,
    },
    Done {
        input: &'a str,
        output: &'a str,
        dump_bytes: u64,
        output_bytes: u64,
        seconds: f64,
        digest_blake3: Option<String>,
        losses: &'a [String],
    },
    Skipped {
        input: &'a str,
        output: &'a str,
        reason: &'a str,
    },
    Failed {
        input: &'a str,
        output: &'a str,
        error: &'a str,
        temporary: bool,
    },
    Summary(&'a Summary),
}

/// What has become of all of them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    pub converted: u64,
    /// Of those.
    pub incomplete: u64,
    pub skipped: u64,
    pub failed: u64,
    pub dump_bytes: u64,
    pub output_bytes: u64,
    pub seconds: f64,
}

/// Prints lines from any thread; nothing unless `--json`.
pub struct Events {
    on: bool,
    lock: Mutex<()>,
}

impl Events {
    pub fn new(on: bool) -> Self {
        Self { on, lock: Mutex::new(()) }
    }

    pub fn tell(&self, event: &Event<'_>) -> Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            schema: u32,
            #[serde(flatten)]
            event: &'a Event<'a>,
        }
        if !self.on {
            return Ok(());
        }
        let mut line = Vec::new();
        json::write_line(&mut line, &Line { schema: 1, event })?;
        let _one_at_a_time = self.lock.lock();
        let mut out = io::stdout().lock();
        out.write_all(&line)?;
        out.flush()?;
        Ok(())
    }

    /// What tells how far the work on `input` is.
    pub fn progress<'a>(&'a self, input: &'a str, total_bytes: u64) -> impl Fn(u64) + 'a {
        let began = Instant::now();
        let next = AtomicU64::new(EVERY.as_millis() as u64);
        move |done_bytes| {
            let now = began.elapsed().as_millis() as u64;
            let due = next.load(Ordering::Relaxed);
            let later = now + EVERY.as_millis() as u64;
            if self.on
                && now >= due
                && next.compare_exchange(due, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                // Nobody reads it: the work goes on.
                let _ = self.tell(&Event::Progress { input, done_bytes, total_bytes });
            }
        }
    }
}
