//! What a model scores when it is cut: fewer layers, fewer dimensions of its vectors.

use serde::{Deserialize, Serialize};

use super::model::{On, number};

/// Scores of a model whose blocks and whose vectors are cut, every depth with every width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cuts {
    /// What was measured.
    pub name: String,
    /// What it was measured on.
    #[serde(flatten)]
    pub on: On,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// How dimensions were chosen, as the end of "the first dimensions".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub how: String,
    /// Numbers of blocks, rising.
    pub layers: Vec<usize>,
    /// Numbers of dimensions, rising.
    pub dims: Vec<usize>,
    /// One row for each number of blocks, with one score for each number of dimensions.
    #[serde(with = "rows")]
    pub values: Vec<Vec<f64>>,
}

impl Cuts {
    /// The places, `(row, column)`, that nothing else beats: whatever has no more blocks and no more dimensions scores less. From
    /// the smallest to the largest.
    pub fn frontier(&self) -> Vec<(usize, usize)> {
        let value = |(i, j): (usize, usize)| if self.higher_is_better { self.values[i][j] } else { -self.values[i][j] };
        let all = || (0..self.layers.len()).flat_map(|i| (0..self.dims.len()).map(move |j| (i, j)));
        let beaten = |&(i, j): &(usize, usize)| {
            let better =
                |(k, l): (usize, usize)| (k, l) != (i, j) && k <= i && l <= j && value((k, l)) >= value((i, j));
            all().any(better)
        };
        all().filter(|at| value(*at).is_finite() && !beaten(at)).collect()
    }

    /// The least and the most of the scores that are finite.
    pub fn range(&self) -> Option<[f64; 2]> {
        let finite = || self.values.iter().flatten().copied().filter(|value| value.is_finite());
        let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        (low <= high).then_some([low, high])
    }
}

/// Numbers in JSON, null where they are not finite.
mod rows {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct One(#[serde(with = "super::number")] f64);

    pub fn serialize<S: Serializer>(rows: &[Vec<f64>], serializer: S) -> Result<S::Ok, S::Error> {
        let rows: Vec<Vec<One>> = rows.iter().map(|row| row.iter().map(|&x| One(x)).collect()).collect();
        rows.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<f64>>, D::Error> {
        let rows = Vec::<Vec<One>>::deserialize(deserializer)?;
        Ok(rows.into_iter().map(|row| row.into_iter().map(|One(x)| x).collect()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts() -> Cuts {
        Cuts {
            name: "spearman".into(),
            on: On::Task("sts".into()),
            higher_is_better: true,
            how: String::new(),
            layers: vec![1, 2],
            dims: vec![8, 16, 32],
            values: vec![vec![0.5, 0.7, 0.7], vec![0.4, 0.8, f64::NAN]],
        }
    }

    #[test]
    fn nothing_on_the_frontier_is_beaten_by_what_is_smaller() {
        // More dimensions at the first depth gain nothing, more layers at the first width lose.
        assert_eq!(cuts().frontier(), [(0, 0), (0, 1), (1, 1)]);
        assert_eq!(cuts().range(), Some([0.4, 0.8]));
        assert_eq!(Cuts { higher_is_better: false, ..cuts() }.frontier(), [(0, 0), (1, 0)]);
    }

    #[test]
    fn a_score_that_is_no_number_survives_json() {
        let text = serde_json::to_string(&cuts()).unwrap();
        assert!(text.contains("[0.4,0.8,null]") && text.contains("\"task\":\"sts\""), "{text}");
        let back: Cuts = serde_json::from_str(&text).unwrap();
        assert!(back.values[1][2].is_nan() && back.values[0] == cuts().values[0]);
    }
}
