//! What is added to scores for how far a key is from its query.

/// Numbers that are added to the scores, one for each head and distance. Keys further away than `reach` get what those at
/// `reach` get.
#[derive(Debug, Clone, Copy)]
pub struct Bias<'a> {
    /// `[heads, 2 * reach + 1]`: from `reach` keys before the query to as many behind it.
    pub values: &'a [f32],
    /// The largest distance that has a number of its own.
    pub reach: usize,
}

impl Bias<'_> {
    /// What is added to the score of head `h` for the key at position `key` and the query at position `query`.
    pub fn at(&self, h: usize, query: usize, key: usize) -> f32 {
        let behind = (key + self.reach).saturating_sub(query).min(2 * self.reach);
        self.values[h * (2 * self.reach + 1) + behind]
    }

    /// Adds `factor` times it to `scores[j][i]`, rows of `width` queries, for `count` queries from position `query` and the
    /// keys from position `key`.
    pub(super) fn add(&self, h: usize, factor: f32, scores: &mut [f32], width: usize, [count, query, key]: [usize; 3]) {
        for (row, j) in scores.chunks_exact_mut(width).zip(key..) {
            for (x, i) in row[..count].iter_mut().zip(query..) {
                *x += factor * self.at(h, i, j);
            }
        }
    }
}
