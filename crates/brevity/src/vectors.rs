//! Questions about vectors: similarity and retrieval, put to encoders.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use brevity_embed::codec::{self, search_vectors};
use brevity_embed::{Ask, Embedder, Rotation, Vectors};
use brevity_eval::report::{Cuts, On};
use brevity_eval::retrieval::{self, Judgements, Passage, Query};
use brevity_eval::stats::{Estimate, mean_of};
use brevity_eval::sts::{self, Pair};

/// Documents of each query that are looked at.
const LOOKED_AT: usize = 100;
/// Documents that nDCG and reciprocal ranks are counted to.
const COUNTED: usize = 10;

/// A question about vectors.
#[derive(Clone, Debug)]
pub struct VectorTask {
    /// What it is reported as.
    pub name: String,
    /// What is asked.
    pub asked: Asked,
}

/// What is asked of vectors.
#[derive(Clone, Debug)]
pub enum Asked {
    /// Whether cosines order pairs of sentences as people do.
    Similarity(Vec<Pair>),
    /// Whether the nearest documents are the relevant ones.
    Retrieval {
        /// What is searched.
        corpus: Vec<Passage>,
        /// What is asked.
        queries: Vec<Query>,
        /// What is relevant.
        judgements: Judgements,
    },
}

/// A score of vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorScore {
    /// `spearman`, `ndcg_at_10`, `mrr_at_10`, `recall_at_100`.
    pub metric: &'static str,
    /// The score.
    pub value: Estimate,
    /// That of each pair or query, whose mean it is; to compare encoders item by item.
    pub each: Vec<f64>,
}

/// What an encoder scores in one task, the first score being the one it is known by.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorPaper {
    /// The task.
    pub task: String,
    /// Pairs, or queries that count.
    pub items: usize,
    /// Texts that were embedded.
    pub texts: usize,
    /// Seconds of embedding them.
    pub seconds: f64,
    /// The scores.
    pub scores: Vec<VectorScore>,
}

/// Which cuts of a model are to be scored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CutWish {
    /// Numbers of dimensions; those of [`usual_dims`] if there are none.
    pub dims: Vec<usize>,
    /// Texts on whose vectors principal axes are found, whose first ones are kept; without texts it is the first entries of the
    /// vectors as they are.
    pub fit: Vec<String>,
    /// How far these axes are brought to spread alike; see [`Rotation::layer`].
    pub whiten: f64,
}

impl CutWish {
    /// The numbers of dimensions, rising, of vectors of this width.
    fn dims_of(&self, width: usize) -> Result<Vec<usize>, VectorError> {
        let mut dims = if self.dims.is_empty() { usual_dims(width) } else { self.dims.clone() };
        dims.sort_unstable();
        dims.dedup();
        match dims.iter().find(|&&dims| dims == 0 || dims > width) {
            Some(&asked) => Err(brevity_embed::Error::Dims { asked, width }.into()),
            None => Ok(dims),
        }
    }
}

/// Numbers of dimensions that cuts are usually looked at with: all, a half, and powers of two below that down to 16.
pub fn usual_dims(width: usize) -> Vec<usize> {
    let powers = (4..=16).map(|n| 1usize << n).filter(|&n| n < width);
    let mut dims: Vec<usize> = powers.chain([width / 2, width]).filter(|&n| n > 0).collect();
    dims.sort_unstable();
    dims.dedup();
    dims
}

/// Why there is no score.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VectorError {
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] brevity_eval::Error),
    /// Texts have no vectors.
    #[error(transparent)]
    Embed(#[from] brevity_embed::Error),
    /// Vectors cannot be searched.
    #[error(transparent)]
    Search(#[from] codec::Error),
    /// There is nothing to score.
    #[error("`{name}` has nothing to score: {why}")]
    Nothing {
        /// The task.
        name: String,
        /// Why.
        why: &'static str,
    },
}

impl VectorError {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            VectorError::Data(error) => error.hint(),
            VectorError::Embed(error) => error.hint(),
            VectorError::Search(error) => error.hint(),
            VectorError::Nothing { .. } => None,
        }
    }
}

impl VectorTask {
    /// Similarity, from a file of the STS benchmark; called after the file.
    ///
    /// # Errors
    /// If the file cannot be read, or holds fewer than two pairs.
    pub fn similarity(path: &Path) -> Result<VectorTask, VectorError> {
        let (name, pairs) = (name_of(path), sts::read(path)?);
        if pairs.len() < 2 {
            return Err(VectorError::Nothing { name, why: "it has fewer than two pairs" });
        }
        Ok(VectorTask { name, asked: Asked::Similarity(pairs) })
    }

    /// Retrieval, from a directory in the layout of BEIR with `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`; called after
    /// the directory. Queries without judgements are left out.
    ///
    /// # Errors
    /// If a file cannot be read, or nothing is judged.
    pub fn retrieval(path: &Path) -> Result<VectorTask, VectorError> {
        let name = name_of(path);
        let judgements = retrieval::read_judgements(&path.join("qrels").join("test.tsv"))?;
        let corpus = retrieval::read_corpus(&path.join("corpus.jsonl"))?;
        let mut queries = retrieval::read_queries(&path.join("queries.jsonl"))?;
        queries.retain(|query| judgements.contains_key(&query.id));
        if queries.is_empty() || corpus.is_empty() {
            return Err(VectorError::Nothing { name, why: "no query has a judgement, or there are no documents" });
        }
        Ok(VectorTask { name, asked: Asked::Retrieval { corpus, queries, judgements } })
    }

    /// The texts to embed: first sentences and second ones, or queries and documents.
    pub fn texts(&self) -> [Vec<String>; 2] {
        match &self.asked {
            Asked::Similarity(pairs) => {
                [pairs.iter().map(|p| p.first.clone()).collect(), pairs.iter().map(|p| p.second.clone()).collect()]
            }
            Asked::Retrieval { corpus, queries, .. } => {
                [queries.iter().map(|q| q.text.clone()).collect(), corpus.iter().map(Passage::whole).collect()]
            }
        }
    }

    /// What vectors of [`VectorTask::texts`] score.
    ///
    /// # Errors
    /// [`VectorError::Nothing`] if vectors or judgements are all alike.
    pub fn score(&self, vectors: [&Vectors; 2]) -> Result<Vec<VectorScore>, VectorError> {
        let nothing = |why| VectorError::Nothing { name: self.name.clone(), why };
        let [first, second] = vectors;
        match &self.asked {
            Asked::Similarity(pairs) => {
                let gold: Vec<f64> = pairs.iter().map(|pair| pair.gold).collect();
                let each = sts::each(&first.values, &second.values, first.width, &gold);
                let each = each.ok_or_else(|| nothing("vectors or judgements are all alike"))?;
                let value = mean_of(&each).ok_or_else(|| nothing("there are no pairs"))?;
                Ok(vec![VectorScore { metric: "spearman", value, each }])
            }
            Asked::Retrieval { corpus, queries, judgements } => {
                // Products of vectors of length one are cosines.
                let [asked, known] = [first, second].map(|vectors| vectors.prefix(vectors.width, true));
                let [asked, known] =
                    [&asked, &known].map(|vectors| codec::Vectors::new(&vectors.values, vectors.width));
                let nearest = search_vectors(known?, asked?, LOOKED_AT)?;
                let ranked: HashMap<&str, Vec<&str>> = queries
                    .iter()
                    .zip(&nearest)
                    .map(|(query, found)| {
                        (query.id.as_str(), found.iter().map(|hit| corpus[hit.row].id.as_str()).collect())
                    })
                    .collect();
                let found = retrieval::score(&ranked, judgements, COUNTED, LOOKED_AT);
                let found = found.ok_or_else(|| nothing("nothing is relevant"))?;
                let scores = [("ndcg_at_10", found.ndcg), ("mrr_at_10", found.mrr), ("recall_at_100", found.recall)];
                let scores = scores.into_iter();
                Ok(scores
                    .filter_map(|(metric, each)| Some(VectorScore { metric, value: mean_of(&each)?, each }))
                    .collect())
            }
        }
    }

    /// Puts the question to an encoder. Queries stand behind the prompt called `query` and documents behind `document` or
    /// `passage`, if the model has such prompts. With a wish, the model cut to every number of layers, and its vectors to some
    /// numbers of dimensions (divided by their length), are scored as well, by the first score of the task, from the same pass.
    /// `progress` hears which share is done, and says whether to go on; if it does not, there is no answer.
    ///
    /// # Cost
    /// One pass over the texts; with a wish, memory for their vectors behind each layer, and the scores of each cut.
    ///
    /// # Errors
    /// If texts cannot be embedded, or nothing can be scored; [`brevity_embed::Error::Dims`].
    pub fn put(
        &self,
        to: &Embedder,
        wish: Option<&CutWish>,
        progress: &mut dyn FnMut(f64) -> bool,
    ) -> Result<Option<(VectorPaper, Option<Cuts>)>, VectorError> {
        let dims = wish.map(|wish| wish.dims_of(to.width())).transpose()?;
        let started = Instant::now();
        let layers: Vec<usize> = if wish.is_some() { (0..=to.layers()).collect() } else { vec![to.layers()] };
        let texts = self.texts();
        let [first, second] = self.prompts(to);
        let fit = wish.map_or(&[][..], |wish| &wish.fit);
        let parts = [(&texts[0][..], first), (&texts[1], second), (fit, None)];
        let Some(vectors) = embedded(to, &parts, &layers, progress)? else { return Ok(None) };
        let seconds = started.elapsed().as_secs_f64();
        let last = layers.len() - 1;
        let scores = self.score([&vectors[0][last], &vectors[1][last]])?;
        let cuts = match (wish, dims) {
            (Some(wish), Some(dims)) => Some(self.cuts(wish, layers, dims, &vectors)?),
            _ => None,
        };
        let items = scores.first().map_or(0, |score| score.each.len());
        let count = parts.iter().map(|(texts, _)| texts.len()).sum();
        Ok(Some((VectorPaper { task: self.name.clone(), items, texts: count, seconds, scores }, cuts)))
    }

    /// What vectors behind each of these layers score with so many dimensions; `vectors` are those of the two sides and of the texts
    /// that axes are found on.
    fn cuts(
        &self,
        wish: &CutWish,
        layers: Vec<usize>,
        dims: Vec<usize>,
        vectors: &[Vec<Vectors>],
    ) -> Result<Cuts, VectorError> {
        let (mut values, mut metric) = (Vec::new(), "");
        for layer in 0..layers.len() {
            // All axes at once: fewer are the first of these.
            let axes = match wish.fit.is_empty() {
                true => None,
                false => {
                    let rotation = Rotation::fit(&vectors[2][layer])?;
                    Some(rotation.layer(rotation.width, wish.whiten)?)
                }
            };
            let turned = [0, 1].map(|side| match (&axes, &vectors[side][layer]) {
                (Some(axes), vectors) => Vectors { width: vectors.width, values: axes.apply(&vectors.values) },
                (None, vectors) => vectors.clone(),
            });
            let mut row = Vec::new();
            for &dims in &dims {
                // A cut that cannot be scored, such as vectors that are all alike, has no number.
                let cut = turned.each_ref().map(|vectors| vectors.prefix(dims, true));
                let score = self.score([&cut[0], &cut[1]]).ok().and_then(|scores| scores.into_iter().next());
                metric = score.as_ref().map_or(metric, |score| score.metric);
                row.push(score.map_or(f64::NAN, |score| score.value.value));
            }
            values.push(row);
        }
        let how = match wish.fit.len() {
            0 => "the first ones, as they are".to_owned(),
            n => {
                let whitened = if wish.whiten > 0.0 { format!(", whitened by {}", wish.whiten) } else { String::new() };
                format!("the first principal axes of the vectors of {n} texts{whitened}")
            }
        };
        let on = On::Task(self.name.clone());
        Ok(Cuts { name: metric.to_owned(), on, higher_is_better: true, how, layers, dims, values })
    }

    fn prompts<'a>(&self, encoder: &'a Embedder) -> [Option<&'a str>; 2] {
        let known = encoder.prompts();
        let find =
            |names: &[&str]| names.iter().find_map(|name| known.get_key_value(*name)).map(|(key, _)| key.as_str());
        match self.asked {
            Asked::Similarity(_) => [None, None],
            Asked::Retrieval { .. } => [find(&["query"]), find(&["document", "passage"])],
        }
    }
}

/// The vectors of several lots of texts, each behind its prompt, and of each lot behind each of these layers. `None` if `progress`
/// says to stop.
fn embedded(
    by: &Embedder,
    lots: &[(&[String], Option<&str>)],
    layers: &[usize],
    progress: &mut dyn FnMut(f64) -> bool,
) -> Result<Option<Vec<Vec<Vectors>>>, VectorError> {
    let size = |texts: &[String]| texts.iter().map(|text| text.len() + 1).sum::<usize>() as f64;
    let all: f64 = lots.iter().map(|(texts, _)| size(texts)).sum();
    let (mut done, mut vectors) = (0.0, Vec::new());
    for &(texts, prompt) in lots {
        let some: Vec<&str> = texts.iter().map(String::as_str).collect();
        let share = size(texts) / all;
        let mut behind: Vec<Vectors> = Vec::new();
        let mut hear = |part: f64| progress(done + share * part);
        let ask = Ask { prompt, dims: None };
        by.encode_layers(&some, &ask, layers, &mut hear, &mut |_, vectors| behind.push(vectors))?;
        if behind.len() != layers.len() {
            return Ok(None);
        }
        vectors.push(behind);
        done += share;
    }
    Ok(Some(vectors))
}

/// A file without its ending, or a directory.
fn name_of(path: &Path) -> String {
    let path: PathBuf = path.components().collect();
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perfect_vectors_find_everything() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("qrels")).unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        put("corpus.jsonl", "{\"_id\": \"a\", \"title\": \"T\", \"text\": \"x\"}\n{\"_id\": \"b\", \"text\": \"y\"}\n");
        put("queries.jsonl", "{\"_id\": \"q\", \"text\": \"?\"}\n{\"_id\": \"unjudged\", \"text\": \"!\"}\n");
        put("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\tb\t1\n");
        let task = VectorTask::retrieval(dir.path()).unwrap();
        assert_eq!(task.texts(), [vec!["?".to_owned()], vec!["T x".to_owned(), "y".to_owned()]]);
        let query = Vectors { width: 2, values: vec![0.0, 1.0] };
        let corpus = Vectors { width: 2, values: vec![1.0, 0.0, 0.1, 1.0] };
        let scores = task.score([&query, &corpus]).unwrap();
        assert_eq!(
            scores.iter().map(|s| (s.metric, s.value.value)).collect::<Vec<_>>(),
            [("ndcg_at_10", 1.0), ("mrr_at_10", 1.0), ("recall_at_100", 1.0)]
        );
    }

    #[test]
    fn a_file_without_pairs_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = VectorTask::similarity(file.path()).unwrap_err();
        assert!(error.to_string().ends_with("it has fewer than two pairs"), "{error}");
    }
}
