//! Sequences laid out as a tree, so that what they share at the beginning is run once.

use std::ops::Range;

/// Token sequences as rows of one input: beginnings that several share are there once.
///
/// Rows are worked on together by everything that looks at one token at a time; attention goes segment by segment, each
/// reading the keys on its way to the root. What a row returns depends on what else is in the bundle by rounding alone: few rows
/// go through other kernels than many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    pub(crate) ids: Vec<u32>,
    /// The position of each row in its sequences.
    pub(crate) positions: Vec<usize>,
    /// Parents stand before their children.
    pub(crate) segments: Vec<Segment>,
    /// The segment in which each sequence ends.
    ends: Vec<usize>,
}

/// A run of rows that all its sequences have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub rows: Range<usize>,
    pub parent: Option<usize>,
}

impl Bundle {
    /// Lays sequences out. Every one must have a token.
    ///
    /// # Cost
    /// `O(n log n)` comparisons of sequences, for sorting.
    pub fn new(sequences: &[&[u32]]) -> Bundle {
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&n| sequences[n]);
        let mut bundle = Bundle { ends: vec![usize::MAX; sequences.len()], ..Bundle::default() };
        // Sequences in order that agree in their first `depth` tokens, and the segment that holds the last of these.
        let mut open: Vec<(&[usize], usize, Option<usize>)> = vec![(&order, 0, None)];
        while let Some((some, depth, parent)) = open.pop() {
            let (Some(&first), Some(&last)) = (some.first(), some.last()) else { continue };
            if sequences[first].len() == depth {
                // All that end here stand first, and their parent is the last segment made for them.
                let ended = some.iter().take_while(|&&n| sequences[n].len() == depth).count();
                some[..ended].iter().for_each(|&n| bundle.ends[n] = parent.expect("a sequence has a token"));
                open.push((&some[ended..], depth, parent));
                continue;
            }
            let next = sequences[first][depth];
            let same = some.partition_point(|&n| sequences[n][depth] == next);
            if same < some.len() {
                open.push((&some[same..], depth, parent));
                open.push((&some[..same], depth, parent));
                continue;
            }
            let (a, b) = (sequences[first], sequences[last]);
            let common = a.iter().zip(b).take_while(|(x, y)| x == y).count();
            let start = bundle.ids.len();
            bundle.ids.extend(&a[depth..common]);
            bundle.positions.extend(depth..common);
            bundle.segments.push(Segment { rows: start..bundle.ids.len(), parent });
            open.push((some, common, Some(bundle.segments.len() - 1)));
        }
        bundle
    }

    /// Sequences beside each other that share nothing, each behind so many tokens that a cache holds.
    pub(crate) fn beside(sequences: &[&[u32]], behind: &[usize]) -> Bundle {
        let mut bundle = Bundle::default();
        for (n, (ids, first)) in sequences.iter().zip(behind).enumerate() {
            let start = bundle.ids.len();
            bundle.ids.extend(*ids);
            bundle.positions.extend(*first..first + ids.len());
            bundle.segments.push(Segment { rows: start..bundle.ids.len(), parent: None });
            bundle.ends.push(n);
        }
        bundle
    }

    /// How long the sequences are, if they share nothing.
    pub(crate) fn lengths(&self) -> Option<Vec<usize>> {
        let alone = |segment: &Segment| segment.parent.is_none().then_some(segment.rows.len());
        self.segments.iter().map(alone).collect()
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no sequences.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// How many positions the longest sequence has.
    pub(crate) fn longest(&self) -> usize {
        self.positions.iter().max().map_or(0, |last| last + 1)
    }

    /// How many positions the shortest sequence has.
    pub(crate) fn shortest(&self) -> usize {
        let last = |&end: &usize| self.positions[self.segments[end].rows.end - 1] + 1;
        self.ends.iter().map(last).min().unwrap_or(0)
    }

    /// The segments from the root to one, both included.
    pub(crate) fn path(&self, segment: usize) -> Vec<usize> {
        let mut path: Vec<usize> = std::iter::successors(Some(segment), |&n| self.segments[n].parent).collect();
        path.reverse();
        path
    }

    /// The rows of a sequence, in its order.
    pub fn rows(&self, sequence: usize) -> impl Iterator<Item = usize> {
        self.path(self.ends[sequence]).into_iter().flat_map(|n| self.segments[n].rows.clone())
    }
}

/// Cuts sequences, in the order of their tokens, into runs whose bundles have at most `most` rows each; a longer sequence
/// is a run of its own. Returns numbers of sequences.
pub(crate) fn runs(sequences: &[&[u32]], most: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&n| sequences[n]);
    let mut runs: Vec<Vec<usize>> = Vec::new();
    let mut held = 0;
    for n in order {
        let own = match runs.last().and_then(|run| run.last()) {
            Some(&before) => {
                let shared = sequences[before].iter().zip(sequences[n]).take_while(|(x, y)| x == y).count();
                sequences[n].len() - shared
            }
            None => usize::MAX,
        };
        match runs.last_mut() {
            Some(run) if held + own <= most => {
                run.push(n);
                held += own;
            }
            _ => {
                runs.push(vec![n]);
                held = sequences[n].len();
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sequences: &[&[u32]], rows: usize) {
        let bundle = Bundle::new(sequences);
        assert_eq!(bundle.len(), rows, "{bundle:?}");
        for (n, sequence) in sequences.iter().enumerate() {
            let found: Vec<usize> = bundle.rows(n).collect();
            assert_eq!(found.iter().map(|&row| bundle.ids[row]).collect::<Vec<_>>(), *sequence, "{bundle:?}");
            let positions: Vec<usize> = found.iter().map(|&row| bundle.positions[row]).collect();
            assert_eq!(positions, (0..sequence.len()).collect::<Vec<_>>());
        }
        assert!(bundle.segments.iter().enumerate().all(|(n, s)| s.parent.is_none_or(|parent| parent < n)));
    }

    #[test]
    fn shared_beginnings_are_there_once() {
        check(&[&[1, 2, 3], &[1, 2, 4], &[5]], 5);
        check(&[&[1, 2, 3], &[1, 2], &[1], &[1, 2, 3]], 3);
        check(&[&[7, 1], &[7, 2], &[7, 1, 9], &[8, 7]], 6);
        check(&[&[1]], 1);
        check(&[], 0);
    }

    #[test]
    fn many_sequences_that_begin_each_other_do_not_overflow_the_stack() {
        let long: Vec<u32> = (0..20_000).collect();
        let sequences: Vec<&[u32]> = (1..=200).map(|n| &long[..n * 100]).collect();
        check(&sequences, 20_000);
    }

    #[test]
    fn the_ends_of_sequences_are_their_lengths() {
        let bundle = Bundle::new(&[&[1, 2, 3], &[1, 2], &[4]]);
        assert_eq!((bundle.shortest(), bundle.longest()), (1, 3));
        let beside = Bundle::beside(&[&[5], &[6, 7]], &[3, 0]);
        assert_eq!((beside.positions.clone(), beside.longest()), (vec![3, 0, 1], 4));
        assert_eq!(beside.rows(1).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((bundle.lengths(), beside.lengths()), (None, Some(vec![1, 2])));
    }

    #[test]
    fn runs_keep_to_their_rows_and_hold_every_sequence_once() {
        let sequences: Vec<&[u32]> = vec![&[1, 2, 3], &[9; 10], &[1, 2, 4], &[1, 2, 5], &[3]];
        let found = runs(&sequences, 4);
        assert_eq!(found, [vec![0, 2], vec![3, 4], vec![1]]);
        assert_eq!(runs(&sequences, 100).len(), 1);
        assert!(runs(&[], 4).is_empty());
    }
}
