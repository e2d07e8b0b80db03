//! Kernel image and dump as a pair: walked as a debugger does, and by the
//! inspection commands.

use vmcask_convert::input;
use vmcask_dump::{KernelImage, VirtAddr, VirtMem};
use vmcask_synth::{Arch, Format, Frame, Spec, SynthDump, Thread};

use crate::common::{fails, ok, vmcask};
use crate::{all_minidumps, generate};

/// What lldb's FreeBSD plugin does, on any dump: symbols from the image,
/// everything else from memory.
struct Debugger<'a> {
    image: &'a KernelImage,
    mem: &'a dyn VirtMem,
}

impl Debugger<'_> {
    fn symbol(&self, name: &str) -> u64 {
        self.image.symbol(name).unwrap_or_else(|| panic!("{name}")).addr.0
    }

    fn int(&self, va: u64) -> i32 {
        let mut bytes = [0; 4];
        self.mem.read_virt(VirtAddr(va), &mut bytes).unwrap();
        i32::from_le_bytes(bytes)
    }

    fn word(&self, va: u64) -> u64 {
        let mut bytes = [0; 8];
        let size = if self.image.is_64() { 8 } else { 4 };
        self.mem.read_virt(VirtAddr(va), &mut bytes[..size]).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn text(&self, va: u64) -> String {
        let mut bytes = [0; 20];
        self.mem.read_virt(VirtAddr(va), &mut bytes).unwrap();
        String::from_utf8(bytes.split(|&b| b == 0).next().unwrap().to_vec()).unwrap()
    }

    fn offset(&self, name: &str) -> u64 {
        let va = self.symbol(name);
        let mut bytes = [0; 4];
        self.image.read(VirtAddr(va), &mut bytes).unwrap();
        assert_eq!(i32::from_le_bytes(bytes), self.int(va), "{name}: image and memory differ");
        i32::from_le_bytes(bytes) as u64
    }

    fn list(&self, first: u64, link: u64) -> Vec<u64> {
        let mut out = vec![];
        let mut at = self.word(first);
        while at != 0 {
            out.push(at);
            at = self.word(at + link);
        }
        out
    }

    /// Words of the pcb that hold program counter, stack and frame pointer,
    /// and where frames keep the caller's, in words.
    fn abi(arch: Arch) -> ([u64; 3], [i64; 2]) {
        match arch {
            Arch::Amd64 => ([7, 5, 4], [0, 1]),
            Arch::Arm64 => ([30, 32, 29], [0, 1]),
            Arch::Riscv => ([0, 1, 4], [-2, -1]),
            Arch::I386 => ([5, 3, 2], [0, 1]),
            other => panic!("{other}"),
        }
    }

    fn threads(&self, arch: Arch) -> Vec<Thread> {
        let word: u64 = if self.image.is_64() { 8 } else { 4 };
        let (registers, saved) = Self::abi(arch);
        let dumptid = self.int(self.symbol("dumptid"));
        let mut out = vec![];
        let procs = self.list(self.symbol("allproc"), self.offset("proc_off_p_list"));
        for &proc in procs.iter().rev() {
            let head = proc + self.offset("proc_off_p_threads");
            for td in self.list(head, self.offset("thread_off_td_plist")) {
                let tid = self.int(td + self.offset("thread_off_td_tid"));
                let oncpu = self.int(td + self.offset("thread_off_td_oncpu"));
                let pcb = if tid == dumptid {
                    self.symbol("dumppcb")
                } else if oncpu >= 0 {
                    self.symbol("stoppcbs") + oncpu as u64 * self.offset("pcb_size")
                } else {
                    self.word(td + self.offset("thread_off_td_pcb"))
                };
                let [pc, sp, mut fp] = registers.map(|i| self.word(pcb + i * word));
                let frame = |pc| {
                    let (symbol, offset) = self.image.nearest(VirtAddr(pc)).unwrap();
                    Frame { pc, function: symbol.name.to_string(), offset }
                };
                let mut backtrace = vec![frame(pc)];
                let started_by = loop {
                    assert!(fp > sp && fp < sp + 16384);
                    let [next, ra] =
                        saved.map(|w| self.word(fp.wrapping_add_signed(w * word as i64)));
                    // Where a kernel thread starts.
                    if next == 0 {
                        break Some(frame(ra));
                    }
                    backtrace.push(frame(ra));
                    // Where user mode entered.
                    if next.abs_diff(fp) > 16384 {
                        break None;
                    }
                    assert!(next > fp, "frames go up");
                    fp = next;
                };
                out.push(Thread {
                    pid: self.int(proc + self.offset("proc_off_p_pid")),
                    comm: self.text(proc + self.offset("proc_off_p_comm")),
                    tid,
                    name: self.text(td + self.offset("thread_off_td_name")),
                    oncpu,
                    crashed: tid == dumptid,
                    pcb,
                    registers: vec![],
                    backtrace,
                    started_by,
                });
            }
        }
        out
    }

    /// The log by `msgbufp`, as dmesg(8) puts it in order.
    fn log(&self) -> String {
        let word = if self.image.is_64() { 8 } else { 4 };
        let header = self.word(self.symbol("msgbufp"));
        assert_eq!(self.int(header + word), 0x06_3062, "MSG_MAGIC");
        let size = self.int(header + word + 4) as usize;
        let at = self.int(header + word + 8) as usize % size;
        let mut ring = vec![0; size];
        self.mem.read_virt(VirtAddr(self.word(header)), &mut ring).unwrap();
        ring.rotate_left(at);
        ring.retain(|&b| b != 0);
        String::from_utf8(ring).unwrap()
    }
}

#[test]
fn kernel_and_dump_are_a_pair() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, kernel) = (dir.path().join("dump"), dir.path().join("kernel"));
    let mut specs = all_minidumps();
    let elf = Spec { format: Format::Elf, dump: 8 << 20, seed: 7, ..Spec::default() };
    // 5 levels of page tables, a kernel far from its link address, many and
    // few processes.
    specs.push(Spec { ram: 5 << 40, sparse: true, ..elf.clone() });
    let avail = vec![(0, 1 << 20), (6 << 30, 7 << 30)];
    specs.push(Spec { avail, ram: (1 << 30) + (1 << 20), ..elf.clone() });
    specs.push(elf);
    specs.push(Spec { procs: 300, dump: 32 << 20, ..Spec::default() });
    specs.push(Spec { procs: 0, dump: 32 << 20, ..Spec::default() });
    specs.push(Spec { procs: 1, dump: 32 << 20, ..Spec::of(Arch::Arm64) });
    for spec in specs {
        let what = format!("{spec}");
        let mut command = generate(&spec, &dump);
        if spec.format == Format::Elf {
            command.args(["--format", "elf"]);
        }
        command.args(["--procs", &spec.procs.to_string(), "--force", "--kernel"]).arg(&kernel);
        if spec.sparse {
            command.arg("--sparse");
        }
        let synth = SynthDump::new(spec).unwrap();
        let arch = synth.spec().arch;
        if synth.kernel_image().is_none() {
            let err = fails(&mut command, 1);
            assert!(err.contains("no kernel images"), "{err}");
            assert!(matches!(arch, Arch::Arm | Arch::Powerpc64 | Arch::Powerpc64le));
            continue;
        }
        ok(&mut command);
        let bytes = std::fs::read(&kernel).unwrap();
        let image = KernelImage::parse(&bytes).unwrap();
        let mut input = input::open(&dump).unwrap();
        input.dump.use_kernel(&image).unwrap();
        let debugger = Debugger { image: &image, mem: input.dump.virt() };
        let truth = synth.truth();
        let want: Vec<Thread> =
            truth.threads.into_iter().map(|t| Thread { registers: vec![], ..t }).collect();
        assert_eq!(debugger.threads(arch), want, "{what}");
        assert_eq!(want.iter().filter(|t| t.crashed).count(), 1);
        assert_eq!(debugger.log(), truth.msgbuf, "{what}");
        assert_eq!(debugger.int(debugger.symbol("hz")), 100, "{what}");
        let panic = debugger.text(debugger.word(debugger.symbol("panicstr")));
        assert!(panic.starts_with("vmcask: page fault"), "{what}: {panic}");
        assert_eq!(debugger.text(debugger.symbol("version")), "FreeBSD 13.2-RELEASE");
        for page in &truth.mapped {
            let mut bytes = vec![0; page.bytes.len()];
            debugger.mem.read_virt(VirtAddr(page.va), &mut bytes).unwrap();
            assert_eq!(bytes, page.bytes, "{what}: {page:x?}");
        }
        for &va in &truth.unmapped {
            assert!(debugger.mem.read_virt(VirtAddr(va), &mut [0]).is_err(), "{what}: {va:x}");
        }
    }
}

/// What the inspection commands print is what was made.
#[test]
fn inspection_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, kernel) = (dir.path().join("dump"), dir.path().join("kernel"));
    for args in [
        &["--arch", "amd64"][..],
        &["--arch", "amd64", "--format", "elf", "--ram", "1GiB"],
        &["--arch", "arm64-16k"],
        &["--arch", "riscv"],
        &["--arch", "i386", "--pae"],
    ] {
        let json = ok(vmcask()
            .args(["gen", "--force", "--print-truth", "--dump", "8MiB"])
            .args(args)
            .arg("--kernel")
            .args([&kernel, &dump]));
        let truth: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        let show = |command: &str, more: &[&str]| {
            ok(vmcask().arg(command).args(more).arg("--kernel").args([&kernel, &dump])).stdout
        };
        let found: serde_json::Value =
            serde_json::from_slice(&show("bt", &["--all", "--json"])).unwrap();
        let number = |v: &serde_json::Value| {
            u64::from_str_radix(v.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
        };
        let threads = |json: &serde_json::Value, frames: &str, pc: &str| {
            let mut all: Vec<(i64, bool, Vec<u64>)> = json["threads"]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| {
                    let frames = t[frames].as_array().unwrap().iter().map(|f| number(&f[pc]));
                    (t["tid"].as_i64().unwrap(), t["crashed"] == true, frames.collect())
                })
                .collect();
            all.sort();
            all
        };
        let want = threads(&truth, "backtrace", "pc");
        assert!(want.len() > 10);
        assert_eq!(threads(&found, "frames", "address"), want, "{args:?}");
        assert_eq!(show("dmesg", &[]), truth["msgbuf"].as_str().unwrap().as_bytes(), "{args:?}");
    }
}
