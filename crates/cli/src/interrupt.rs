//! Signals. Ctrl-C and SIGTERM raise a flag that long work looks at, so that
//! it can take its temporary files along; SIGUSR1 (SIGINFO, Ctrl-T, where
//! there is one) has the progress told.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::progress;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What else is to happen, once.
static THEN: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

/// Exit code after an interrupt: 128 + SIGINT, as shells report it.
pub const EXIT_INTERRUPTED: u8 = 130;

#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
))]
const TELL: [i32; 2] = [SIGUSR1, signal_hook::consts::SIGINFO];
#[cfg(not(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
)))]
const TELL: [i32; 1] = [SIGUSR1];

/// A second Ctrl-C within this of the first is a finger that slipped; a later
/// one means it.
const INSISTS_AFTER: Duration = Duration::from_secs(1);

/// Installs the handlers. Without them an interrupt just ends the process,
/// which leaves a temporary file but never half an output.
pub fn install() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP].iter().chain(&TELL))?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut first = None;
        for signal in signals.forever() {
            if TELL.contains(&signal) {
                progress::tell();
                continue;
            }
            INTERRUPTED.store(true, Ordering::Relaxed);
            if first.get_or_insert_with(Instant::now).elapsed() > INSISTS_AFTER {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            run_then();
        }
    })?;
    Ok(())
}

/// Has `f` called at the first interrupt, now if it has come already.
pub fn then(f: impl FnOnce() + Send + 'static) {
    *THEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(f));
    if raised() {
        run_then();
    }
}

fn run_then() {
    let then = THEN.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(then) = then {
        then();
    }
}

/// The flag.
pub fn flag() -> &'static AtomicBool {
    &INTERRUPTED
}

/// Whether somebody asked for an end.
pub fn raised() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails once somebody asked for an end.
pub fn check() -> anyhow::Result<()> {
    if raised() { Err(anyhow::anyhow!("interrupted")) } else { Ok(()) }
}
