//! Progress bars: on a terminal, for what takes longer than a second.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shorter work shows no bar at all.
const QUIET_FOR: Duration = Duration::from_secs(1);

/// A bar over a number of bytes. Shared between threads.
pub struct Progress {
    bar: ProgressBar,
    start: Instant,
    /// Hidden so far, to be shown when the time comes.
    waiting: AtomicBool,
}

impl Progress {
    pub fn new(what: &str, total_bytes: u64, quiet: bool) -> Self {
        const BYTES: &str =
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
        Self::with_template(what, total_bytes, quiet, BYTES)
    }

    /// Over a number of steps instead.
    pub fn steps(what: &str, steps: u64, quiet: bool) -> Self {
        Self::with_template(what, steps, quiet, "{msg} {wide_bar} {pos}/{len} {eta}")
    }

    fn with_template(what: &str, total: u64, quiet: bool, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        let shown = !quiet && std::io::stderr().is_terminal();
        Self { bar, start: Instant::now(), waiting: AtomicBool::new(shown) }
    }

    /// `done` of the total bytes are done. May be called out of order.
    pub fn set(&self, done: u64) {
        if self.waiting.load(Ordering::Relaxed)
            && self.start.elapsed() >= QUIET_FOR
            && self.waiting.swap(false, Ordering::Relaxed)
        {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        if done > self.bar.position() {
            self.bar.set_position(done);
        }
    }
}

impl Progress {
    /// One more step is done.
    pub fn step(&self) {
        self.set(self.bar.position() + 1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
