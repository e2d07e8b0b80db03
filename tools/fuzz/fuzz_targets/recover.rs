#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (vmcask_fuzz_targets::target("recover").run)(data));
