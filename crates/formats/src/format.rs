//! What every way to write a checkpoint has in common, and the list of them.

use brevity_model::{
    CodeForm, Config, Form, LeafForm, Model, Reshaped, Role, STRUCTURE, Source, Stage, Weight, reshaped,
};

use crate::compressed_tensors::CompressedTensors;
use crate::custom::Custom;
use crate::dense::Dense;
use crate::error::Error;
use crate::gather::StageView;
use crate::native::Native;
use crate::tensor::{Tensor, TensorSpec};
use crate::unholdable::Why;

/// Who opens a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// Any reader of the architecture that knows the format.
    Stock,
    /// transformers, with the code that is written beside it.
    Code,
    /// Nobody but us.
    Brevity,
}

/// A way to write a model to files.
///
/// A format writes one stage at a time and keeps nothing between stages. What it writes follows from the forms of the
/// weights alone, so a plan knows every name, type and shape before a weight is loaded.
pub trait Format: Send + Sync {
    /// Its name, as users give it.
    fn name(&self) -> &'static str;

    /// What it is, in one sentence.
    fn about(&self) -> &'static str;

    /// Which tools open the result.
    fn consumers(&self) -> &'static str;

    /// The same for a certain one.
    fn opened_by(&self, opens: Opens) -> &'static str {
        match opens {
            Opens::Brevity => "brevity only",
            _ => self.consumers(),
        }
    }

    /// What [`Format::encode`] will return for weights of these forms.
    ///
    /// # Errors
    /// [`Error::Unholdable`] if the format has no way to say one of the forms.
    fn layout(&self, at: &StageView<'_>, forms: &Stage<Form>) -> Result<Vec<TensorSpec>, Error>;

    /// The tensors of a stage.
    ///
    /// # Errors
    /// As [`Format::layout`], or if a tensor that is carried through cannot be read.
    fn encode(&self, at: &StageView<'_>, weights: &Stage<Weight>) -> Result<Vec<Tensor>, Error>;

    /// A rewritten weight as readers of the files will have it, up to how it is coded; `source` is the form that it had
    /// in the checkpoint. Formats that hold codes as they are change nothing.
    fn held(&self, weight: Weight, source: &Form) -> Weight {
        let _ = source;
        weight
    }

    /// The `config.json` of the result: that of the source with what changed, and nothing else, changed.
    ///
    /// # Errors
    /// As [`Format::layout`].
    fn config(&self, source: &Config, model: &Model<Source>, forms: &Model<Form>) -> Result<Config, Error>;

    /// Who opens a result of this configuration and these tensors.
    fn opens(&self, config: &Config, specs: &[Vec<TensorSpec>]) -> Opens {
        let _ = specs;
        if is_reshaped(config) { Opens::Brevity } else { Opens::Stock }
    }

    /// Files that go with a result of this configuration: names and contents.
    fn files(&self, config: &Config) -> Vec<(String, Vec<u8>)> {
        let _ = config;
        Vec::new()
    }
}

/// Whether a configuration says in our own words how blocks are shaped.
pub(crate) fn is_reshaped(config: &Config) -> bool {
    config.get(STRUCTURE).is_some_and(|ours| ours.get("blocks").is_some())
}

/// Every way to write a model. `--format`, help texts and the test battery are made from this list.
pub const FORMATS: &[&dyn Format] =
    &[&Dense, &CompressedTensors::PACKED, &CompressedTensors::INT, &CompressedTensors::NAIVE, &Custom, &Native];

/// The format of this name; `ct` is short for `compressed-tensors`.
pub fn format(name: &str) -> Option<&'static dyn Format> {
    let name = if name == "ct" { "compressed-tensors" } else { name };
    FORMATS.iter().find(|format| format.name() == name).copied()
}

/// What to do for a format that is written from a finished model only, not stage by stage as a run goes on.
pub fn behind(name: &str) -> Option<&'static str> {
    (name == "gguf").then_some(
        "write a directory with `--format native`, which keeps what was done, and make a file of it with \
         `brevity export DIR --format gguf --type q8_0 --out FILE.gguf`",
    )
}

/// The forms of the weights of a stage.
pub(crate) fn forms(weights: &Stage<Weight>) -> Stage<Form> {
    weights
        .try_map(|_, _, weight| Ok::<_, std::convert::Infallible>(Form::of(weight)))
        .unwrap_or_else(|never| match never {})
}

/// What changes in `config.json` whatever the format: a stale quantization goes, sizes and tying follow the tree.
///
/// # Errors
/// [`Error::Unholdable`] where readers of the architecture would not understand the shapes.
pub(crate) fn plain_config(
    format: &'static str,
    source: &Config,
    model: &Model<Source>,
    forms: &Model<Form>,
) -> Result<Config, Error> {
    let Reshaped { config, stock } = any_config(source, model, forms);
    if stock {
        return Ok(config);
    }
    Err(unholdable(format, model, forms, Why::Structure))
}

/// The error for a model whose blocks are not what readers expect, at the first block that is not as it was.
pub(crate) fn unholdable(format: &'static str, model: &Model<Source>, forms: &Model<Form>, why: Why) -> Error {
    let changed = |n: &usize| match (&model.stages[*n], &forms.stages[*n]) {
        (Stage::Block(before), Stage::Block(after)) => {
            let heads = |attn: &Option<brevity_model::Attention<Form>>| attn.as_ref().map(|attn| attn.heads.clone());
            let ffn = after.mlp.as_ref().map(|mlp| mlp.up.weight.shape());
            before.attn.as_ref().map(|attn| attn.heads.clone()) != heads(&after.attn)
                || before.mlp.as_ref().map(|mlp| mlp.up.weight.form.shape()) != ffn
        }
        _ => false,
    };
    let first = (0..model.stages.len()).find(changed).unwrap_or(1.min(model.stages.len() - 1));
    let role = match &forms.stages[first] {
        Stage::Block(block) if block.mlp.is_some() => Role::Up,
        _ => Role::Q,
    };
    Error::Unholdable { format, site: model.site(first, role), why }
}

/// Weights from blocks of a GGUF file come out as halves, and the configuration says so.
pub(crate) fn halves(mut config: Config, model: &Model<Source>) -> Config {
    let blocks = |leaf: &LeafForm| matches!(leaf.code, CodeForm::Blocks(_));
    if model.weights().any(|(_, _, s)| s.form.leaves().iter().any(|(_, leaf)| blocks(leaf))) {
        let key = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        config.set(key, "float16".into());
    }
    config
}

/// The same for formats that only we read, where our own words do as well.
pub(crate) fn any_config(source: &Config, model: &Model<Source>, forms: &Model<Form>) -> Reshaped {
    let mut config = source.clone();
    for stale in ["quantization_config", "compression_config"] {
        config.remove(stale);
    }
    let Reshaped { mut config, stock } = reshaped(&config, model, forms, |source| source.form.shape());
    // Of our own keys only the shapes of blocks and stream outlive the layout that they were written for.
    if let Some(ours) = config.remove(STRUCTURE) {
        let kept = ["blocks", "stream"].into_iter().filter_map(|key| Some((key.to_owned(), ours.get(key)?.clone())));
        let kept: serde_json::Map<_, _> = kept.collect();
        if !kept.is_empty() {
            config.set(STRUCTURE, kept.into());
        }
    }
    if model.is_tied() && !forms.is_tied() {
        config.set("tie_word_embeddings", false.into());
    }
    Reshaped { config, stock }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_found_by_name() {
        for known in FORMATS {
            assert_eq!(format(known.name()).unwrap().name(), known.name());
            assert!(!known.about().is_empty() && !known.consumers().is_empty());
        }
        assert_eq!(format("ct").unwrap().name(), "compressed-tensors");
        assert!(format("gguf").is_none() && behind("gguf").is_some() && behind("dense").is_none());
    }
}
