//! Checks against real files, which are too large to lie in the repository. They run when asked for:
//! `BREVITY_GGUF=SmolLM2-135M-Instruct.Q4_1.gguf BREVITY_HF=smollm2-135m-instruct BREVITY_TEXTS=text/ \
//!  cargo test --release -- --ignored`, where the directory was made from the GGUF file by another program.

use std::path::PathBuf;

use brevity_formats::Checkpoint;
use half::bf16;

fn path(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("set {variable}")).into()
}

#[test]
#[ignore = "needs a real GGUF file"]
fn a_real_gguf_file_and_its_checkpoint_are_the_same_model() {
    let gguf = Checkpoint::open(&path("BREVITY_GGUF")).unwrap();
    let hf = Checkpoint::open(&path("BREVITY_HF")).unwrap();
    assert_eq!(gguf.model().stages.len(), hf.model().stages.len());
    for key in [
        "model_type",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_theta",
        "vocab_size",
        "tie_word_embeddings",
        "max_position_embeddings",
        "bos_token_id",
        "eos_token_id",
    ] {
        assert_eq!(gguf.config().get(key), hf.config().get(key), "{key}");
    }
    for stage in 0..hf.model().stages.len() {
        let (a, b) = (gguf.load_stage(stage).unwrap(), hf.load_stage(stage).unwrap());
        gguf.check_finite(stage, &a).unwrap();
        let (a, b) = (a.weights(), b.weights());
        assert_eq!(a.len(), b.len());
        for ((role, _, a), (_, _, b)) in a.into_iter().zip(b) {
            assert_eq!(a.shape(), b.shape());
            let (a, b) = (a.to_f32(), b.to_f32());
            assert!(a.iter().zip(&b).all(|(a, b)| bf16::from_f32(*a).to_f32() == *b), "stage {stage}, {role}");
        }
    }
}

#[test]
#[ignore = "needs a real GGUF file"]
fn the_vocabulary_of_a_real_gguf_file_tokenizes_like_its_tokenizer_json() {
    let gguf = Checkpoint::open(&path("BREVITY_GGUF")).unwrap().tokenizer().unwrap();
    let hf = Checkpoint::open(&path("BREVITY_HF")).unwrap().tokenizer().unwrap();
    let mut texts = 0;
    for entry in std::fs::read_dir(path("BREVITY_TEXTS")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        // Lines, so that a difference is found where it is.
        for line in text.split_inclusive('\n').take(20_000) {
            let (a, b) = (gguf.encode(line, false).unwrap(), hf.encode(line, false).unwrap());
            assert_eq!(a.get_ids(), b.get_ids(), "{line:?}");
            texts += 1;
        }
    }
    assert!(texts > 0);
}
