#![no_main]

libfuzzer_sys::fuzz_target!(
    // A panic of the engine is caught and becomes an error: only what nobody catches ends a run.
    init: std::panic::set_hook(Box::new(|_| {})),
    |data: &[u8]| exeunt_fuzzed::networks(data)
);
