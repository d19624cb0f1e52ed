//! The forms that a recipe leaves behind, and what each step costs in memory.

use brevity_methods::LinearMethod;
use brevity_model::{Form, Linear, Model, Site, Source};

use crate::error::Error;
use crate::recipe::Recipe;
use crate::work::{Work, step_place};

/// What is known of the result without weights.
pub(super) struct Predicted {
    /// The forms of all weights afterwards.
    pub forms: Model<Form>,
    /// For each stage and layer, the memory that its steps need beside the layer, in bytes.
    pub costs: Vec<Vec<u64>>,
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

/// Asks each method in turn what it will leave behind.
pub(super) fn forms(
    recipe: &Recipe,
    model: &Model<Source>,
    work: &Work,
    methods: &[Box<dyn LinearMethod>],
) -> Result<Predicted, Error> {
    let mut forms = model
        .try_map(|_, _, source| Ok::<_, std::convert::Infallible>(source.form.clone()))
        .unwrap_or_else(|never| match never {});
    let mut costs = Vec::new();
    let mut steps = Vec::new();
    for (n, stage) in forms.stages.iter_mut().enumerate() {
        let mut stage_costs = Vec::new();
        for ((_, layer), (site, numbers)) in stage.linears_mut().into_iter().zip(work.of(n)) {
            let mut cost = 0;
            for &step in numbers {
                let before = layer.weight.clone();
                cost = cost.max(methods[step].peak_bytes(layer));
                predict(recipe, methods, step, site, layer)?;
                steps.push(StepForms { site: site.clone(), step, before, after: layer.weight.clone() });
            }
            stage_costs.push(cost);
        }
        costs.push(stage_costs);
    }
    Ok(Predicted { forms, costs, steps })
}

fn predict(
    recipe: &Recipe,
    methods: &[Box<dyn LinearMethod>],
    step: usize,
    site: &Site,
    layer: &mut Linear<Form>,
) -> Result<(), Error> {
    methods[step].predict(site, layer).map_err(|source| Error::Method { place: step_place(recipe, step), source })
}
