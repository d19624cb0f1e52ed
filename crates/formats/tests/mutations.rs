//! Sound files, damaged at random in thousands of ways: every one is read or refused, and none ends the program.

mod common;

use std::path::Path;

use brevity_formats::{Bytes, Checkpoint, Container, Gguf, Header, Index, Open, SafetensorsFiles};
use common::{gguf, llama_blocks, llama_config, llama_meta, llama_tensors, safetensors};

/// Numbers that look random and are always the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n.max(1)
    }

    /// Bytes with a few of the first `front` changed, cut, doubled or replaced by what parsers fear.
    fn damage(&mut self, sound: &[u8], front: usize) -> Vec<u8> {
        let mut bytes = sound.to_vec();
        for _ in 0..1 + self.below(3) {
            let at = self.below(front.min(bytes.len()));
            match self.below(8) {
                0 => bytes.truncate(at),
                1 => bytes[at] = self.below(256) as u8,
                2 => bytes[at] ^= 1 << self.below(8),
                3 => drop(bytes.splice(at..at, sound[..self.below(sound.len().min(64))].iter().copied())),
                4 => drop(bytes.drain(at..(at + self.below(16)).min(bytes.len()))),
                5 => {
                    let number = [0, 1, u64::MAX, 1 << 63, 1 << 60, 1 << 31, u32::MAX as u64][self.below(7)];
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
                }
                6 => {
                    let feared: &[&[u8]] =
                        &[b"-1", b"99999999999999999999", b"1e308", b"null", b"[[[[[[", b"\"\\u0000\"", b"{}", b"\xFF"];
                    let with = feared[self.below(feared.len())];
                    bytes.splice(at..(at + with.len()).min(bytes.len()), with.iter().copied());
                }
                _ => {
                    let (a, b) = (at, self.below(front.min(bytes.len())));
                    bytes.swap(a, b);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        bytes
    }
}

/// Loads everything that a container says it has.
fn load_all(container: &dyn Container) {
    for name in container.names() {
        if let Some(form) = container.form(&name) {
            let weight = container.load(&name).unwrap();
            assert_eq!(weight.shape(), form.shape());
        }
    }
    for name in container.stored() {
        container.raw(&name).unwrap();
    }
}

#[test]
fn damaged_safetensors_headers_are_read_or_refused() {
    let sound = safetensors(&llama_tensors());
    let header = 8 + u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
    let (mut dice, mut read) = (Dice(1), 0);
    for _ in 0..6_000 {
        let bytes = dice.damage(&sound, header);
        if Header::parse(Path::new("m"), &bytes).is_ok() {
            load_all(&SafetensorsFiles::from_bytes(vec![("m".into(), Bytes::owned(bytes))]).unwrap());
            read += 1;
        }
    }
    assert!((1..3_000).contains(&read), "{read} of 6000 were read");
}

#[test]
fn damaged_gguf_headers_are_read_or_refused() {
    let sound = gguf(&llama_meta(), &llama_blocks());
    let (mut dice, mut read) = (Dice(2), 0);
    for _ in 0..6_000 {
        let bytes = dice.damage(&sound, 1500);
        let Ok(file) = Gguf::open(Path::new("m"), Bytes::owned(bytes)) else { continue };
        load_all(&file);
        let _ = file.config();
        let _ = file.tokenizer();
        let _ = file.tokenizer_config();
        read += 1;
    }
    assert!((1..5_000).contains(&read), "{read} of 6000 were read");
}

#[test]
fn damaged_indices_are_read_or_refused() {
    let index = r#"{"metadata":{"total_size":12},"weight_map":{"a.weight":"model-00001-of-00002.safetensors",
        "b.weight":"model-00002-of-00002.safetensors"}}"#;
    let mut dice = Dice(3);
    for _ in 0..6_000 {
        let bytes = dice.damage(index.as_bytes(), index.len());
        if let Ok(index) = Index::parse(Path::new("i"), &String::from_utf8_lossy(&bytes)) {
            assert!(
                index.files().iter().all(|file| !file.starts_with('/') && file.split('/').all(|part| part != ".."))
            );
        }
    }
}

#[test]
fn damaged_configs_make_a_model_or_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.safetensors"), safetensors(&llama_tensors())).unwrap();
    let sound = llama_config().to_string();
    let (mut dice, mut read) = (Dice(4), 0);
    for _ in 0..400 {
        std::fs::write(dir.path().join("config.json"), dice.damage(sound.as_bytes(), sound.len())).unwrap();
        match Checkpoint::open(dir.path()) {
            Ok(checkpoint) => {
                (0..checkpoint.model().stages.len()).for_each(|n| drop(checkpoint.load_stage(n).unwrap()));
                read += 1;
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        let _ = Checkpoint::open_with(dir.path(), Open { loose: true });
    }
    assert!(read > 0);
}
