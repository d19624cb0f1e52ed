//! A tile of rows on its way through the columns.

use super::block::Block;
use super::{Columns, Fit, Grid, Job, LANES, Prune, select};
use crate::cpu::dispatch;
use crate::grid::{Group, code_of, fit_group, steps};
use crate::math::mul_add;

/// One column of so many rows.
type Lanes<T> = [T; LANES];

/// Some rows, column by column in the order of the factor. Rows are filled up with zeros to a multiple of the lanes.
pub(super) struct Tile {
    pub rows: usize,
    pub cols: usize,
    /// Rows with those filled up.
    padded: usize,
    /// `[cols, padded]`.
    w: Vec<f32>,
    /// Errors of a block, `[block, padded]`.
    errors: Vec<f32>,
    /// `[padded / LANES][cols]` columns of lanes; empty if there is nothing to tell.
    codes: Vec<Lanes<u8>>,
    keep: Vec<Lanes<bool>>,
    /// `[padded / LANES][groups]`.
    scales: Vec<Lanes<f32>>,
    zeros: Vec<Lanes<f32>>,
    groups: usize,
    loss: f64,
}

impl Tile {
    pub fn new(columns: &Columns<'_>, job: &Job<'_>, groups: usize, keep: Option<&[bool]>) -> Self {
        let order = columns.factor.order();
        let cols = order.len();
        let rows = job.w.len() / cols;
        let padded = rows.next_multiple_of(LANES);
        let runs = padded / LANES;
        let mut w = vec![0.0; cols * padded];
        transpose(job.w, rows, order, |at, row, x| w[at * padded + row] = x);
        let mut flags = vec![[true; LANES]; if keep.is_some() || columns.prune.is_some() { runs * cols } else { 0 }];
        if let Some(keep) = keep {
            let own = &keep[job.first * cols..][..rows * cols];
            transpose(own, rows, order, |at, row, k| flags[row / LANES * cols + at][row % LANES] = k);
        }
        let mut tile = Tile {
            rows,
            cols,
            padded,
            w,
            errors: vec![0.0; columns.block.min(cols) * padded],
            codes: vec![[0; LANES]; columns.grid.map_or(0, |_| runs * cols)],
            keep: flags,
            scales: vec![[1.0; LANES]; runs * groups],
            zeros: vec![[0.0; LANES]; runs * groups],
            groups,
            loss: 0.0,
        };
        if let Some(Grid { spec, fit: Fit::Static(fitted) }) = columns.grid {
            for row in 0..rows {
                for group in 0..groups {
                    let from = if spec.group == Group::Tensor { 0 } else { (job.first + row) * groups + group };
                    let at = row / LANES * groups + group;
                    tile.scales[at][row % LANES] = fitted.scales[from];
                    tile.zeros[at][row % LANES] = f32::from(fitted.zero(spec, from));
                }
            }
        }
        tile
    }

    /// Works through one block, and passes its errors on to the columns after it.
    pub fn step(&mut self, columns: &Columns<'_>, block: &Block) {
        for run in 0..self.padded / LANES {
            self.run(columns, block, run);
        }
        self.trail(columns, block);
    }

    /// One block of the rows of one run of lanes.
    fn run(&mut self, columns: &Columns<'_>, block: &Block, run: usize) {
        let (width, cols, padded) = (block.width(), self.cols, self.padded);
        let first = run * LANES;
        let mut w: Vec<Lanes<f32>> = (block.at..block.end)
            .map(|at| self.w[at * padded + first..][..LANES].try_into().expect("a column of lanes"))
            .collect();
        let mut errors = vec![[0.0; LANES]; width];
        let (grid_run, sign) = columns.grid.map_or((cols, false), |grid| (grid.run(cols), grid.is_sign()));
        let groups: Vec<usize> = match columns.grid {
            Some(_) => columns.factor.order()[block.at..block.end].iter().map(|&i| i as usize / grid_run).collect(),
            None => Vec::new(),
        };
        let mut from = 0;
        while from < width {
            // Up to the next column before which something has to be looked at.
            let at = block.at + from;
            let mut to = width;
            if columns.is_dynamic() {
                if at.is_multiple_of(grid_run) {
                    self.fit(columns, at, run, block, &w);
                }
                to = to.min((at / grid_run + 1) * grid_run - block.at);
            }
            if let Some(Prune::Pattern { of, .. }) = columns.prune {
                if at.is_multiple_of(of) && at + of <= cols {
                    self.choose(columns, at, run, block, &w);
                }
                to = to.min((at / of + 1) * of - block.at);
            }
            let lanes = Segment {
                from,
                to,
                width,
                u: &block.u,
                inverse: &block.inverse,
                groups: &groups,
                scales: &self.scales[run * self.groups..][..self.groups],
                zeros: &self.zeros[run * self.groups..][..self.groups],
                max: columns.grid.map_or(0.0, |grid| grid.spec.max_code() as f32),
                sign,
                keep: if self.keep.is_empty() { &[] } else { &self.keep[run * cols + block.at..][..width] },
            };
            let codes = match columns.grid {
                Some(_) => &mut self.codes[run * cols + block.at..][..width],
                None => &mut [],
            };
            segment(&lanes, &mut w, &mut errors, codes);
            from = to;
        }
        let live = LANES.min(self.rows - first);
        let mut squares = [0.0f32; LANES];
        for (j, (w, e)) in w.iter().zip(&errors).enumerate() {
            self.w[(block.at + j) * padded + first..][..LANES].copy_from_slice(w);
            self.errors[j * padded + first..][..LANES].copy_from_slice(e);
            squares.iter_mut().zip(e).for_each(|(sum, e)| *sum += e * e);
        }
        self.loss += squares[..live].iter().map(|&x| f64::from(x)).sum::<f64>();
    }

    /// Fits the group that begins with column `at` to what its weights are now: those of the block in `w`.
    fn fit(&mut self, columns: &Columns<'_>, at: usize, run: usize, block: &Block, w: &[Lanes<f32>]) {
        let grid = columns.grid.expect("what is fitted on the way is a grid");
        let size = grid.run(self.cols);
        let end = (at + size).min(self.cols);
        let (mut values, mut flags) = (vec![0.0; end - at], vec![true; end - at]);
        for lane in 0..LANES.min(self.rows - run * LANES) {
            for (k, value) in (at..end).zip(&mut values) {
                *value =
                    if k < block.end { w[k - block.at][lane] } else { self.w[k * self.padded + run * LANES + lane] };
            }
            if !self.keep.is_empty() {
                (at..end).zip(&mut flags).for_each(|(k, flag)| *flag = self.keep[run * self.cols + k][lane]);
            }
            let (scale, zero) = if grid.is_sign() {
                (mean_magnitude(&grid, &values, &flags), grid.spec.middle())
            } else {
                fit_group(grid.spec, &values, (!self.keep.is_empty()).then_some(&flags[..]))
            };
            self.scales[run * self.groups + at / size][lane] = scale;
            self.zeros[run * self.groups + at / size][lane] = f32::from(zero);
        }
    }

    /// Chooses which columns of the run from `at` on go in each row.
    fn choose(&mut self, columns: &Columns<'_>, at: usize, run: usize, block: &Block, w: &[Lanes<f32>]) {
        let Some(Prune::Pattern { removed, of }) = columns.prune else { return };
        let (mut scores, mut keep, mut order) = (vec![0.0; of], vec![true; of], Vec::with_capacity(of));
        let u = columns.factor.columns();
        for lane in 0..LANES.min(self.rows - run * LANES) {
            for k in at..at + of {
                let (now, inverse) = match w.get(k - block.at) {
                    Some(w) => (w[lane], block.inverse[k - block.at]),
                    None => (self.w[k * self.padded + run * LANES + lane], 1.0 / u[k * self.cols + k]),
                };
                scores[k - at] = now * inverse;
                keep[k - at] = self.keep[run * self.cols + k][lane];
            }
            select::run(&scores, &mut keep, removed, &mut order);
            (at..at + of).zip(&keep).for_each(|(k, &keep)| self.keep[run * self.cols + k][lane] = keep);
        }
    }

    /// `w -= Eᵀ U` for all columns after a block.
    fn trail(&mut self, columns: &Columns<'_>, block: &Block) {
        let (n, padded, width) = (self.cols, self.padded, block.width());
        let after = n - block.end;
        if after == 0 || columns.factor.is_identity() {
            return;
        }
        let u = &columns.factor.columns()[block.end * n + block.at..];
        let w = &mut self.w[block.end * padded..];
        assert!(w.len() == after * padded && self.errors.len() >= width * padded);
        assert!(u.len() >= (after - 1) * n + width, "the last column of the block's rows of U is inside");
        // SAFETY: `w` is `[after, padded]`, the errors `[width, padded]` and `u` `after` columns of `width` numbers,
        // `n` apart, by the assertions above; `w` is borrowed mutably, so it overlaps neither operand.
        unsafe {
            gemm::gemm(
                padded,
                after,
                width,
                w.as_mut_ptr(),
                padded as isize,
                1,
                true,
                self.errors.as_ptr(),
                padded as isize,
                1,
                u.as_ptr(),
                n as isize,
                1,
                1.0f32,
                -1.0f32,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }

    /// Weights of a block that are there.
    pub fn present(&self, block: &Block) -> usize {
        (0..self.rows).map(|row| (block.at..block.end).filter(|&at| self.keeps(row, at)).count()).sum()
    }

    fn keeps(&self, row: usize, at: usize) -> bool {
        self.keep[row / LANES * self.cols + at][row % LANES]
    }

    fn score(&self, block: &Block, row: usize, at: usize) -> u32 {
        (self.w[at * self.padded + row] * block.inverse[at - block.at]).abs().to_bits()
    }

    /// The scores of the weights of a block that are there, in any order.
    pub fn scores(&self, block: &Block) -> Vec<u32> {
        let mut scores = Vec::with_capacity(self.rows * block.width());
        for at in block.at..block.end {
            scores.extend((0..self.rows).filter(|&row| self.keeps(row, at)).map(|row| self.score(block, row, at)));
        }
        scores
    }

    /// Removes what scores less than `cut`, and the first `ties` that score exactly that.
    pub fn remove(&mut self, block: &Block, cut: u32, ties: &mut usize) {
        for row in 0..self.rows {
            for at in block.at..block.end {
                if !self.keeps(row, at) {
                    continue;
                }
                let score = self.score(block, row, at);
                let goes = score < cut || (score == cut && *ties > 0);
                if goes {
                    *ties -= usize::from(score == cut);
                    self.keep[row / LANES * self.cols + at][row % LANES] = false;
                }
            }
        }
    }

    /// Writes the results where they belong.
    pub fn finish(self, columns: &Columns<'_>, job: Job<'_>) -> f64 {
        let order = columns.factor.order();
        let (rows, cols, padded) = (self.rows, self.cols, self.padded);
        gather(job.w, rows, order, |at, row| self.w[at * padded + row]);
        if let Some(codes) = job.codes {
            gather(codes, rows, order, |at, row| self.codes[row / LANES * cols + at][row % LANES]);
        }
        if let Some(kept) = job.kept {
            gather(kept, rows, order, |at, row| self.keep[row / LANES * cols + at][row % LANES]);
        }
        if columns.is_dynamic() {
            for row in 0..rows {
                for group in 0..self.groups {
                    let from = row / LANES * self.groups + group;
                    job.scales[row * self.groups + group] = self.scales[from][row % LANES];
                    job.zeros[row * self.groups + group] = self.zeros[from][row % LANES] as u8;
                }
            }
        }
        self.loss
    }
}

/// The scale of a grid of `±scale`, which is best by least squares.
pub(super) fn mean_magnitude(grid: &Grid<'_>, values: &[f32], keep: &[bool]) -> f32 {
    let kept = values.iter().zip(keep).filter(|(_, keep)| **keep);
    let (count, sum) = kept.fold((0u64, 0.0f64), |(count, sum), (w, _)| (count + 1, sum + f64::from(w.abs())));
    if sum == 0.0 { 1.0 } else { grid.spec.scale.round((sum / count as f64) as f32) }
}

/// Calls `put(place, row, x)` for every entry of `[rows, cols]`, a few rows and columns at a time.
fn transpose<T: Copy>(from: &[T], rows: usize, order: &[u32], mut put: impl FnMut(usize, usize, T)) {
    for first in (0..rows).step_by(16) {
        for (at, &input) in order.iter().enumerate() {
            for row in first..(first + 16).min(rows) {
                put(at, row, from[row * order.len() + input as usize]);
            }
        }
    }
}

/// The opposite of [`transpose`].
fn gather<T: Copy>(into: &mut [T], rows: usize, order: &[u32], get: impl Fn(usize, usize) -> T) {
    for first in (0..rows).step_by(16) {
        for (at, &input) in order.iter().enumerate() {
            for row in first..(first + 16).min(rows) {
                into[row * order.len() + input as usize] = get(at, row);
            }
        }
    }
}

/// Some columns of a block, and all that is known of them.
struct Segment<'a> {
    from: usize,
    to: usize,
    /// Columns of the block.
    width: usize,
    u: &'a [f32],
    inverse: &'a [f32],
    /// The group of each column; empty without a grid.
    groups: &'a [usize],
    scales: &'a [Lanes<f32>],
    zeros: &'a [Lanes<f32>],
    /// The largest code.
    max: f32,
    sign: bool,
    /// Empty if everything is kept.
    keep: &'a [Lanes<bool>],
}

/// The column loop: `w` of the segment become what they are to be, `w` after it in the block hear of the errors.
#[inline(always)]
fn segment_body<const FMA: bool>(
    s: &Segment<'_>,
    w: &mut [Lanes<f32>],
    errors: &mut [Lanes<f32>],
    codes: &mut [Lanes<u8>],
) {
    for j in s.from..s.to {
        let now = w[j];
        let mut q = now;
        if let Some(&group) = s.groups.get(j) {
            let (scale, zero, code) = (&s.scales[group], &s.zeros[group], &mut codes[j]);
            if s.sign {
                for i in 0..LANES {
                    q[i] = if now[i] >= 0.0 { scale[i] } else { -scale[i] };
                    code[i] = u8::from(now[i] >= 0.0);
                }
            } else {
                for i in 0..LANES {
                    let steps = steps(now[i], scale[i], zero[i], s.max);
                    q[i] = scale[i] * steps;
                    code[i] = code_of(steps, zero[i]);
                }
            }
            if let Some(keep) = s.keep.get(j) {
                for i in 0..LANES {
                    code[i] = if keep[i] { code[i] } else { zero[i] as u8 };
                }
            }
        }
        if let Some(keep) = s.keep.get(j) {
            for i in 0..LANES {
                q[i] = if keep[i] { q[i] } else { 0.0 };
            }
        }
        let mut e = [0.0; LANES];
        for i in 0..LANES {
            e[i] = (now[i] - q[i]) * s.inverse[j];
        }
        w[j] = q;
        errors[j] = e;
        let u = &s.u[j * s.width..][..s.width];
        for (w, &u) in w[j + 1..].iter_mut().zip(&u[j + 1..]) {
            for i in 0..LANES {
                w[i] = mul_add::<FMA>(-e[i], u, w[i]);
            }
        }
    }
}

dispatch! {
    fn segment(
        s: &Segment<'_>,
        w: &mut [Lanes<f32>],
        errors: &mut [Lanes<f32>],
        codes: &mut [Lanes<u8>],
    ) = segment_body
}
