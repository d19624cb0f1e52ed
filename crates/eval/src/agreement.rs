//! `agreement`: how often two models find the same token most likely.

use brevity_kernels::softmax::argmax;

use crate::error::{Error, Result};
use crate::measure::{Entry, Make, PairMeasure, Rows};
use crate::score::Score;
use crate::stats::Samples;
use crate::windows::Windows;

pub(crate) const ENTRY: Entry = Entry {
    name: "agreement",
    about: "How often both models find the same next token most likely",
    make: Make::Pair(|| Box::<Agreement>::default()),
};

/// The share of positions at which the most likely tokens agree, `top1_agreement`; of equals the lowest id counts.
#[derive(Debug, Default)]
pub struct Agreement {
    same: Samples,
}

impl Agreement {
    /// Adds the most likely tokens of some rows of a window.
    pub(crate) fn add(&mut self, window: usize, before: &[u32], after: &[u32]) {
        let same: Vec<f64> = before.iter().zip(after).map(|(a, b)| f64::from(u8::from(a == b))).collect();
        self.same.extend(window, &same);
    }

    pub(crate) fn scores(&self, windows: &Windows) -> Result<Vec<Score>> {
        let same = self.same.mean().ok_or(Error::Nothing)?;
        Ok(vec![Score::new("top1_agreement", windows, same).within(self.same.interval())])
    }
}

impl PairMeasure for Agreement {
    fn observe(&mut self, before: &Rows<'_>, after: &Rows<'_>) -> Result<()> {
        self.add(before.window(), &best(before), &best(after));
        Ok(())
    }

    fn report(&mut self, windows: &Windows) -> Result<Vec<Score>> {
        self.scores(windows)
    }
}

/// The most likely token of each row.
pub(crate) fn best(rows: &Rows<'_>) -> Vec<u32> {
    let mut best = vec![0; rows.targets().len()];
    argmax(rows.logits(), rows.vocabulary(), &mut best);
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_the_share_of_equal_choices() {
        let windows = Windows::cut("t", &[0; 6], 3, None).unwrap();
        let mut measure = Agreement::default();
        let mut observe = |window, before: [f32; 4], after: [f32; 4]| {
            let before = Rows::new(window, 0, 2, &[0, 0], &before).unwrap();
            let after = Rows::new(window, 0, 2, &[0, 0], &after).unwrap();
            measure.observe(&before, &after).unwrap();
        };
        observe(0, [1.0, 0.0, 0.0, 1.0], [5.0, 4.0, 0.0, 9.0]); // both agree
        observe(1, [1.0, 0.0, 0.0, 1.0], [5.0, 4.0, 2.0, 1.0]); // one of two
        let scores = measure.report(&windows).unwrap();
        assert_eq!((scores[0].name.as_str(), scores[0].value), ("top1_agreement", 0.75));
        assert!((scores[0].error.unwrap() - 0.25).abs() < 1e-12);
    }
}
