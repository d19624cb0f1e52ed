//! Any bytes as a GGUF file.
#![no_main]

use brevity_formats::{Bytes, Container, Gguf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::open("fuzz".as_ref(), Bytes::owned(bytes.to_vec())) else { return };
    let _ = file.config();
    let _ = file.tokenizer();
    let _ = file.tokenizer_config();
    for name in file.names() {
        if let Some(form) = file.form(&name) {
            assert_eq!(file.load(&name).expect("what was checked can be read").shape(), form.shape());
        }
    }
});
