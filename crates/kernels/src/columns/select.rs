//! Choosing which weights of a block go.

use super::block::Block;
use super::tile::Tile;
use rayon::prelude::*;

/// How many more weights go in each block.
pub(super) struct Shares {
    /// To be removed in all, and weights that are there.
    remove: u128,
    present: u128,
    /// Removed and passed so far.
    removed: u128,
    passed: u128,
    /// Weights that are there in each block.
    blocks: std::vec::IntoIter<usize>,
}

impl Shares {
    /// For `count` removed entries in the end, those already gone included.
    pub fn new(count: usize, blocks: &[Block], tiles: &[Tile]) -> Self {
        let present: Vec<usize> =
            blocks.iter().map(|block| tiles.iter().map(|tile| tile.present(block)).sum()).collect();
        let all: usize = tiles.iter().map(|tile| tile.rows * tile.cols).sum();
        let left: usize = present.iter().sum();
        Shares {
            remove: count.saturating_sub(all - left) as u128,
            present: left as u128,
            removed: 0,
            passed: 0,
            blocks: present.into_iter(),
        }
    }

    pub fn next(&mut self, _: &Block) -> usize {
        self.passed += self.blocks.next().expect("as many shares as blocks") as u128;
        let due = (self.remove * self.passed).checked_div(self.present).unwrap_or(0);
        let now = due - self.removed;
        self.removed = due;
        now as usize
    }
}

/// Removes the `count` weights of a block with the smallest `w² / U_jj²`; of equal ones the first, row by row.
pub(super) fn block(tiles: &mut [Tile], block: &Block, count: usize) {
    if count == 0 {
        return;
    }
    // `|w / U_jj|` orders as its square does, and the bits of a float that is not negative as the float.
    let scores: Vec<Vec<u32>> = tiles.par_iter().map(|tile| tile.scores(block)).collect();
    let mut scores = scores.concat();
    let (below, &mut cut, _) = scores.select_nth_unstable(count - 1);
    let mut ties = count - below.iter().filter(|&&score| score < cut).count();
    for tile in tiles {
        tile.remove(block, cut, &mut ties);
    }
}

/// Which `removed` of a run of weights go, given those that are kept; `w` are the weights times `1 / U_jj`.
pub(super) fn run(scores: &[f32], keep: &mut [bool], removed: usize, order: &mut Vec<usize>) {
    order.clear();
    order.extend(0..scores.len());
    // What is gone already comes first and counts.
    order.sort_by(|&a, &b| keep[a].cmp(&keep[b]).then(scores[a].abs().total_cmp(&scores[b].abs())).then(a.cmp(&b)));
    order[..removed].iter().for_each(|&n| keep[n] = false);
}
