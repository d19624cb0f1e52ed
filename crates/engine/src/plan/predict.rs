//! The forms that a recipe leaves behind, and what each step costs in memory.

use brevity_formats::multiplied_out_form;
use brevity_methods::{LinearMethod, Method, Sizes, part_of};
use brevity_model::{Dtype, Form, Linear, Model, Role, Site, Source, Stage, Sublayer};

use super::linears;
use crate::error::Error;
use crate::recipe::Recipe;
use crate::turned::Base;
use crate::work::{Work, step_place};

/// What is known of the result without weights.
pub(super) struct Predicted {
    /// The forms of all weights afterwards.
    pub forms: Model<Form>,
    /// For each stage and layer of the source, the memory that its steps need beside the layer, in bytes.
    pub costs: Vec<Vec<u64>>,
    /// For each stage, the memory that steps for whole sublayers need beside the stage, in bytes.
    pub part_costs: Vec<u64>,
    /// The forms of each touched layer in front of and behind each of its steps.
    pub steps: Vec<StepForms>,
}

/// What one step does to one layer.
pub(super) struct StepForms {
    pub site: Site,
    pub step: usize,
    pub before: Form,
    pub after: Form,
}

/// Asks each method in turn what it will leave behind; with `materialize`, factors are multiplied out before the first and
/// behind the last.
pub(super) fn forms(
    recipe: &Recipe,
    base: Base<'_>,
    work: &Work,
    methods: &[Method],
    materialize: bool,
) -> Result<Predicted, Error> {
    let model = base.model();
    let out = |form: Form, source: &Form| if materialize { multiplied_out_form(form, source) } else { form };
    let mut forms = model
        .try_map(|_, _, source| Ok::<_, std::convert::Infallible>(out(source.form.clone(), &source.form)))
        .unwrap_or_else(|never| match never {});
    let mut costs = Vec::new();
    let mut part_costs = Vec::new();
    let mut steps = turned(base, work, methods);
    for (n, stage) in forms.stages.iter_mut().enumerate() {
        part_costs.push(parts(recipe, work, methods, n, stage, &mut steps)?);
        let mut stage_costs = vec![0; work.of(n).len()];
        let sources = linears(&model.stages[n]);
        for (role, layer) in stage.linears_mut() {
            let (at, site, numbers) = work.at(n, &role);
            for &step in numbers {
                let Some(method) = methods[step].linear() else { continue };
                let before = layer.weight.clone();
                stage_costs[at] = stage_costs[at].max(method.peak_bytes(layer));
                predict(recipe, method, step, site, layer)?;
                steps.push(StepForms { site: site.clone(), step, before, after: layer.weight.clone() });
            }
            let form = std::mem::replace(&mut layer.weight, Form::float([0, 0], Dtype::F32));
            layer.weight = out(form, &sources[at].weight.form);
        }
        costs.push(stage_costs);
    }
    Ok(Predicted { forms, costs, part_costs, steps })
}

/// What a step that turns the residual stream makes of each layer.
fn turned(base: Base<'_>, work: &Work, methods: &[Method]) -> Vec<StepForms> {
    let Some(step) = methods.iter().position(|method| method.stream().is_some()) else { return Vec::new() };
    let layers = |stage: &Stage<Source>| -> Vec<(Role, Form)> {
        stage.forms().linears_mut().into_iter().map(|(role, layer)| (role, layer.weight.clone())).collect()
    };
    let mut steps = Vec::new();
    for (n, (before, after)) in base.checkpoint.model().stages.iter().zip(&base.model().stages).enumerate() {
        let before = layers(before);
        for (role, after) in layers(after) {
            let site = work.at(n, &role).1.clone();
            let before = before.iter().find(|(other, _)| *other == role).map(|(_, form)| form.clone());
            // An output table of its own that was the token table.
            let before = before.unwrap_or_else(|| Form::float([0, 0], Dtype::F32));
            steps.push(StepForms { site, step, before, after });
        }
    }
    steps
}

/// What steps for whole sublayers leave of a stage; returns what they need in memory.
fn parts(
    recipe: &Recipe,
    work: &Work,
    methods: &[Method],
    n: usize,
    stage: &mut Stage<Form>,
    steps: &mut Vec<StepForms>,
) -> Result<u64, Error> {
    let Stage::Block(block) = stage else { return Ok(0) };
    let sizes = Sizes::of(block, Form::parameters);
    let mut cost = 0;
    for part in [Sublayer::Attn, Sublayer::Mlp] {
        for step in work.of_part(n, part, methods) {
            let Some(method) = methods[step].block() else { continue };
            cost = cost.max(method.peak_bytes(block));
            let linears = |block: &mut brevity_model::Block<Form>| -> Vec<(Role, Form)> {
                part_of(block, part).linears().into_iter().map(|(role, l)| (role, l.weight.clone())).collect()
            };
            let before = linears(block);
            let Some((first, _)) = before.first() else { continue };
            let place = work.at(n, first).1.place;
            let refused = |source| Error::Method { place: step_place(recipe, step), source };
            let shortcut = has_shortcut(block, part);
            method.predict(place, sizes, part_of(block, part)).map_err(refused)?;
            if let Some(role) = shortcut.filter(|_| linears(block).is_empty()) {
                let (method, site) = (recipe.steps[step].method.clone(), Site::new(place, role));
                return Err(refused(brevity_methods::Error::Turned { method, site }));
            }
            let after = linears(block);
            for (role, before) in before {
                let after = after.iter().find(|(other, _)| *other == role).map(|(_, after)| after.clone());
                let after = after.unwrap_or_else(|| Form::float([0, 0], Dtype::F32)); // it is gone
                steps.push(StepForms { site: Site::new(place, role), step, before, after });
            }
        }
    }
    Ok(cost)
}

/// The shortcut of a sublayer, if it has one.
fn has_shortcut(block: &brevity_model::Block<Form>, part: Sublayer) -> Option<Role> {
    match part {
        Sublayer::Attn => block.attn.as_ref()?.shortcut.as_ref().map(|_| Role::AttnShortcut),
        Sublayer::Mlp => block.mlp.as_ref()?.shortcut.as_ref().map(|_| Role::MlpShortcut),
    }
}

fn predict(
    recipe: &Recipe,
    method: &dyn LinearMethod,
    step: usize,
    site: &Site,
    layer: &mut Linear<Form>,
) -> Result<(), Error> {
    method.predict(site, layer).map_err(|source| Error::Method { place: step_place(recipe, step), source })
}
