//! How large a model is: bytes, parameters, bits for each weight.

use brevity_model::{Form, Model, Source};

/// Sizes of a model as it is stored.
///
/// `weights` counts the entries of the matrices that the model's expressions stand for, so that a matrix replaced by
/// thin factors, or pruned, still counts whole: bits for each weight then say how much smaller it became.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of the weight files.
    pub size_bytes: u64,
    /// Entries of all matrices and vectors.
    pub weights: u64,
    /// Numbers that are held: those of factors, not of their product.
    pub parameters: u64,
    /// Entries of matrices that have a coded leaf.
    pub quantized_weights: u64,
    /// Bits that these take: codes, scales, zero points, masks.
    pub quantized_bits: u64,
}

impl Size {
    /// The sizes of a model whose weight files have so many bytes.
    pub fn of(model: &Model<Source>, size_bytes: u64) -> Size {
        let forms = model.weights().map(|(_, _, source)| &source.form);
        Size { size_bytes, ..Size::of_forms(forms) }
    }

    fn of_forms<'a>(forms: impl Iterator<Item = &'a Form>) -> Size {
        let mut size = Size::default();
        for form in forms {
            let [rows, columns] = form.shape();
            size.weights += (rows * columns) as u64;
            size.parameters += form.parameters();
            if form.leaves().iter().any(|(_, leaf)| leaf.is_coded()) {
                size.quantized_weights += (rows * columns) as u64;
                size.quantized_bits += form.bits();
            }
        }
        size
    }

    /// Bits of the weight files for each weight.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.size_bytes as f64 / self.weights.max(1) as f64
    }

    /// Bits for each weight of the quantized matrices, files' headers and padding left out.
    pub fn bits_per_quantized_weight(&self) -> Option<f64> {
        (self.quantized_weights > 0).then(|| self.quantized_bits as f64 / self.quantized_weights as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use brevity_model::{CodeForm, Dtype, Expr, Group, LeafForm};

    #[test]
    fn factors_count_as_the_matrix_they_stand_for() {
        let grid =
            CodeForm::Grid { bits: 4, group: Group::Columns(32), scale_dtype: Dtype::Bf16, zeros: false, levels: None };
        let forms = [
            Form::float([64, 64], Dtype::Bf16),
            Form::product(Form::float([64, 8], Dtype::Bf16), Form::float([8, 64], Dtype::Bf16)),
            Expr::Leaf(LeafForm { shape: [64, 64], code: grid, mask: None }),
        ];
        let size = Size { size_bytes: 12_800, ..Size::of_forms(forms.iter()) };
        assert_eq!(size.weights, 3 * 4096);
        assert_eq!(size.parameters, 2 * 4096 + 1024);
        // 4 bits and a 16-bit scale for each 32.
        assert_eq!(size.bits_per_quantized_weight(), Some(4.5));
        assert!((size.bits_per_weight() - 8.0 * 12_800.0 / 12_288.0).abs() < 1e-12);
        assert_eq!(Size::default().bits_per_quantized_weight(), None);
    }
}
