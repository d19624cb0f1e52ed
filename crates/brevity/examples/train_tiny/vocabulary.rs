//! The tokenizer: byte-level BPE with one special token.

use std::path::Path;

use anyhow::{Result, anyhow};
use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder};

/// Token 0: between texts, at the end of generated ones, and for padding.
pub const END: &str = "<|endoftext|>";

/// Trains a tokenizer with exactly `size` tokens.
pub fn train(texts: &[String], size: usize) -> Result<Tokenizer> {
    let plain = ByteLevel::default()
        .add_prefix_space(false)
        .trim_offsets(true);
    let mut trainer = BpeTrainer::builder()
        .vocab_size(size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END, true)])
        .build();
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(plain))
        .with_post_processor(None::<tokenizers::PostProcessorWrapper>)
        .with_decoder(Some(plain))
        .build()
        .map_err(|error| anyhow!(error))?;
    tokenizer
        .train(&mut trainer, texts.iter().map(String::as_str))
        .map_err(|error| anyhow!(error))?;
    let text = tokenizer.to_string(false).map_err(|error| anyhow!(error))?;
    text.parse::<Tokenizer>().map_err(|error| anyhow!(error))
}

/// Writes `tokenizer.json` and the two files beside it. Nothing is added before or after a text.
pub fn write(tokenizer: &Tokenizer, folder: &Path, positions: usize) -> Result<()> {
    let pretty = |value| serde_json::to_string_pretty(&value).map(|text| text + "\n");
    tokenizer
        .save(folder.join("tokenizer.json"), false)
        .map_err(|error| anyhow!(error))?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "pad_token": END,
        "add_bos_token": false,
        "add_eos_token": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": positions,
    });
    std::fs::write(folder.join("tokenizer_config.json"), pretty(config)?)?;
    let special = json!({ "bos_token": END, "eos_token": END, "pad_token": END });
    std::fs::write(folder.join("special_tokens_map.json"), pretty(special)?)?;
    Ok(())
}

/// The tokens of a text, nothing added.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    Ok(tokenizer
        .encode(text, false)
        .map_err(|error| anyhow!(error))?
        .get_ids()
        .to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_keeps_its_tokens_when_an_answer_follows() {
        let texts: Vec<String> = (0..40)
            .map(|i| format!("a poodle is a kind of dog. dog {i}."))
            .collect();
        let tokenizer = train(&texts, 300).unwrap();
        let whole = encode(&tokenizer, "a poodle is a kind of dog").unwrap();
        let prompt = encode(&tokenizer, "a poodle is a kind of").unwrap();
        assert_eq!(prompt, whole[..prompt.len()]);
        assert_eq!(
            tokenizer.decode(&whole, false).unwrap(),
            "a poodle is a kind of dog"
        );
        assert_eq!(tokenizer.token_to_id(END), Some(0));
    }
}
