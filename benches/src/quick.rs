//! How much a bench is asked to do.

/// Words after `--`: `cargo bench -p vmcask-benches --bench NAME -- quick`.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Less, for a look: `just bench-quick`.
    pub quick: bool,
}

impl Extent {
    /// Of this process; `None` under `cargo test --all-targets`, which runs
    /// bench programs, too: only `cargo bench` asks for a measurement.
    pub fn asked() -> Option<Self> {
        let mut asked = false;
        let mut quick = false;
        for word in std::env::args().skip(1) {
            asked |= word == "--bench";
            quick |= word == "quick";
        }
        asked.then_some(Self { quick })
    }

    /// One or the other.
    pub fn either<T>(self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// What repeats it.
    pub fn command(self, bench: &str) -> String {
        let quick = if self.quick { " -- quick" } else { "" };
        format!("cargo bench -p vmcask-benches --features peers --bench {bench}{quick}")
    }
}
