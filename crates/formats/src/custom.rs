//! Plain floats for transformers, with a small file of code beside them where stock classes cannot hold the result.
//!
//! # Files
//!
//! What readers of the architecture open as it is, is written as [`Dense`] writes it. Anything else is opened by
//! `modeling_brevity.py`, which is written beside `config.json`: it subclasses the stock class and puts other layers in
//! their places. transformers runs it with `trust_remote_code=True`. Without, it must refuse the directory: with the
//! stock `model_type` it would take the stock class, and random numbers for the factors that it misses. So the type is
//! `brevity_llama`, which nobody knows but that file, and `architectures` and `auto_map` name its classes.
//!
//! # Tensors
//!
//! Tensors are called as the stock class has them. A product of matrices is one tensor for each factor,
//! `MODULE.0.weight` `[rank, in]`, `MODULE.1.weight` `[out, rank]`, and its bias is that of the last factor. Codes are
//! decoded, masks are zeros. A shortcut of a turned stream is `model.layers.N.attn_shortcut.weight` or `mlp_shortcut`. Sums
//! and trains of matrices are refused.
//!
//! # Configuration
//!
//! The keys of the architecture say what the model was before blocks became unlike each other. The rest is ours:
//!
//! ```json
//! "brevity": {
//!   "layout": "custom", "version": 1,
//!   "stock": { "architectures": ["LlamaForCausalLM"] },                       what these keys were
//!   "blocks": [ … ], "stream": { … },                                        as in the native layout, if there must be
//!   "linears": { "model.layers.0.mlp.down_proj": { "widths": [1536, 64, 576], "bias": true, "added": true } }
//! }
//! ```
//!
//! `widths` are the inputs of a layer, what lies between its factors, and its outputs; a bias is `added` if the stock class
//! has none there. Layers that are not named are as the stock class has them.

mod read;

use std::collections::BTreeMap;

use brevity_model::{CodeForm, Config, Dtype, Expr, Form, Model, Place, Role, STRUCTURE, Slot, Source, Stage, Weight};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use self::read::{CustomFiles, open};
pub(crate) use self::read::{as_stock, is_custom};
use crate::dense::{self, Dense};
use crate::error::Error;
use crate::format::{Format, Opens, any_config, forms, halves, unholdable};
use crate::gather::{StageView, Whole, carry_others, others, wholes};
use crate::renumber::Renumber;
use crate::tensor::{Tensor, TensorSpec};
use crate::unholdable::Why;

/// The version of the layout that is written, and the newest that is read.
const VERSION: u64 = 1;

/// The name of the file of code.
pub(crate) const CODE: &str = "modeling_brevity.py";

/// The file itself, for llama.
const PYTHON: &str = include_str!("custom/modeling_brevity.py");

/// What the types of models that the code is made for begin with.
const PREFIX: &str = "brevity_";

/// Types of models whose stock classes the code can subclass, and what the names of those begin with.
const CLASSES: &[(&str, &str)] =
    &[("llama", "Llama"), ("mistral", "Mistral"), ("qwen2", "Qwen2"), ("qwen3", "Qwen3"), ("smollm3", "SmolLM3")];

/// Plain floats, and code for what stock classes cannot hold.
#[derive(Clone, Copy, Debug)]
pub struct Custom;

/// A layer that is not as the stock class has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinearRecord {
    /// Inputs, what lies between factors, outputs.
    widths: Vec<usize>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    bias: bool,
    /// The bias is one that the stock class has not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    added: bool,
}

/// How a tensor of the source is written.
enum Held<'a> {
    /// As one tensor, by this name if not its own.
    Whole(Option<String>),
    /// As the factors of the module of this name.
    Factors(&'a str),
}

impl Format for Custom {
    fn name(&self) -> &'static str {
        "custom"
    }

    fn about(&self) -> &'static str {
        "plain floats, factors kept, and a file of code for what stock classes cannot hold (llama and its kin)"
    }

    fn consumers(&self) -> &'static str {
        "transformers with `trust_remote_code=True`; where nothing needs the code, as `dense`"
    }

    fn opened_by(&self, opens: Opens) -> &'static str {
        match opens {
            Opens::Stock => Dense.consumers(),
            _ => "transformers with `trust_remote_code=True`",
        }
    }

    fn layout(&self, at: &StageView<'_>, forms: &Stage<Form>) -> Result<Vec<TensorSpec>, Error> {
        let wholes = wholes(self.name(), at, forms)?;
        let mut specs = Vec::new();
        for whole in &wholes {
            specs.extend(self.specs(at, whole, &wholes)?);
        }
        specs.extend(others(self.name(), at)?);
        Ok(specs)
    }

    fn encode(&self, at: &StageView<'_>, weights: &Stage<Weight>) -> Result<Vec<Tensor>, Error> {
        let forms = forms(weights);
        let specs = wholes(self.name(), at, &forms)?;
        let mut tensors = Vec::new();
        for (whole, form) in wholes(self.name(), at, weights)?.iter().zip(&specs) {
            let planned = self.specs(at, form, &specs)?;
            match chain(whole.parts[0].item).filter(|factors| factors.len() > 1) {
                Some(factors) => {
                    let dtype = float_type(form);
                    let bytes = factors.into_iter().map(|factor| dense::bytes_of(factor, dtype));
                    tensors.extend(planned.into_iter().zip(bytes).map(|(spec, bytes)| spec.with(bytes)));
                }
                None => {
                    for spec in planned {
                        tensors.push(dense::floats(at, whole, spec, self.name())?);
                    }
                }
            }
        }
        tensors.extend(carry_others(self.name(), at)?);
        Ok(tensors)
    }

    fn held(&self, weight: Weight, source: &Form) -> Weight {
        let Some(factors) = chain(&weight).filter(|factors| factors.len() > 1) else {
            return Dense.held(weight, source);
        };
        // Readers multiply from right to left, whichever way the product was put together.
        let factors = factors.into_iter().map(|factor| Dense.held(factor.clone(), source));
        factors.reduce(|right, left| Weight::product(left, right)).expect("a product has factors")
    }

    fn config(&self, source: &Config, model: &Model<Source>, forms: &Model<Form>) -> Result<Config, Error> {
        let reshaped = any_config(source, model, forms);
        let (mut config, stock) = (halves(reshaped.config, model), reshaped.stock);
        let kept = if stock { Keep::Others } else { Keep::All };
        let linears = linears(&config, model, forms, kept);
        if stock && linears.is_empty() {
            return Ok(config);
        }
        if class(config.model_type()).is_none() || config.get("text_config").is_some() {
            let known = CLASSES.iter().map(|(kind, _)| *kind).collect::<Vec<_>>().join(", ");
            return Err(unholdable(self.name(), model, forms, Why::Architecture { name: model.name.clone(), known }));
        }
        let kind = config.model_type().to_owned();
        let mut ours = config.remove(STRUCTURE).unwrap_or_else(|| json!({}));
        ours["layout"] = json!(self.name());
        ours["version"] = json!(VERSION);
        let replaced = ["architectures", "auto_map"].into_iter();
        let replaced = replaced.filter_map(|key| Some((key.to_owned(), config.get(key)?.clone())));
        ours["stock"] = Value::Object(replaced.collect::<Map<_, _>>());
        ours["linears"] = json!(linears);
        config.set("model_type", json!(format!("{PREFIX}{kind}")));
        config.set("architectures", json!(["BrevityForCausalLM"]));
        let module = CODE.trim_end_matches(".py");
        let classes = [("AutoConfig", "BrevityConfig"), ("AutoModelForCausalLM", "BrevityForCausalLM")];
        let map = classes.map(|(auto, own)| (auto.to_owned(), json!(format!("{module}.{own}"))));
        config.set("auto_map", Value::Object(map.into_iter().collect()));
        if let Some(eps) = ours.get("stream").and_then(|stream| stream.get("eps")).cloned() {
            config.set("rms_norm_eps", eps);
        }
        config.set(STRUCTURE, ours);
        Ok(config)
    }

    fn opens(&self, config: &Config, _: &[Vec<TensorSpec>]) -> Opens {
        if is_custom(config) { Opens::Code } else { Opens::Stock }
    }

    fn files(&self, config: &Config) -> Vec<(String, Vec<u8>)> {
        let kind = config.model_type().strip_prefix(PREFIX);
        let code = kind.and_then(|kind| Some((kind, class(kind)?))).filter(|_| is_custom(config));
        let file =
            |(kind, class)| (CODE.to_owned(), PYTHON.replace("Llama", class).replace("llama", kind).into_bytes());
        code.map(file).into_iter().collect()
    }
}

impl Custom {
    /// The tensors of one tensor of the source.
    fn specs(
        &self,
        at: &StageView<'_>,
        whole: &Whole<'_, Form>,
        all: &[Whole<'_, Form>],
    ) -> Result<Vec<TensorSpec>, Error> {
        Ok(match self.way(whole, all)? {
            Held::Whole(name) => {
                let spec = dense::spec(self.name(), at, whole)?;
                vec![TensorSpec { name: name.unwrap_or(spec.name), ..spec }]
            }
            Held::Factors(module) => {
                let dtype = crate::tensor::dtype_name(float_type(whole));
                let factors = chain(whole.parts[0].item).unwrap_or_default().into_iter().enumerate();
                factors.map(|(n, form)| TensorSpec::new(format!("{module}.{n}.weight"), dtype, form.shape())).collect()
            }
        })
    }

    /// How a tensor is written, if it can be.
    fn way<'a>(&self, whole: &'a Whole<'_, Form>, all: &[Whole<'_, Form>]) -> Result<Held<'a>, Error> {
        let part = &whole.parts[0];
        if let Some(module) = shortcut(part.site.place, &part.site.role) {
            return Ok(Held::Whole(Some(format!("{module}.weight"))));
        }
        if part.slot == Slot::Bias {
            let weight = all
                .iter()
                .flat_map(|whole| &whole.parts)
                .find(|other| other.slot == Slot::Weight && other.site == part.site && other.item.as_leaf().is_none());
            let last = weight.and_then(|weight| Some(chain(weight.item)?.len() - 1));
            let name = last.and_then(|last| Some(format!("{}.{last}.bias", whole.tensor.strip_suffix(".bias")?)));
            return Ok(Held::Whole(name));
        }
        if let Some(odd) = whole.parts.iter().find(|part| part.item.as_leaf().is_none()) {
            let fail = |why| Err(Error::Unholdable { format: self.name(), site: odd.site.clone(), why });
            let rule = |form: &Form| {
                let code = form.as_leaf().map(|leaf| &leaf.code);
                matches!(code, Some(CodeForm::Diagonal | CodeForm::Permutation | CodeForm::Hadamard))
            };
            match chain(odd.item) {
                None if odd.item.has_train() => return fail(Why::Kind { what: "a tensor train" }),
                None => return fail(Why::Kind { what: "a sum of matrices" }),
                Some(factors) if factors.iter().any(|factor| rule(factor)) => {
                    return fail(Why::Kind { what: "a product with a rule" });
                }
                Some(_) if whole.parts.len() > 1 || !odd.view.is_whole() => {
                    return fail(Why::Kind { what: "a product of two matrices in the place of a part of a tensor" });
                }
                Some(_) if !is_linear(&odd.site.role) => {
                    return fail(Why::Kind { what: "a product of two matrices, which is no table" });
                }
                Some(_) => {}
            }
            return match whole.tensor.strip_suffix(".weight") {
                Some(module) => Ok(Held::Factors(module)),
                None => fail(Why::Name { tensor: whole.tensor.clone() }),
            };
        }
        Ok(Held::Whole(None))
    }
}

/// The factors of a product from right to left, of anything else but sums and trains itself.
fn chain<L>(expr: &Expr<L>) -> Option<Vec<&Expr<L>>> {
    match expr {
        Expr::Leaf(_) => Some(vec![expr]),
        Expr::Product(parts) => {
            let mut factors = chain(&parts[1])?;
            factors.extend(chain(&parts[0])?);
            Some(factors)
        }
        Expr::Sum(_) | Expr::Train(_) => None,
    }
}

/// The type of the factors of a tensor: that of its floats in the source.
fn float_type(whole: &Whole<'_, Form>) -> Dtype {
    let part = &whole.parts[0];
    dense::rewritten_dtype(part.source.map_or(part.item, |source| &source.form))
}

/// What the names of the stock classes of a type of model begin with.
fn class(kind: &str) -> Option<&'static str> {
    CLASSES.iter().find(|(known, _)| *known == kind).map(|(_, class)| *class)
}

/// The module of a shortcut in a block.
fn shortcut(place: Place, role: &Role) -> Option<String> {
    let Place::Block(n) = place else { return None };
    match role {
        Role::AttnShortcut => Some(format!("model.layers.{n}.attn_shortcut")),
        Role::MlpShortcut => Some(format!("model.layers.{n}.mlp_shortcut")),
        _ => None,
    }
}

fn is_linear(role: &Role) -> bool {
    matches!(role, Role::Q | Role::K | Role::V | Role::O | Role::Gate | Role::Up | Role::Down | Role::Out)
}

/// Which layers are named.
#[derive(Clone, Copy, PartialEq)]
enum Keep {
    /// All of the blocks.
    All,
    /// Those with factors, or with a bias that the stock class has not, or without one that it has.
    Others,
}

/// The layers that the code has to put in the places of stock ones, by their modules.
fn linears(config: &Config, model: &Model<Source>, forms: &Model<Form>, keep: Keep) -> BTreeMap<String, LinearRecord> {
    let numbers = Renumber::of(model, forms);
    let mut found = BTreeMap::new();
    for (n, (stage, source)) in forms.stages.iter().zip(&model.stages).enumerate() {
        let place = Renumber::moved(numbers.as_ref(), forms.place(n));
        for (role, _, form) in stage.weights() {
            if let Some(module) = shortcut(place, &role) {
                let [rows, columns] = form.shape();
                found.insert(module, LinearRecord { widths: vec![columns, rows], bias: false, added: false });
            }
        }
        let mut stage = stage.clone();
        let sources = source.weights();
        for (role, linear) in stage.linears_mut().into_iter().filter(|(role, _)| is_linear(role)) {
            let stored = sources.iter().find(|(other, slot, _)| *other == role && *slot == Slot::Weight);
            let stored = stored.map_or("lm_head.weight", |(_, _, source)| source.tensor.as_str());
            let renamed = numbers.as_ref().map_or_else(|| Some(stored.to_owned()), |numbers| numbers.name(stored));
            let Some(module) = renamed.and_then(|name| Some(name.strip_suffix(".weight")?.to_owned())) else {
                continue;
            };
            // Refused where the stage is laid out.
            let Some(factors) = chain(&linear.weight) else { continue };
            let bias = linear.bias.is_some();
            let stock = has_bias(config, &role, &sources);
            let others = factors.len() > 1 || bias != stock;
            let first = factors[0].shape()[1];
            // An output table as wide as the stream is the stock one.
            if others || keep == Keep::All && (role != Role::Out || first != forms.hidden) {
                let widths = std::iter::once(first).chain(factors.iter().map(|factor| factor.shape()[0])).collect();
                found.insert(module, LinearRecord { widths, bias, added: bias && !stock });
            }
        }
    }
    found
}

/// Whether the stock class has a bias there. Where it is not known, it has what the source has.
fn has_bias(config: &Config, role: &Role, sources: &[(Role, Slot, &Source)]) -> bool {
    let says = |key| config.get(key).and_then(Value::as_bool).unwrap_or(false);
    match (config.model_type(), role) {
        (_, Role::Out) => false,
        ("mistral", _) => false,
        ("qwen2", role) => matches!(role, Role::Q | Role::K | Role::V),
        ("qwen3", Role::Gate | Role::Up | Role::Down) => false,
        ("llama" | "smollm3", Role::Gate | Role::Up | Role::Down) => says("mlp_bias"),
        ("llama" | "smollm3" | "qwen3", _) => says("attention_bias"),
        _ => sources.iter().any(|(other, slot, _)| other == role && *slot == Slot::Bias),
    }
}
