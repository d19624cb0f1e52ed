//! Conversions between number types.

/// Reads FP8 E4M3 numbers (no infinities; NaN is 0x7F and 0xFF).
pub fn e4m3_to_f32(x: &[u8], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        let (exponent, mantissa) = ((x >> 3 & 15) as i32, (x & 7) as f32);
        let size = match (exponent, x & 7) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa / 8.0 * 2f32.powi(-6),
            _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
        };
        *out = if x & 0x80 == 0 { size } else { -size };
    }
}

/// Rounds to the nearest FP8 E4M3 number, ties to even; numbers past ±448 become ±448.
pub fn f32_to_e4m3(x: &[f32], out: &mut [u8]) {
    let mut all = [0.0; 127];
    e4m3_to_f32(&std::array::from_fn::<u8, 127, _>(|i| i as u8), &mut all);
    for (out, &x) in out.iter_mut().zip(x) {
        let size = x.abs().min(448.0);
        let above = all.partition_point(|&y| y < size);
        let code = if x.is_nan() {
            127
        } else if above == 0 {
            0
        } else {
            let (low, high) = (size - all[above - 1], all[above] - size);
            if low < high || (low == high && (above - 1) % 2 == 0) { above - 1 } else { above }
        };
        *out = code as u8 | if x.is_sign_negative() { 0x80 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_numbers_read_back_as_themselves() {
        let codes: Vec<u8> = (0..=255).filter(|c| c & 127 != 127).collect();
        let (mut values, mut back) = (vec![0.0; codes.len()], vec![0; codes.len()]);
        e4m3_to_f32(&codes, &mut values);
        f32_to_e4m3(&values, &mut back);
        assert_eq!(back, codes);
        f32_to_e4m3(&[1000.0, -500.0, 1.0625], &mut back[..3]);
        assert_eq!(back[..3], [0x7E, 0xFE, 0x38]);
    }
}
