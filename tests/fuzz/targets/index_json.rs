//! Any text as the index of a sharded checkpoint.
#![no_main]

use brevity_formats::Index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(index) = Index::parse("fuzz".as_ref(), text) else { return };
    for file in index.files() {
        assert!(!file.starts_with('/') && file.split('/').all(|part| part != ".."));
    }
});
