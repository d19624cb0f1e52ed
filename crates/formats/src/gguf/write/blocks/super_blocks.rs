//! Blocks of 256 weights in groups whose scales are codes themselves.

use half::f16;

use super::{farthest, inverse, put_half};

/// Weights of a super-block.
const ALL: usize = 256;

/// Magnitudes below this are zero.
const NOTHING: f32 = 1e-15;

/// Eight groups of 32 weights, `d s q - m t` with four bits for `q` and six for `s` and `t`.
/// Bytes: `d`, `m`, scales (12), nibbles (128).
pub fn q4_k(x: &[f32], out: &mut [u8]) {
    let codes = affine(x, Search { most: 15, from: -1.0, steps: 20 }, out);
    put_nibbles(&codes, &mut out[16..]);
}

/// As Q4_K with five bits for `q`. Bytes: `d`, `m`, scales (12), fifth bits (32), nibbles (128).
pub fn q5_k(x: &[f32], out: &mut [u8]) {
    let codes = affine(x, Search { most: 31, from: -0.5, steps: 15 }, out);
    for l in 0..32 {
        out[16 + l] = (0..8).fold(0, |bits, group| bits | (codes[32 * group + l] >> 4) << group);
    }
    put_nibbles(&codes, &mut out[48..]);
}

/// Sixteen groups of 16 weights, `d s q` with six bits for `q` and eight for `s`.
/// Bytes: low halves (128), upper two bits (64), scales (16), `d`.
pub fn q6_k(x: &[f32], out: &mut [u8]) {
    let mut scales = [0.0; 16];
    let mut codes = [32u8; ALL];
    for ((scale, x), codes) in scales.iter_mut().zip(x.chunks(16)).zip(codes.chunks_mut(16)) {
        *scale = symmetric(x, codes);
    }
    let largest = farthest(&scales);
    if largest.abs() < NOTHING {
        out.fill(0);
        return;
    }
    let to_code = -128.0 / largest;
    let d = 1.0 / to_code;
    put_half(out, 208, d);
    let d = f16::from_f32(d).to_f32();
    for (n, (x, codes)) in x.chunks(16).zip(codes.chunks_mut(16)).enumerate() {
        let scale = nearest(to_code * scales[n]).min(127);
        out[192 + n] = scale as i8 as u8;
        let step = d * scale as f32;
        if step != 0.0 {
            for (code, x) in codes.iter_mut().zip(x) {
                *code = (nearest(x / step).clamp(-32, 31) + 32) as u8;
            }
        }
    }
    for half in 0..2 {
        for l in 0..32 {
            let [a, b, c, d] = [0, 32, 64, 96].map(|at| codes[128 * half + at + l]);
            out[64 * half + l] = a & 15 | (c & 15) << 4;
            out[64 * half + 32 + l] = b & 15 | (d & 15) << 4;
            out[128 + 32 * half + l] = a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (d >> 4) << 6;
        }
    }
}

/// Codes of eight groups; scales and minima are written to the first 16 bytes.
fn affine(x: &[f32], search: Search, out: &mut [u8]) -> [u8; ALL] {
    let mut codes = [0u8; ALL];
    let (mut scales, mut minima) = ([0.0; 8], [0.0; 8]);
    for (n, (x, codes)) in x.chunks(32).zip(codes.chunks_mut(32)).enumerate() {
        (scales[n], minima[n]) = search.best(x, codes);
    }
    // Not `max`, which may take the zero with a sign of two.
    let largest = |all: &[f32; 8]| all.iter().fold(0.0f32, |most, &x| if x > most { x } else { most });
    let (most, least) = (largest(&scales), largest(&minima));
    let six_bits = |all: &[f32; 8], largest: f32| {
        let to_code = if largest > 0.0 { 63.0 / largest } else { 0.0 };
        all.map(|x| nearest(to_code * x).min(63) as u8)
    };
    let (s, t) = (six_bits(&scales, most), six_bits(&minima, least));
    put_half(out, 0, most / 63.0);
    put_half(out, 2, least / 63.0);
    for n in 0..4 {
        out[4 + n] = s[n] | (s[n + 4] >> 4) << 6;
        out[8 + n] = t[n] | (t[n + 4] >> 4) << 6;
        out[12 + n] = s[n + 4] & 15 | (t[n + 4] & 15) << 4;
    }
    // Scales and minima are rounded now; the codes are those that fit them best.
    let [d, m] = [most / 63.0, least / 63.0].map(|x| f16::from_f32(x).to_f32());
    for (n, (x, codes)) in x.chunks(32).zip(codes.chunks_mut(32)).enumerate() {
        let (step, shift) = (d * f32::from(s[n]), m * f32::from(t[n]));
        if step != 0.0 {
            for (code, x) in codes.iter_mut().zip(x) {
                *code = nearest((x + shift) / step).clamp(0, search.most) as u8;
            }
        }
    }
    codes
}

/// Groups of 64 weights: the first 32 in low halves, the others in high ones.
fn put_nibbles(codes: &[u8; ALL], out: &mut [u8]) {
    for (out, codes) in out.chunks_mut(32).zip(codes.chunks(64)) {
        for (l, out) in out.iter_mut().enumerate() {
            *out = codes[l] & 15 | (codes[l + 32] & 15) << 4;
        }
    }
}

/// Which grids `scale * q - minimum` are tried on a group: those whose range of codes is `most + from`,
/// `most + from + 0.1`, … over the range from the minimum that is best so far to the largest weight.
#[derive(Clone, Copy)]
struct Search {
    most: i32,
    from: f32,
    steps: usize,
}

impl Search {
    /// The scale and the minimum (as it is subtracted) of least weighted squared error, and the codes for them. Each
    /// grid tried gives codes, and these the best scale and minimum by least squares. Large weights count more.
    fn best(self, x: &[f32], codes: &mut [u8]) -> (f32, f32) {
        let spread = (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
        let weight = |x: f32| spread + x.abs();
        let least = x.iter().copied().fold(f32::INFINITY, f32::min).min(0.0);
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if largest <= least {
            codes.fill(0);
            return (0.0, -least);
        }
        let (mut sum_w, mut sum_x) = (0.0, 0.0);
        for &x in x {
            sum_w += weight(x);
            sum_x += weight(x) * x;
        }
        let round = |to_code: f32, least: f32, x: f32| nearest(to_code * (x - least)).clamp(0, self.most) as u8;
        let error = |codes: &[u8], scale: f32, least: f32| -> f32 {
            let square = |(&x, &q): (&f32, &u8)| weight(x) * (scale * f32::from(q) + least - x).powi(2);
            x.iter().zip(codes).map(square).sum()
        };
        let to_code = self.most as f32 / (largest - least);
        codes.iter_mut().zip(x).for_each(|(code, &x)| *code = round(to_code, least, x));
        let (mut scale, mut minimum) = (1.0 / to_code, least);
        let mut best = error(codes, scale, minimum);
        let mut tried = [0u8; 32];
        for step in 0..=self.steps {
            // From the minimum that is best so far.
            let least = minimum;
            let to_code = (self.from + 0.1 * step as f32 + self.most as f32) / (largest - least);
            let (mut sum_q, mut sum_qq, mut sum_xq) = (0.0, 0.0, 0.0);
            for (tried, &x) in tried.iter_mut().zip(x) {
                *tried = round(to_code, least, x);
                let q = f32::from(*tried);
                sum_q += weight(x) * q;
                sum_qq += weight(x) * q * q;
                sum_xq += weight(x) * q * x;
            }
            let determinant = sum_w * sum_qq - sum_q * sum_q;
            if determinant <= 0.0 {
                continue;
            }
            let mut fitted = (sum_w * sum_xq - sum_x * sum_q) / determinant;
            let mut shift = (sum_qq * sum_x - sum_q * sum_xq) / determinant;
            // Minima are stored without a sign.
            if shift > 0.0 {
                (fitted, shift) = (sum_xq / sum_qq, 0.0);
            }
            let found = error(&tried, fitted, shift);
            if found < best {
                (best, scale, minimum) = (found, fitted, shift);
                codes.copy_from_slice(&tried);
            }
        }
        (scale, -minimum)
    }
}

/// The scale of `scale * (q - 32)` of least squared error, squares weighted by the squares of the weights, among 19
/// near that which makes the weight of largest magnitude the least code; and the codes for it.
fn symmetric(x: &[f32], codes: &mut [u8]) -> f32 {
    let far = farthest(x);
    if far.abs() < NOTHING {
        codes.fill(32);
        return 0.0;
    }
    let code = |to_code: f32, x: f32| nearest(to_code * x).clamp(-32, 31);
    let sums = |to_code: f32| {
        x.iter().fold((0.0f32, 0.0f32), |(xq, qq), &x| {
            let q = code(to_code, x) as f32;
            (xq + x * x * x * q, qq + x * x * q * q)
        })
    };
    let mut to_code = -32.0 / far;
    let (xq, qq) = sums(to_code);
    let mut scale = xq * inverse(qq);
    let mut gain = scale * xq;
    for step in (-9..=9).filter(|step| *step != 0) {
        let tried = -(32.0 + 0.1 * step as f32) / far;
        let (xq, qq) = sums(tried);
        if qq > 0.0 && xq * xq > gain * qq {
            (to_code, scale) = (tried, xq / qq);
            gain = scale * xq;
        }
    }
    codes.iter_mut().zip(x).for_each(|(out, &x)| *out = (code(to_code, x) + 32) as u8);
    scale
}

/// The nearest whole number, the even one of two.
fn nearest(x: f32) -> i32 {
    x.round_ties_even() as i32
}
