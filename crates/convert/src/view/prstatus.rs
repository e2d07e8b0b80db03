//! Registers of an amd64 thread as debuggers expect them in a core: Linux's
//! `struct elf_prstatus` (`include/uapi/linux/elfcore.h`) in an NT_PRSTATUS
//! note of owner `CORE`, which gdb, lldb and drgn read whatever wrote it.

/// n_type of the note.
pub(super) const NT_PRSTATUS: u32 = 1;

/// `sizeof(struct elf_prstatus)`
const SIZE: usize = 336;
/// Offset of `pr_pid`: the thread's number in `info threads`.
const PR_PID: usize = 32;
/// Offset of `pr_reg`, 27 registers of 8 bytes.
const PR_REG: usize = 112;
/// Selectors of FreeBSD's kernel: GSEL(GCODE_SEL, SEL_KPL), GSEL(GDATA_SEL,
/// SEL_KPL) (`sys/amd64/include/segments.h`).
const KERNEL_CS: u64 = 0x20;
const KERNEL_SS: u64 = 0x28;

/// What a `struct pcb` has of a thread's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Prstatus {
    pub tid: u32,
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub rbx: u64,
    pub rip: u64,
}

impl Prstatus {
    /// The note's description.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; SIZE];
        out[PR_PID..PR_PID + 4].copy_from_slice(&self.tid.to_le_bytes());
        // `struct user_regs_struct`: index of each register.
        for (index, value) in [
            (0, self.r15),
            (1, self.r14),
            (2, self.r13),
            (3, self.r12),
            (4, self.rbp),
            (5, self.rbx),
            (16, self.rip),
            (17, KERNEL_CS),
            (19, self.rsp),
            (20, KERNEL_SS),
        ] {
            let at = PR_REG + index * 8;
            out[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        out
    }
}
