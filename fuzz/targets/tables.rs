#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| exeunt_fuzzed::tables(data));
