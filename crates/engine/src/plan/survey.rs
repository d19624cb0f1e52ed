//! Methods that must see all layers before they touch the first.

use brevity_formats::{Checkpoint, Format, StageView};
use brevity_methods::{Cx, LinearMethod, Seen, Survey};
use brevity_model::{Form, LeafForm, Linear, Model, Site, Weight};
use rayon::prelude::*;

use crate::error::Error;
use crate::recipe::Recipe;
use crate::work::{Work, step_place};

/// Makes the surveys that shapes depend on.
pub(super) fn for_shapes(
    checkpoint: &Checkpoint,
    recipe: &Recipe,
    work: &Work,
    methods: &mut [Box<dyn LinearMethod>],
    seed: u64,
) -> Result<(), Error> {
    for step in 0..methods.len() {
        if methods[step].must_survey_to_predict() {
            // What it looks at is what the steps before it leave, so those must know what they do.
            (0..=step).try_for_each(|step| survey(checkpoint, recipe, work, methods, step, seed))?;
        }
    }
    Ok(())
}

/// Makes all surveys if the number of removed entries, which only they can tell exactly, decides how much is written.
/// Says whether anything was surveyed.
pub(super) fn for_masks(
    checkpoint: &Checkpoint,
    format: &'static dyn Format,
    recipe: &Recipe,
    work: &Work,
    methods: &mut [Box<dyn LinearMethod>],
    forms: &Model<Form>,
    seed: u64,
) -> Result<bool, Error> {
    if methods.iter().all(|method| method.survey().is_none()) || !depends_on_masks(checkpoint, format, forms)? {
        return Ok(false);
    }
    the_rest(checkpoint, recipe, work, methods, seed)?;
    Ok(true)
}

/// Makes the surveys that have not been made.
pub(crate) fn the_rest(
    checkpoint: &Checkpoint,
    recipe: &Recipe,
    work: &Work,
    methods: &mut [Box<dyn LinearMethod>],
    seed: u64,
) -> Result<(), Error> {
    (0..methods.len()).try_for_each(|step| survey(checkpoint, recipe, work, methods, step, seed))
}

/// Whether the format writes anything else for weights with entries removed.
fn depends_on_masks(checkpoint: &Checkpoint, format: &'static dyn Format, forms: &Model<Form>) -> Result<bool, Error> {
    let model = checkpoint.model();
    let bare = |form: &Form| -> Form {
        form.try_map(&mut |_, leaf| Ok::<_, std::convert::Infallible>(LeafForm { mask: None, ..leaf.clone() }))
            .unwrap_or_else(|never| match never {})
    };
    for (n, (source, forms)) in model.stages.iter().zip(&forms.stages).enumerate() {
        let at = StageView { place: model.place(n), source, container: Some(checkpoint.container()) };
        let without = forms
            .try_map(|_, _, form| Ok::<_, std::convert::Infallible>(bare(form)))
            .unwrap_or_else(|never| match never {});
        if format.layout(&at, forms)? != format.layout(&at, &without)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Puts the method of a step, with what it learned, in its place.
fn survey(
    checkpoint: &Checkpoint,
    recipe: &Recipe,
    work: &Work,
    methods: &mut [Box<dyn LinearMethod>],
    step: usize,
    seed: u64,
) -> Result<(), Error> {
    let Some(mut survey) = methods[step].survey() else { return Ok(()) };
    loop {
        pass(checkpoint, recipe, work, &methods[..step], step, survey.as_mut(), seed)?;
        if !survey.next_pass() {
            break;
        }
    }
    methods[step] = survey.finish().map_err(|source| Error::Method { place: step_place(recipe, step), source })?;
    Ok(())
}

/// Shows every layer of a step to its survey, as the steps before it leave it.
fn pass(
    checkpoint: &Checkpoint,
    recipe: &Recipe,
    work: &Work,
    before: &[Box<dyn LinearMethod>],
    step: usize,
    survey: &mut dyn Survey,
    seed: u64,
) -> Result<(), Error> {
    for n in 0..checkpoint.model().stages.len() {
        if !work.of(n).iter().any(|(_, steps)| steps.contains(&step)) {
            continue;
        }
        let mut stage = checkpoint.load_stage(n)?;
        checkpoint.check_finite(n, &stage)?;
        let mut layers: Vec<_> = stage
            .linears_mut()
            .into_iter()
            .zip(work.of(n))
            .filter(|(_, (_, steps))| steps.contains(&step))
            .map(|((_, layer), (site, steps))| (site, steps, layer))
            .collect();
        layers.par_iter_mut().try_for_each(|(site, steps, layer)| apply(recipe, before, site, steps, layer, seed))?;
        for (site, _, layer) in &layers {
            survey
                .look(site, layer, &Seen::nothing())
                .map_err(|source| Error::Method { place: step_place(recipe, step), source })?;
        }
        checkpoint.release_stage(n);
    }
    Ok(())
}

fn apply(
    recipe: &Recipe,
    methods: &[Box<dyn LinearMethod>],
    site: &Site,
    steps: &[usize],
    layer: &mut Linear<Weight>,
    seed: u64,
) -> Result<(), Error> {
    for &step in steps.iter().filter(|&&step| step < methods.len()) {
        methods[step]
            .rewrite(layer, &mut Cx::new(site, seed))
            .map_err(|source| Error::Method { place: step_place(recipe, step), source })?;
    }
    Ok(())
}
