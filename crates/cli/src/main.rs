//! The vmcask binary.
#![forbid(unsafe_code)]
fn main() {}
