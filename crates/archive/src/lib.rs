//! vmcask archive
#![forbid(unsafe_code)]
