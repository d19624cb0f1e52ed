//! What makes a run the same run: everything that decides the bytes it writes, and nothing else.

use brevity_formats::Checkpoint;
use brevity_model::{Site, Slot};
use serde_json::json;

use super::Plan;
use crate::error::Error;
use crate::samples::Calibration;

/// Bytes looked at in each of a few places of a tensor.
const SAMPLE: usize = 256;

/// The digest of tool, recipe, seed, format, and of a sample of the input: its configuration, and for each tensor its
/// name, type, shape and a few of its bytes. Two checkpoints that differ only elsewhere are not told apart, which
/// matters only to a run that is resumed with another input under the name of the first.
pub(super) fn of(checkpoint: &Checkpoint, plan: &Plan) -> Result<String, Error> {
    let mut hasher = blake3::Hasher::new();
    let head = json!({
        "tool": env!("CARGO_PKG_VERSION"),
        "model": plan.model,
        "recipe": plan.recipe.normalised(),
        "seed": plan.seed,
        "format": plan.format.name(),
        "materialize": plan.materialize,
        "calibration": plan.calibration.as_ref().filter(|_| plan.is_calibrated()).map(Calibration::to_json),
        "config": checkpoint.config().to_json(),
    });
    hasher.update(head.to_string().as_bytes());
    let container = checkpoint.container();
    let mut seen = std::collections::BTreeSet::new();
    for (site, slot, source) in checkpoint.model().weights() {
        let site: Site = site;
        let slot = if slot == Slot::Bias { "bias" } else { "weight" };
        hasher.update(format!("\n{site} {slot} {} {:?}", source.tensor, source.view).as_bytes());
        for part in container.parts(&source.tensor) {
            let Some(raw) = container.raw(&part).filter(|_| seen.insert(part.clone())) else { continue };
            hasher.update(format!("\n{part} {} {:?} ", raw.dtype, raw.shape).as_bytes());
            let last = raw.bytes.len().saturating_sub(SAMPLE);
            for start in [0, last / 2, last] {
                hasher.update(&raw.bytes[start..(start + SAMPLE).min(raw.bytes.len())]);
            }
            container.release(&[part]);
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}
