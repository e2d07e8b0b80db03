//! A made-up kernel: memory as a sparse map of pages, with processes,
//! threads, stacks and a message buffer in it, and an image with its symbols.
//! Layouts are written here by hand; nothing is shared with the reader.

#![allow(dead_code)] // each test file uses its own part of this

use std::collections::BTreeMap;

use object::write::{Object, StandardSection, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SymbolFlags, SymbolKind, SymbolScope};
use vmcask_dump::{
    Arch, Error, FileOff, KernelImage, PhysAddr, PhysMem, ReadAt, Result, VirtAddr, VirtMem,
};

const PAGE: u64 = 4096;

/// Sparse memory by virtual address.
pub struct FakeMemory {
    arch: Arch,
    bytes: Vec<u8>,
    /// Page number to offset in `bytes`.
    pages: BTreeMap<u64, usize>,
}

impl PhysMem for FakeMemory {
    fn source(&self) -> &dyn ReadAt {
        &self.bytes
    }
    fn locate(&self, pa: PhysAddr) -> Result<(FileOff, u64)> {
        Err(Error::Absent { pa })
    }
}

impl VirtMem for FakeMemory {
    fn arch(&self) -> Option<Arch> {
        Some(self.arch)
    }
    fn locate_virt(&self, va: VirtAddr) -> Result<(FileOff, u64)> {
        let within = va.0 % PAGE;
        match self.pages.get(&(va.0 / PAGE)) {
            Some(&off) => Ok((FileOff(off as u64 + within), PAGE - within)),
            None => Err(Error::NotMapped { va, reason: "not in the fake" }),
        }
    }
}

impl FakeMemory {
    pub fn new(arch: Arch) -> Self {
        Self { arch, bytes: Vec::new(), pages: BTreeMap::new() }
    }

    pub fn write(&mut self, va: u64, bytes: &[u8]) {
        for (i, &b) in bytes.iter().enumerate() {
            let at = va + i as u64;
            let end = self.bytes.len();
            let off = *self.pages.entry(at / PAGE).or_insert(end);
            if off == end {
                self.bytes.resize(end + PAGE as usize, 0);
            }
            self.bytes[off + (at % PAGE) as usize] = b;
        }
    }

    pub fn forget_page(&mut self, va: u64) {
        self.pages.remove(&(va / PAGE));
    }

    /// All pages, ascending: address and content.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pages
            .iter()
            .map(|(number, &off)| (number * PAGE, &self.bytes[off..off + PAGE as usize]))
    }

    pub fn u32(&mut self, va: u64, n: u32) {
        self.write(va, &n.to_le_bytes());
    }

    pub fn word(&mut self, va: u64, n: u64) {
        let bytes = n.to_le_bytes();
        self.write(va, &bytes[..width(self.arch)]);
    }

    /// The `n`th byte there is, for damage.
    pub fn byte_mut(&mut self, n: usize) -> &mut u8 {
        let len = self.bytes.len();
        &mut self.bytes[n % len]
    }
}

fn width(arch: Arch) -> usize {
    if arch == Arch::I386 { 4 } else { 8 }
}

/// How arm64 registers are saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arm64 {
    Since14,
    To13,
}

/// What is made.
#[derive(Clone, Debug)]
pub struct Plan {
    pub arch: Arch,
    pub arm64: Arm64,
    /// Whether the kernel tells its version (`osreldate`).
    pub osreldate: bool,
    pub procs: usize,
    pub threads_each: usize,
    pub frames: usize,
    /// Which thread, in list order, wrote the dump.
    pub crashed: usize,
    /// `stoppcbs` is a pointer instead of an array, and `stopped_cpus` there.
    pub new_stoppcbs: bool,
}

impl Plan {
    pub fn of(arch: Arch) -> Self {
        Self {
            arch,
            arm64: Arm64::Since14,
            osreldate: false,
            procs: 5,
            threads_each: 3,
            frames: 6,
            crashed: 4,
            new_stoppcbs: false,
        }
    }
}

/// A thread as a correct reader finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrueThread {
    pub name: String,
    pub proc: u64,
    pub td: u64,
    pub pid: i32,
    pub tid: i32,
    pub frames: Vec<u64>,
    pub sp: u64,
}

/// A kernel and what is true of it.
pub struct World {
    pub memory: FakeMemory,
    pub image: KernelImage,
    pub symbols: Vec<(&'static str, u64, u64)>,
    pub threads: Vec<TrueThread>,
    pub stacks: u64,
}

// Where struct members lie in this kernel.
const P_LIST: u64 = 0;
const P_THREADS: u64 = 0x10;
const P_PID: u64 = 0xc4;
const P_COMM: u64 = 0x3d8;
const TD_PLIST: u64 = 0x10;
const TD_TID: u64 = 0xa0;
const TD_NAME: u64 = 0x2bc;
const TD_PCB: u64 = 0x438;
const TD_ONCPU: u64 = 0x6bc;
const PCB_SIZE: u64 = 0x140;
/// Text of a function `function_N`, and how many there are.
pub const FUNCTION_BYTES: u64 = 0x100;
pub const FUNCTIONS: u64 = 64;

/// Where things lie: image, structures, stacks.
struct Places {
    text: u64,
    data: u64,
    heap: u64,
    stacks: u64,
}

fn places(arch: Arch) -> Places {
    let (text, heap, stacks) = match arch {
        Arch::Amd64 => (0xffff_ffff_8020_0000, 0xffff_f800_0100_0000, 0xffff_fe00_0000_0000),
        Arch::Arm64 => (0xffff_0000_0000_0800, 0xffff_a000_0000_0000, 0xffff_0000_8000_0000),
        Arch::Riscv => (0xffff_ffc0_0000_0000, 0xffff_ffd0_0000_0000, 0xffff_ffc0_8000_0000),
        Arch::I386 => (0x0080_0000, 0x2000_0000, 0x1000_0000),
        _ => panic!("no fake of {arch}"),
    };
    Places { text, data: text + 0x10_0000, heap, stacks }
}

const STACK: u64 = 0x4000;

impl World {
    pub fn new(plan: &Plan) -> Self {
        let Places { text, data, heap, stacks } = places(plan.arch);
        let mut m = FakeMemory::new(plan.arch);
        let mut symbols: Vec<(&'static str, u64, u64)> = Vec::new();
        let mut at = data;
        let mut symbol = |name, size: u64| {
            let here = at;
            symbols.push((name, here, size));
            at += size.next_multiple_of(16);
            here
        };
        for (name, value) in [
            ("proc_off_p_list", P_LIST),
            ("proc_off_p_threads", P_THREADS),
            ("proc_off_p_pid", P_PID),
            ("proc_off_p_comm", P_COMM),
            ("thread_off_td_plist", TD_PLIST),
            ("thread_off_td_tid", TD_TID),
            ("thread_off_td_name", TD_NAME),
            ("thread_off_td_pcb", TD_PCB),
            ("thread_off_td_oncpu", TD_ONCPU),
            ("pcb_size", PCB_SIZE),
            ("hz", 1000),
            ("mp_ncpus", 4),
        ] {
            m.u32(symbol(name, 4), value as u32);
        }
        if plan.osreldate {
            let n = if plan.arm64 == Arm64::To13 { 1_302_001 } else { 1_401_000 };
            m.u32(symbol("osreldate", 4), n);
        }
        let allproc = symbol("allproc", width(plan.arch) as u64);
        let dumptid = symbol("dumptid", 4);
        let dumppcb = symbol("dumppcb", PCB_SIZE);
        let cpus = 4;
        let stoppcbs = if plan.new_stoppcbs {
            let pointer = symbol("stoppcbs", width(plan.arch) as u64);
            m.word(pointer, heap - 0x10_0000);
            // CPU 1 went on running.
            m.word(symbol("stopped_cpus", 128), 0b1101);
            m.u32(symbol("mp_maxid", 4), cpus - 1);
            heap - 0x10_0000
        } else {
            symbol("stoppcbs", PCB_SIZE * u64::from(cpus))
        };
        m.write(stoppcbs, &vec![0; (PCB_SIZE * u64::from(cpus)) as usize]);
        m.write(dumppcb, &[0; PCB_SIZE as usize]);

        let mut threads = Vec::new();
        let mut link = allproc;
        for p in 0..plan.procs {
            // Newest first, as the kernel's list is.
            let pid = (plan.procs - p) as i32 - 1;
            let proc = heap + p as u64 * 0x540;
            m.word(link, proc);
            link = proc + P_LIST;
            m.word(link, 0);
            m.u32(proc + P_PID, pid as u32);
            let comm = format!("proc{p}");
            m.write(proc + P_COMM, comm.as_bytes());
            let mut td_link = proc + P_THREADS;
            m.word(td_link, 0);
            for t in 0..plan.threads_each {
                let n = threads.len();
                let td = heap + 0x800_0000 + n as u64 * 0x840;
                let tid = 100_000 + n as i32;
                m.word(td_link, td);
                td_link = td + TD_PLIST;
                m.word(td_link, 0);
                m.u32(td + TD_TID, tid as u32);
                let td_name = if t == 0 { comm.clone() } else { format!("worker {t}") };
                m.write(td + TD_NAME, td_name.as_bytes());
                // Every fifth thread is on a CPU; there are four.
                let cpu = (n % 5 == 1 && n / 5 < cpus as usize).then_some(n / 5);
                m.u32(td + TD_ONCPU, cpu.map_or(u32::MAX, |cpu| cpu as u32));
                let stack = stacks + n as u64 * (STACK + PAGE);
                let own_pcb = stack + STACK - PCB_SIZE;
                m.word(td + TD_PCB, own_pcb);
                let crashed = n == plan.crashed;
                if crashed {
                    m.u32(dumptid, tid as u32);
                }
                let pcb = match cpu {
                    _ if crashed => dumppcb,
                    Some(cpu) => stoppcbs + cpu as u64 * PCB_SIZE,
                    None => own_pcb,
                };
                let frames: Vec<u64> = (0..plan.frames as u64)
                    .map(|f| text + (n as u64 * 7 + f * 3) % FUNCTIONS * FUNCTION_BYTES + 0x20 + f)
                    .collect();
                let sp = own_pcb - 0x40 - plan.frames as u64 * 0x40;
                let first_fp = save_frames(&mut m, plan.arch, own_pcb - 0x40, &frames);
                let mut regs = vec![("pc", frames[0]), ("fp", first_fp), ("sp", sp)];
                let running_on = cpu.filter(|_| !crashed);
                let known = !(plan.new_stoppcbs && running_on == Some(1));
                if !known {
                    regs.clear();
                }
                save_registers(&mut m, plan, pcb, &regs);
                let mut name = format!("(pid {pid}) {comm}");
                if t > 0 {
                    name = format!("{name}/{td_name}");
                }
                match cpu {
                    _ if crashed => name += " (crashed)",
                    Some(cpu) => name = format!("{name} (on CPU {cpu})"),
                    None => {}
                }
                threads.push(TrueThread {
                    name,
                    proc,
                    td,
                    pid,
                    tid,
                    frames: if known { frames } else { Vec::new() },
                    sp: if known { sp } else { 0 },
                });
            }
        }
        let image = image(plan.arch, &symbols, text);
        Self { memory: m, image, symbols, threads, stacks }
    }

    pub fn symbol(&self, name: &str) -> u64 {
        self.symbols.iter().find(|s| s.0 == name).unwrap().1
    }

    /// A message buffer and its `struct msgbuf`; `wseq` as given.
    pub fn add_msgbuf(&mut self, ring: &[u8], wseq: u32) -> u64 {
        let arch = self.memory.arch;
        let at = places(arch).heap + 0x700_0000;
        let msgbufp = places(arch).data + 0x8000;
        let header = at + ring.len().next_multiple_of(8) as u64;
        self.memory.write(at, ring);
        self.memory.word(msgbufp, header);
        self.memory.word(header, at);
        let ints = header + width(arch) as u64;
        for (i, n) in [0x063062, ring.len() as u32, wseq, 0].into_iter().enumerate() {
            self.memory.u32(ints + 4 * i as u64, n);
        }
        self.symbols.push(("msgbufp", msgbufp, width(arch) as u64));
        self.image = image(arch, &self.symbols, places(arch).text);
        header
    }
}

/// Writes frame records below `top`; the innermost is lowest. Returns the
/// innermost function's frame pointer.
fn save_frames(m: &mut FakeMemory, arch: Arch, top: u64, frames: &[u64]) -> u64 {
    let record = |i: usize| top - (frames.len() - i) as u64 * 0x40;
    let fp = |i: usize| record(i) + if arch == Arch::Riscv { 16 } else { 0 };
    let width = width(arch) as u64;
    for i in 0..frames.len() {
        // The last was called by the trampoline, whose frame pointer is 0.
        let (caller, address) = match frames.get(i + 1) {
            Some(&address) => (fp(i + 1), address),
            None => (0, frames[0]),
        };
        m.word(record(i), caller);
        m.word(record(i) + width, address);
    }
    fp(0)
}

fn save_registers(m: &mut FakeMemory, plan: &Plan, pcb: u64, regs: &[(&str, u64)]) {
    let width = width(plan.arch) as u64;
    for &(name, value) in regs {
        let [pc, fp, sp] = match (plan.arch, plan.arm64) {
            (Arch::Amd64, _) => [7, 4, 5],
            (Arch::I386, _) => [5, 2, 3],
            (Arch::Arm64, Arm64::Since14) => [11, 10, 12],
            (Arch::Arm64, Arm64::To13) => [30, 29, 32],
            (Arch::Riscv, _) => [0, 4, 1],
            other => panic!("{other:?}"),
        };
        let word = match name {
            "pc" => pc,
            "fp" => fp,
            _ => sp,
        };
        m.word(pcb + word * width, value);
    }
}

/// An image with absolute symbols: functions, and the given data.
fn image(arch: Arch, symbols: &[(&'static str, u64, u64)], text: u64) -> KernelImage {
    KernelImage::parse(&image_bytes(arch, symbols, text, None)).unwrap()
}

/// The same as bytes; `rodata` are initialised bytes and their address.
pub fn image_bytes(
    arch: Arch,
    symbols: &[(&'static str, u64, u64)],
    text: u64,
    rodata: Option<(u64, &[u8])>,
) -> Vec<u8> {
    let architecture = match arch {
        Arch::Amd64 => Architecture::X86_64,
        Arch::Arm64 => Architecture::Aarch64,
        Arch::Riscv => Architecture::Riscv64,
        Arch::I386 => Architecture::I386,
        _ => panic!("no fake of {arch}"),
    };
    let mut obj = Object::new(BinaryFormat::Elf, architecture, Endianness::Little);
    let mut add = |name: String, value, size, kind| {
        obj.add_symbol(Symbol {
            name: name.into_bytes(),
            value,
            size,
            kind,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Absolute,
            flags: SymbolFlags::None,
        });
    };
    for n in 0..FUNCTIONS {
        let at = text + n * FUNCTION_BYTES;
        add(format!("function_{n}"), at, FUNCTION_BYTES, SymbolKind::Text);
    }
    for &(name, at, size) in symbols {
        add(name.into(), at, size, SymbolKind::Data);
    }
    if let Some((_, bytes)) = rodata {
        let id = obj.section_id(StandardSection::ReadOnlyData);
        obj.append_section_data(id, bytes, 1);
    }
    let mut bytes = obj.write().unwrap();
    if let Some((at, content)) = rodata {
        assert_eq!(width(arch), 8, "section headers of ELF64");
        place_section(&mut bytes, content.len() as u64, at);
    }
    bytes
}

/// Gives the one section of `size` bytes its address: a linker's work.
fn place_section(elf: &mut [u8], size: u64, addr: u64) {
    let u64_at = |elf: &[u8], at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
    let shoff = u64_at(elf, 0x28) as usize;
    let shnum = u16::from_le_bytes([elf[0x3c], elf[0x3d]]) as usize;
    let header = (0..shnum)
        .map(|i| shoff + i * 64)
        .find(|&header| u64_at(elf, header + 0x20) == size)
        .expect("a section of that size");
    elf[header + 0x10..header + 0x18].copy_from_slice(&addr.to_le_bytes());
}
