//! Whole processes: seconds, CPU seconds and peak memory of each.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};
use vmcask_benches::record::Spread;

/// What a process took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Took {
    pub wall: f64,
    pub cpu: f64,
    pub peak_mib: f64,
}

/// The word that makes this program [`child`].
pub const CHILD: &str = "run-one";

/// Runs the command that follows [`CHILD`] and prints what it took: in a
/// process of its own, as peak memory is known of all children together.
pub fn child(words: &[String]) {
    let start = Instant::now();
    let status = Command::new(&words[0]).args(&words[1..]).status().expect("a program");
    let wall = start.elapsed().as_secs_f64();
    assert!(status.success(), "{words:?} failed");
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).expect("usage");
    let cpu = used.user_time().num_microseconds() + used.system_time().num_microseconds();
    let took = Took { wall, cpu: cpu as f64 / 1e6, peak_mib: used.max_rss() as f64 / 1024.0 };
    println!("{}", serde_json::to_string(&took).expect("numbers"));
}

/// Runs a line of shell; `$1`, `$2`... are `paths`.
fn once(script: &str, paths: &[&Path]) -> Took {
    let own = std::env::current_exe().expect("this program");
    let out = Command::new(own)
        .args([CHILD, "sh", "-ec", script, "sh"])
        .args(paths)
        .stderr(std::process::Stdio::inherit())
        .output()
        .expect("this program");
    assert!(out.status.success(), "{script} failed");
    serde_json::from_slice(&out.stdout).expect("what it took")
}

/// Several runs of one command.
pub struct Runs(Vec<Took>);

impl Runs {
    pub fn wall(&self) -> Spread {
        Spread::of(self.0.iter().map(|t| t.wall).collect())
    }

    pub fn cpu(&self) -> Spread {
        Spread::of(self.0.iter().map(|t| t.cpu).collect())
    }

    pub fn peak_mib(&self) -> f64 {
        self.0.iter().map(|t| t.peak_mib).fold(0.0, f64::max)
    }

    /// Wall time beside another command's, run by run.
    pub fn beside(&self, other: &Self) -> Spread {
        Spread::of(self.0.iter().zip(&other.0).map(|(a, b)| a.wall / b.wall).collect())
    }
}

/// A line of shell and the files that it makes in the folder `$3`.
pub struct Making<'a> {
    pub script: &'a str,
    pub files: &'a [&'a str],
}

/// Runs commands in turn, `passes` times; where that is more than one, once
/// before that isn't counted.
///
/// What each made before is gone when it runs, and the disk idle. To delete two
/// GiB takes two thirds of a second; some programs would do it while they are timed.
pub fn in_turn(commands: &[Making<'_>], paths: &[&Path], passes: usize) -> Vec<Runs> {
    let mut runs: Vec<Vec<Took>> = vec![Vec::new(); commands.len()];
    for pass in 0..passes + usize::from(passes > 1) {
        for (runs, Making { script, files }) in runs.iter_mut().zip(commands) {
            for file in *files {
                // Not there in the first pass.
                let _ = std::fs::remove_file(paths[2].join(file));
            }
            Command::new("sync").status().expect("sync");
            let took = once(script, paths);
            if pass > 0 || passes == 1 {
                runs.push(took);
            }
        }
    }
    runs.into_iter().map(Runs).collect()
}
