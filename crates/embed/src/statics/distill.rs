//! A static model out of an encoder.

use brevity_formats::Checkpoint;
use brevity_model::Stage;
use rayon::prelude::*;

use super::cluster::cluster;
use super::vocabulary::{Vocabulary, cleaned};
use super::{StaticModel, Table};
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::rotate::Rotation;
use crate::vectors::Vectors;

/// Where the vector of a token comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rows {
    /// What the whole encoder says of the token alone, between what stands around every text: the mean of its states.
    #[default]
    Forward,
    /// The row of its token table.
    First,
}

/// How a static model is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Distill {
    /// Where vectors come from.
    pub rows: Rows,
    /// Dimensions that are kept, the principal ones; all of them, unturned, if there is none.
    pub dims: Option<usize>,
    /// `a` of the weights `a / (a + p)`, `p` being how often a token is there; no weights if there is none.
    pub sif: Option<f64>,
    /// Texts in which tokens are counted. Without texts the vocabulary is taken to be ordered by frequency, and `p` falls as
    /// Zipf's law has it: that is so for WordPiece, and for few others.
    pub counted: Option<Vec<String>>,
    /// How many rows the table has, each shared by tokens of like directions; one for each token if there is none.
    pub clusters: Option<usize>,
}

impl Default for Distill {
    /// What model2vec does: 256 dimensions, weights with `a = 1e-4`.
    fn default() -> Self {
        Distill { rows: Rows::Forward, dims: Some(256), sif: Some(1e-4), counted: None, clusters: None }
    }
}

/// Makes a static model of an encoder: a vector for each token, turned onto principal axes, weighed by how rare it is.
///
/// `progress` hears which share is done, and says whether to go on; if it does not, there is no model.
///
/// # Cost
/// One pass of the encoder over texts of one token each, `O(width³)` for the axes, and twenty products of all rows with all clusters.
///
/// # Errors
/// [`Error::Vocabulary`] if the tokenizer is of an unknown kind, [`Error::Dims`], or if the encoder cannot be run.
///
/// # Source
/// model2vec (Tulkens and van Dongen 2024); the weights are those of Arora et al. 2017, "A simple but tough-to-beat baseline for
/// sentence embeddings", equation 3.
pub fn distill(
    checkpoint: &Checkpoint,
    encoder: &Encoder,
    how: &Distill,
    progress: &mut dyn FnMut(f64) -> bool,
) -> Result<Option<StaticModel>> {
    let tokenizer = checkpoint.tokenizer()?;
    let vocabulary = cleaned(&tokenizer)?;
    let vectors = match how.rows {
        Rows::Forward => match encoder.encode_tokens(&vocabulary.old_ids, progress)? {
            Some(vectors) => vectors,
            None => return Ok(None),
        },
        Rows::First => rows_of_table(checkpoint, &vocabulary.old_ids)?,
    };
    let mut vectors = match how.dims {
        None => vectors,
        Some(dims) if dims > vectors.width => return Err(Error::Dims { asked: dims, width: vectors.width }),
        Some(dims) => {
            let layer = Rotation::fit(&vectors)?.layer(dims, 0.0)?;
            let rows: Vec<Vec<f32>> =
                vectors.values.par_chunks(256 * vectors.width).map(|rows| layer.apply(rows)).collect();
            Vectors { width: dims, values: rows.concat() }
        }
    };
    if let Some(a) = how.sif {
        let share = frequencies(&vocabulary, how.counted.as_deref())?;
        for (row, p) in vectors.values.chunks_exact_mut(vectors.width).zip(share) {
            let weight = a / (a + p);
            row.iter_mut().for_each(|x| *x = (f64::from(*x) * weight) as f32);
        }
    }
    let width = vectors.width;
    let (values, mapping, weights) = match how.clusters {
        None => (vectors.values, None, None),
        Some(clusters) => {
            let shared = cluster(&vectors, clusters)?;
            (shared.rows, Some(shared.mapping), Some(shared.weights))
        }
    };
    Ok(Some(StaticModel::new(vocabulary.tokenizer, Table::F32(values), width, mapping, weights, true)?))
}

/// How often each token is there: by counting, or by its place in the vocabulary, `1 / (2 + place)`. Sums to one; a token that
/// was not counted is taken to be there half a time.
fn frequencies(vocabulary: &Vocabulary, counted: Option<&[String]>) -> Result<Vec<f64>> {
    let tokens = vocabulary.words.len();
    let counts: Vec<f64> = match counted {
        None => (0..tokens).map(|place| 1.0 / (place as f64 + 2.0)).collect(),
        Some(texts) => {
            let mut counts = vec![0.5; tokens];
            for (n, text) in texts.iter().enumerate() {
                let encoding = vocabulary.tokenizer.encode_fast(text.as_str(), false);
                let encoding = encoding.map_err(|why| Error::Tokenize { text: n, why: why.to_string() })?;
                encoding.get_ids().iter().for_each(|&id| counts[id as usize] += 1.0);
            }
            counts
        }
    };
    let all: f64 = counts.iter().sum();
    Ok(counts.into_iter().map(|count| count / all).collect())
}

/// Rows of the token table.
fn rows_of_table(checkpoint: &Checkpoint, ids: &[u32]) -> Result<Vectors> {
    for n in 0..checkpoint.model().stages.len() {
        if matches!(checkpoint.model().stages[n], Stage::Embed(_))
            && let Stage::Embed(embed) = checkpoint.load_stage(n)?
        {
            let weight = &embed.tokens.weight;
            let width = weight.shape()[1];
            let all = weight.to_f32();
            let values = ids.iter().flat_map(|&id| all[id as usize * width..][..width].to_vec()).collect();
            return Ok(Vectors { width, values });
        }
    }
    Err(Error::Vocabulary { why: "the model has no token table".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(words: &[&str]) -> Vocabulary {
        let map: Vec<String> = words.iter().enumerate().map(|(n, word)| format!("\"{word}\": {n}")).collect();
        let text = format!(
            r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
                "pre_tokenizer": {{"type": "Whitespace"}}, "post_processor": null, "decoder": null,
                "model": {{"type": "WordLevel", "unk_token": "?", "vocab": {{{}}}}}}}"#,
            map.join(", ")
        );
        cleaned(&text.parse::<tokenizers::Tokenizer>().unwrap()).unwrap()
    }

    #[test]
    fn without_texts_frequencies_follow_the_order() {
        let shares = frequencies(&vocabulary(&["?", "the", "cat"]), None).unwrap();
        let all = 1.0 / 2.0 + 1.0 / 3.0 + 1.0 / 4.0;
        assert!((shares[0] - 0.5 / all).abs() < 1e-12 && (shares[2] - 0.25 / all).abs() < 1e-12);
    }

    #[test]
    fn a_vocabulary_whose_order_is_not_by_frequency_is_counted() {
        let texts = vec!["the cat the".to_owned(), "the dog".to_owned()];
        for order in [["?", "the", "cat", "dog"], ["dog", "?", "cat", "the"]] {
            let vocabulary = vocabulary(&order);
            let shares = frequencies(&vocabulary, Some(&texts)).unwrap();
            let of = |word: &str| shares[vocabulary.words.iter().position(|one| one == word).unwrap()];
            assert_eq!((of("the"), of("cat"), of("dog"), of("?")), (3.5 / 7.0, 1.5 / 7.0, 1.5 / 7.0, 0.5 / 7.0));
        }
    }
}
