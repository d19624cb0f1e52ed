//! Settings under which all blocks lose as much.

use serde_json::{Map, Value};

use crate::{Kind, METHODS};

/// What only means something where blocks lose different shares.
const SPREADING: &[&str] = &["temperature", "most", "band"];

/// Changes the settings of a method that takes units out or factors matrices, so that all blocks lose as much: `allocation`
/// becomes `uniform`, and where single heads may go, as many go of each group. Others are left as they are.
pub fn even(method: &str, settings: &mut Map<String, Value>) {
    let shapes = |kind| matches!(kind, Kind::Reduce | Kind::Decompose);
    let Some(entry) = METHODS.iter().find(|entry| entry.name == method && shapes(entry.kind)) else { return };
    let default =
        |name: &str| entry.settings.iter().find(|setting| setting.name == name).map(|setting| setting.default);
    if default("allocation").is_some() {
        SPREADING.iter().for_each(|name| _ = settings.remove(*name));
        settings.insert("allocation".into(), "uniform".into());
    }
    if default("unit") == Some("head") && settings.get("unit").is_none_or(|unit| unit == "head") {
        settings.insert("unit".into(), "even".into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_spreads_shares_over_blocks_is_made_even_and_nothing_else() {
        for (method, before, after) in [
            (
                "decompose.modegpt",
                json!({"sparsity": 0.3, "temperature": 0.2, "most": 0.5}),
                json!({"sparsity": 0.3, "allocation": "uniform"}),
            ),
            (
                "decompose.svd",
                json!({"ratio": 0.5, "allocation": "influence", "band": 0.1}),
                json!({"ratio": 0.5, "allocation": "uniform"}),
            ),
            ("prune.heads", json!({}), json!({"allocation": "uniform", "unit": "even"})),
            ("prune.heads", json!({"unit": "group"}), json!({"allocation": "uniform", "unit": "group"})),
            ("prune.layers", json!({"count": 2}), json!({"count": 2})),
            // Zeros change no shape.
            ("prune.wanda", json!({"allocation": "owl"}), json!({"allocation": "owl"})),
            ("quantize.rtn", json!({"bits": 4}), json!({"bits": 4})),
        ] {
            let mut settings = before.as_object().unwrap().clone();
            even(method, &mut settings);
            assert_eq!(Value::Object(settings.clone()), after, "{method}");
            crate::any_method(method, settings.into()).unwrap();
        }
    }
}
