//! What was done: one record for each layer, and the sums.

use std::collections::BTreeMap;

use brevity_model::{HeadsRecord, Site};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::plan::{Plan, Size};
use crate::samples::Calibration;

/// What was done to one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteReport {
    /// Where it stands.
    pub site: Site,
    /// The methods, in order, with ` + ` between them.
    pub method: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Bits in the files for each number of the original matrix.
    pub bits: f64,
    /// The share of its numbers that were removed.
    pub sparsity: f64,
    /// `‖W - Ŵ‖ / ‖W‖` in the Frobenius norm, `Ŵ` multiplied out; none where only units of a whole sublayer were taken out,
    /// and of what is left where layers were rewritten behind that.
    pub relative_error: Option<f64>,
    /// `‖X (W - Ŵ)ᵀ‖ / ‖X Wᵀ‖` over the inputs `X` that calibration showed, `W` as the steps that take something from
    /// it got it (behind `recover.retarget`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_error: Option<f64>,
    /// What the methods found and chose, by name: `damp`, `held_out_error`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
    /// What the methods have to say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How long it took; unknown if an earlier run did it.
    #[serde(skip)]
    pub seconds: Option<f64>,
}

/// The digest of a stage as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The stage.
    pub stage: String,
    /// BLAKE3 of its weights, in hexadecimal.
    pub blake3: String,
}

/// Where the time of a calibrated run went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Phases {
    /// Running the model on the samples, and making its weights ready.
    pub forward_seconds: f64,
    /// Adding up what the taps show.
    pub gram_seconds: f64,
    /// Rewriting layers.
    pub rewrite_seconds: f64,
    /// Reading, checking, coding and writing weights.
    pub io_seconds: f64,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Report {
    /// The name of the model.
    pub model: String,
    /// The name of the format.
    pub format: &'static str,
    /// Sizes before and after.
    pub size: Size,
    /// The layers that were rewritten, in the order of the forward pass.
    pub sites: Vec<SiteReport>,
    /// Stages that an earlier run had finished.
    pub resumed: usize,
    /// Where the time went, if samples were looked at.
    pub phases: Option<Phases>,
    /// Seconds from the first stage to the end of the check.
    pub seconds: f64,
    /// The maximum resident set of the process, if the system says.
    pub peak_rss_bytes: Option<u64>,
}

impl Report {
    /// The record that `compress --json` prints; `out` is the directory as the user wrote it.
    pub fn to_json(&self, out: &str) -> Value {
        let timed = |row: &SiteReport| {
            let mut json = serde_json::to_value(row).expect("a row is JSON");
            json["seconds"] = json!(row.seconds);
            json
        };
        json!({
            "out": out,
            "format": self.format,
            "size_bytes_before": self.size.size_bytes_before,
            "size_bytes_after": self.size.size_bytes_after,
            "bits_per_weight": self.size.bits_per_weight,
            "bits_per_touched_weight": self.size.bits_per_touched_weight,
            "seconds": self.seconds,
            "phases": self.phases,
            "peak_rss_bytes": self.peak_rss_bytes,
            "sites": self.sites.iter().map(timed).collect::<Vec<_>>(),
        })
    }
}

/// The name of the record in the output directory.
pub const RECORD: &str = "compression.json";

/// What `compression.json` holds: everything about the result that another run of the same recipe would repeat.
/// No times, no paths, no threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// This program and its version.
    pub tool: String,
    /// The digest of everything that decided the bytes.
    pub identity: String,
    /// The name of the model.
    pub model: String,
    /// The name of the format.
    pub format: String,
    /// Where randomness came from.
    pub seed: u64,
    /// What was looked at, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Value>,
    /// The recipe with all settings spelled out.
    pub recipe: Value,
    /// The recipe as YAML.
    pub recipe_yaml: String,
    /// Bytes of the weight files of the source.
    pub size_bytes_before: u64,
    /// Bytes of the weight files.
    pub size_bytes_after: u64,
    /// Numbers that the model holds.
    pub parameters: u64,
    /// Numbers in matrices that were rewritten.
    pub parameters_touched: u64,
    /// Bits of the files for each number of the model.
    pub bits_per_weight: f64,
    /// Bits for each number of a matrix that was rewritten.
    pub bits_per_touched_weight: f64,
    /// The weights as they were read.
    pub inputs: Vec<Input>,
    /// The layers that were rewritten.
    pub sites: Vec<SiteReport>,
    /// The heads of blocks whose attention lost some, by block of the source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub heads: BTreeMap<String, HeadsRecord>,
    /// Lines of the source's model card that stay true: licence, languages.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub card: Map<String, Value>,
}

impl Record {
    /// The record of a plan that was carried out.
    pub(crate) fn new(
        plan: &Plan,
        inputs: Vec<Input>,
        sites: Vec<SiteReport>,
        heads: BTreeMap<String, HeadsRecord>,
        card: Map<String, Value>,
    ) -> Self {
        Record {
            tool: format!("brevity {}", env!("CARGO_PKG_VERSION")),
            identity: plan.identity.clone(),
            model: plan.model.clone(),
            format: plan.format.name().to_owned(),
            seed: plan.seed,
            calibration: plan.calibration.as_ref().filter(|_| plan.is_calibrated()).map(Calibration::to_json),
            recipe: plan.recipe.normalised(),
            recipe_yaml: plan.recipe.to_yaml(),
            size_bytes_before: plan.size.size_bytes_before,
            size_bytes_after: plan.size.size_bytes_after,
            parameters: plan.size.parameters,
            parameters_touched: plan.size.parameters_touched,
            bits_per_weight: plan.size.bits_per_weight,
            bits_per_touched_weight: plan.size.bits_per_touched_weight,
            inputs,
            sites,
            heads,
            card,
        }
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a record is JSON") + "\n"
    }
}

/// The maximum resident set of this process so far, in bytes, if the system says.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
