//! A real dump and what lldb finds in it.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use vmcask_dump::{KernelImage, Minidump, ReadAt, VirtAddr};
use vmcask_inspect::{Kernel, backtrace};

/// A file of the shared real dumps, unpacked in memory; `None`, with a
/// remark, where there is none.
fn real(packed: &str, unpacker: &str) -> Option<Vec<u8>> {
    let roots = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut paths = roots.map(|root| root.join("shared/vmcores").join(packed));
    let Some(path) = paths.find(|path: &PathBuf| path.exists()) else {
        eprintln!("skipped: {packed} is not there");
        return None;
    };
    if unpacker.is_empty() {
        return std::fs::read(path).ok();
    }
    match Command::new(unpacker).arg("-dc").arg(&path).output() {
        Ok(out) if out.status.success() => Some(out.stdout),
        _ => {
            eprintln!("skipped: {unpacker} can't be run");
            None
        }
    }
}

#[test]
fn everything_expected_of_the_real_pair() {
    let (Some(dump), Some(kernel), Some(expected)) = (
        real("amd64-minidump.vmcore.bz2", "bzip2"),
        real("amd64-kernel.xz", "xz"),
        real("expected.json", ""),
    ) else {
        return;
    };
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let dump = Minidump::open(Arc::new(dump) as Arc<dyn ReadAt>).unwrap();
    let image = KernelImage::parse(&kernel).unwrap();
    let kernel = Kernel::new(&dump, &image).unwrap();
    assert_eq!(kernel.int("hz").unwrap(), 100);
    assert_eq!(
        kernel.memory().pointer(kernel.symbol("allproc").unwrap()).unwrap(),
        VirtAddr(0xfffff80002c3b528)
    );
    let list = kernel.threads().unwrap();
    assert_eq!(Value::from(list.threads.len()), expected["threads"]);
    let traces = backtrace::all(&kernel, list.layout, &list.threads, NonZero::new(2).unwrap());
    for thread in expected["thread"].as_array().unwrap() {
        let at = list.threads.iter().position(|t| t.name() == thread["name"]);
        let at = at.unwrap_or_else(|| panic!("no {}: {list:#?}", thread["name"]));
        let trace = &traces[at];
        let frames: Vec<String> = trace.frames.iter().map(|f| f.address.to_string()).collect();
        assert_eq!(Value::from(frames), thread["bt"], "{}", thread["name"]);
        let registers = trace.registers.as_ref().unwrap();
        for (name, value) in thread["regs"].as_object().unwrap() {
            let found = registers.get(name).map(|r| format!("{r:#018x}"));
            assert_eq!(found.as_deref(), value.as_str(), "{name} of {}", thread["name"]);
        }
    }
    assert_eq!(list.threads.iter().filter(|t| t.crashed).count(), 1);
    assert!(list.losses.is_empty(), "{:?}", list.losses);
}
