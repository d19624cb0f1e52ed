//! The directory of a trained encoder: that of the one it came from, with other weights.

use std::convert::Infallible;
use std::path::Path;

use brevity_formats::{Checkpoint, Dense, Format, Output, StageView, Tensor, carried_files};
use brevity_model::{Floats, Form, Slot, Stage, Weight};

use super::student::{Owner, Student};
use crate::error::Result;
use crate::modules::{Layer, Modules};

/// Writes a trained encoder into a directory, whole or not at all: floats in the types they had (coded weights in that of their
/// scales), and everything else as it was.
///
/// # Errors
/// If a weight cannot be read, or what [`Output::open`] and [`Output::finish`] refuse.
pub fn write_tuned(checkpoint: &Checkpoint, student: &Student, modules: &Modules, out: &Path) -> Result<()> {
    let model = checkpoint.model();
    let as_form = |_, _, weight: &Weight| Ok::<_, Infallible>(Form::of(weight));
    let mut forms =
        model.try_map(|_, _, source| Ok::<_, Infallible>(source.form.clone())).unwrap_or_else(|never| match never {});
    let mut stages: Vec<Vec<Tensor>> = Vec::new();
    for n in 0..model.stages.len() {
        let mut stage = checkpoint.load_stage(n)?;
        put(student, n, &mut stage)?;
        forms.stages[n] = stage.try_map(as_form).unwrap_or_else(|never| match never {});
        let container = Some(checkpoint.container());
        let view = StageView { place: model.place(n), source: &model.stages[n], container, numbers: None };
        stages.push(Dense.encode(&view, &stage)?);
        checkpoint.release_stage(n);
    }
    let config = Dense.config(checkpoint.config(), model, &forms)?;
    let behind = trained(student, modules)?.files(model.hidden);
    let mut files = carried_files(checkpoint.folder())?;
    files.retain(|(name, _)| behind.iter().all(|(new, _)| new != name));
    files.extend(behind);
    files.push(("config.json".into(), config.to_json().into_bytes()));
    files.sort();
    let specs: Vec<_> = stages.iter().map(|tensors| tensors.iter().map(|t| t.spec.clone()).collect()).collect();
    let mut output = Output::open(out, "tune", &specs, false)?;
    for (n, tensors) in stages.into_iter().enumerate() {
        output.write(n, tensors)?;
    }
    Ok(output.finish(files)?)
}

/// Puts what was trained of a stage in the place of what it was.
fn put(student: &Student, n: usize, stage: &mut Stage<Weight>) -> Result<()> {
    stage.try_for_each_mut(|role, slot, weight| {
        let owner = Owner::Stage(n, role, slot);
        if let Some(values) = student.values(&owner)? {
            *weight = Weight::float(weight.shape(), Floats::F32(values));
        }
        Ok(())
    })
}

/// What stands behind the model, with the dense layers as they were trained.
fn trained(student: &Student, modules: &Modules) -> Result<Modules> {
    let mut behind = modules.clone();
    for (n, layer) in behind.layers.iter_mut().enumerate() {
        if let Layer::Dense(dense) = layer {
            if let Some(values) = student.values(&Owner::Dense(n, Slot::Weight))? {
                dense.weight = values;
            }
            if let Some(values) = student.values(&Owner::Dense(n, Slot::Bias))? {
                dense.bias = Some(values);
            }
        }
    }
    Ok(behind)
}
