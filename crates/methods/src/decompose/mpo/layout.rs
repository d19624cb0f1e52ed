//! How a matrix is cut into digits, and what bonds cost.

use brevity_model::{Dtype, Floats, Form, Train, Weight};

/// The digits of the rows and columns of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Values of each digit of a row.
    pub rows: Vec<usize>,
    /// Values of each digit of a column.
    pub columns: Vec<usize>,
}

impl Layout {
    /// Even digits, the largest first for rows and last for columns: cores then are of about one size, and bonds may
    /// become as large as they can.
    pub fn new(shape: [usize; 2], cores: usize) -> Self {
        let rows = digits(shape[0], cores);
        let mut columns = digits(shape[1], cores);
        columns.reverse();
        Layout { shape, rows, columns }
    }

    /// `[rows, columns]` with padding.
    pub fn padded(&self) -> [usize; 2] {
        [self.rows.iter().product(), self.columns.iter().product()]
    }

    /// `B_0 … B_K` for a bond, none more than what is on either side of it.
    pub fn bonds(&self, bond: usize) -> Vec<usize> {
        let count = self.rows.len();
        let of = |k: usize| (self.rows[k] * self.columns[k]) as u128;
        let most = |k: usize| {
            let [before, behind] = [0..k, k..count].map(|cores| cores.map(of).product::<u128>());
            before.min(behind).min(bond as u128) as usize
        };
        (0..=count).map(|k| if k == 0 || k == count { 1 } else { most(k) }).collect()
    }

    /// Numbers of all cores.
    pub fn parameters(&self, bonds: &[usize]) -> u64 {
        self.shapes(bonds).iter().map(|[a, b]| (a * b) as u64).sum()
    }

    /// The largest bond with which no more numbers are held, and at least 1.
    pub fn bond_within(&self, numbers: f64) -> usize {
        let within = |bond: usize| self.parameters(&self.bonds(bond)) as f64 <= numbers;
        let [rows, columns] = self.padded();
        // No bond can use more than the square root of the whole.
        let (mut low, mut high) = (1, (rows * columns).isqrt() + 1);
        while low < high {
            let middle = (low + high).div_ceil(2);
            if within(middle) { low = middle } else { high = middle - 1 }
        }
        low
    }

    /// The shapes of the cores.
    pub fn shapes(&self, bonds: &[usize]) -> Vec<[usize; 2]> {
        let core = |k: usize| [bonds[k] * self.rows[k], self.columns[k] * bonds[k + 1]];
        (0..self.rows.len()).map(core).collect()
    }

    /// The shapes of what is decomposed for all cores but the last.
    pub fn cuts(&self, bonds: &[usize]) -> Vec<[u64; 2]> {
        let [mut rows, mut columns] = self.padded();
        let digits = self.rows.iter().zip(&self.columns).zip(bonds).take(self.rows.len() - 1);
        let cut = |((i, j), bond): ((&usize, &usize), &usize)| {
            (rows, columns) = (rows / i, columns / j);
            [(bond * i * j) as u64, (rows * columns) as u64]
        };
        digits.map(cut).collect()
    }

    /// The bonds of cores by their sizes.
    pub fn bonds_of(&self, cores: &[Vec<f32>]) -> Vec<usize> {
        let mut bonds = vec![1];
        for (k, core) in cores.iter().enumerate() {
            bonds.push(core.len() / (bonds[k] * self.rows[k] * self.columns[k]));
        }
        bonds
    }

    /// The train of these cores in a float type.
    pub fn train(&self, bonds: &[usize], cores: Vec<Vec<f32>>, dtype: Dtype) -> Weight {
        let cores = self.shapes(bonds).into_iter().zip(cores);
        let cores = cores.map(|(shape, core)| Weight::float(shape, Floats::from_f32(core, dtype))).collect();
        let (rows, columns) = (self.rows.clone(), self.columns.clone());
        Weight::train(Train { shape: self.shape, rows, columns, cores })
    }

    /// Its form.
    pub fn form(&self, bonds: &[usize], dtype: Dtype) -> Form {
        let cores = self.shapes(bonds).into_iter().map(|shape| Form::float(shape, dtype)).collect();
        Form::train(Train { shape: self.shape, rows: self.rows.clone(), columns: self.columns.clone(), cores })
    }

    /// The matrix of these cores.
    pub fn matrix(&self, cores: &[Vec<f32>]) -> Vec<f32> {
        self.train(&self.bonds_of(cores), cores.to_vec(), Dtype::F32).to_f32()
    }
}

/// `count` factors of the least size from `size` on whose most even factors are at most twice its root, the largest
/// first.
fn digits(size: usize, count: usize) -> Vec<usize> {
    let even = |size: usize, factors: &[usize]| factors[0] as f64 <= 2.0 * (size as f64).powf(1.0 / count as f64);
    let mut padded = size..;
    loop {
        let size = padded.next().expect("powers are even, and there is one above every size");
        let factors = most_even(size, count, size);
        if let Some(factors) = factors.filter(|factors| even(size, factors)) {
            return factors;
        }
    }
}

/// `count` factors of `size`, none above `most`, falling, with the least sum.
fn most_even(size: usize, count: usize, most: usize) -> Option<Vec<usize>> {
    if count == 1 {
        return (size <= most).then(|| vec![size]);
    }
    let least = (1..=size).find(|&d| d.saturating_pow(count as u32) >= size).unwrap_or(size);
    let firsts = (least..=most.min(size)).filter(|d| size.is_multiple_of(*d));
    let all = firsts.filter_map(|first| {
        let rest = most_even(size / first, count - 1, first)?;
        Some([vec![first], rest].concat())
    });
    all.min_by_key(|factors| factors.iter().sum::<usize>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_even_and_prime_sizes_are_padded() {
        for (size, count, wanted) in [
            (576, 2, &[24, 24][..]),
            (1536, 2, &[48, 32]),
            (192, 2, &[16, 12]),
            (576, 3, &[9, 8, 8]),
            (1536, 3, &[16, 12, 8]),
            (4096, 3, &[16, 16, 16]),
            (11008, 2, &[128, 86]),
            (97, 2, &[14, 7]),
            (13, 2, &[7, 2]),
            (11, 3, &[3, 2, 2]),
            (1, 2, &[1, 1]),
            (7, 1, &[7]),
        ] {
            assert_eq!(digits(size, count), wanted, "{size} in {count}");
        }
        let layout = Layout::new([97, 1536], 2);
        assert_eq!((layout.padded(), &layout.columns[..]), ([98, 1536], &[32, 48][..]));
    }

    #[test]
    fn the_bond_follows_from_the_share() {
        // 576 x 576 with two cores: a bond costs 2 * 576 numbers, so half of 331776 are 144 bonds.
        let layout = Layout::new([576, 576], 2);
        assert_eq!(layout.bond_within(0.5 * 331776.0), 144);
        assert_eq!(layout.parameters(&layout.bonds(144)), 165888);
        assert_eq!(layout.bonds(1 << 40), [1, 576, 1]);
        assert_eq!(layout.bond_within(1.0), 1);
        // Three cores: 9 * 8 + ... are 72, 64 and 72 places; bonds end at 72.
        let layout = Layout::new([576, 576], 3);
        assert_eq!(layout.bonds(1000), [1, 72, 72, 1]);
        assert_eq!(layout.parameters(&[1, 50, 50, 1]), 50 * 72 + 64 * 2500 + 50 * 72);
        assert_eq!(layout.bond_within(167200.0), 50);
        assert_eq!(layout.bond_within(167199.0), 49);
        assert_eq!(layout.cuts(&[1, 50, 50, 1]), [[72, 64 * 72], [50 * 64, 72]]);
    }
}
