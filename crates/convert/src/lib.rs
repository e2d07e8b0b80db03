//! vmcask convert
#![forbid(unsafe_code)]
