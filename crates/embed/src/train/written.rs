//! The directory of a trained encoder: that of the one it came from, with other weights.

use std::collections::BTreeMap;

use brevity_formats::{Checkpoint, carried_files};
use brevity_model::{Slot, View};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::student::{Owner, Student};
use crate::error::{Error, Result};
use crate::modules::{Layer, Modules, floats};

/// The files of a trained encoder, by name: weights in the types they had, and everything else as it was.
///
/// # Errors
/// [`Error::Untrainable`] if a weight is kept in a code: training needs floats, and so does what it leaves.
pub fn tuned_files(checkpoint: &Checkpoint, student: &Student, modules: &Modules) -> Result<Vec<(String, Vec<u8>)>> {
    let container = checkpoint.container();
    let mut values: BTreeMap<String, (Dtype, Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let mut behind = modules.clone();
    for parameter in student.parameters() {
        let trained: Vec<f32> = parameter.var.as_tensor().flatten_all()?.to_vec1()?;
        match &parameter.owner {
            Owner::Dense(n, slot) => {
                if let Some(Layer::Dense(dense)) = behind.layers.get_mut(*n) {
                    match slot {
                        Slot::Weight => dense.weight = trained,
                        Slot::Bias => dense.bias = Some(trained),
                    }
                }
            }
            Owner::Stage(stage, role, slot) => {
                let weights = checkpoint.model().stages[*stage].weights();
                let found = weights.into_iter().find(|(r, s, _)| r == role && s == slot);
                let Some((_, _, source)) = found else { continue };
                let coded = || Error::Untrainable { what: format!("keeps `{}` in a code", source.tensor) };
                let entry = match values.entry(source.tensor.clone()) {
                    std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        let raw = container.raw(&source.tensor).ok_or_else(coded)?;
                        let dtype = dtype(raw.dtype).ok_or_else(coded)?;
                        let numbers = floats(dtype, raw.bytes).ok_or_else(coded)?;
                        entry.insert((dtype, raw.shape.to_vec(), numbers))
                    }
                };
                scatter(&source.view, &trained, &mut entry.2, &entry.1);
            }
        }
    }
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for name in container.stored() {
        let raw = container.raw(&name).expect("it is stored");
        let coded = || Error::Untrainable { what: format!("keeps `{name}` in a code") };
        let kind = any_dtype(raw.dtype).ok_or_else(coded)?;
        let bytes = match values.get(&name) {
            Some((dtype, _, numbers)) => encoded(*dtype, numbers),
            None => raw.bytes.to_vec(),
        };
        tensors.push((name, kind, raw.shape.to_vec(), bytes));
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).expect("bytes fit the shape, as they did"))
    });
    let about = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let weights = safetensors::serialize(views, Some(about)).expect("names and shapes are those that were read");
    let mut files = carried_files(checkpoint.folder())?;
    let made = behind.files(checkpoint.model().hidden);
    files.retain(|(name, _)| made.iter().all(|(new, _)| new != name));
    files.extend(made);
    files.push(("config.json".into(), checkpoint.folder().read("config.json")?.into_owned()));
    files.push(("model.safetensors".into(), weights));
    files.sort();
    Ok(files)
}

/// Puts the values of a view where they lie in the tensor.
fn scatter(view: &View, values: &[f32], into: &mut [f32], shape: &[usize]) {
    if view.is_whole() {
        return into.copy_from_slice(values);
    }
    let columns = shape.last().copied().unwrap_or(1);
    let rows = if view.transposed { columns } else { into.len() / columns.max(1) };
    let vector = shape.len() < 2;
    let taken: Vec<usize> = match &view.rows {
        Some(ranges) => ranges.iter().cloned().flatten().collect(),
        None => (0..rows).collect(),
    };
    if vector {
        taken.iter().zip(values).for_each(|(&at, &value)| into[at] = value);
    } else if view.transposed {
        let inputs = values.len() / taken.len();
        for (row, values) in taken.iter().zip(values.chunks_exact(inputs)) {
            values.iter().enumerate().for_each(|(n, &value)| into[n * columns + row] = value);
        }
    } else {
        for (&row, values) in taken.iter().zip(values.chunks_exact(columns)) {
            into[row * columns..][..columns].copy_from_slice(values);
        }
    }
}

fn dtype(name: &str) -> Option<Dtype> {
    any_dtype(name).filter(|dtype| matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16))
}

fn any_dtype(name: &str) -> Option<Dtype> {
    serde_json::from_value(name.into()).ok()
}

fn encoded(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_back_where_they_came_from() {
        let mut whole = vec![0.0; 6];
        scatter(&View::whole(), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &mut whole, &[2, 3]);
        assert_eq!(whole, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let some = View { transposed: false, rows: Some(vec![1..2]) };
        scatter(&some, &[7.0, 8.0, 9.0], &mut whole, &[2, 3]);
        assert_eq!(whole, [1.0, 2.0, 3.0, 7.0, 8.0, 9.0]);
        // `[in, out]` of two inputs and three outputs, of which the last two are written.
        let turned = View { transposed: true, rows: Some(vec![1..3]) };
        scatter(&turned, &[-1.0, -2.0, -3.0, -4.0], &mut whole, &[2, 3]);
        assert_eq!(whole, [1.0, -1.0, -3.0, 7.0, -2.0, -4.0]);
        let mut bias = vec![0.0; 4];
        scatter(&View { transposed: false, rows: Some(vec![0..1, 3..4]) }, &[1.0, 2.0], &mut bias, &[4]);
        assert_eq!(bias, [1.0, 0.0, 0.0, 2.0]);
    }
}
