//! `brevity inspect`: what a checkpoint holds.

use brevity::model::{CodeForm, Dtype, Form, Model, Place, Site, Slot, Source};
use serde_json::{Value, json};

use crate::args::Inspect;
use crate::{print, table, units};

pub fn run(args: &Inspect) -> anyhow::Result<()> {
    let checkpoint = crate::open(&args.model, args.loose)?;
    let model = checkpoint.model();
    let rows = if args.all { one_by_one(model) } else { by_role(model) };
    let parameters = total(model, Form::parameters);
    let bits = total(model, Form::bits);
    if args.json {
        let weights: Vec<Value> = one_by_one(model).iter().map(Row::json).collect();
        let report = json!({
            "model": args.model,
            "format": checkpoint.format(),
            "architecture": model.name,
            "hidden": model.hidden,
            "vocabulary": model.vocabulary,
            "context": model.context,
            "blocks": blocks(model),
            "tied": model.is_tied(),
            "size_bytes": checkpoint.size_bytes(),
            "parameters": parameters,
            "bits_per_weight": bits as f64 / parameters.max(1) as f64,
            "weights": weights,
        });
        return print::line(&serde_json::to_string_pretty(&report)?);
    }
    print::line(&format!("{} ({}, {})", args.model, model.name, checkpoint.format()))?;
    print::line(&format!(
        "{} blocks, width {}, vocabulary {}{}{}",
        blocks(model),
        model.hidden,
        model.vocabulary,
        model.context.map_or(String::new(), |n| format!(", context {n}")),
        if model.is_tied() { ", tied embeddings" } else { "" },
    ))?;
    print::line(&format!(
        "{} parameters in {}, {:.2} bits per weight\n",
        units::count(parameters),
        units::bytes(checkpoint.size_bytes()),
        bits as f64 / parameters.max(1) as f64
    ))?;
    let header = ["site", "count", "shape", "stored as", "parameters", "bits per weight"];
    print::line(&table::table(&header, &[1, 4, 5], rows.iter().map(Row::cells)))
}

/// Weights that are alike: same role, shape and form.
struct Row {
    site: String,
    tensor: String,
    count: usize,
    shape: [usize; 2],
    kind: String,
    parameters: u64,
    bits: u64,
}

impl Row {
    fn of(site: &Site, slot: Slot, source: &Source) -> Self {
        Row {
            site: match slot {
                Slot::Weight => site.to_string(),
                Slot::Bias => format!("{site}.bias"),
            },
            tensor: source.tensor.clone(),
            count: 1,
            shape: source.form.shape(),
            kind: kind(&source.form),
            parameters: source.form.parameters(),
            bits: source.form.bits(),
        }
    }

    fn bits_per_weight(&self) -> f64 {
        self.bits as f64 / self.parameters.max(1) as f64
    }

    fn cells(&self) -> Vec<String> {
        let [rows, columns] = self.shape;
        vec![
            self.site.clone(),
            self.count.to_string(),
            format!("{rows} x {columns}"),
            self.kind.clone(),
            units::count(self.parameters),
            format!("{:.2}", self.bits_per_weight()),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "site": self.site, "tensor": self.tensor, "shape": self.shape, "stored_as": self.kind,
            "parameters": self.parameters, "bits_per_weight": self.bits_per_weight(),
        })
    }
}

fn one_by_one(model: &Model<Source>) -> Vec<Row> {
    model.weights().map(|(site, slot, source)| Row::of(&site, slot, source)).collect()
}

/// One row for each role and form; blocks are written `blocks.*`.
fn by_role(model: &Model<Source>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (site, slot, source) in model.weights() {
        let mut row = Row::of(&site, slot, source);
        if let Place::Block(n) = site.place {
            row.site = row.site.replacen(&format!("blocks.{n}."), "blocks.*.", 1);
        }
        match rows.iter_mut().find(|seen| seen.site == row.site && seen.shape == row.shape && seen.kind == row.kind) {
            Some(seen) => {
                seen.count += 1;
                seen.parameters += row.parameters;
                seen.bits += row.bits;
            }
            None => rows.push(row),
        }
    }
    rows
}

/// `bf16`, `int4 group 64`, `Q4_K`, `product of bf16 and bf16`.
pub fn kind(form: &Form) -> String {
    let dtype = |dtype: Dtype| match dtype {
        Dtype::F32 => "f32",
        Dtype::F16 => "f16",
        Dtype::Bf16 => "bf16",
        Dtype::F8E4m3 => "f8 e4m3",
    };
    match form {
        Form::Leaf(leaf) => {
            let code = match &leaf.code {
                CodeForm::Float(kind) => dtype(*kind).to_owned(),
                CodeForm::Grid { bits, group, zeros, levels, .. } => {
                    let group = match group {
                        brevity::model::Group::Tensor => "one scale".to_owned(),
                        brevity::model::Group::Channel => "scale per row".to_owned(),
                        brevity::model::Group::Columns(n) => format!("group {n}"),
                    };
                    let name = if levels.is_some() { "table" } else { "int" };
                    format!("{name}{bits} {group}{}", if *zeros { ", zeros" } else { "" })
                }
                CodeForm::Codebook { dim, entries, .. } => format!("{} books of {dim}", entries.len()),
                CodeForm::Diagonal => "diagonal".to_owned(),
                CodeForm::Permutation => "permutation".to_owned(),
                CodeForm::Hadamard => "Hadamard".to_owned(),
                CodeForm::Blocks(block) => block.name.clone(),
            };
            if leaf.mask.is_some() { format!("{code}, {:.0} % zeros", 100.0 * leaf.sparsity()) } else { code }
        }
        Form::Product(ab) => format!("{} x {} (rank {})", kind(&ab[0]), kind(&ab[1]), ab[0].shape()[1]),
        Form::Sum(ab) => format!("{} + {}", kind(&ab[0]), kind(&ab[1])),
        Form::Train(train) => {
            let cores: Vec<String> = train.cores.iter().map(kind).collect();
            let bonds = train.bonds();
            let inner: Vec<String> = bonds[1..bonds.len() - 1].iter().map(usize::to_string).collect();
            format!("train of {} (bond {})", cores.join(" x "), inner.join(", "))
        }
    }
}

fn blocks(model: &Model<Source>) -> usize {
    model.stages.iter().filter(|stage| matches!(stage, brevity::model::Stage::Block(_))).count()
}

fn total(model: &Model<Source>, of: fn(&Form) -> u64) -> u64 {
    model.weights().map(|(_, _, source)| of(&source.form)).sum()
}
