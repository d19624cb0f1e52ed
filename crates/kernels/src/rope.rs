//! Rotary position embedding: pairs of features turned by an angle that grows with the position.

use crate::cpu::dispatch;
use crate::parallel;
use rayon::prelude::*;

/// Which two features make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Feature `i` with feature `i + rot/2` (Llama as Hugging Face stores it, GPT-NeoX).
    Half,
    /// Feature `2i` with feature `2i + 1` (GPT-J, the original Llama and GGUF files).
    Pairs,
}

/// How the heads of one tensor are rotated.
///
/// The tables are `[positions, rot / 2]`; the first `rot` features of each head are rotated and the rest pass
/// through. `rot` follows from the tables and [`Rope::positions`], or from the field `pairs`.
#[derive(Debug, Clone, Copy)]
pub struct Rope<'a> {
    /// Which features are paired.
    pub layout: Layout,
    /// Heads per token.
    pub heads: usize,
    /// Features per head.
    pub head_dim: usize,
    /// Positions in the tables.
    pub positions: usize,
    /// Cosines, `[positions, rot / 2]`.
    pub cos: &'a [f32],
    /// Sines, `[positions, rot / 2]`.
    pub sin: &'a [f32],
    /// For each head the columns of the tables that its pairs turn with, one head behind the other; without any, all in
    /// order for every head.
    pub pairs: &'a [u16],
}

impl Rope<'_> {
    /// Columns of the tables.
    fn columns(&self) -> usize {
        self.cos.len().checked_div(self.positions).unwrap_or(0)
    }

    /// Pairs per head.
    fn pairs(&self) -> usize {
        if self.pairs.is_empty() { self.columns() } else { self.pairs.len() / self.heads.max(1) }
    }

    fn check(&self, tokens: usize, first: usize, x: &[f32]) {
        let width = self.heads * self.head_dim;
        assert_eq!(self.cos.len(), self.sin.len(), "the tables have one shape");
        assert!(2 * self.pairs() <= self.head_dim, "no more features are rotated than a head has");
        assert!(self.pairs.len().is_multiple_of(self.heads.max(1)), "every head has as many pairs");
        let columns = self.columns();
        assert!(self.pairs.iter().all(|&pair| usize::from(pair) < columns), "every pair has a column");
        assert!(x.is_empty() || first + tokens <= self.positions, "every position is in the tables");
        assert!(x.is_empty() || x.len().is_multiple_of(width * tokens), "whole sequences");
    }
}

#[inline(always)]
fn rotate_token<const FMA: bool>(rope: &Rope<'_>, position: usize, x: &mut [f32]) {
    let columns = rope.columns();
    let cos = &rope.cos[position * columns..][..columns];
    let sin = &rope.sin[position * columns..][..columns];
    let n = rope.pairs();
    if !rope.pairs.is_empty() {
        for (head, pairs) in x.chunks_exact_mut(rope.head_dim).zip(rope.pairs.chunks_exact(n.max(1))) {
            for (i, &pair) in pairs.iter().enumerate() {
                let (a, b) = match rope.layout {
                    Layout::Half => (i, i + n),
                    Layout::Pairs => (2 * i, 2 * i + 1),
                };
                let (c, s) = (cos[usize::from(pair)], sin[usize::from(pair)]);
                (head[a], head[b]) = (head[a] * c - head[b] * s, head[b] * c + head[a] * s);
            }
        }
        return;
    }
    for head in x.chunks_exact_mut(rope.head_dim) {
        match rope.layout {
            Layout::Half => {
                let (a, rest) = head.split_at_mut(n);
                for (((a, b), c), s) in a.iter_mut().zip(&mut rest[..n]).zip(cos).zip(sin) {
                    (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                }
            }
            Layout::Pairs => {
                for ((p, c), s) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                    *p = [p[0] * c - p[1] * s, p[1] * c + p[0] * s];
                }
            }
        }
    }
}

dispatch! { fn rotate_one(rope: &Rope<'_>, position: usize, x: &mut [f32]) = rotate_token }

/// Rotates in place: `x` is `[sequences, tokens, heads * head_dim]`, token `t` is at position `first + t`.
pub fn rotate_in_place(rope: &Rope<'_>, tokens: usize, first: usize, x: &mut [f32]) {
    rope.check(tokens, first, x);
    let width = rope.heads * rope.head_dim;
    if width == 0 || x.is_empty() {
        return;
    }
    let rows = parallel::rows_per_task(width);
    x.par_chunks_mut(rows * width).enumerate().for_each(|(i, x)| {
        for (r, token) in x.chunks_exact_mut(width).enumerate() {
            rotate_one(rope, first + (i * rows + r) % tokens, token);
        }
    });
}

/// Like [`rotate_in_place`], from `x` to `out`.
pub fn rotate(rope: &Rope<'_>, tokens: usize, first: usize, x: &[f32], out: &mut [f32]) {
    rope.check(tokens, first, x);
    assert_eq!(x.len(), out.len(), "rotation keeps the shape");
    let width = rope.heads * rope.head_dim;
    parallel::rows2(x, width, out, width, |row, x, out| {
        for (r, (x, out)) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
            out.copy_from_slice(x);
            rotate_one(rope, first + (row + r) % tokens, out);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(positions: usize, pairs: usize) -> (Vec<f32>, Vec<f32>) {
        let angle = |i: usize| (i / pairs) as f32 / 10f32.powf((i % pairs) as f32 / pairs as f32);
        let n = positions * pairs;
        ((0..n).map(|i| angle(i).cos()).collect(), (0..n).map(|i| angle(i).sin()).collect())
    }

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 211) as f32 / 100.0 - 1.0).collect()
    }

    #[test]
    fn rotation_is_the_complex_product_in_both_layouts() {
        let (heads, head_dim, pairs, tokens, first) = (3, 10, 4, 5, 2);
        let (cos, sin) = tables(8, pairs);
        let x = numbers(2 * tokens * heads * head_dim);
        for layout in [Layout::Half, Layout::Pairs] {
            let rope = Rope { layout, heads, head_dim, positions: 8, cos: &cos, sin: &sin, pairs: &[] };
            let mut y = vec![0.0; x.len()];
            rotate(&rope, tokens, first, &x, &mut y);
            for row in 0..2 * tokens * heads {
                let position = first + (row / heads) % tokens;
                let (x, y) = (&x[row * head_dim..][..head_dim], &y[row * head_dim..][..head_dim]);
                for i in 0..pairs {
                    let (a, b) = match layout {
                        Layout::Half => (i, i + pairs),
                        Layout::Pairs => (2 * i, 2 * i + 1),
                    };
                    let (c, s) = (cos[position * pairs + i], sin[position * pairs + i]);
                    assert!((y[a] - (x[a] * c - x[b] * s)).abs() < 1e-6);
                    assert!((y[b] - (x[b] * c + x[a] * s)).abs() < 1e-6);
                }
                assert_eq!(x[2 * pairs..], y[2 * pairs..], "the rest passes through");
            }
        }
    }

    #[test]
    fn heads_with_pairs_of_their_own_turn_as_if_the_others_were_zero() {
        // Two heads of four pairs; the first keeps pairs 0 and 3, the second 1 and 2.
        let (heads, positions) = (2, 6);
        let (cos, sin) = tables(positions, 4);
        let kept = [[0, 3], [1, 2]];
        for layout in [Layout::Half, Layout::Pairs] {
            let at = |pair: usize, second: usize, of: usize| match layout {
                Layout::Half => pair + second * of,
                Layout::Pairs => 2 * pair + second,
            };
            let small = numbers(positions * heads * 4);
            let mut large = vec![0.0; positions * heads * 8];
            for row in 0..positions * heads {
                for (i, &pair) in kept[row % heads].iter().enumerate() {
                    (0..2).for_each(|second| large[row * 8 + at(pair, second, 4)] = small[row * 4 + at(i, second, 2)]);
                }
            }
            let all = Rope { layout, heads, head_dim: 8, positions, cos: &cos, sin: &sin, pairs: &[] };
            let some = Rope { head_dim: 4, pairs: &[0, 3, 1, 2], ..all };
            let (mut x, mut y) = (large.clone(), small.clone());
            rotate_in_place(&all, positions, 0, &mut x);
            rotate_in_place(&some, positions, 0, &mut y);
            for row in 0..positions * heads {
                for (i, &pair) in kept[row % heads].iter().enumerate() {
                    (0..2).for_each(|s| assert_eq!(x[row * 8 + at(pair, s, 4)], y[row * 4 + at(i, s, 2)]));
                }
            }
        }
    }

    #[test]
    fn in_place_and_out_of_place_agree() {
        let (cos, sin) = tables(300, 32);
        let rope =
            Rope { layout: Layout::Half, heads: 9, head_dim: 64, positions: 300, cos: &cos, sin: &sin, pairs: &[] };
        let mut x = numbers(300 * 576);
        let mut y = vec![0.0; x.len()];
        rotate(&rope, 300, 0, &x, &mut y);
        rotate_in_place(&rope, 300, 0, &mut x);
        assert_eq!(x, y);
        rotate_in_place(&rope, 0, 0, &mut []);
    }
}
