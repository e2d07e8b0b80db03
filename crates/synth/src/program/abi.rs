//! What a call looks like on each architecture: instructions, stack frames,
//! saved registers.

use crate::arch::Arch;

/// Of an architecture whose kernels have a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abi {
    arch: Arch,
    /// Bytes of a pointer.
    pub(crate) word: u64,
    /// `sizeof(struct pcb)`, about that of FreeBSD 13.
    pub(crate) pcb_size: u64,
    /// Registers of `struct pcb`: name and index of its word. Program
    /// counter, stack pointer and frame pointer first.
    pub(crate) registers: &'static [(&'static str, u64)],
    /// Where the caller's frame pointer and the return address stand,
    /// relative to the frame pointer, in words.
    pub(crate) saved: (i64, i64),
    /// A frame pointer of user mode.
    pub(crate) user_fp: u64,
}

/// `sys/amd64/include/pcb.h`
const AMD64: &[(&str, u64)] = &[
    ("rip", 7),
    ("rsp", 5),
    ("rbp", 4),
    ("rbx", 6),
    ("r12", 3),
    ("r13", 2),
    ("r14", 1),
    ("r15", 0),
];
/// `sys/arm64/include/pcb.h` of FreeBSD 13: x0 to x29, lr, a reserved word,
/// sp. A stopped thread's program counter is its lr.
const ARM64: &[(&str, u64)] = &[
    ("lr", 30),
    ("sp", 32),
    ("x29", 29),
    ("x19", 19),
    ("x20", 20),
    ("x21", 21),
    ("x22", 22),
    ("x23", 23),
];
/// `sys/riscv/include/pcb.h`: ra, sp, gp, tp, s0 to s11.
const RISCV: &[(&str, u64)] =
    &[("ra", 0), ("sp", 1), ("s0", 4), ("s1", 5), ("s2", 6), ("s3", 7), ("s4", 8)];
/// `sys/i386/include/pcb.h`
const I386: &[(&str, u64)] =
    &[("eip", 5), ("esp", 3), ("ebp", 2), ("ebx", 4), ("esi", 1), ("edi", 0)];

impl Abi {
    /// `None` where no program is made: arm and powerpc64.
    pub(crate) fn of(arch: Arch) -> Option<Self> {
        let (word, pcb_size, registers, saved, user_fp) = match arch {
            Arch::Amd64 => (8, 320, AMD64, (0, 1), 0x7fff_ffff_e4d0),
            Arch::Arm64 => (8, 1344, ARM64, (0, 1), 0xffff_ffff_e4d0),
            Arch::Riscv => (8, 432, RISCV, (-2, -1), 0x3f_ffff_e4d0),
            Arch::I386 => (4, 192, I386, (0, 1), 0xbfbf_e4d0),
            Arch::Arm | Arch::Powerpc64 | Arch::Powerpc64le => return None,
        };
        Some(Self { arch, word, pcb_size, registers, saved, user_fp })
    }

    pub(crate) fn put_word(&self, n: u64) -> Vec<u8> {
        n.to_le_bytes()[..self.word as usize].to_vec()
    }

    /// Fills a function's bytes with what does nothing.
    pub(crate) fn nops(&self, code: &mut [u8]) {
        let nop: &[u8] = match self.arch {
            Arch::Arm64 => &[0x1f, 0x20, 0x03, 0xd5],
            Arch::Riscv => &[0x13, 0x00, 0x00, 0x00],
            _ => &[0x90],
        };
        code.chunks_mut(nop.len()).for_each(|c| c.copy_from_slice(&nop[..c.len()]));
    }

    /// How a function begins: it saves the frame pointer and sets its own.
    pub(crate) fn prologue(&self) -> &'static [u8] {
        match self.arch {
            // push rbp; mov rbp, rsp
            Arch::Amd64 => &[0x55, 0x48, 0x89, 0xe5],
            // stp x29, x30, [sp, #-16]!; mov x29, sp
            Arch::Arm64 => &[0xfd, 0x7b, 0xbf, 0xa9, 0xfd, 0x03, 0x00, 0x91],
            // addi sp, sp, -16; sd ra, 8(sp); sd s0, 0(sp); addi s0, sp, 16
            Arch::Riscv => &[
                0x13, 0x01, 0x01, 0xff, 0x23, 0x34, 0x11, 0x00, 0x23, 0x30, 0x81, 0x00, 0x13, 0x04,
                0x01, 0x01,
            ],
            // push ebp; mov ebp, esp
            _ => &[0x55, 0x89, 0xe5],
        }
    }

    /// How it ends.
    pub(crate) fn epilogue(&self) -> &'static [u8] {
        match self.arch {
            // ldp x29, x30, [sp], #16; ret
            Arch::Arm64 => &[0xfd, 0x7b, 0xc1, 0xa8, 0xc0, 0x03, 0x5f, 0xd6],
            // ld ra, 8(sp); ld s0, 0(sp); addi sp, sp, 16; ret
            Arch::Riscv => &[
                0x83, 0x30, 0x81, 0x00, 0x03, 0x34, 0x01, 0x00, 0x13, 0x01, 0x01, 0x01, 0x67, 0x80,
                0x00, 0x00,
            ],
            // pop; ret
            _ => &[0x5d, 0xc3],
        }
    }

    /// A call from offset `from` of the text to offset `to`. It returns to
    /// the byte behind it.
    pub(crate) fn call(&self, from: u64, to: u64) -> Vec<u8> {
        let distance = to.wrapping_sub(from);
        match self.arch {
            // bl
            Arch::Arm64 => {
                (0x9400_0000 | (distance >> 2) as u32 & 0x03ff_ffff).to_le_bytes().to_vec()
            }
            // jal ra
            Arch::Riscv => {
                let d = distance as u32;
                let imm = (d >> 20 & 1) << 31
                    | (d >> 1 & 0x3ff) << 21
                    | (d >> 11 & 1) << 20
                    | (d >> 12 & 0xff) << 12;
                (imm | 1 << 7 | 0x6f).to_le_bytes().to_vec()
            }
            // call rel32
            _ => {
                let relative = (distance.wrapping_sub(5) as u32).to_le_bytes();
                [&[0xe8], &relative[..]].concat()
            }
        }
    }
}
