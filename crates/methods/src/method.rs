//! What a method is: a function on one layer, and what it says about the result without the weights.

use std::fmt;
use std::sync::Arc;

use brevity_model::{Form, Linear, Role, Site, Tap, Weight};

use crate::block::BlockMethod;
use crate::error::{Error, Result};
use crate::seen::{Needs, Seen};
use crate::stream::StreamMethod;

/// What a method knows besides the layer.
#[derive(Clone, Debug)]
pub struct Cx<'a> {
    /// The layer's place in the model.
    pub site: &'a Site,
    /// Sentences for the report: what the method decided, what it lost.
    pub notes: Vec<String>,
    /// Where randomness comes from.
    pub seed: u64,
    /// What was seen of the layer's inputs: at least what [`LinearMethod::needs`] asks for.
    pub seen: &'a Seen,
    /// The layer when its inputs were looked at, in front of the first step for single layers, where whoever drives the
    /// method knows it.
    pub original: Option<&'a Linear<Weight>>,
    /// The layer in the original model, where a step for whole sublayers has taken inputs from it.
    pub source: Option<&'a Linear<Weight>>,
    /// What the method found and chose, by name, for the report: `damp`, `held_out_error`; of a factor of a product
    /// with its path in front, `0.damp`.
    pub figures: Vec<(String, f64)>,
}

impl<'a> Cx<'a> {
    /// For a method that looks at weights only. Nothing noted yet.
    pub fn new(site: &'a Site, seed: u64) -> Self {
        static NOTHING: Seen = Seen::nothing();
        Cx::with(site, seed, &NOTHING)
    }

    /// With what was seen of the layer's inputs. Nothing noted yet.
    pub fn with(site: &'a Site, seed: u64, seen: &'a Seen) -> Self {
        Cx { site, notes: Vec::new(), seed, seen, original: None, source: None, figures: Vec::new() }
    }

    /// The same for a layer that was `original` before the first step for single layers.
    pub fn of(self, original: &'a Linear<Weight>) -> Self {
        Cx { original: Some(original), ..self }
    }
}

/// A method that rewrites one linear layer (or table) at a time.
///
/// The same method with the same settings, layer and seed gives the same bytes, whatever the number of threads.
pub trait LinearMethod: Send + Sync + fmt::Debug {
    /// Whether the method has anything to do with a layer of this kind.
    fn rewrites(&self, role: &Role) -> bool {
        let _ = role;
        true
    }

    /// What the method must see of the inputs of the layers it rewrites. Nothing, unless it says otherwise.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Whether it can rewrite the token table by what is seen of its inputs: how often each token was there, as their sum.
    fn counts_tokens(&self) -> bool {
        false
    }

    /// What the survey must see of the inputs of the layers it looks at, in the original model.
    fn survey_needs(&self) -> Needs {
        Needs::default()
    }

    /// Changes the layer. On an error the layer may be half changed and must not be used.
    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()>;

    /// Changes the form of the layer as [`LinearMethod::rewrite`] will change the layer: shapes, kinds and bits
    /// are exact, only the share of entries that a mask removes may be an estimate.
    ///
    /// # Errors
    /// Whatever `rewrite` would refuse that can be known from shapes and kinds;
    /// [`Error::NeedsSurvey`] if [`LinearMethod::must_survey_to_predict`].
    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()>;

    /// The look at all selected layers that the method needs before it rewrites the first, if it needs one.
    /// The method that [`Survey::finish`] returns needs none.
    fn survey(&self) -> Option<Box<dyn Survey>> {
        None
    }

    /// Whether the survey must be made before [`LinearMethod::predict`], and not only before the rewrite,
    /// because shapes depend on the weights.
    fn must_survey_to_predict(&self) -> bool {
        false
    }

    /// All settings with their values, those by default too; reading them back gives the same method.
    fn settings(&self) -> serde_json::Value;

    /// Bytes that [`LinearMethod::rewrite`] holds at most beside the layer it is given and what was seen, the result
    /// included.
    fn peak_bytes(&self, layer: &Linear<Form>) -> u64;
}

/// A method of any kind.
#[derive(Debug)]
pub enum Method {
    /// Rewrites one layer at a time.
    Linear(Box<dyn LinearMethod>),
    /// Rewrites whole sublayers.
    Block(Box<dyn BlockMethod>),
    /// Changes the residual stream of the whole model.
    Stream(Arc<dyn StreamMethod>),
}

impl Method {
    /// The method, if it rewrites one layer at a time.
    pub fn linear(&self) -> Option<&dyn LinearMethod> {
        match self {
            Method::Linear(method) => Some(&**method),
            _ => None,
        }
    }

    /// The method, if it rewrites whole sublayers.
    pub fn block(&self) -> Option<&dyn BlockMethod> {
        match self {
            Method::Block(method) => Some(&**method),
            _ => None,
        }
    }

    /// The method, if it changes the residual stream.
    pub fn stream(&self) -> Option<&Arc<dyn StreamMethod>> {
        match self {
            Method::Stream(method) => Some(method),
            _ => None,
        }
    }

    /// What it must see at a tap that a layer reads.
    pub fn needs(&self, tap: Option<Tap>) -> Needs {
        match (self, tap) {
            (Method::Linear(method), _) => method.needs(),
            (Method::Block(method), Some(tap)) => method.needs(tap),
            (Method::Block(_), None) | (Method::Stream(_), _) => Needs::default(),
        }
    }

    /// Whether it looks at activations at all, on its way or in a survey.
    pub fn looks(&self) -> bool {
        match self {
            Method::Linear(method) => !method.needs().or(method.survey_needs()).is_nothing(),
            Method::Block(method) => {
                method.survey().is_some() || Tap::OF_BLOCK.iter().any(|&tap| !method.needs(tap).is_nothing())
            }
            Method::Stream(_) => true,
        }
    }

    /// What its survey must see.
    pub fn survey_needs(&self) -> Needs {
        match self {
            Method::Linear(method) => method.survey_needs(),
            // Hidden states in front of blocks and behind them, which is no more than moments take.
            Method::Block(method) => Needs { moments: method.survey().is_some(), ..Needs::default() },
            // The samples go through the whole model before the work begins.
            Method::Stream(_) => Needs { gram: true, ..Needs::default() },
        }
    }

    /// Whether it has a survey to make that looks at activations.
    pub fn survey_looks(&self) -> bool {
        match self {
            Method::Linear(method) => !method.survey_needs().is_nothing(),
            Method::Block(method) => method.survey().is_some(),
            Method::Stream(_) => true,
        }
    }

    /// Whether it has a survey to make that tells it what to do.
    pub fn surveys(&self) -> bool {
        match self {
            Method::Linear(method) => method.survey().is_some(),
            Method::Block(method) => method.survey().is_some(),
            Method::Stream(_) => false,
        }
    }

    /// All settings with their values.
    pub fn settings(&self) -> serde_json::Value {
        match self {
            Method::Linear(method) => method.settings(),
            Method::Block(method) => method.settings(),
            Method::Stream(method) => method.settings(),
        }
    }
}

/// A look at all selected layers before any of them is rewritten: a global threshold, ranks that depend on weights.
///
/// Whoever drives it calls [`Survey::look`] on each selected layer, in the order of the model, with the layer as
/// the earlier steps of the recipe leave it; then asks [`Survey::next_pass`], and starts over while it says so.
pub trait Survey: Send {
    /// Looks at one layer, and at what was seen of its inputs: what [`LinearMethod::survey_needs`] asked for.
    fn look(&mut self, site: &Site, layer: &Linear<Weight>, seen: &Seen) -> Result<()>;

    /// On how many tokens the loss of the model must be measured with each of [`Survey::trials`], if it must.
    fn tokens(&self) -> Option<usize> {
        None
    }

    /// Versions of a layer that was looked at, with each of which the loss of the model is to be measured while everything
    /// else is as it was.
    fn trials(&mut self, site: &Site, layer: &Linear<Weight>, seen: &Seen) -> Result<Vec<Linear<Weight>>> {
        let _ = (site, layer, seen);
        Ok(Vec::new())
    }

    /// The losses with all trials in the order in which they were made, before the pass ends: the mean KL divergence of
    /// the distribution of the next token, in nats.
    fn losses(&mut self, losses: &[f64]) {
        let _ = losses;
    }

    /// Ends a pass; `true` if all layers must be seen once more, in the same order.
    fn next_pass(&mut self) -> bool;

    /// The method with what it learned.
    fn finish(self: Box<Self>) -> Result<Box<dyn LinearMethod>>;
}

/// Runs the survey of a method, if it has one, over layers that are all at hand.
///
/// # Errors
/// What [`Survey::look`] refuses.
pub fn surveyed(
    method: Box<dyn LinearMethod>,
    layers: &[(Site, &Linear<Weight>)],
) -> Result<Box<dyn LinearMethod>, Error> {
    let Some(mut survey) = method.survey() else { return Ok(method) };
    loop {
        for (site, layer) in layers {
            survey.look(site, layer, &Seen::nothing())?;
        }
        if !survey.next_pass() {
            return survey.finish();
        }
    }
}
