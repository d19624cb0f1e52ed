//! Coded weights as tensors.

use std::convert::Infallible;

use brevity_model::{Code, Codebook, Floats, Form, Grid, Leaf, LeafForm, Mask, Place, Rule, Weight};

use super::leaf::{self, Masking, index_bits};
use super::{FORMS, Record, stream};
use crate::coded::clear;
use crate::dense::raw_floats;
use crate::tensor::{Tensor, TensorSpec};

/// The form as it is written.
pub(super) fn counted(form: &Form) -> Form {
    form.try_map(&mut |_, leaf| Ok::<_, Infallible>(leaf::counted(leaf))).unwrap_or_else(|never| match never {})
}

/// The tensors of a weight.
pub(super) fn specs(record: &Record) -> Vec<TensorSpec> {
    let leaves = record.form.leaves();
    leaves.iter().flat_map(|(path, form)| leaf::specs(&record.leaf(path), form, leaf::masking(form))).collect()
}

/// The same with their bytes.
pub(super) fn tensors(record: &Record, weight: &Weight) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    for ((path, leaf), (_, form)) in weight.leaves().into_iter().zip(record.form.leaves()) {
        tensors.extend(leaf_tensors(&record.leaf(&path), leaf, form));
    }
    tensors
}

/// The tensor with the forms of a stage, if it has coded weights.
pub(super) fn forms_tensor(place: Place, records: &[Record]) -> Option<Tensor> {
    let text = serde_json::to_vec(records).expect("forms are JSON");
    let spec = TensorSpec::new(format!("{FORMS}{place}"), "U8", [text.len()]);
    (!records.is_empty()).then(|| spec.with(text))
}

/// The tensors of a leaf, in the order of their specs.
fn leaf_tensors(prefix: &str, leaf: &Leaf, form: &LeafForm) -> Vec<Tensor> {
    let masking = leaf::masking(form);
    let mask = leaf.mask.as_ref();
    let mut data = match &leaf.code {
        Code::Float(floats) => vec![float_bytes(floats, mask, masking)],
        Code::Grid(grid) => grid_bytes(grid, leaf.shape, mask, masking),
        Code::Codebook(book) => codebook_bytes(book),
        Code::Rule(Rule::Diagonal(d)) => vec![bytemuck::cast_slice(d).to_vec()],
        Code::Rule(Rule::Permutation(p)) => vec![bytemuck::cast_slice(p).to_vec()],
        Code::Rule(Rule::Hadamard(_)) => Vec::new(),
    };
    if let (Masking::Bitmap(_), Some(mask)) = (masking, mask) {
        data.push(mask.as_bytes().to_vec());
    }
    leaf::specs(prefix, form, masking).into_iter().zip(data).map(|(spec, data)| spec.with(data)).collect()
}

fn float_bytes(floats: &Floats, mask: Option<&Mask>, masking: Masking) -> Vec<u8> {
    let width = floats.dtype().size_bytes();
    let mut bytes = raw_floats(floats).to_vec();
    match (masking, mask) {
        (Masking::Bitmap(_), Some(mask)) => keep(&bytes, width, mask),
        (Masking::Zeros, Some(mask)) => {
            for (n, value) in bytes.chunks_mut(width).enumerate() {
                if !mask.keeps(n) {
                    value.fill(0);
                }
            }
            bytes
        }
        _ => bytes,
    }
}

/// The kept values, each `width` bytes.
fn keep(bytes: &[u8], width: usize, mask: &Mask) -> Vec<u8> {
    let mut kept = Vec::with_capacity(mask.kept() * width);
    for (eight, &flags) in bytes.chunks(8 * width).zip(mask.as_bytes()) {
        match flags {
            0xFF => kept.extend_from_slice(eight),
            _ => (eight.chunks(width).enumerate().filter(|(n, _)| flags >> n & 1 == 1))
                .for_each(|(_, value)| kept.extend_from_slice(value)),
        }
    }
    kept
}

fn grid_bytes(grid: &Grid, shape: [usize; 2], mask: Option<&Mask>, masking: Masking) -> Vec<Vec<u8>> {
    let bits = u32::from(grid.bits);
    let codes = match (masking, mask) {
        (Masking::Bitmap(_), Some(mask)) => stream::pack(&keep(&grid.codes, 1, mask), bits),
        (Masking::Zeros, Some(mask)) => {
            let mut codes = grid.codes.clone();
            clear(grid, shape, mask, &mut codes);
            stream::pack(&codes, bits)
        }
        _ => stream::pack(&grid.codes, bits),
    };
    let scales = Floats::from_f32(grid.scales.clone(), grid.scale_dtype);
    let mut data = vec![codes, raw_floats(&scales).to_vec()];
    data.extend(grid.zeros.as_ref().map(|zeros| stream::pack(zeros, bits)));
    data.extend(grid.levels.as_ref().map(|levels| bytemuck::cast_slice(levels).to_vec()));
    data
}

fn codebook_bytes(book: &Codebook) -> Vec<Vec<u8>> {
    let floats = |values: &Vec<f32>| raw_floats(&Floats::from_f32(values.clone(), book.dtype)).to_vec();
    let mut data = Vec::new();
    for (n, entries) in book.books.iter().enumerate() {
        let codes = book.codes.iter().skip(n).step_by(book.books.len()).copied();
        data.push(stream::pack_wide(codes, index_bits(entries.len() / book.dim)));
        data.push(floats(entries));
    }
    data.push(floats(&book.scales));
    data
}
