//! FP8 weights with their scales: two stored tensors, one logical one.

use std::collections::{BTreeMap, BTreeSet};

use brevity_model::{Dtype, Floats, Form, Source, View, Weight};

use crate::container::{self, Container};
use crate::error::Error;
use crate::safetensors::SafetensorsFiles;
use crate::view::{self, Selection};

/// Safetensors files in which FP8 weights have scales beside them.
///
/// A weight `X.weight` of type FP8 stands for `X.weight * X.weight_scale` (or `* X.weight_scale_inv`, which despite its
/// name is the same thing for square blocks). There is one scale for the tensor, for each row, or for each block. What
/// is read is a matrix of ordinary floats; the scales, and those of inputs, are no longer tensors of their own.
pub struct Fp8 {
    inner: SafetensorsFiles,
    dtype: Dtype,
    scales: BTreeMap<String, Scale>,
    consumed: BTreeSet<String>,
}

/// The scales of one weight.
struct Scale {
    tensor: String,
    shape: [usize; 2],
    /// Rows and columns that share a scale.
    block: [usize; 2],
}

impl Fp8 {
    /// Wraps files. Decoded weights are of type `dtype`; `block` is the block shape if the configuration has one.
    ///
    /// # Errors
    /// If the shape of the scales does not fit that of their weight.
    pub fn wrap(inner: SafetensorsFiles, dtype: Dtype, block: Option<[usize; 2]>) -> Result<Self, Error> {
        let mut scales = BTreeMap::new();
        let mut consumed = BTreeSet::new();
        for weight in inner.stored() {
            let raw = inner.raw(&weight).expect("the name was listed");
            let &[rows, columns] = raw.shape else { continue };
            if !matches!(raw.dtype, "F8_E4M3" | "F8_E5M2") {
                continue;
            }
            let names = ["_scale_inv", "_scale"].map(|ending| format!("{weight}{ending}"));
            let Some(tensor) = names.into_iter().find(|name| inner.raw(name).is_some()) else { continue };
            let found = inner.raw(&tensor).expect("it was just found").shape.to_vec();
            let shared = match found.as_slice() {
                [] | [1] | [1, 1] => Some([rows, columns]),
                [n] | [n, 1] if *n == rows => Some([1, columns]),
                [r, c] => {
                    let [height, width] = block.unwrap_or([128, 128]);
                    let fits = height > 0 && width > 0;
                    (fits && [*r, *c] == [rows.div_ceil(height), columns.div_ceil(width)]).then_some([height, width])
                }
                _ => None,
            };
            let Some(shared) = shared else {
                return Err(Error::ScaleShape { tensor: weight, shape: [rows, columns], scale: tensor, found });
            };
            let shape = match found.as_slice() {
                [r, c] => [*r, *c],
                other => [other.iter().product(), 1],
            };
            let module = weight.strip_suffix(".weight").unwrap_or(&weight);
            let inputs = ["input_scale", "input_scale_ub", "activation_scale"].map(|name| format!("{module}.{name}"));
            consumed.extend(inputs.into_iter().filter(|name| inner.raw(name).is_some()));
            consumed.insert(tensor.clone());
            scales.insert(weight, Scale { tensor, shape, block: shared });
        }
        Ok(Fp8 { inner, dtype, scales, consumed })
    }

    /// Whether no weight has a scale beside it.
    pub fn is_plain(&self) -> bool {
        self.scales.is_empty()
    }
}

impl Container for Fp8 {
    fn names(&self) -> Vec<String> {
        self.inner.names().into_iter().filter(|name| !self.consumed.contains(name)).collect()
    }

    fn form(&self, name: &str) -> Option<Form> {
        if self.consumed.contains(name) {
            return None;
        }
        let form = self.inner.form(name)?;
        Some(if self.scales.contains_key(name) { Form::float(form.shape(), self.dtype) } else { form })
    }

    fn load(&self, name: &str) -> Result<Weight, Error> {
        let form = self.form(name).ok_or_else(|| Error::NoTensor { tensor: name.to_owned() })?;
        self.load_view(&Source { tensor: name.to_owned(), form, view: View::whole() })
    }

    fn load_view(&self, source: &Source) -> Result<Weight, Error> {
        let Some(scale) = self.scales.get(&source.tensor) else { return self.inner.load_view(source) };
        let fault = |fault| Error::View { tensor: source.tensor.clone(), fault };
        let stored = self.inner.form(&source.tensor).expect("scaled weights are matrices of floats").shape();
        if source.view.transposed {
            let whole = self.load(&source.tensor)?;
            return view::of_weight(whole, &source.view, source.form.shape()).map_err(fault);
        }
        let part = Selection::new(stored, &source.view, source.form.shape()).map_err(fault)?;
        let mut values = self.inner.load_view(source)?.to_f32();
        let scales = self.inner.read_f32(&scale.tensor)?;
        let runs = part.runs(stored[1]).expect("the view is not transposed");
        // Entries in the order in which they were read, each with its place in the stored matrix.
        let mut rest = values.as_mut_slice();
        for run in runs {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(run.len());
            for (value, at) in now.iter_mut().zip(run) {
                let (row, column) = (at / stored[1] / scale.block[0], at % stored[1] / scale.block[1]);
                *value *= scales[row * scale.shape[1] + column];
            }
            rest = later;
        }
        Ok(Weight::float(part.shape, Floats::from_f32(values, self.dtype)))
    }

    fn parts(&self, name: &str) -> Vec<String> {
        let mut parts = if self.consumed.contains(name) { Vec::new() } else { self.inner.parts(name) };
        parts.extend(self.scales.get(name).map(|scale| scale.tensor.clone()));
        parts
    }

    fn files(&self) -> &dyn container::Files {
        self.inner.files()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::safetensors;

    // 1, 2, 3, 4, 5, 6 in E4M3.
    const CODES: [u8; 6] = [0x38, 0x40, 0x44, 0x48, 0x4A, 0x4C];

    fn open(scale: &str, shape: &[usize], values: &[f32], block: Option<[usize; 2]>) -> Result<Fp8, Error> {
        let scale: (&str, &str, &[usize], &[u8]) = (scale, "F32", shape, bytemuck::cast_slice(values));
        let bytes = safetensors(&[
            ("m.weight", "F8_E4M3", &[2, 3], &CODES),
            scale,
            ("m.input_scale", "F32", &[], &[0; 4]),
            ("n.weight", "F8_E4M3", &[1, 1], &[0x38]),
        ]);
        Fp8::wrap(SafetensorsFiles::from_bytes(vec![("m.safetensors".into(), bytes)]).unwrap(), Dtype::Bf16, block)
    }

    #[test]
    fn scales_of_tensors_rows_and_blocks_are_applied() {
        for (name, shape, values, block, expected) in [
            ("m.weight_scale", &[][..], &[2.0][..], None, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]),
            ("m.weight_scale", &[1], &[2.0], None, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]),
            ("m.weight_scale", &[2, 1], &[1.0, 0.5], None, [1.0, 2.0, 3.0, 2.0, 2.5, 3.0]),
            ("m.weight_scale", &[2], &[1.0, 0.5], None, [1.0, 2.0, 3.0, 2.0, 2.5, 3.0]),
            ("m.weight_scale_inv", &[1, 1], &[2.0], None, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]),
            ("m.weight_scale_inv", &[2, 2], &[1.0, 2.0, 4.0, 8.0], Some([1, 2]), [1.0, 2.0, 6.0, 16.0, 20.0, 48.0]),
        ] {
            let files = open(name, shape, values, block).unwrap();
            assert_eq!(files.form("m.weight"), Some(Form::float([2, 3], Dtype::Bf16)));
            let weight = files.load("m.weight").unwrap();
            assert_eq!(weight.to_f32(), expected, "{name} {shape:?}");
            let view = View { transposed: false, rows: Some(vec![1..2]) };
            let source = Source { tensor: "m.weight".into(), form: Form::float([1, 3], Dtype::Bf16), view };
            assert_eq!(files.load_view(&source).unwrap().to_f32(), expected[3..]);
            let view = View { transposed: true, rows: Some(vec![2..3]) };
            let source = Source { tensor: "m.weight".into(), form: Form::float([1, 2], Dtype::Bf16), view };
            assert_eq!(files.load_view(&source).unwrap().to_f32(), [expected[2], expected[5]]);
            assert_eq!(files.names(), ["m.weight", "n.weight"]);
            assert_eq!(files.parts("m.weight"), ["m.weight", name]);
            assert_eq!(files.form("n.weight"), Some(Form::float([1, 1], Dtype::F8E4m3)));
        }
    }

    #[test]
    fn scales_that_do_not_fit_their_weight_are_refused() {
        let error = open("m.weight_scale", &[3], &[1.0; 3], None).err().unwrap();
        assert_eq!(
            error.to_string(),
            "the scales `m.weight_scale` of shape [3] do not fit the FP8 weight `m.weight` of shape [2, 3]"
        );
        assert!(open("m.weight_scale_inv", &[2, 3], &[1.0; 6], Some([0, 0])).is_err());
    }
}
