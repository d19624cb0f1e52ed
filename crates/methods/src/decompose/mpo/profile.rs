//! How much each matrix loses at each bond, and how a share of parameters is spread by that.

use std::collections::BTreeMap;
use std::sync::Arc;

use brevity_model::{Form, Linear, Site, Weight};

use super::layout::Layout;
use super::{Keep, Mpo, NAME, split};
use crate::cut::float_dtype;
use crate::decompose::factors::finite;
use crate::error::{Error, Result};
use crate::method::{LinearMethod, Survey};
use crate::seen::Seen;

/// Shares of a matrix that are tried.
const SHARES: [f64; 12] = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// What a matrix loses with a bond.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// The bond; 0 where the matrix stays as it is.
    pub bond: usize,
    /// Numbers that are held then.
    pub numbers: u64,
    /// The squared relative error.
    pub error: f64,
}

/// The survey of `allocation: sensitivity`: profiles of all matrices.
pub(super) struct Profiles {
    mpo: Mpo,
    sites: Vec<(Site, Vec<Point>)>,
    /// Numbers of all matrices as they are.
    all: u64,
}

impl Profiles {
    pub fn new(mpo: Mpo) -> Self {
        Profiles { mpo, sites: Vec::new(), all: 0 }
    }
}

impl Survey for Profiles {
    fn look(&mut self, site: &Site, layer: &Linear<Weight>, seen: &Seen) -> Result<()> {
        let form = Form::of(&layer.weight);
        float_dtype(NAME, site, &form)?;
        let shape @ [rows, columns] = layer.weight.shape();
        let w = finite(site, &layer.weight)?;
        self.all += (rows * columns) as u64;
        let fail = |source| Error::Kernel { method: NAME, site: site.clone(), leaf: String::new(), source };
        let held = form.parameters();
        let mut points = match shape.contains(&0) {
            true => Vec::new(),
            false => profile(&w, &Layout::new(shape, self.mpo.cores), held, &seen.fit.sum_sq).map_err(fail)?,
        };
        points.push(Point { bond: 0, numbers: held, error: 0.0 });
        self.sites.push((site.clone(), points));
        Ok(())
    }

    fn next_pass(&mut self) -> bool {
        false
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn LinearMethod>> {
        let Keep::Ratio(ratio) = self.mpo.keep else { unreachable!("only a share is spread") };
        let profiles: Vec<&[Point]> = self.sites.iter().map(|(_, points)| &points[..]).collect();
        let taken = spread(&profiles, ratio * self.all as f64);
        let bonds: BTreeMap<Site, usize> =
            self.sites.iter().zip(taken).map(|((site, points), at)| (site.clone(), points[at].bond)).collect();
        Ok(Box::new(Mpo { bonds: Some(Arc::new(bonds)), ..self.mpo }))
    }
}

/// The errors of a matrix by rising numbers, all below those held now. Errors of inputs count by their mean squares, if
/// those were seen. Smaller bonds are the leading parts of the largest: with two cores that is what they would be alone.
fn profile(w: &[f32], layout: &Layout, held: u64, squares: &[f64]) -> Result<Vec<Point>, brevity_kernels::Error> {
    let [rows, columns] = layout.shape;
    let mut bonds: Vec<usize> =
        SHARES.iter().map(|share| layout.bond_within(share * (rows * columns) as f64)).collect();
    bonds.dedup();
    bonds.retain(|&bond| layout.parameters(&layout.bonds(bond)) < held);
    let Some(&largest) = bonds.last() else { return Ok(Vec::new()) };
    let most = layout.bonds(largest);
    let cores = split::cores(w, layout, &most, 0)?;
    let telling = squares.len() == columns && squares.iter().any(|&x| x > 0.0);
    let weigh = |values: &mut dyn Iterator<Item = f32>| -> f64 {
        let square = |(at, x): (usize, f32)| f64::from(x).powi(2) * if telling { squares[at % columns] } else { 1.0 };
        values.enumerate().map(square).sum()
    };
    let whole = weigh(&mut w.iter().copied());
    let point = |bond: usize| {
        let bonds = layout.bonds(bond);
        let leading = (0..cores.len()).map(|k| {
            let inner = layout.rows[k] * layout.columns[k];
            let rows = cores[k].chunks(most[k + 1]).take(bonds[k] * inner);
            rows.flat_map(|row| &row[..bonds[k + 1]]).copied().collect()
        });
        let now = layout.matrix(&leading.collect::<Vec<Vec<f32>>>());
        let gone = weigh(&mut w.iter().zip(now).map(|(w, v)| w - v));
        let error = if whole > 0.0 { gone / whole } else { 0.0 };
        Point { bond, numbers: layout.parameters(&bonds), error }
    };
    Ok(bonds.into_iter().map(point).collect())
}

/// Which point each profile takes, so that all together hold no more than `numbers`: from the first of each, the step
/// with the greatest fall of the error for a number is taken again and again, of those that still fit.
fn spread(profiles: &[&[Point]], numbers: f64) -> Vec<usize> {
    let mut taken = vec![0; profiles.len()];
    let mut left = numbers - profiles.iter().map(|points| points[0].numbers as f64).sum::<f64>();
    loop {
        let steps = profiles.iter().enumerate().flat_map(|(n, points)| {
            let from = points[taken[n]];
            points.iter().enumerate().skip(taken[n] + 1).map(move |(to, point)| {
                let more = point.numbers.saturating_sub(from.numbers).max(1) as f64;
                (n, to, more, (from.error - point.error) / more)
            })
        });
        let best = steps.filter(|step| step.2 <= left && step.3 > 0.0).reduce(|a, b| if b.3 > a.3 { b } else { a });
        let Some((n, to, more, _)) = best else { return taken };
        taken[n] = to;
        left -= more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(all: &[(u64, f64)]) -> Vec<Point> {
        all.iter().enumerate().map(|(bond, &(numbers, error))| Point { bond, numbers, error }).collect()
    }

    #[test]
    fn numbers_go_where_the_error_falls_fastest() {
        // The first loses 0.5 for 10 numbers, then little; the second 0.2 for 10 each.
        let (steep, even) = (points(&[(10, 0.6), (20, 0.1), (30, 0.05)]), points(&[(10, 0.4), (20, 0.2), (30, 0.0)]));
        let profiles = [&steep[..], &even[..]];
        assert_eq!(spread(&profiles, 20.0), [0, 0]);
        assert_eq!(spread(&profiles, 30.0), [1, 0]);
        assert_eq!(spread(&profiles, 50.0), [1, 2]);
        assert_eq!(spread(&profiles, 1e9), [2, 2]);
        assert_eq!(spread(&profiles, 0.0), [0, 0], "the least is the least");
        // A step that pays only with the next one behind it.
        let late = points(&[(10, 0.9), (20, 0.9), (30, 0.0)]);
        assert_eq!(spread(&[&late, &steep], 60.0), [2, 2]);
    }
}
