//! Ranks of many matrices within one budget, with the least sum of relative errors.

use super::Size;

/// What a matrix costs, and the share of its error that each rank leaves.
pub(super) struct Curve {
    size: Size,
    /// With `r` directions kept, `left[r]`; one for none, falling.
    left: Vec<f64>,
}

/// What may be done to a matrix: a rank, or nothing; with its cost and the error that is left.
#[derive(Clone, Copy)]
struct Choice {
    rank: Option<usize>,
    cost: u64,
    left: f64,
}

impl Curve {
    /// From the squared error that each direction bears, greatest first.
    pub fn new(size: Size, errors: &[f64]) -> Self {
        // Added from the small end, so that what is left at high ranks is not lost in the sum.
        let mut left: Vec<f64> = errors
            .iter()
            .rev()
            .scan(0.0, |sum, &error| {
                *sum += error.max(0.0);
                Some(*sum)
            })
            .collect();
        left.reverse();
        left.push(0.0);
        let whole = left[0];
        left.iter_mut().for_each(|left| *left = if whole > 0.0 { *left / whole } else { 0.0 });
        Curve { size, left }
    }

    fn left(&self, rank: usize) -> f64 {
        self.left.get(rank).copied().unwrap_or(0.0)
    }

    /// One rank, all multiples that save something, and the matrix as it is; by rising cost.
    fn choices(&self, multiple: usize) -> Vec<Choice> {
        let ranks = std::iter::once(1).chain((1..).map(|n| n * multiple).skip_while(|&rank| rank < 2));
        let ranks = ranks.take_while(|&rank| rank <= self.size.most());
        let choice = |rank| Choice { rank: Some(rank), cost: self.size.cost(rank), left: self.left(rank) };
        ranks.map(choice).chain([Choice { rank: None, cost: self.size.held, left: 0.0 }]).collect()
    }
}

/// The rank of each matrix, or none where it stays as it is; together they cost `budget` at most, if one rank each does.
pub(super) fn fill(curves: &[Curve], budget: u64, multiple: usize) -> Vec<Option<usize>> {
    let choices: Vec<Vec<Choice>> = curves.iter().map(|curve| curve.choices(multiple)).collect();
    let mut at = vec![0; curves.len()];
    let mut free = budget.saturating_sub(choices.iter().map(|choices| choices[0].cost).sum());
    let mut best: Vec<Option<Move>> = choices.iter().map(|choices| next(choices, 0, free)).collect();
    loop {
        for (n, best) in best.iter_mut().enumerate() {
            if best.is_some_and(|best| best.cost > free) {
                *best = next(&choices[n], at[n], free);
            }
        }
        // Of equals the first.
        let moves = best.iter().enumerate().filter_map(|(n, best)| Some((n, (*best)?)));
        let Some((n, taken)) = moves.reduce(|a, b| if b.1.gain > a.1.gain { b } else { a }) else { break };
        at[n] = taken.to;
        free -= taken.cost;
        best[n] = next(&choices[n], at[n], free);
    }
    choices.iter().zip(at).map(|(choices, at)| choices[at].rank).collect()
}

/// From one choice for a matrix to a later one.
#[derive(Clone, Copy)]
struct Move {
    to: usize,
    cost: u64,
    /// By how much it lowers the error, for each number.
    gain: f64,
}

/// The move that gains most for its cost among those that cost no more than is free; none if nothing is gained.
fn next(choices: &[Choice], at: usize, free: u64) -> Option<Move> {
    let now = choices[at];
    let moves = (at + 1..choices.len()).map(|to| {
        let cost = choices[to].cost - now.cost;
        Move { to, cost, gain: (now.left - choices[to].left) / cost.max(1) as f64 }
    });
    let payable = moves.filter(|step| step.cost <= free && step.gain > 0.0);
    payable.reduce(|a, b| if b.gain > a.gain { b } else { a })
}

#[cfg(test)]
mod tests;
