//! Lists, registers and stacks of made-up kernels, whole and damaged.

mod fake;

use std::collections::HashSet;
use std::num::NonZero;

use fake::{Arm64, Plan, World, image_bytes};
use proptest::prelude::*;
use vmcask_dump::{Arch, KernelImage, VirtAddr};
use vmcask_inspect::msgbuf::Order;
use vmcask_inspect::threads::ThreadList;
use vmcask_inspect::{Backtrace, ImageCheck, Kernel, MessageBuffer, backtrace, check};

fn answers(world: &World) -> (ThreadList, Vec<Backtrace>) {
    let kernel = Kernel::new(&world.memory, &world.image).unwrap();
    let list = kernel.threads().unwrap();
    let workers = NonZero::new(2).unwrap();
    let traces = backtrace::all(&kernel, list.layout, &list.threads, workers);
    (list, traces)
}

/// Everything found is true; how many threads were found.
fn assert_true(world: &World, list: &ThreadList, traces: &[Backtrace], what: &str) -> usize {
    for (thread, trace) in list.threads.iter().zip(traces) {
        let truth = world.threads.iter().find(|t| Some(t.tid) == thread.tid).unwrap();
        assert_eq!(thread.name(), truth.name, "{what}");
        assert_eq!(thread.address, Some(VirtAddr(truth.td)), "{what}");
        assert_eq!(thread.process, Some(VirtAddr(truth.proc)), "{what}");
        let frames: Vec<u64> = trace.frames.iter().map(|f| f.address.0).collect();
        assert_eq!(frames, truth.frames, "{what}: {}", truth.name);
        let sp = trace.registers.as_ref().map_or(0, |r| r.sp.0);
        assert_eq!(sp, truth.sp, "{what}: {}", truth.name);
        assert_eq!(trace.end.is_whole(), !truth.frames.is_empty(), "{what}: {}", trace.end);
    }
    list.threads.len()
}

fn plans() -> Vec<Plan> {
    let mut plans = Vec::new();
    for arch in [Arch::Amd64, Arch::Arm64, Arch::I386, Arch::Riscv] {
        let plan = Plan::of(arch);
        plans.push(Plan { new_stoppcbs: true, ..plan.clone() });
        plans.push(plan);
    }
    for osreldate in [false, true] {
        for arm64 in [Arm64::To13, Arm64::Since14] {
            plans.push(Plan { arm64, osreldate, ..Plan::of(Arch::Arm64) });
        }
    }
    plans
}

#[test]
fn every_thread_of_every_machine() {
    for plan in plans() {
        let world = World::new(&plan);
        let what = format!("{plan:?}");
        let (list, traces) = answers(&world);
        assert_eq!(assert_true(&world, &list, &traces, &what), world.threads.len(), "{what}");
        assert!(list.losses.is_empty(), "{what}: {:?}", list.losses);
        assert_eq!(list.processes, plan.procs);
        let names: Vec<_> = list.threads.iter().map(vmcask_inspect::Thread::name).collect();
        let want: Vec<_> = world.threads.iter().map(|t| t.name.clone()).collect();
        assert_eq!(names, want, "{what}: order");
        let kernel = Kernel::new(&world.memory, &world.image).unwrap();
        let (function, offset) =
            kernel.function(VirtAddr(world.threads[0].frames[1]), true).unwrap();
        assert!(function.name.starts_with("function_") && offset == 0x21, "{what}: {offset:#x}");
        assert_eq!(kernel.int("hz").unwrap(), 1000);
    }
}

#[test]
fn lists_that_loop() {
    for plan in plans() {
        // The third process leads back to the first, then to itself.
        for to in [0, 2] {
            let mut world = World::new(&plan);
            let procs: Vec<u64> = (0..5).map(|i| world.threads[i * 3].proc).collect();
            world.memory.word(procs[2], procs[to]);
            let (list, traces) = answers(&world);
            assert_eq!(assert_true(&world, &list, &traces, "loop"), 9);
            assert_eq!(list.losses.list().len(), 1);
            assert!(list.losses.list()[0].reason.contains("loop"), "{:?}", list.losses);
        }
        // A process's second thread leads to one of another process.
        let mut world = World::new(&plan);
        world.memory.word(world.threads[4].td + 0x10, world.threads[0].td);
        let (list, traces) = answers(&world);
        // The crashed thread is the one with the torn link, and is there.
        assert_eq!(assert_true(&world, &list, &traces, "loop"), 14);
        assert!(list.losses.list()[0].to_string().contains("after the first 2"));
    }
}

#[test]
fn links_that_lead_nowhere() {
    for (to, why) in [
        (0x10, "no kernel pointer"),
        (0xffff_fe12_3456_7890, "not mapped"),
        (0xffff_fe12_3456_7891, "no kernel pointer"),
        (u64::MAX - 7, "not mapped"),
        (u64::MAX, "no kernel pointer"),
    ] {
        let mut world = World::new(&Plan::of(Arch::Amd64));
        world.memory.word(world.threads[6].proc, to);
        let (list, traces) = answers(&world);
        let reasons = format!("{:?}", list.losses);
        assert!(reasons.contains(why) || reasons.contains("past the end"), "{to:#x}: {reasons}");
        // What the bad link leads to may be listed as a process without
        // anything readable, never as threads.
        assert_eq!(assert_true(&world, &list, &traces, "nowhere"), 9);
    }
}

#[test]
fn a_crashed_thread_that_no_list_has() {
    let mut world = World::new(&Plan { crashed: 12, ..Plan::of(Arch::Amd64) });
    world.memory.word(world.threads[3].proc, 0x1000);
    let (list, traces) = answers(&world);
    let last = list.threads.last().unwrap();
    assert!(last.crashed && last.tid == Some(100_012) && last.address.is_none());
    let frames: Vec<u64> = traces.last().unwrap().frames.iter().map(|f| f.address.0).collect();
    assert_eq!(frames, world.threads[12].frames);
    assert_eq!(list.losses.list().len(), 2, "{:?}", list.losses);

    // Nor are there any lists at all.
    let mut world = World::new(&Plan::of(Arch::Amd64));
    let allproc = world.symbol("allproc");
    world.memory.word(allproc, 7);
    let (list, traces) = answers(&world);
    assert_eq!((list.threads.len(), traces[0].frames.len()), (1, 6));
}

#[test]
fn stacks_that_are_torn() {
    let record = |world: &World, n: usize| world.threads[n].sp + 3 * 0x40;
    for (next, end) in [
        // A frame that is its own caller; one that lies below.
        (None, "not advancing"),
        (Some(0xffff_fe12_0000_0008), "can't be read"),
        (Some(0x7fff_0000_1000), "user mode"),
        (Some(0xffff_fe00_0000_0003), "is none"),
    ] {
        let mut world = World::new(&Plan { crashed: 0, ..Plan::of(Arch::Amd64) });
        let at = record(&world, 0);
        world.memory.word(at, next.unwrap_or(at - 0x40));
        let (_, traces) = answers(&world);
        let text = traces[0].end.to_string();
        assert!(text.contains(end), "{next:x?}: {text}");
        let frames: Vec<u64> = traces[0].frames.iter().map(|f| f.address.0).collect();
        assert_eq!(frames[..4], world.threads[0].frames[..4]);
        assert_eq!(traces[0].end.is_whole(), end == "user mode");
    }
    // Two stacks that lead to each other for ever.
    let mut world = World::new(&Plan { crashed: 0, ..Plan::of(Arch::Amd64) });
    let (a, b) = (record(&world, 0), record(&world, 2));
    world.memory.word(a, b);
    world.memory.word(b, a);
    let (_, traces) = answers(&world);
    assert!(traces[0].end.to_string().contains("not advancing"), "{}", traces[0].end);
    // A lost page.
    let mut world = World::new(&Plan::of(Arch::Amd64));
    world.memory.forget_page(world.threads[0].sp);
    let (list, traces) = answers(&world);
    assert!(list.losses.is_empty());
    assert!(!traces[0].end.is_whole(), "{}", traces[0].end);
}

#[test]
fn an_nmi_leads_back_to_the_stack_below() {
    let mut world = World::new(&Plan { crashed: 2, ..Plan::of(Arch::Amd64) });
    // Thread 2's last frame was entered while thread 0's stack was in use.
    let last = world.threads[2].sp + 5 * 0x40;
    let below = world.threads[0].sp + 2 * 0x40;
    world.memory.word(last, below);
    world.memory.word(last + 8, world.threads[0].frames[2]);
    let (_, traces) = answers(&world);
    let frames: Vec<u64> = traces[2].frames.iter().map(|f| f.address.0).collect();
    let want = [&world.threads[2].frames[..], &world.threads[0].frames[2..]].concat();
    assert_eq!(frames, want);
    assert!(traces[2].end.is_whole(), "{}", traces[2].end);
}

/// The image has the offsets; the dump's page with them is lost, or reads as
/// zeros, or isn't of this kernel.
#[test]
fn offsets_from_the_image_first() {
    for damage in 0..3 {
        let mut world = World::new(&Plan::of(Arch::Amd64));
        let first = world.symbol("proc_off_p_list");
        let end = world.symbol("hz");
        let mut rodata = vec![0; (end - first) as usize];
        let kernel = Kernel::new(&world.memory, &world.image).unwrap();
        kernel.memory().read(VirtAddr(first), &mut rodata).unwrap();
        let bytes =
            image_bytes(Arch::Amd64, &world.symbols, 0xffff_ffff_8020_0000, Some((first, &rodata)));
        world.image = KernelImage::parse(&bytes).unwrap();
        match damage {
            0 => {}
            1 => world.memory.write(first, &vec![0; rodata.len()]),
            _ => world.memory.write(first, &vec![0x77; rodata.len()]),
        }
        let (list, traces) = answers(&world);
        assert_eq!(assert_true(&world, &list, &traces, "offsets"), 15);
    }
    // An image whose data were zeroed, and a dump that has them.
    let mut world = World::new(&Plan::of(Arch::Amd64));
    let first = world.symbol("proc_off_p_list");
    let zeros = vec![0; (world.symbol("hz") - first) as usize];
    let bytes =
        image_bytes(Arch::Amd64, &world.symbols, 0xffff_ffff_8020_0000, Some((first, &zeros)));
    world.image = KernelImage::parse(&bytes).unwrap();
    let (list, traces) = answers(&world);
    assert_eq!(assert_true(&world, &list, &traces, "offsets"), 15);
    // Neither has them.
    world.memory.write(first, &zeros);
    world.memory.u32(world.symbol("dumptid"), 0);
    let kernel = Kernel::new(&world.memory, &world.image).unwrap();
    let err = kernel.threads().unwrap_err().to_string();
    assert!(err.contains("make no sense"), "{err}");
}

#[test]
fn images_of_other_machines_and_kernels() {
    let world = World::new(&Plan::of(Arch::Amd64));
    let other = World::new(&Plan::of(Arch::Arm64));
    let err = Kernel::new(&world.memory, &other.image).unwrap_err().to_string();
    assert!(err.contains("arm64") && err.contains("amd64"), "{err}");

    let mut world = World::new(&Plan::of(Arch::Amd64));
    let kernel = Kernel::new(&world.memory, &world.image).unwrap();
    let unknown = check::image(&kernel, &kernel.memory(), || None);
    assert!(matches!(unknown, ImageCheck::Unknown { .. }), "{unknown}");

    let at = world.symbol("hz") + 0x9000;
    let version = b"FreeBSD 14.1-RELEASE #0 releng: Fri\n    root@builder:/GENERIC\n\0";
    let mut symbols = world.symbols.clone();
    symbols.push(("version", at, version.len() as u64));
    let bytes = image_bytes(Arch::Amd64, &symbols, 0xffff_ffff_8020_0000, Some((at, version)));
    world.image = KernelImage::parse(&bytes).unwrap();
    world.memory.write(at, version);
    let checked = |world: &World, messages: Option<&MessageBuffer>| {
        let kernel = Kernel::new(&world.memory, &world.image).unwrap();
        check::image(&kernel, &kernel.memory(), || messages.cloned())
    };
    assert_eq!(checked(&world, None), ImageCheck::Same { by: "version" });
    world.memory.write(at, b"FreeBSD 13.2-RELEASE");
    let text = checked(&world, None).to_string();
    assert!(text.contains("14.1-RELEASE #0 releng: Fri root@builder"), "{text}");
    assert!(text.contains("13.2-RELEASE"), "{text}");
    // Another kernel has something else there; its log says what it is.
    world.memory.write(at, &[0xcc; 64]);
    let log = MessageBuffer::from_ring(b"boot\nFreeBSD 12.4-RELEASE r1\npanic: x\n\0\0\0\0");
    let text = checked(&world, Some(&log)).to_string();
    assert!(text.contains("12.4-RELEASE r1") && text.contains("14.1-RELEASE"), "{text}");
}

#[test]
fn messages_by_msgbufp() {
    let log = b"<118>first\nsecond\nDumping 3 out of 40 MB:";
    for plan in plans() {
        for wseq in [0, 5, 200, 511, 512, 513, 4000] {
            let mut ring = vec![0; 512];
            for (i, &b) in log.iter().enumerate() {
                ring[(wseq + 512 - log.len() + i) % 512] = b;
            }
            let mut world = World::new(&plan);
            let header = world.add_msgbuf(&ring, wseq as u32);
            let read = |world: &World, copy: Option<&[u8]>| {
                let kernel = Kernel::new(&world.memory, &world.image).unwrap();
                MessageBuffer::from_kernel(&kernel, &kernel.memory(), copy)
            };
            let m = read(&world, None).unwrap();
            assert_eq!((m.order, &m.bytes[..]), (Order::Exact, &log[..]), "wseq {wseq}");
            assert!(m.losses.is_empty() && !m.wrapped);
            // A magic number that isn't there.
            let magic = header + if plan.arch == Arch::I386 { 4 } else { 8 };
            world.memory.u32(magic, 1);
            assert!(read(&world, None).unwrap_err().to_string().contains("msg_magic"));
            world.memory.u32(magic, 0x063062);
            world.memory.u32(magic + 4, 0);
            assert!(read(&world, None).unwrap_err().to_string().contains("msg_size"));
            world.memory.u32(magic + 4, u32::MAX);
            assert!(read(&world, None).unwrap_err().to_string().contains("msg_size"));
        }
    }
    // The ring's page is lost: its copy in the dump's own part has it.
    let mut ring = vec![0; 8192];
    ring[3000..3000 + log.len()].copy_from_slice(log);
    let mut world = World::new(&Plan::of(Arch::Amd64));
    let header = world.add_msgbuf(&ring, 3000 + log.len() as u32);
    world.memory.forget_page(header - 8192);
    let kernel = Kernel::new(&world.memory, &world.image).unwrap();
    let m = MessageBuffer::from_kernel(&kernel, &kernel.memory(), Some(&ring)).unwrap();
    assert_eq!((&m.bytes[..], m.losses.is_empty()), (&log[..], true));
    let m = MessageBuffer::from_kernel(&kernel, &kernel.memory(), None).unwrap();
    assert!(m.losses.list()[0].what.contains("4096 of the message buffer's 8192 bytes"));
}

/// What damage writes: noise, or a pointer to something that is there.
#[derive(Clone, Debug)]
enum Damage {
    Byte(usize, u8),
    Pointer { at: usize, to: usize },
    Lose(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, b)| Damage::Byte(at, b)),
        (any::<usize>(), any::<usize>()).prop_map(|(at, to)| Damage::Pointer { at, to }),
        any::<usize>().prop_map(Damage::Lose),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever a kernel left: the walks end, don't panic, list nothing twice.
    #[test]
    fn damaged_kernels(
        which in 0..12usize,
        damages in prop::collection::vec(damage(), 1..60),
    ) {
        let plans = plans();
        let plan = &plans[which % plans.len()];
        let mut world = World::new(plan);
        world.add_msgbuf(b"boot\npanic: x\n\0\0\0\0\0\0\0\0", 14);
        // Structures: where damage hurts.
        let mut starts: Vec<u64> = world.threads.iter().flat_map(|t| [t.td, t.proc, t.sp]).collect();
        starts.extend(world.symbols.iter().map(|s| s.1));
        for d in &damages {
            match *d {
                Damage::Byte(at, b) => *world.memory.byte_mut(at) = b,
                Damage::Pointer { at, to } => {
                    let (at, to) = (starts[at % starts.len()], starts[to % starts.len()]);
                    let offset = [0, 0x10, 0x40, 0x438][to as usize / 8 % 4];
                    world.memory.word(at + offset, to);
                }
                Damage::Lose(at) => world.memory.forget_page(starts[at % starts.len()]),
            }
        }
        let kernel = Kernel::new(&world.memory, &world.image).unwrap();
        if let Ok(list) = kernel.threads() {
            let found: Vec<_> = list.threads.iter().filter_map(|t| t.address).collect();
            let distinct: HashSet<_> = found.iter().collect();
            prop_assert_eq!(found.len(), distinct.len());
            let workers = NonZero::new(2).unwrap();
            let traces = backtrace::all(&kernel, list.layout, &list.threads, workers);
            prop_assert_eq!(traces.len(), list.threads.len());
            for trace in &traces {
                prop_assert!(trace.frames.len() <= 2048);
                prop_assert_eq!(trace.registers.is_none(), trace.frames.is_empty());
            }
            // What is found and what is missing make up what there was, where
            // nothing but pages was lost.
            if damages.iter().all(|d| matches!(d, Damage::Lose(_)))
                && list.threads.len() < world.threads.len()
            {
                prop_assert!(!list.losses.is_empty());
            }
        }
        let memory = kernel.memory();
        let messages = MessageBuffer::from_kernel(&kernel, &memory, None).ok();
        let _ = check::image(&kernel, &memory, || messages);
    }

    #[test]
    fn rings_of_anything(ring in prop::collection::vec(
        prop_oneof![Just(0u8), Just(b'\n'), Just(b'<'), Just(b'>'), Just(b'1'), any::<u8>()], 0..600)
    ) {
        let m = MessageBuffer::from_ring(&ring);
        let text = ring.iter().filter(|&&b| b != 0).count();
        prop_assert_eq!(m.bytes.len(), text);
        let shown: usize = m.lines().map(|l| l.text.len()).sum();
        prop_assert!(shown <= text);
        for line in m.lines() {
            let safe = vmcask_inspect::text::printable(line.text);
            prop_assert!(!safe.chars().any(|c| c.is_control() && c != '\t'));
        }
    }
}
