//! A model that stays in memory, for generation and for hidden states.

use brevity_kernels::ops::Compute;
use brevity_model::{Place, Stage, Stages, Weight};
use candle_core::Tensor;

use crate::applied::Applied;
use crate::bundle::Bundle;
use crate::cache::{Cache, Kv};
use crate::error::{Error, Result};
use crate::forward::Forward;
use crate::prepare::Prepare;
use crate::read::values;
use crate::stream::{check_finite, check_ids};
use crate::streamed::{load, places, tied};

/// A model whose weights are all made ready.
#[derive(Debug)]
pub struct Resident {
    forward: Forward,
    stages: Vec<(Place, Stage<Applied>)>,
    /// The token table as an output table, if the head has none of its own.
    table: Option<Applied>,
    vocabulary: usize,
    context: Option<usize>,
}

impl Resident {
    /// Loads all stages of a model.
    ///
    /// # Errors
    /// If a stage cannot be read or made ready.
    pub fn load(stages: &dyn Stages, compute: Compute) -> Result<Self> {
        Self::loaded(stages, compute, usize::MAX, true, &|_| {})
    }

    /// Loads what hidden states behind the first `blocks` blocks need: no output table, and no later blocks. `change` may change
    /// each stage before it is made ready.
    ///
    /// # Errors
    /// As [`Resident::load`].
    pub fn load_for_states(
        stages: &dyn Stages,
        compute: Compute,
        blocks: usize,
        change: &dyn Fn(&mut Stage<Weight>),
    ) -> Result<Self> {
        Self::loaded(stages, compute, blocks, false, change)
    }

    fn loaded(
        stages: &dyn Stages,
        compute: Compute,
        blocks: usize,
        logits: bool,
        change: &dyn Fn(&mut Stage<Weight>),
    ) -> Result<Self> {
        let prepare = Prepare::new(compute);
        let model = stages.model();
        let (mut ready, mut left) = (Vec::new(), blocks);
        for (n, place) in places(model) {
            if matches!(model.stages[n], Stage::Block(_)) {
                if left == 0 {
                    continue;
                }
                left -= 1;
            }
            let mut loaded = load(stages, n)?;
            if let (Stage::Head(head), false) = (&mut loaded, logits) {
                (head.out, head.project) = (None, None);
            }
            change(&mut loaded);
            ready.push((place, prepare.stage_owned(loaded).map_err(|e| e.at(place))?));
            stages.release(n);
        }
        let table = if logits && model.is_tied() { Some(tied(&prepare, stages)?) } else { None };
        let forward = Forward::new(compute);
        Ok(Resident { forward, stages: ready, table, vocabulary: model.vocabulary, context: model.context })
    }

    /// Rows of the token table.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The longest input that the model was made for, if it says.
    pub fn context(&self) -> Option<usize> {
        self.context
    }

    /// An empty cache for this model.
    pub fn cache(&self) -> Cache {
        Cache::new(self.stages.len())
    }

    /// Logits behind the last of `ids`, `[vocabulary]`; the tokens follow those in the cache and are added to it.
    ///
    /// # Errors
    /// [`Error::Token`], [`Error::Empty`], [`Error::NonFinite`], [`Error::Missing`] if the model has no head.
    pub fn forward(&self, ids: &[u32], cache: &mut Cache) -> Result<Tensor> {
        let x = self.run(ids, Some(cache))?;
        let logits = self.head(&x.get(0)?.narrow(0, ids.len() - 1, 1)?.contiguous()?)?;
        Ok(logits.get(0)?)
    }

    /// Logits behind the last token of each segment of a bundle without parents, `[segments, vocabulary]`; each segment follows
    /// the tokens in its own cache and is added to it. In errors segments go by `numbers`.
    pub(crate) fn forward_bundle(&self, bundle: &Bundle, caches: Vec<&mut Cache>, numbers: &[usize]) -> Result<Tensor> {
        for (segment, &number) in bundle.segments.iter().zip(numbers) {
            check_ids(&bundle.ids[segment.rows.clone()], self.vocabulary, number)?;
        }
        let mut caches = caches;
        let mut x = None;
        for (n, (place, stage)) in self.stages.iter().enumerate() {
            let y = match (stage, &x) {
                (Stage::Embed(embed), _) => self.forward.embed_bundle(embed, bundle),
                (Stage::Block(block), Some(x)) => {
                    let past: Vec<&mut Kv> = caches.iter_mut().map(|cache| &mut cache.layers[n]).collect();
                    self.forward.block_bundle(block, x, bundle, Some(past))
                }
                (Stage::Block(_), None) => Err(Error::Missing { what: "embedding in front of its blocks" }),
                (Stage::Head(_) | Stage::Loose(_), _) => continue,
            };
            let y = y.map_err(|e| e.at(*place))?;
            check_finite(&y, *place, numbers.first().copied().unwrap_or(0))?;
            x = Some(y);
        }
        for (cache, segment) in caches.iter_mut().zip(&bundle.segments) {
            cache.len += segment.rows.len();
        }
        let last: Vec<u32> = bundle.segments.iter().map(|segment| segment.rows.end as u32 - 1).collect();
        let x = x.ok_or(Error::Missing { what: "embedding" })?.get(0)?;
        self.head(&x.index_select(&Tensor::new(last, x.device())?, 0)?)
    }

    /// Logits behind each of `ids`, `[ids, vocabulary]`.
    ///
    /// # Errors
    /// As [`Resident::forward`].
    pub fn logits(&self, ids: &[u32]) -> Result<Tensor> {
        let x = self.run(ids, None)?;
        self.head(&x.get(0)?)
    }

    /// Hidden states of `ids`, `[ids, hidden]`: what the last block returns, behind the last norm if there is one.
    ///
    /// # Errors
    /// As [`Resident::forward`], but no head is needed.
    pub fn hidden(&self, ids: &[u32]) -> Result<Tensor> {
        Ok(self.normed(self.run(ids, None)?)?.get(0)?)
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.stages.iter().filter(|(_, stage)| matches!(stage, Stage::Block(_))).count()
    }

    /// Shows hidden states of sequences beside each other, `[tokens of all, hidden]`, behind the embedding and behind each of the
    /// first `blocks` blocks: how many blocks they passed, and the states behind the last norm, if the model has one. That is
    /// what a model cut to so many blocks returns. States that `wanted` does not ask for are not normed and not shown.
    ///
    /// # Errors
    /// As [`Resident::hidden`]; in errors sequences go by the number of the first.
    pub fn states(
        &self,
        sequences: &[&[u32]],
        blocks: usize,
        wanted: &dyn Fn(usize) -> bool,
        show: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        for (n, ids) in sequences.iter().enumerate() {
            check_ids(ids, self.vocabulary, n)?;
        }
        let bundle = Bundle::beside(sequences, &vec![0; sequences.len()]);
        let (mut x, mut passed) = (None, 0);
        for (place, stage) in &self.stages {
            let y = match (stage, &x) {
                (Stage::Embed(embed), _) => self.forward.embed_bundle(embed, &bundle),
                (Stage::Block(_), _) if passed == blocks => continue,
                (Stage::Block(block), Some(x)) => {
                    passed += 1;
                    self.forward.block_bundle(block, x, &bundle, None)
                }
                (Stage::Block(_), None) => Err(Error::Missing { what: "embedding in front of its blocks" }),
                (Stage::Head(_) | Stage::Loose(_), _) => continue,
            };
            let y = y.map_err(|e| e.at(*place))?;
            check_finite(&y, *place, 0)?;
            if wanted(passed) {
                values(&self.normed(y.clone())?, |states| show(passed, states))??;
            }
            x = Some(y);
        }
        Ok(())
    }

    /// Behind the last norm, if there is one.
    fn normed(&self, x: Tensor) -> Result<Tensor> {
        let norm = self.stages.iter().find_map(|(_, stage)| match stage {
            Stage::Head(head) => Some(&head.norm),
            _ => None,
        });
        match norm {
            Some(norm) => self.forward.norm(norm, x).map_err(|e| e.at(Place::Head)),
            None => Ok(x),
        }
    }

    fn head(&self, x: &Tensor) -> Result<Tensor> {
        let head = self.stages.iter().find_map(|(_, stage)| match stage {
            Stage::Head(head) => Some(head),
            _ => None,
        });
        let head = head.ok_or(Error::Missing { what: "head" })?;
        let logits = self.forward.head(head, self.table.as_ref(), x).map_err(|e| e.at(Place::Head))?;
        check_finite(&logits, Place::Head, 0)?;
        Ok(logits)
    }

    /// Through the embedding and all blocks, `[1, ids, hidden]`.
    fn run(&self, ids: &[u32], mut cache: Option<&mut Cache>) -> Result<Tensor> {
        check_ids(ids, self.vocabulary, 0)?;
        let first = cache.as_ref().map_or(0, |cache| cache.len);
        let mut x = None;
        for (n, (place, stage)) in self.stages.iter().enumerate() {
            let y = match (stage, &x) {
                (Stage::Embed(embed), _) => self.forward.embed(embed, ids, 1, first),
                (Stage::Block(block), Some(x)) => {
                    let past = cache.as_mut().map(|cache| &mut cache.layers[n]);
                    self.forward.block(block, x, None, past)
                }
                (Stage::Block(_), None) => Err(Error::Missing { what: "embedding in front of its blocks" }),
                (Stage::Head(_) | Stage::Loose(_), _) => continue,
            };
            let y = y.map_err(|e| e.at(*place))?;
            check_finite(&y, *place, 0)?;
            x = Some(y);
        }
        if let Some(cache) = cache {
            cache.len += ids.len();
        }
        x.ok_or(Error::Missing { what: "embedding" })
    }
}
