//! Looking for weights that are no numbers.

use brevity_model::{Code, Floats, Rule, Weight};

/// How many stored numbers of a weight are not finite: NaN first, then infinities.
pub(crate) fn count(weight: &Weight) -> (u64, u64) {
    let mut total = (0, 0);
    for (_, leaf) in weight.leaves() {
        let parts: Vec<(u64, u64)> = match &leaf.code {
            Code::Float(floats) => vec![of_floats(floats)],
            Code::Grid(grid) => vec![of_f32(&grid.scales)],
            Code::Codebook(book) => book.books.iter().chain([&book.scales]).map(|values| of_f32(values)).collect(),
            Code::Rule(Rule::Diagonal(values)) => vec![of_f32(values)],
            Code::Rule(_) => Vec::new(),
        };
        for (nan, infinite) in parts {
            total = (total.0 + nan, total.1 + infinite);
        }
    }
    total
}

fn of_floats(floats: &Floats) -> (u64, u64) {
    match floats {
        Floats::F32(v) => of_f32(v),
        Floats::F16(v) => of_bits(v, |x| x.to_bits(), 0x7C00),
        Floats::Bf16(v) => of_bits(v, |x| x.to_bits(), 0x7F80),
        // E4M3 has no infinities and two NaNs.
        Floats::F8E4m3(v) => (v.iter().filter(|x| **x & 0x7F == 0x7F).count() as u64, 0),
    }
}

fn of_f32(values: &[f32]) -> (u64, u64) {
    // Almost always all is well; that is seen fastest without telling the two kinds apart.
    let bad = values.iter().fold(false, |bad, x| bad | !x.is_finite());
    if !bad {
        return (0, 0);
    }
    let nan = values.iter().filter(|x| x.is_nan()).count() as u64;
    (nan, values.iter().filter(|x| x.is_infinite()).count() as u64)
}

/// Of 16-bit numbers whose exponent bits are `exponent`.
fn of_bits<T: Copy>(values: &[T], bits: impl Fn(T) -> u16, exponent: u16) -> (u64, u64) {
    let bad = values.iter().fold(false, |bad, &x| bad | (bits(x) & exponent == exponent));
    if !bad {
        return (0, 0);
    }
    let all = values.iter().filter(|&&x| bits(x) & exponent == exponent).count() as u64;
    let infinite = values.iter().filter(|&&x| bits(x) & 0x7FFF == exponent).count() as u64;
    (all - infinite, infinite)
}

#[cfg(test)]
mod tests {
    use super::*;
    use brevity_model::Dtype;

    #[test]
    fn nan_and_infinities_are_counted_in_every_type() {
        let values = vec![1.0, f32::NAN, f32::INFINITY, -f32::NAN, -1.0, f32::NEG_INFINITY, f32::NAN];
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let weight = Weight::float([1, 7], Floats::from_f32(values.clone(), dtype));
            assert_eq!(count(&weight), (3, 2), "{dtype:?}");
            let sound = Weight::float([1, 2], Floats::from_f32(vec![1.0, -65504.0], dtype));
            assert_eq!(count(&Weight::sum(sound.clone(), sound)), (0, 0), "{dtype:?}");
        }
        assert_eq!(count(&Weight::float([1, 3], Floats::F8E4m3(vec![0x7F, 0xFF, 0x7E]))), (2, 0));
    }
}
