//! A message buffer: a boot log and a panic in a ring, as the kernel leaves
//! them.

/// Bytes of the ring: 96 KiB (`MSGBUF_SIZE`, `sys/sys/msgbuf.h`) less the
/// `struct msgbuf` at its end, as in real dumps.
pub(crate) const MSGBUF_SIZE: usize = 0x17fb8;

/// The log in order, and the ring as it is dumped: raw, its oldest line
/// somewhere in the middle.
pub(crate) fn msgbuf(ram: u64, seed: u64) -> (String, Vec<u8>) {
    let devices = (0..400u64).map(|i| {
        let n = i.wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        format!("pcib{i}: <ACPI PCI-PCI bridge> irq {n} at device {i}.0 on pci0\n")
    });
    let log = format!(
        "---<<BOOT>>---\n\
         Copyright (c) 1992-2023 The FreeBSD Project.\n\
         FreeBSD 14.0-RELEASE #0 vmcask-synth: GENERIC amd64\n\
         real memory  = {ram} ({} MB)\n\
         {}\
         panic: vmcask: page fault while in kernel mode\n\
         cpuid = 1\ntime = 1700000000\nKDB: stack backtrace:\n\
         Uptime: 1h2m3s\nDumping pages: ..0%..100%\n",
        ram >> 20,
        devices.collect::<String>()
    );
    // The ring has wrapped: the log's last byte stands before its first.
    let mut ring = vec![0; MSGBUF_SIZE];
    let start = MSGBUF_SIZE * 3 / 4;
    for (i, &b) in log.as_bytes().iter().enumerate() {
        ring[(start + i) % MSGBUF_SIZE] = b;
    }
    (log, ring)
}
