//! Bytes of each layer in the files, before and after.

use std::collections::BTreeMap;

use brevity_formats::{Renumber, TensorSpec};
use brevity_model::{Form, Linear, Model, Role, Site, Slot, Source, Stage};

use super::{PlannedSite, Size, linears};
use crate::error::Error;
use crate::recipe::Recipe;
use crate::turned::Base;
use crate::work::Work;

/// All layers with their bytes, and the sums.
pub(super) fn of(
    base: Base<'_>,
    recipe: &Recipe,
    work: &Work,
    forms: &Model<Form>,
    specs: &[Vec<TensorSpec>],
    numbers: Option<&Renumber>,
) -> Result<(Vec<PlannedSite>, Size), Error> {
    // Steps see the layers of one model; what they hold now are those of the other.
    let (model, original) = (base.model(), base.checkpoint.model());
    let container = base.checkpoint.container();
    let mut sites = Vec::new();
    for (n, specs) in specs.iter().enumerate() {
        let sources = linears(&model.stages[n]);
        let mut result = forms.stages[n].clone();
        let after = result.linears_mut();
        let mut now = original.stages[n].clone();
        let now: Vec<(Role, Form)> =
            now.linears_mut().into_iter().map(|(role, linear)| (role, linear.weight.form.clone())).collect();
        let before: Vec<TensorSpec> = stored(&original.stages[n], container);
        let bytes_before = share(&model.stages[n], work.of(n), &sources, &before, None);
        let bytes_after = share(&model.stages[n], work.of(n), &sources, specs, numbers);
        for (at, (site, steps)) in work.of(n).iter().enumerate() {
            let form = after.iter().find(|(role, _)| *role == site.role).map(|(_, linear)| linear.weight.clone());
            let gone = || Form::float([0, 0], brevity_model::Dtype::F32);
            let now = now.iter().find(|(role, _)| *role == site.role).map(|(_, form)| form.clone());
            let now = now.unwrap_or_else(gone);
            sites.push(PlannedSite {
                site: site.clone(),
                methods: steps.iter().map(|&step| recipe.steps[step].method.clone()).collect(),
                shape: now.shape(),
                before: now,
                after: form.unwrap_or_else(gone),
                bytes_before: bytes_before[at],
                bytes_after: bytes_after[at],
            });
        }
    }
    let count = |[rows, columns]: [usize; 2]| (rows * columns) as u64;
    let parameters: u64 = original.weights().map(|(_, _, source)| count(source.form.shape())).sum();
    let touched = || sites.iter().filter(|site| !site.methods.is_empty());
    let parameters_touched = touched().map(|site| count(site.shape)).sum();
    let size_bytes_after = brevity_formats::predicted_bytes(specs)?;
    let per = |bytes: u64, count: u64| if count == 0 { 0.0 } else { 8.0 * bytes as f64 / count as f64 };
    let size = Size {
        size_bytes_before: base.checkpoint.size_bytes(),
        size_bytes_after,
        parameters,
        parameters_touched,
        bits_per_weight: per(size_bytes_after, parameters),
        bits_per_touched_weight: per(touched().map(|site| site.bytes_after).sum(), parameters_touched),
    };
    Ok((sites, size))
}

/// The stored tensors of a stage of the source.
fn stored(stage: &Stage<Source>, container: &dyn brevity_formats::Container) -> Vec<TensorSpec> {
    let mut specs: BTreeMap<String, TensorSpec> = BTreeMap::new();
    for (_, _, source) in stage.weights() {
        for part in container.parts(&source.tensor) {
            if let Some(raw) = container.raw(&part) {
                // One row of bytes: what it is made of does not matter here.
                specs.insert(part.clone(), TensorSpec::new(part, "U8", [raw.bytes.len()]));
            }
        }
    }
    specs.into_values().collect()
}

/// For each layer the bytes of the tensors that are its own, by name; tensors of several layers are shared out by rows.
fn share(
    stage: &Stage<Source>,
    sites: &[(Site, Vec<usize>)],
    sources: &[Linear<Source>],
    specs: &[TensorSpec],
    numbers: Option<&Renumber>,
) -> Vec<u64> {
    let mut bytes = vec![0; sites.len()];
    let biases: Vec<&str> = stage
        .weights()
        .into_iter()
        .filter(|(_, slot, _)| *slot == Slot::Bias)
        .map(|(_, _, source)| source.tensor.as_str())
        .collect();
    for spec in specs.iter().filter(|spec| !biases.contains(&spec.name.as_str())) {
        let owns = |at: &usize| {
            let tensor = &sources[*at].weight.tensor;
            let renamed = |numbers: &Renumber| numbers.name(tensor);
            let Some(tensor) = numbers.map_or_else(|| Some(tensor.clone()), renamed) else { return false };
            let module = tensor.strip_suffix(".weight").unwrap_or(&tensor);
            let mut site = sites[*at].0.clone();
            site.place = Renumber::moved(numbers, site.place);
            let site = site.tensor(Slot::Weight);
            [module, &site].iter().any(|owner| {
                spec.name.strip_prefix(*owner).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        };
        let owners: Vec<usize> = (0..sites.len()).filter(owns).collect();
        let rows = |at: usize| sources[at].weight.form.shape()[0] as u64;
        let all: u64 = owners.iter().map(|&at| rows(at)).sum();
        for &at in &owners {
            bytes[at] += (spec.bytes() * rows(at)).checked_div(all).unwrap_or(0);
        }
    }
    bytes
}
