//! `adjust.temperature`: sharpens or flattens attention.

use brevity_model::{Form, Place, Sublayer, Tap, Weight, scale_queries};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::block::{BlockCx, BlockMethod, Part, Sizes};
use crate::error::Result;
use crate::seen::Needs;
use crate::settings::{Setting, read, value_error};
use crate::{Entry, Kind, Parse};

const NAME: &str = "adjust.temperature";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Divides the scores of attention by a temperature, in the weights: long texts keep apart where it is below 1",
    settings: SETTINGS,
    parse: Parse::Block(|settings| Ok(Box::new(Temperature::parse(settings)?))),
    kind: Kind::Correct,
};

const SETTINGS: &[Setting] = &[Setting {
    name: "tau",
    about: "a number above 0; 1 changes nothing, and less makes attention sharper. `brevity eval --temperatures` tries some",
    default: "0.9",
}];

/// Divides the scores of every attention by `tau`, by multiplying what makes queries with `1 / tau`: the gain of their norm where
/// they have one, else the query matrix and its bias. It runs as it ran before.
///
/// # Cost
/// One pass over the query matrices.
///
/// # Source
/// "TempScale", Zhou et al. 2024, "Length-induced embedding collapse in transformer-based models", arXiv:2410.24200, section 4.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Temperature {
    tau: f64,
}

impl Default for Temperature {
    fn default() -> Self {
        Temperature { tau: 0.9 }
    }
}

impl Temperature {
    fn parse(settings: Value) -> Result<Self> {
        let method: Temperature = read(NAME, SETTINGS, settings)?;
        if !(method.tau.is_finite() && method.tau > 0.0) {
            return Err(value_error(NAME, SETTINGS, "tau", &json!(method.tau)));
        }
        Ok(method)
    }
}

impl BlockMethod for Temperature {
    fn rewrites(&self, part: Sublayer) -> bool {
        part == Sublayer::Attn
    }

    fn needs(&self, _: Tap) -> Needs {
        Needs::default()
    }

    fn rewrite(&self, part: Part<'_, Weight>, _: &mut BlockCx<'_>) -> Result<()> {
        match part {
            Part::Attn(Some(attn)) if self.tau != 1.0 => scale_queries(attn, (1.0 / self.tau) as f32),
            _ => {}
        }
        Ok(())
    }

    fn predict(&self, _: Place, _: Sizes, _: Part<'_, Form>) -> Result<()> {
        Ok(())
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn peak_bytes(&self, block: &brevity_model::Block<Form>) -> u64 {
        let query = block.attn.as_ref().map_or(0, |attn| attn.q.weight.shape().iter().product::<usize>());
        8 * query as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::error::Error;

    #[test]
    fn a_temperature_of_one_changes_nothing() {
        let same = Temperature::parse(json!({"tau": 1.0})).unwrap();
        let seen = BTreeMap::new();
        let mut cx = BlockCx::new(Place::Block(0), Sizes::default(), 0, &seen);
        same.rewrite(Part::Attn(&mut None), &mut cx).unwrap();
        assert_eq!(same.settings(), json!({"tau": 1.0}));
        for tau in [json!(0.0), json!(-1.0), json!("hot")] {
            let error = Temperature::parse(json!({ "tau": tau })).unwrap_err();
            assert!(matches!(error, Error::Value { name: "tau", .. }), "{error}");
        }
    }
}
