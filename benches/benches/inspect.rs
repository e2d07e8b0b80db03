//! Time against threads: listing all of them, and all their backtraces, from
//! an archive that is opened anew each time.

#[path = "../../crates/inspect/tests/fake/mod.rs"]
mod fake;

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fake::{FakeMemory, Plan, World};
use vmcask_archive::{ArchiveReader, WriteOptions, write};
use vmcask_dump::{Arch, ElfCore, ReadAt};
use vmcask_inspect::{Kernel, backtrace};

/// A core with a segment for each run of pages, by kernel address.
fn core(memory: &FakeMemory) -> Vec<u8> {
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    for (va, page) in memory.pages() {
        match runs.last_mut() {
            Some((start, bytes)) if *start + bytes.len() as u64 == va => bytes.extend(page),
            _ => runs.push((va, page.to_vec())),
        }
    }
    // ELF64, little-endian, ET_CORE, EM_X86_64.
    let mut out = b"\x7fELF\x02\x01\x01\xff\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    for n in [0u64, 64, 0] {
        out.extend(n.to_le_bytes());
    }
    let count = u16::try_from(runs.len()).expect("few segments");
    for n in [0, 0, 64, 56, count, 64, 0, 0] {
        out.extend(n.to_le_bytes());
    }
    let mut off = (64 + 56 * u64::from(count)).next_multiple_of(4096);
    let mut data = vec![0; off as usize];
    for (va, bytes) in &runs {
        let size = bytes.len() as u64;
        out.extend(1u32.to_le_bytes());
        out.extend(4u32.to_le_bytes());
        for n in [off, *va, off, size, size, 4096] {
            out.extend(n.to_le_bytes());
        }
        data.extend(bytes);
        off += size;
    }
    data[..out.len()].copy_from_slice(&out);
    data
}

fn archived(memory: &FakeMemory) -> Arc<Vec<u8>> {
    let core = core(memory);
    let plan = vmcask_archive::Plan::whole(core.len() as u64);
    let mut out = Vec::new();
    let goes_on = AtomicBool::new(false);
    write(&core, &plan, &WriteOptions::default(), &mut out, &|_| {}, &goes_on).expect("an archive");
    Arc::new(out)
}

fn threads(c: &mut Criterion) {
    for count in [100, 1_000, 10_000] {
        let plan = Plan { procs: count / 2, threads_each: 2, frames: 10, ..Plan::of(Arch::Amd64) };
        let world = World::new(&plan);
        let archive = archived(&world.memory);
        let open = || {
            let source: Arc<dyn ReadAt> = Arc::new(ArchiveReader::open(archive.clone()).unwrap());
            ElfCore::open(source).unwrap()
        };
        let workers = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);

        let mut group = c.benchmark_group("threads");
        group.sample_size(10).throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("ps", count), |b| {
            b.iter(|| {
                let dump = open();
                let list = Kernel::new(&dump, &world.image).unwrap().threads().unwrap();
                assert_eq!((list.threads.len(), list.losses.is_empty()), (count, true));
            });
        });
        group.bench_function(BenchmarkId::new("bt --all", count), |b| {
            b.iter(|| {
                let dump = open();
                let kernel = Kernel::new(&dump, &world.image).unwrap();
                let list = kernel.threads().unwrap();
                let traces = backtrace::all(&kernel, list.layout, &list.threads, workers);
                assert!(traces.iter().all(|t| t.end.is_whole() && t.frames.len() == 10));
            });
        });
        group.finish();
    }
}

criterion_group!(benches, threads);
criterion_main!(benches);
