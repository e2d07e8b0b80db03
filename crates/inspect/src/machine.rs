//! What differs between machines: width and order of integers, which
//! addresses are the kernel's, where a frame keeps its caller.

use vmcask_dump::{Arch, KernelImage, VirtAddr, VirtMem};

use crate::error::{Error, Result};

/// `e_machine` of the architectures (System V ABI supplements).
const MACHINES: [(u16, Arch); 6] = [
    (62, Arch::Amd64),
    (183, Arch::Arm64),
    (243, Arch::Riscv),
    (3, Arch::I386),
    (40, Arch::Arm),
    (21, Arch::Powerpc64),
];

/// A machine, as far as reading its kernel's structures goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The architecture.
    pub arch: Arch,
}

impl Machine {
    /// The dump's machine, or the image's where the dump doesn't say; an
    /// error where they differ.
    pub fn of(dump: &dyn VirtMem, image: &KernelImage) -> Result<Self> {
        let e_machine = image.e_machine();
        let of_image = MACHINES.iter().find(|m| m.0 == e_machine).map(|m| match m.1 {
            Arch::Powerpc64 if image.is_little_endian() => Arch::Powerpc64Le,
            arch => arch,
        });
        let arch = match (dump.arch(), of_image) {
            (Some(dump), Some(image)) if dump == image => dump,
            (None, Some(image)) => image,
            (Some(dump), image) => {
                let image =
                    image.map_or_else(|| format!("e_machine {e_machine}"), |a| a.to_string());
                return Err(Error::OtherMachine { image, dump });
            }
            (None, None) => return Err(Error::UnknownMachine { e_machine }),
        };
        Ok(Self { arch })
    }

    /// Bytes of a pointer and of a `long`.
    pub fn pointer_bytes(self) -> usize {
        match self.arch {
            Arch::I386 | Arch::Arm => 4,
            _ => 8,
        }
    }

    /// Integers of up to 8 bytes in the machine's order.
    pub(crate) fn int(self, bytes: &[u8]) -> u64 {
        let fold = |n: u64, b: &u8| n << 8 | u64::from(*b);
        if self.arch.is_big_endian() {
            bytes.iter().fold(0, fold)
        } else {
            bytes.iter().rev().fold(0, fold)
        }
    }

    /// Whether a pointer to a kernel structure can have this value: in the
    /// upper half on 64-bit machines, anything but the first page on 32-bit
    /// ones (i386 kernels since FreeBSD 12 begin near 0), aligned.
    pub fn is_kernel_pointer(self, va: VirtAddr) -> bool {
        let aligned = va.0.is_multiple_of(self.pointer_bytes() as u64);
        aligned && self.is_kernel_address(va)
    }

    /// [`Self::is_kernel_pointer`] without alignment.
    pub fn is_kernel_address(self, va: VirtAddr) -> bool {
        if self.pointer_bytes() == 4 {
            (0x1000..1 << 32).contains(&va.0)
        } else {
            // powerpc64's kernel runs in the lower half.
            va.0 >> 63 == 1 || self.arch.name().starts_with("powerpc64") && va.0 >= 0x1000
        }
    }

    /// A return address as saved: arm64 kernels may sign them (PAC), with the
    /// signature in bits that are all ones in a kernel address; bit 55 tells
    /// kernel from user.
    pub(crate) fn return_address(self, saved: u64) -> VirtAddr {
        const VA_BITS: u32 = 48;
        if self.arch == Arch::Arm64 && saved >> 55 & 1 == 1 {
            return VirtAddr(saved | u64::MAX << VA_BITS);
        }
        VirtAddr(saved)
    }

    /// Where the frame at `fp` keeps its caller's frame pointer and the
    /// return address after it. Kernels keep frame pointers on all of these.
    pub(crate) fn frame_record(self, fp: VirtAddr) -> Option<VirtAddr> {
        match self.arch {
            Arch::Amd64 | Arch::Arm64 | Arch::I386 => Some(fp),
            // s0 points behind the record.
            Arch::Riscv => fp.0.checked_sub(16).map(VirtAddr),
            Arch::Arm | Arch::Powerpc64 | Arch::Powerpc64Le => None,
        }
    }
}
