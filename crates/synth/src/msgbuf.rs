//! A message buffer: a boot log and a panic in a ring, as the kernel leaves
//! them.

use crate::spec::Spec;

/// Bytes of the buffer with its `struct msgbuf`: `MSGBUF_SIZE`
/// (`sys/sys/msgbuf.h`).
pub(crate) const SIZE: u64 = 96 << 10;

/// Bytes of the ring: what the `struct msgbuf` at the end leaves, as in real
/// dumps.
pub(crate) const RING: usize = 0x17fb8;

/// `MSG_MAGIC`
pub(crate) const MAGIC: u32 = 0x06_3062;

/// Where in the ring the log starts.
pub(crate) const START: usize = RING * 3 / 4;

/// `panicstr`.
pub(crate) const PANIC: &str = "vmcask: page fault while in kernel mode";

/// When the kernel panicked, in seconds since 1970.
pub(crate) const TIME: u64 = 1_700_000_000;

/// `version`: what the kernel says it is.
pub(crate) fn version(spec: &Spec) -> String {
    format!(
        "FreeBSD 13.2-RELEASE #0 releng/13.2-vmcask: Tue Nov 14 22:13:20 UTC 2023\n    \
         root@vmcask:/usr/obj/usr/src/{0}.{1}/sys/GENERIC\n",
        spec.arch,
        spec.arch.machine_arch()
    )
}

/// The log in order, and the ring as it is dumped: raw, its oldest line
/// somewhere in the middle.
pub(crate) fn msgbuf(spec: &Spec) -> (String, Vec<u8>) {
    let devices = (0..400u64).map(|i| {
        let n = i.wrapping_mul(spec.seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        format!("pcib{i}: <ACPI PCI-PCI bridge> irq {n} at device {i}.0 on pci0\n")
    });
    let log = format!(
        "---<<BOOT>>---\n\
         Copyright (c) 1992-2023 The FreeBSD Project.\n\
         {}\
         real memory  = {} ({} MB)\n\
         {}\
         panic: {PANIC}\n\
         cpuid = 1\ntime = {TIME}\nKDB: stack backtrace:\n\
         Uptime: 1h2m3s\nDumping pages: ..0%..100%\n",
        version(spec),
        spec.ram,
        spec.ram >> 20,
        devices.collect::<String>()
    );
    // The ring has wrapped: the log's last byte stands before its first.
    let mut ring = vec![0; RING];
    for (i, &b) in log.as_bytes().iter().enumerate() {
        ring[(START + i) % RING] = b;
    }
    (log, ring)
}
