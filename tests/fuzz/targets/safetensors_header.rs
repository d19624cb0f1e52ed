//! Any bytes as a safetensors file.
#![no_main]

use brevity_formats::{Bytes, Container, SafetensorsFiles};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(files) = SafetensorsFiles::from_bytes(vec![("fuzz".into(), Bytes::owned(bytes.to_vec()))]) else { return };
    for name in files.names() {
        if let Some(form) = files.form(&name) {
            assert_eq!(files.load(&name).expect("what was checked can be read").shape(), form.shape());
        }
    }
});
