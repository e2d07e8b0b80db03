//! Wire layouts: constants and structs as FreeBSD's headers define them, with
//! explicit byte order and no behaviour.

pub mod elf;
pub mod kerneldump;
pub mod minidump;
