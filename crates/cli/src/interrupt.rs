//! Ctrl-C and SIGTERM: a flag that long work looks at, so that it can take
//! its temporary files along.

use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Exit code after an interrupt: 128 + SIGINT, as shells report it.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Installs the handlers. Without them an interrupt just ends the process,
/// which leaves a temporary file but never half an output.
pub fn install() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
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
