//! Codes to numbers, a panel at a time.

use super::{LANES, PackedGrid};
use crate::cpu::dispatch;

/// Calls `put(input, values of sixteen outputs)` for every input of panel `p`, in order.
#[inline(always)]
fn panel_body<const FMA: bool>(w: &PackedGrid, p: usize, put: &mut dyn FnMut(usize, &[f32; LANES])) {
    let per_word = w.per_word();
    let mask = (1u32 << w.bits) - 1;
    let row_words = w.row_words();
    let words = w.words[p * row_words * LANES..][..row_words * LANES].as_chunks::<LANES>().0;
    let mut at = 0;
    for g in 0..w.groups {
        let first = g * w.group;
        let count = w.group.min(w.inputs - first);
        let place = (p * w.groups + g) * LANES;
        let scales: &[f32; LANES] = w.scales[place..place + LANES].try_into().expect("a whole panel");
        let zeros: [f32; LANES] =
            w.zeros.as_ref().map_or([0.0; LANES], |z| z[place..place + LANES].try_into().expect("a whole panel"));
        for start in (0..count).step_by(per_word) {
            let word = &words[at];
            at += 1;
            for j in 0..per_word.min(count - start) {
                let mut values = [0.0; LANES];
                let shift = j as u32 * w.bits;
                if w.bits <= 4 {
                    for i in 0..LANES {
                        let code = word[i] >> shift & mask;
                        values[i] = scales[i] * (w.table[code as usize] - zeros[i]);
                    }
                } else {
                    for i in 0..LANES {
                        let code = (word[i] << (32 - w.bits - shift)) as i32 >> (32 - w.bits);
                        values[i] = scales[i] * (code as f32 - zeros[i]);
                    }
                }
                put(first + start + j, &values);
            }
        }
    }
}

dispatch! { fn panel_run(w: &PackedGrid, p: usize, put: &mut dyn FnMut(usize, &[f32; LANES])) = panel_body }

/// Calls `put(input, values of sixteen outputs)` for every input of panel `p`, in order.
pub(super) fn panel(w: &PackedGrid, p: usize, mut put: impl FnMut(usize, &[f32; LANES])) {
    panel_run(w, p, &mut put);
}

/// Panel `p` as bfloat16 pairs of inputs: word `(pair, output)` at `48 pair + output`.
#[cfg(target_arch = "x86_64")]
pub(super) fn pairs(w: &PackedGrid, p: usize, out: &mut [u32]) {
    use crate::matmul::PANEL;
    use half::bf16;
    panel(w, p, |i, values| {
        let words = &mut out[i / 2 * PANEL..][..LANES];
        for (o, v) in words.iter_mut().zip(values) {
            let bits = bf16::from_f32(*v).to_bits() as u32;
            // the second of a pair joins the first; the first clears what was there
            *o = if i % 2 == 0 { bits } else { *o | bits << 16 };
        }
    });
}
