//! The tensors of one leaf: which there are, of which type and shape.

use brevity_model::{CodeForm, LeafForm, MaskForm};

use super::stream;
use crate::tensor::{TensorSpec, dtype_bits, dtype_name};

/// How the mask of a leaf is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Masking {
    /// There is none.
    None,
    /// Removed entries are stored as zeros.
    Zeros,
    /// A bitmap, and so many kept entries.
    Bitmap(usize),
}

/// Kept entries of a leaf.
pub(super) fn kept(form: &LeafForm) -> usize {
    let count = form.shape[0] * form.shape[1];
    count - ((form.sparsity() * count as f64).round() as usize).min(count)
}

/// How the mask of a leaf is kept: the way that takes fewer bytes, if there is a choice.
pub(super) fn masking(form: &LeafForm) -> Masking {
    if form.mask.is_none() {
        return Masking::None;
    }
    let count = form.shape[0] * form.shape[1];
    let kept = kept(form);
    let bits = match &form.code {
        CodeForm::Float(dtype) => 8 * dtype.size_bytes() as u32,
        CodeForm::Grid { bits, levels: None, .. } => u32::from(*bits),
        _ => return Masking::Bitmap(kept),
    };
    if stream::bytes(count, 1) + stream::bytes(kept, bits) < stream::bytes(count, bits) {
        Masking::Bitmap(kept)
    } else {
        Masking::Zeros
    }
}

/// The same form, with what is known of the mask said in the one way that is written.
pub(super) fn counted(form: &LeafForm) -> LeafForm {
    let count = (form.shape[0] * form.shape[1]).max(1);
    let mask = form.mask.map(|_| MaskForm::Free(1.0 - kept(form) as f64 / count as f64));
    LeafForm { mask, ..form.clone() }
}

/// Bits of an index into so many entries.
pub(super) fn index_bits(entries: usize) -> u32 {
    entries.max(2).next_power_of_two().ilog2()
}

/// The tensors of a leaf whose names begin with `prefix`, the mask last.
pub(super) fn specs(prefix: &str, form: &LeafForm, masking: Masking) -> Vec<TensorSpec> {
    let [rows, columns] = form.shape;
    let count = rows * columns;
    let tensor = |part: &str, dtype, shape: &[usize]| TensorSpec::new(format!("{prefix}.{part}"), dtype, shape);
    let entries = match masking {
        Masking::Bitmap(kept) => kept,
        _ => count,
    };
    let mut specs = match &form.code {
        CodeForm::Float(dtype) if matches!(masking, Masking::Bitmap(_)) => {
            vec![tensor("values", dtype_name(*dtype), &[entries])]
        }
        CodeForm::Float(dtype) => vec![tensor("values", dtype_name(*dtype), &form.shape)],
        CodeForm::Grid { bits, group, scale_dtype, zeros, levels } => {
            let table @ [r, c] = group.scales(form.shape);
            let bits = u32::from(*bits);
            let mut specs = vec![
                tensor("codes", "U8", &[stream::bytes(entries, bits)]),
                tensor("scales", dtype_name(*scale_dtype), &table),
            ];
            if *zeros {
                specs.push(tensor("zeros", "U8", &[stream::bytes(r * c, bits)]));
            }
            specs.extend(levels.map(|levels| tensor("levels", "F32", &[levels])));
            specs
        }
        CodeForm::Codebook { dim, entries, dtype } => {
            let mut specs = Vec::new();
            for (n, &entries) in entries.iter().enumerate() {
                let codes = stream::bytes(count / (*dim).max(1), index_bits(entries));
                specs.push(tensor(&format!("codes.{n}"), "U8", &[codes]));
                specs.push(tensor(&format!("books.{n}"), dtype_name(*dtype), &[entries, *dim]));
            }
            specs.push(tensor("scales", dtype_name(*dtype), &[rows]));
            specs
        }
        CodeForm::Diagonal => vec![tensor("diagonal", "F32", &[rows])],
        CodeForm::Permutation => vec![tensor("permutation", "U32", &[rows])],
        CodeForm::Hadamard => Vec::new(),
        // Only forms of sources have blocks, and those that are left as they are are plain tensors.
        CodeForm::Blocks(_) => Vec::new(),
    };
    if matches!(masking, Masking::Bitmap(_)) {
        specs.push(tensor("mask", "U8", &[stream::bytes(count, 1)]));
    }
    debug_assert!(specs.iter().all(|spec| dtype_bits(spec.dtype) >= 8));
    specs
}

#[cfg(test)]
mod tests {
    use super::*;
    use brevity_model::{Dtype, Group};

    fn masked(code: CodeForm, share: f64) -> LeafForm {
        LeafForm { shape: [4, 16], code, mask: Some(MaskForm::Free(share)) }
    }

    #[test]
    fn a_bitmap_is_kept_exactly_if_it_saves_bytes() {
        let grid =
            |bits| CodeForm::Grid { bits, group: Group::Channel, scale_dtype: Dtype::F32, zeros: false, levels: None };
        // 64 halves are 128 bytes and the bitmap 8: four removed halves break even, five win.
        let half = || CodeForm::Float(Dtype::F16);
        assert_eq!(masking(&masked(half(), 4.0 / 64.0)), Masking::Zeros);
        assert_eq!(masking(&masked(half(), 5.0 / 64.0)), Masking::Bitmap(59));
        // At two bits half must go before the bitmap is paid for, at one bit it never is.
        assert_eq!(masking(&masked(grid(2), 0.5)), Masking::Zeros);
        assert_eq!(masking(&masked(grid(2), 0.75)), Masking::Bitmap(16));
        assert_eq!(masking(&masked(grid(1), 1.0)), Masking::Zeros);
        assert_eq!(masking(&masked(CodeForm::Hadamard, 0.0)), Masking::Bitmap(64));
        let pattern = LeafForm { mask: Some(MaskForm::Pattern { removed: 2, of: 4 }), ..masked(grid(4), 0.0) };
        assert_eq!(masking(&pattern), Masking::Bitmap(32));
        assert_eq!(counted(&pattern).mask, Some(MaskForm::Free(0.5)));
    }
}
