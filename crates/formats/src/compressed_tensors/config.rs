//! The `quantization_config` of a written checkpoint.

use std::collections::BTreeSet;

use brevity_model::{Config, Form, Model, Role, Slot, Source};
use serde_json::{Map, Value, json};

use super::scheme::Scheme;
use super::write::Held;
use super::{CompressedTensors, Packing};
use crate::error::Error;
use crate::format::plain_config;
use crate::gather::{StageView, wholes};
use crate::renumber::Renumber;

/// The configuration of the source with the schemes of all modules.
///
/// One scheme for everything gives one group whose target is the class `Linear`; with several, each group lists its
/// modules by path. Linear layers that stay floats are listed under `ignore`.
pub(super) fn with_schemes(
    format: CompressedTensors,
    source: &Config,
    model: &Model<Source>,
    forms: &Model<Form>,
) -> Result<Config, Error> {
    let numbers = Renumber::of(model, forms);
    let mut groups: Vec<(Scheme, Vec<String>)> = Vec::new();
    let mut ignored = Vec::new();
    let mut seen = BTreeSet::new();
    for (n, (stage, forms)) in model.stages.iter().zip(&forms.stages).enumerate() {
        let at = StageView { place: model.place(n), source: stage, container: None, numbers: numbers.as_ref() };
        for whole in wholes(super::Format::name(&format), &at, forms)? {
            match format.held(&whole)? {
                Held::Module(module) => match groups.iter_mut().find(|(scheme, _)| *scheme == module.scheme) {
                    Some((_, modules)) => modules.push(module.name),
                    None => groups.push((module.scheme, vec![module.name])),
                },
                Held::Floats => {
                    let part = &whole.parts[0];
                    let linear = part.slot == Slot::Weight && may_be_linear(&part.site.role);
                    if let (true, Some(name)) = (linear, whole.tensor.strip_suffix(".weight"))
                        && seen.insert(name.to_owned())
                    {
                        ignored.push(name.to_owned());
                    }
                }
            }
        }
    }
    // The output layer is a module of its own even where its table is that of the tokens.
    if forms.is_tied() && seen.insert("lm_head".into()) {
        ignored.push("lm_head".into());
    }
    let mut config = plain_config(super::Format::name(&format), source, model, forms)?;
    if !groups.is_empty() {
        config.set("quantization_config", quantization(format.packing, groups, ignored));
    }
    Ok(config)
}

/// Whether readers may make a linear layer of a weight. Of a loose one nothing is known, so it may.
fn may_be_linear(role: &Role) -> bool {
    matches!(
        role,
        Role::Q
            | Role::K
            | Role::V
            | Role::O
            | Role::Gate
            | Role::Up
            | Role::Down
            | Role::EmbedProject
            | Role::HeadProject
            | Role::Out
            | Role::Loose(_)
    )
}

fn quantization(packing: Packing, groups: Vec<(Scheme, Vec<String>)>, ignored: Vec<String>) -> Value {
    let activations = match packing {
        Packing::Int => json!({
            "num_bits": 8, "type": "int", "symmetric": true, "strategy": "token", "dynamic": true,
        }),
        _ => Value::Null,
    };
    let alone = groups.len() == 1;
    let mut config_groups = Map::new();
    for (n, (scheme, modules)) in groups.into_iter().enumerate() {
        let targets = if alone { vec!["Linear".to_owned()] } else { modules };
        let group = json!({
            "targets": targets,
            // Readers go by this one, not by the key of the same name further up.
            "format": packing.format(),
            "weights": scheme.to_json(),
            "input_activations": activations,
            "output_activations": null,
        });
        config_groups.insert(format!("group_{n}"), group);
    }
    json!({
        "quant_method": "compressed-tensors",
        "version": "0.20.0",
        "format": packing.format(),
        "quantization_status": "compressed",
        "config_groups": config_groups,
        "ignore": ignored,
        "kv_cache_scheme": null,
        "global_compression_ratio": null,
        "sparsity_config": {},
        "transform_config": {},
    })
}
