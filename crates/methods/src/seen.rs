//! What was seen of the inputs of a layer, and what a method must see.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use brevity_kernels::gram::{Cross, Gram, Outer};

/// What a method must know about the inputs of a layer. Nothing, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// `Σ x xᵀ`.
    pub gram: bool,
    /// `Σ x` and `Σ x²`.
    pub moments: bool,
    /// `Σ |x|`.
    pub absolute: bool,
    /// In a survey, how much each block changes the coding rate of what passes through it.
    pub coding_rate: bool,
    /// The inputs of the same layer in the original model, beside those in the compressed one.
    pub reference: bool,
    /// The residual stream behind the layer in both models, for layers whose outputs are added to it.
    pub stream: bool,
    /// A part of the samples kept apart, to choose on what was not fitted to.
    pub held_out: bool,
}

impl Needs {
    /// Whether the method looks at weights only.
    pub fn is_nothing(&self) -> bool {
        *self == Needs::default()
    }

    /// What either of two needs.
    pub fn or(self, other: Needs) -> Needs {
        Needs {
            gram: self.gram | other.gram,
            moments: self.moments | other.moments,
            absolute: self.absolute | other.absolute,
            coding_rate: self.coding_rate | other.coding_rate,
            reference: self.reference | other.reference,
            stream: self.stream | other.stream,
            held_out: self.held_out | other.held_out,
        }
    }
}

/// What some samples showed of the inputs of a layer. `x` are the inputs in the compressed model, `r` those in the
/// original one at the same places.
#[derive(Clone, Debug, Default)]
pub struct Fold {
    /// Rows seen.
    pub count: u64,
    /// `Σ x xᵀ`, `[inputs, inputs]`.
    pub gram: Option<Gram>,
    /// `Σ (r - x) xᵀ`, `[inputs, inputs]`, where a reference was asked for.
    pub drift: Option<Cross>,
    /// `Σ x`.
    pub sum: Vec<f64>,
    /// `Σ x²`.
    pub sum_sq: Vec<f64>,
    /// `Σ |x|`.
    pub sum_abs: Vec<f64>,
    /// `Σ r`, where a reference was asked for. It may be wider than `x`, where units were taken out between the two.
    pub reference_sum: Vec<f64>,
    /// `Σ r x`, of each input by itself, where a reference was asked for.
    pub reference_dot: Vec<f64>,
    /// What the residual stream lacks behind the layer, where it was asked for and the outputs are added to it.
    pub gap: Option<Gap>,
}

/// How far the residual stream behind a layer is from that of the original model: `e = s_r - s_x` at each place.
#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    /// `Σ e xᵀ`, `[outputs, inputs]`.
    pub pull: Outer,
    /// `Σ e`.
    pub sum: Vec<f64>,
    /// `Σ ‖e‖²`.
    pub squares: f64,
}

impl Gap {
    /// Nothing seen yet of so many outputs and inputs.
    pub fn new(shape: [usize; 2]) -> Self {
        Gap { pull: Outer::new(shape), sum: vec![0.0; shape[0]], squares: 0.0 }
    }

    /// Adds rows `e` `[rows, outputs]` beside the inputs `x` `[rows, inputs]`.
    pub fn add(&mut self, e: &[f32], x: &[f32]) {
        self.pull.add(e, x);
        for row in e.chunks_exact(self.sum.len().max(1)) {
            self.sum.iter_mut().zip(row).for_each(|(sum, &e)| *sum += f64::from(e));
            self.squares += row.iter().map(|&e| f64::from(e).powi(2)).sum::<f64>();
        }
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Gap) {
        self.pull.merge(&other.pull);
        self.sum.iter_mut().zip(&other.sum).for_each(|(a, b)| *a += b);
        self.squares += other.squares;
    }
}

impl Fold {
    /// Adds what another fold has seen. Merging two halves equals seeing everything.
    pub fn merge(&mut self, other: &Fold) {
        fn add(a: &mut Vec<f64>, b: &[f64]) {
            if a.is_empty() {
                a.extend_from_slice(b);
            } else {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            }
        }
        self.count += other.count;
        match (&mut self.gram, &other.gram) {
            (Some(a), Some(b)) => a.merge(b),
            (a @ None, Some(b)) => *a = Some(b.clone()),
            (_, None) => (),
        }
        match (&mut self.drift, &other.drift) {
            (Some(a), Some(b)) => a.merge(b),
            (a @ None, Some(b)) => *a = Some(b.clone()),
            (_, None) => (),
        }
        add(&mut self.sum, &other.sum);
        add(&mut self.sum_sq, &other.sum_sq);
        add(&mut self.sum_abs, &other.sum_abs);
        add(&mut self.reference_sum, &other.reference_sum);
        add(&mut self.reference_dot, &other.reference_dot);
        match (&mut self.gap, &other.gap) {
            (Some(a), Some(b)) => a.merge(b),
            (a @ None, Some(b)) => *a = Some(b.clone()),
            (_, None) => (),
        }
    }
}

/// What was seen of the inputs of a layer. Layers that read the same activations share it.
#[derive(Debug, Default)]
pub struct Seen {
    /// The samples that methods fit to.
    pub fit: Fold,
    /// The samples that no method fits to before it has chosen; none seen unless a method asked for them.
    pub held_out: Fold,
    /// One minus the mean cosine between what goes into the block and what comes out of it, in a survey.
    pub influence: Option<f64>,
    /// By how much the block changes the [`coding_rate`](crate::coding_rate) of the hidden states, in a survey that asked.
    pub coding_rate: Option<f64>,
    /// Factorizations made of these, by what they are; the layers of a tap and the steps of a recipe share them.
    pub shared: Shared,
}

impl Seen {
    /// Nothing at all: what a method gets that needs nothing.
    pub const fn nothing() -> Self {
        const NONE: Fold = Fold {
            count: 0,
            gram: None,
            drift: None,
            sum: Vec::new(),
            sum_sq: Vec::new(),
            sum_abs: Vec::new(),
            reference_sum: Vec::new(),
            reference_dot: Vec::new(),
            gap: None,
        };
        let shared = Shared(Mutex::new(BTreeMap::new()));
        Seen { fit: NONE, held_out: NONE, influence: None, coding_rate: None, shared }
    }

    /// The mean over the rows of both folds of what `sum` gives of each; none if it gives nothing, or nothing was seen.
    pub fn mean(&self, sum: impl Fn(&Fold) -> &[f64]) -> Option<Vec<f64>> {
        let (mut total, mut count): (Vec<f64>, u64) = (Vec::new(), 0);
        for fold in [&self.fit, &self.held_out].into_iter().filter(|fold| !sum(fold).is_empty()) {
            total.resize(sum(fold).len(), 0.0);
            total.iter_mut().zip(sum(fold)).for_each(|(a, b)| *a += b);
            count += fold.count;
        }
        total.iter_mut().for_each(|x| *x /= count as f64);
        (count > 0).then_some(total)
    }

    /// `Σ x xᵀ` over the samples of both folds, if any was seen. Up to 4096 inputs the layers of a tap share it.
    pub fn gram(&self) -> Option<Both<'_>> {
        let merged = |fit: &Gram, held_out: &Gram| {
            let mut all = fit.clone();
            all.merge(held_out);
            all
        };
        Some(match (&self.fit.gram, &self.held_out.gram) {
            (Some(fit), Some(held_out)) if fit.size() <= KEEP => {
                let made = self.shared.get("gram of all", || Ok::<_, Infallible>(merged(fit, held_out)));
                Both::Shared(made.unwrap_or_else(|never| match never {}))
            }
            (Some(fit), Some(held_out)) => Both::Shared(Arc::new(merged(fit, held_out))),
            (one, other) => Both::One(one.as_ref().or(other.as_ref())?),
        })
    }
}

/// The most inputs for which what is made of the sums is kept for the next layer.
pub(crate) const KEEP: usize = 4096;

/// The sum of both folds.
#[derive(Debug)]
pub enum Both<'a> {
    /// There is but one.
    One(&'a Gram),
    /// They were added up.
    Shared(Arc<Gram>),
}

impl Deref for Both<'_> {
    type Target = Gram;

    fn deref(&self) -> &Gram {
        match self {
            Both::One(gram) => gram,
            Both::Shared(gram) => gram,
        }
    }
}

/// Values that are worked out once for all layers that read the same activations.
#[derive(Debug, Default)]
pub struct Shared(Mutex<BTreeMap<String, Arc<dyn std::any::Any + Send + Sync>>>);

impl Shared {
    /// The value called `key`, worked out by `make` if it is not there yet.
    ///
    /// # Errors
    /// What `make` returns; then nothing is kept.
    pub fn get<T: Send + Sync + 'static, E>(
        &self,
        key: &str,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(key).cloned();
        if let Some(known) = known.and_then(|known| known.downcast::<T>().ok()) {
            return Ok(known);
        }
        let made = Arc::new(make()?);
        let kept: Arc<dyn std::any::Any + Send + Sync> = made.clone();
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key.to_owned(), kept);
        Ok(made)
    }

    /// Forgets what is kept under keys that begin with `prefix`.
    pub fn forget(&self, prefix: &str) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).retain(|key, _| !key.starts_with(prefix));
    }
}
