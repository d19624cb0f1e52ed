//! Reading back what was written and comparing it with what was meant.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use brevity_formats::{Checkpoint, Open, Renumber};
use brevity_model::{CodeForm, Dtype, Expr, Form, Model, Role, Site, Source, Stage, View, Weight};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Note;
use crate::digest;
use crate::error::Error;
use crate::plan::Plan;

/// Models with no more numbers than this are compared whole.
const SMALL: u64 = 16 << 20;

/// Some rows of a layer as they were meant to be written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Meant {
    /// The layer.
    site: Site,
    /// The digest of the rows in full precision, for files that hold the very codes.
    exact: String,
    /// The number type that they are rounded to in files that hold floats in their place, and the digest then.
    rounded: Option<(Dtype, String)>,
}

/// What is meant to be written of a stage, after it was rewritten.
pub(super) fn meant(plan: &Plan, model: &Model<Source>, n: usize, stage: &mut Stage<Weight>) -> Vec<Meant> {
    let all = is_small(plan);
    let layers: Vec<_> = stage.linears_mut().into_iter().enumerate().collect();
    let chosen = chosen(n, layers.len());
    let sources = crate::plan::linears(&model.stages[n]);
    let looked_at = layers.into_par_iter().filter(|(at, _)| all || Some(*at) == chosen);
    looked_at
        .map(|(_, (role, layer))| {
            let (at, site, _) = plan.work.at(n, &role);
            let rows = sample(all, layer.weight.shape()[0]);
            let exact = match layer.weight.as_leaf() {
                Some(_) => digest::of_rows(&layer.weight, &rows, Dtype::F32),
                // In the type and the order in which factors are written, where they are.
                None => {
                    let held = plan.format.held(layer.weight.clone(), &sources[at].weight.form);
                    digest::of_rows(&held, &rows, Dtype::F32)
                }
            };
            let dtypes = float_dtypes(&sources[at].weight.form);
            let rounded = dtypes.map(|dtype| (dtype, digest::of_rows(&layer.weight, &rows, dtype)));
            // As the output has it, where blocks have moved up.
            let place = Renumber::moved(plan.numbers.as_ref(), site.place);
            Meant { site: Site::new(place, site.role.clone()), exact, rounded }
        })
        .collect()
}

/// The type in which a rewritten layer is stored as floats: that of the first leaf of the source which has one, bfloat16
/// for FP8.
fn float_dtypes(source: &Form) -> Option<Dtype> {
    let dtype = source.leaves().into_iter().find_map(|(_, leaf)| match &leaf.code {
        CodeForm::Float(dtype) | CodeForm::Grid { scale_dtype: dtype, .. } => Some(*dtype),
        // Blocks of a GGUF file come out as halves.
        CodeForm::Blocks(_) => Some(Dtype::F16),
        _ => None,
    });
    match dtype {
        Some(Dtype::F32) => None,
        Some(Dtype::F8E4m3) => Some(Dtype::Bf16),
        other => other,
    }
}

fn is_small(plan: &Plan) -> bool {
    plan.size.parameters <= SMALL
}

/// The layer of a stage that is looked at in large models: another one in each stage.
fn chosen(stage: usize, layers: usize) -> Option<usize> {
    (layers > 0).then(|| stage % layers)
}

/// The rows that are looked at: all, or the first, the middle and the last.
fn sample(all: bool, rows: usize) -> Vec<usize> {
    match rows {
        0 => Vec::new(),
        _ if all => (0..rows).collect(),
        rows => {
            let mut some = vec![0, rows / 2, rows - 1];
            some.dedup();
            some
        }
    }
}

/// Opens the output as anyone would and compares it: each shard, byte by byte, with its digest when it was written,
/// and a sample of layers, decoded, with what was meant.
pub(super) fn read_back(
    plan: &Plan,
    out: &Path,
    shards: &[(String, String)],
    notes: &[Note],
    pool: &rayon::ThreadPool,
) -> Result<(), Error> {
    pool.install(|| {
        shards.par_iter().try_for_each(|(file, digest)| {
            let now = of_file(&out.join(file)).map_err(|error| verify(file, error.to_string()))?;
            if now == *digest { Ok(()) } else { Err(verify(file, "its bytes have changed since".to_owned())) }
        })
    })?;
    let loose = plan.forms.stages.iter().all(|stage| matches!(stage, Stage::Loose(_)));
    let written = Checkpoint::open_with(out, Open { loose })?;
    let mut sources: BTreeMap<String, Source> = BTreeMap::new();
    for (n, stage) in written.model().stages.iter().enumerate() {
        let mut copy = stage.clone();
        for (role, linear) in copy.linears_mut() {
            sources.insert(key(&written.model().site(n, role)), linear.weight.clone());
        }
    }
    let all = is_small(plan);
    for (stage, note) in plan.stages.iter().zip(notes) {
        let file = || {
            let at = plan.stages.iter().filter(|stage| !stage.specs.is_empty()).position(|s| s.place == stage.place);
            at.and_then(|at| shards.get(at)).map_or_else(String::new, |(file, _)| file.clone())
        };
        for meant in &note.meant {
            let Some(source) = sources.get(&key(&meant.site)) else {
                return Err(verify(&file(), format!("`{}` is not there", meant.site)));
            };
            if !agrees(&written, source, meant, all)? {
                return Err(verify(&file(), format!("`{}` reads back as other numbers than were meant", meant.site)));
            }
        }
    }
    Ok(())
}

/// What a layer is known by in both models. Loose weights may be bundled in another way in the output.
fn key(site: &Site) -> String {
    match &site.role {
        Role::Loose(name) => name.to_string(),
        _ => site.to_string(),
    }
}

fn agrees(written: &Checkpoint, source: &Source, meant: &Meant, all: bool) -> Result<bool, Error> {
    let rows = sample(all, source.form.shape()[0]);
    let lone_float = match &source.form {
        Expr::Leaf(leaf) => match leaf.code {
            CodeForm::Float(dtype) => Some(dtype),
            _ => None,
        },
        _ => None,
    };
    // Of plain floats only the rows in question need be read.
    let (weight, rows) = match lone_float {
        Some(_) if !all => {
            let part = Source {
                view: rows_of(&source.view, &rows),
                form: narrowed(&source.form, rows.len()),
                ..source.clone()
            };
            let read = written.load_weight(&part)?;
            let count = read.shape()[0];
            (read, (0..count).collect())
        }
        _ => (written.load_weight(source)?, rows),
    };
    let now = digest::of_rows(&weight, &rows, Dtype::F32);
    let rounded = meant.rounded.as_ref().filter(|(dtype, _)| lone_float == Some(*dtype));
    Ok(now == meant.exact || rounded.is_some_and(|(_, digest)| now == *digest))
}

/// A view of some rows of what a view shows.
fn rows_of(view: &View, rows: &[usize]) -> View {
    let at = |row: usize| match &view.rows {
        None => row,
        Some(ranges) => {
            let mut left = row;
            for range in ranges {
                if left < range.len() {
                    return range.start + left;
                }
                left -= range.len();
            }
            row
        }
    };
    View { transposed: view.transposed, rows: Some(rows.iter().map(|&row| at(row)..at(row) + 1).collect()) }
}

fn narrowed(form: &Form, rows: usize) -> Form {
    match form {
        Expr::Leaf(leaf) => {
            let mut leaf = leaf.clone();
            leaf.shape[0] = rows;
            Expr::Leaf(leaf)
        }
        other => other.clone(),
    }
}

fn verify(file: &str, what: String) -> Error {
    Error::Verify { file: file.to_owned(), what }
}

fn of_file(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            n => hasher.update(&piece[..n]),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_has_the_first_middle_and_last_row() {
        assert_eq!(sample(false, 100), [0, 50, 99]);
        assert_eq!(sample(false, 1), [0]);
        assert_eq!(sample(false, 2), [0, 1]);
        assert_eq!(sample(true, 3), [0, 1, 2]);
        assert_eq!(sample(false, 0), [] as [usize; 0]);
    }

    #[test]
    fn rows_of_a_view_are_rows_of_the_tensor() {
        let view = View { transposed: true, rows: Some(vec![4..6, 10..12]) };
        let part = rows_of(&view, &[0, 1, 3]);
        assert!(part.transposed);
        assert_eq!(part.rows, Some(vec![4..5, 5..6, 11..12]));
        assert_eq!(rows_of(&View::whole(), &[7, 9]).rows, Some(vec![7..8, 9..10]));
    }
}
