//! vmcask synth
#![forbid(unsafe_code)]
