//! The model card: the README.md of an output directory.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use brevity_formats::{Folder, format};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::report::{RECORD, Record, SiteReport};

/// The name of the card.
pub const CARD: &str = "README.md";

/// Keys of a card's front matter that are as true of the compressed model as of its source.
const KEPT: &[&str] = &["license", "license_name", "license_link", "language", "pipeline_tag", "library_name"];

/// One measured number before and after, for the card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CardScore {
    /// What was measured: `perplexity`.
    pub name: String,
    /// On which text.
    pub text: String,
    /// Tokens of a window, where that matters.
    pub window: Option<usize>,
    /// The value of the source, if it has one (a divergence from the source has none).
    pub before: Option<f64>,
    /// The value of the result.
    pub after: f64,
    /// The standard error of the latter.
    pub error: Option<f64>,
}

/// Writes the card of a finished output anew, with measured scores.
///
/// # Errors
/// If the directory has no record of how it was made, or cannot be written.
pub fn write_card(dir: &Path, scores: &[CardScore]) -> Result<(), Error> {
    let path = dir.join(RECORD);
    let wrong = |what: String| Error::Record { file: path.display().to_string(), what };
    let record = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    let record: Record = serde_json::from_str(&record).map_err(|error| wrong(error.to_string()))?;
    let card = dir.join(CARD);
    let written = tempfile::Builder::new()
        .prefix(".README.md.")
        .tempfile_in(dir)
        .and_then(|mut file| file.write_all(text(&record, scores).as_bytes()).map(|()| file))
        .and_then(|file| readable(&file).map(|()| file))
        .and_then(|file| file.persist(&card).map_err(|error| error.error));
    written.map(|_| ()).map_err(|error| Error::Record { file: card.display().to_string(), what: error.to_string() })
}

/// Temporary files are for their owner alone; the card is for everyone.
fn readable(file: &tempfile::NamedTempFile) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    let _ = file;
    Ok(())
}

/// Lines of the source's card that are kept: licence, languages, what it is for.
pub(crate) fn kept_lines(folder: &Folder) -> Map<String, Value> {
    let Ok(text) = folder.read_text(CARD) else { return Map::new() };
    let Some(front) = text.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---").map(|(front, _)| front))
    else {
        return Map::new();
    };
    let Ok(Value::Object(front)) = serde_saphyr::from_str::<Value>(front) else { return Map::new() };
    KEPT.iter().filter_map(|key| Some(((*key).to_owned(), front.get(*key)?.clone()))).collect()
}

/// The text of a card. It depends on the record and the scores alone.
pub(crate) fn text(record: &Record, scores: &[CardScore]) -> String {
    let Record { model, recipe, .. } = record;
    let name = recipe["name"].as_str().unwrap_or("recipe");
    let about = recipe["about"].as_str().unwrap_or_default().trim_end_matches('.');
    let about = if about.is_empty() { String::new() } else { format!(": {about}") };
    let mut front = format!("---\nbase_model: {}\n", Value::from(model.as_str()));
    for (key, value) in &record.card {
        front += &format!("{key}: {value}\n");
    }
    front += "tags: [brevity, compressed]\n---\n";
    let ratio = record.size_bytes_before as f64 / (record.size_bytes_after as f64).max(1.0);
    let mut card = format!(
        "{front}\n# {model}, {name}\n\nA smaller copy of `{model}`, made with {} by the recipe `{name}`{about}.\n\n\
         | | before | after |\n|---|---:|---:|\n\
         | weight files, bytes | {} | {} |\n\
         | bits per weight, all {} of them | {:.3} | {:.3} |\n",
        record.tool,
        thousands(record.size_bytes_before),
        thousands(record.size_bytes_after),
        thousands(record.parameters),
        8.0 * record.size_bytes_before as f64 / (record.parameters as f64).max(1.0),
        record.bits_per_weight,
    );
    if record.parameters_touched > 0 {
        card += &format!(
            "| bits per weight, the {} rewritten ones | | {:.3} |\n",
            thousands(record.parameters_touched),
            record.bits_per_touched_weight
        );
    }
    card += &format!("\nThat is {ratio:.2} times smaller.\n\n## Measured\n\n{}", measured(scores));
    card += &format!("\n## Layers\n\n{}", layers(&record.sites));
    card += &format!("\n## Loading\n\n{}", loading(&record.format));
    let looked_at = record.calibration.as_ref().map_or_else(String::new, |seen| {
        let text = seen["text"].as_str().unwrap_or_default();
        format!(" Calibrated on {} samples of {} tokens of `{text}`.", seen["samples"], seen["length"])
    });
    card += &format!(
        "\n## Recipe\n\n```yaml\n{}```\n\nSeed {}.{looked_at} `{RECORD}` has the figures of every layer, and digests of the weights that \
         were read.\n",
        record.recipe_yaml, record.seed
    );
    card
}

fn measured(scores: &[CardScore]) -> String {
    if scores.is_empty() {
        return "Nothing yet: `brevity compare` measures perplexity, divergence and agreement.\n".to_owned();
    }
    let mut table = "| measure | text | window | before | after | ± |\n|---|---|---:|---:|---:|---:|\n".to_owned();
    let number = |x: Option<f64>| x.map_or_else(String::new, |x| format!("{x:.4}"));
    for score in scores {
        table += &format!(
            "| {} | {} | {} | {} | {:.4} | {} |\n",
            score.name,
            score.text,
            score.window.map_or_else(String::new, |window| window.to_string()),
            number(score.before),
            score.after,
            number(score.error),
        );
    }
    table
}

/// What was done, role by role.
fn layers(sites: &[SiteReport]) -> String {
    if sites.is_empty() {
        return "No layer was rewritten.\n".to_owned();
    }
    // By role and method; roles in the order in which they first come.
    let mut order: Vec<(String, String)> = Vec::new();
    let mut groups: BTreeMap<(String, String), Vec<&SiteReport>> = BTreeMap::new();
    for site in sites {
        let key = (kind(site), site.method.clone());
        if !groups.contains_key(&key) {
            order.push(key.clone());
        }
        groups.entry(key).or_default().push(site);
    }
    let mut table = "| layers | count | method | bits | zeros | relative error, mean (worst) |\n\
                     |---|---:|---|---:|---:|---|\n"
        .to_owned();
    const SHOWN: usize = 40;
    for key in order.iter().take(SHOWN) {
        let group = &groups[key];
        let error = |site: &SiteReport| site.relative_error.unwrap_or(0.0);
        let weights = |site: &SiteReport| (site.shape[0] * site.shape[1]) as f64;
        let all: f64 = group.iter().map(|site| weights(site)).sum::<f64>().max(1.0);
        let mean = |f: &dyn Fn(&SiteReport) -> f64| group.iter().map(|site| f(site) * weights(site)).sum::<f64>() / all;
        let worst = group.iter().max_by(|a, b| error(a).total_cmp(&error(b))).expect("no group is empty");
        table += &format!(
            "| {} | {} | {} | {:.3} | {:.1} % | {:.4} ({:.4} at `{}`) |\n",
            key.0,
            group.len(),
            key.1,
            mean(&|site| site.bits),
            100.0 * mean(&|site| site.sparsity),
            mean(&|site| error(site)),
            error(worst),
            worst.site,
        );
    }
    if order.len() > SHOWN {
        table += &format!("\n{} more kinds of layers are in `{RECORD}`.\n", order.len() - SHOWN);
    }
    table
}

fn kind(site: &SiteReport) -> String {
    use brevity_model::Place;
    match site.site.place {
        Place::Block(_) | Place::Loose(_) => site.site.role.to_string(),
        _ => site.site.to_string(),
    }
}

fn loading(name: &str) -> String {
    let consumers = format(name).map_or("", |format| format.consumers());
    let code = match name {
        "native" => "This layout is read by brevity:\n\n```sh\nbrevity generate . --prompt \"Once upon a time\"\n```\n".to_owned(),
        name if name.starts_with("compressed-tensors") => "```python\nfrom transformers import AutoModelForCausalLM, \
             CompressedTensorsConfig\n\nmodel = AutoModelForCausalLM.from_pretrained(\".\", \
             quantization_config=CompressedTensorsConfig(dequantize=True))\n```\n\nThe package `compressed-tensors` must be \
             installed. Other tools that open it (vLLM, SGLang) take the directory as it is.\n"
            .to_owned(),
        "custom" => "```python\nfrom transformers import AutoModelForCausalLM\n\nmodel = \
             AutoModelForCausalLM.from_pretrained(\".\", trust_remote_code=True)\n```\n\nThe code is `modeling_brevity.py`, if \
             there is one in this directory; else it is not needed.\n"
            .to_owned(),
        _ => "```python\nfrom transformers import AutoModel\n\nmodel = AutoModel.from_pretrained(\".\")\n```\n".to_owned(),
    };
    format!("Format `{name}`: {consumers}.\n\n{code}")
}

/// `1234567` as `1,234,567`.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record() -> Record {
        let site = |site: &str, error: f64| SiteReport {
            site: site.parse().unwrap(),
            method: "quantize.rtn".into(),
            shape: [8, 16],
            bits: 4.25,
            sparsity: 0.0,
            relative_error: Some(error),
            data_error: None,
            figures: Default::default(),
            notes: Vec::new(),
            seconds: Some(1.0),
        };
        Record {
            tool: "brevity 1.2.3".into(),
            identity: "00".into(),
            model: "my-llama".into(),
            format: "compressed-tensors".into(),
            seed: 7,
            calibration: None,
            recipe: json!({"name": "int4", "about": "Four bits.", "steps": []}),
            recipe_yaml: "about: Four bits.\nsteps:\n  - quantize.rtn: {bits: 4}\n".into(),
            size_bytes_before: 1_048_576,
            size_bytes_after: 262_144,
            parameters: 524_288,
            parameters_touched: 400_000,
            bits_per_weight: 4.0,
            bits_per_touched_weight: 4.25,
            inputs: Vec::new(),
            sites: vec![site("blocks.0.attn.q", 0.1), site("blocks.1.attn.q", 0.2), site("embed.tokens", 0.05)],
            heads: BTreeMap::new(),
            card: Map::from_iter([("license".to_owned(), json!("mit"))]),
        }
    }

    #[test]
    fn a_card_says_what_was_done_what_it_cost_and_how_to_load_it() {
        let score = CardScore {
            name: "perplexity".into(),
            text: "held-out".into(),
            window: Some(512),
            before: Some(12.5),
            after: 13.25,
            error: Some(0.125),
        };
        insta::assert_snapshot!(text(&record(), &[score]));
    }

    #[test]
    fn a_card_is_rewritten_with_scores_from_the_record_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(write_card(dir.path(), &[]), Err(Error::Record { .. })));
        std::fs::write(dir.path().join(RECORD), record().to_text()).unwrap();
        write_card(dir.path(), &[]).unwrap();
        let first = std::fs::read_to_string(dir.path().join(CARD)).unwrap();
        assert!(first.contains("Nothing yet"));
        assert_eq!(first, text(&record(), &[]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn licence_and_language_of_the_source_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join(CARD),
            "---\nlicense: apache-2.0\nlanguage: [en, de]\nmodel-index: x\n---\n# M\n",
        )
        .unwrap();
        let kept = kept_lines(&Folder::open(dir.path()).unwrap());
        assert_eq!(Value::Object(kept), json!({"license": "apache-2.0", "language": ["en", "de"]}));
        std::fs::write(dir.path().join(CARD), "no front matter").unwrap();
        assert!(kept_lines(&Folder::open(dir.path()).unwrap()).is_empty());
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567")] {
            assert_eq!(thousands(n), text);
        }
    }
}
