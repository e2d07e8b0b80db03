//! Writes the seeds of a fuzz target into a folder, where libFuzzer takes them
//! from: `vmcask-fuzz-targets TARGET FOLDER`.

#![forbid(unsafe_code)]

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let (Some(name), Some(folder)) = (args.next(), args.next()) else {
        for target in vmcask_fuzz_targets::TARGETS {
            println!("{}", target.name);
        }
        return Ok(());
    };
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder)?;
    let target = vmcask_fuzz_targets::target(&name.to_string_lossy());
    for (i, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{i:04}")), seed)?;
    }
    Ok(())
}
