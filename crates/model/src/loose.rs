//! Weights that no description claims.

use std::collections::BTreeMap;

use crate::site::{Place, Role, Site, Slot};
use crate::source::{Source, View};
use crate::stages::Tensors;
use crate::tree::{Linear, Loose, Model, Stage};

/// A loose stage holds no more bytes than this, unless a single tensor does.
const STAGE_BYTES: u64 = 256 << 20;

/// Every tensor of a checkpoint as a loose weight: it can be rewritten without data, but not run.
pub fn build_loose(tensors: &dyn Tensors) -> Model<Source> {
    let stages = stages(tensors, tensors.names());
    Model { name: "loose".into(), hidden: 0, vocabulary: 0, context: None, block_name: None, stages }
}

/// Loose stages of the tensors `names`, in their order.
pub(crate) fn stages(tensors: &dyn Tensors, names: Vec<String>) -> Vec<Stage<Source>> {
    let mut stages: Vec<Loose<Source>> = Vec::new();
    let mut held = 0;
    for name in names {
        let form = tensors.form(&name);
        let bytes = form.as_ref().map_or(0, |form| form.bits() / 8);
        if stages.is_empty() || held > 0 && held + bytes > STAGE_BYTES {
            stages.push(Loose { matrices: BTreeMap::new(), others: Vec::new() });
            held = 0;
        }
        held += bytes;
        let site = Site::new(Place::Loose(stages.len() as u32 - 1), Role::Loose(name.as_str().into()));
        let Some(stage) = stages.last_mut() else { continue };
        // A vector has nothing to gain from a method: it goes along as it is.
        let matrix = form.filter(|form| form.shape()[0] > 1 && form.shape()[1] > 0);
        match matrix.and_then(|_| tensors.source(&site, Slot::Weight, &name, View::whole())) {
            Some(weight) => {
                stage.matrices.insert(name, Linear { weight, bias: None });
            }
            None => stage.others.push(name),
        }
    }
    stages.into_iter().map(Stage::Loose).collect()
}
