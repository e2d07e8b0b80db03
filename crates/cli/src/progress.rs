//! Progress bars: on a terminal, for what takes longer than a second. And
//! the line that SIGUSR1 or SIGINFO asks for, terminal or not.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::size::human;

/// Shorter work shows no bar at all.
const QUIET_FOR: Duration = Duration::from_secs(1);

/// When the process began, as far as anybody asks.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Whether `-q` was given.
static QUIET: AtomicBool = AtomicBool::new(false);

/// The work under way.
static CURRENT: Mutex<Weak<Work>> = Mutex::new(Weak::new());

fn current() -> MutexGuard<'static, Weak<Work>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    /// Shown as a share of the whole.
    Steps,
}

/// A bar over a number of bytes, or of steps. Shared between threads.
pub struct Progress(Arc<Work>);

struct Work {
    what: String,
    total: u64,
    unit: Unit,
    done: AtomicU64,
    bar: ProgressBar,
    start: Instant,
    /// Hidden so far, to be shown when the time comes.
    waiting: AtomicBool,
}

impl Progress {
    pub fn new(what: &str, total_bytes: u64, quiet: bool) -> Self {
        let style = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} \
                     {binary_bytes_per_sec} {eta}";
        Self::with_style(what, total_bytes, Unit::Bytes, style, quiet)
    }

    /// Over parts of a whole whose bytes aren't known.
    pub fn steps(what: &str, total: u64, quiet: bool) -> Self {
        Self::with_style(what, total, Unit::Steps, "{msg} {wide_bar} {percent} % {eta}", quiet)
    }

    fn with_style(what: &str, total: u64, unit: Unit, style: &str, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        let work = Arc::new(Work {
            what: what.to_owned(),
            total,
            unit,
            done: AtomicU64::new(0),
            bar,
            start: Instant::now(),
            waiting: AtomicBool::new(shown(quiet)),
        });
        *current() = Arc::downgrade(&work);
        Self(work)
    }

    /// `done` of the total are done. May be called out of order.
    pub fn set(&self, done: u64) {
        let work = &*self.0;
        if work.waiting.load(Ordering::Relaxed)
            && work.start.elapsed() >= QUIET_FOR
            && work.waiting.swap(false, Ordering::Relaxed)
        {
            work.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        if work.done.fetch_max(done, Ordering::Relaxed) < done {
            work.bar.set_position(done);
        }
    }
}

impl Progress {
    /// One more step is done.
    pub fn step(&self) {
        self.set(self.0.bar.position() + 1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.bar.finish_and_clear();
    }
}

fn shown(quiet: bool) -> bool {
    !quiet && std::io::stderr().is_terminal()
}

/// Runs what doesn't say how far it is; a spinner shows that it goes on.
pub fn spin<R>(what: &str, f: impl FnOnce() -> R) -> R {
    // For SIGUSR1.
    let _named = Progress::steps(what, 0, true);
    if !shown(QUIET.load(Ordering::Relaxed)) {
        return f();
    }
    let (done, wait) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if wait.recv_timeout(QUIET_FOR) == Err(RecvTimeoutError::Timeout) {
                let bar = ProgressBar::new_spinner().with_message(what.to_owned());
                bar.enable_steady_tick(Duration::from_millis(100));
                let _ = wait.recv();
                bar.finish_and_clear();
            }
        });
        let result = f();
        drop(done);
        result
    })
}

/// Notes when the process began, and whether it is to be quiet.
pub fn begin(quiet: bool) {
    LazyLock::force(&BEGAN);
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Prints how far the work is.
pub fn tell() {
    // A bar being drawn is left alone; nothing is printed for a command that
    // has ended.
    let work = current().upgrade();
    let line = match &work {
        Some(work) => work.line(),
        None => format!("running for {}", HumanDuration(BEGAN.elapsed())),
    };
    let print = || crate::remark(&line);
    match &work {
        Some(work) => work.bar.suspend(print),
        None => print(),
    }
}

impl Work {
    fn line(&self) -> String {
        let done = self.done.load(Ordering::Relaxed).min(self.total);
        let took = self.start.elapsed();
        let what = &self.what;
        if self.total == 0 {
            return format!("{what}, for {} so far", HumanDuration(took));
        }
        let share = done as f64 / self.total as f64;
        let left = match share {
            0.0 => "time left unknown".to_owned(),
            share => {
                let left = took.as_secs_f64() * (1.0 - share) / share;
                let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
                format!("{} left", HumanDuration(left))
            }
        };
        let percent = share * 100.0;
        match self.unit {
            Unit::Steps => format!("{what}: {percent:.0} %, {left}"),
            Unit::Bytes => {
                let rate = done as f64 / took.as_secs_f64().max(1e-9);
                format!(
                    "{what}: {} of {} ({percent:.0} %), {}/s, {left}",
                    human(done),
                    human(self.total),
                    human(rate as u64)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_unit() {
        let bytes = Progress::new("archiving", 4 << 30, true);
        bytes.set(1 << 30);
        bytes.set(1 << 29); // late, from another thread
        let line = bytes.0.line();
        assert!(line.starts_with("archiving: 1.00 GiB of 4.00 GiB (25 %), "), "{line}");
        assert!(line.ends_with(" left"), "{line}");
        let steps = Progress::steps("checking", 1000, true);
        steps.set(500);
        assert!(steps.0.line().starts_with("checking: 50 %, "), "{}", steps.0.line());
    }
}
