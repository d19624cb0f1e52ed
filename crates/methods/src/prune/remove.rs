//! Taking entries out of a leaf.

use brevity_model::{Code, Floats, Grid, Group, Leaf, Mask};
use half::{bf16, f16};

/// Takes the entries that are not kept out of a leaf: by the mask, and as zeros in its code where it has one.
pub(super) fn remove(leaf: &mut Leaf, keep: &[bool]) {
    fn zero<T: Copy>(values: &mut [T], keep: &[bool], zero: T) {
        values.iter_mut().zip(keep).filter(|(_, keep)| !**keep).for_each(|(value, _)| *value = zero);
    }
    match &mut leaf.code {
        Code::Float(Floats::F32(values)) => zero(values, keep, 0.0),
        Code::Float(Floats::F16(values)) => zero(values, keep, f16::ZERO),
        Code::Float(Floats::Bf16(values)) => zero(values, keep, bf16::ZERO),
        Code::Float(Floats::F8E4m3(values)) => zero(values, keep, 0),
        Code::Grid(grid) if grid.levels.is_none() => zero_codes(grid, leaf.shape, keep),
        // No code need stand for zero here: the mask alone says so.
        Code::Grid(_) | Code::Codebook(_) | Code::Rule(_) => (),
    }
    leaf.mask = Some(Mask::from_bools(leaf.shape, keep));
}

/// Gives the entries that are not kept the code of zero, so that readers without masks see zeros.
fn zero_codes(grid: &mut Grid, [_, columns]: [usize; 2], keep: &[bool]) {
    let run = grid.group.columns(columns);
    for (n, code) in grid.codes.iter_mut().enumerate().filter(|(n, _)| !keep[*n]) {
        let at = match grid.group {
            Group::Tensor => 0,
            _ => n / columns * columns.div_ceil(run) + n % columns / run,
        };
        *code = grid.zeros.as_ref().map_or(1 << (grid.bits - 1), |zeros| zeros[at]);
    }
}
