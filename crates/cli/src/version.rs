//! What `--version` says: the version, the commit and the target that this
//! was built from, what it can do, and which of its faster paths run here.

use std::sync::LazyLock;

/// `0.1.0 (1a2b3c4d5e6f)`; without the commit where it isn't known.
pub fn short() -> &'static str {
    match env!("VMCASK_COMMIT") {
        "" => env!("CARGO_PKG_VERSION"),
        _ => concat!(env!("CARGO_PKG_VERSION"), " (", env!("VMCASK_COMMIT"), ")"),
    }
}

/// [`short`], the target and the features.
pub fn long() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let sign = |has| if has { '+' } else { '-' };
        format!(
            "{}\ntarget: {}\nfeatures: {}mount {}remote\nlookups: {}",
            short(),
            env!("VMCASK_TARGET"),
            sign(vmcask_mount::SUPPORTED),
            sign(cfg!(feature = "remote")),
            vmcask_rank::batch_path()
        )
    });
    &TEXT
}
