use brevity_kernels::grid::{Levels, ScaleType};
use brevity_model::{Dtype, Expr, Floats};
use serde_json::json;

use super::*;

fn site() -> Site {
    "blocks.3.mlp.down".parse().unwrap()
}

fn layer(shape: [usize; 2], w: Vec<f32>, dtype: Dtype) -> Linear<Weight> {
    Linear { weight: Weight::float(shape, Floats::from_f32(w, dtype)), bias: None }
}

fn quantize(settings: Value, layer: &mut Linear<Weight>) -> Result<()> {
    Rtn::parse(settings)?.rewrite(layer, &mut Cx::new(&site(), 0))
}

fn quantized(settings: Value, shape: [usize; 2], w: &[f32]) -> Vec<f32> {
    let mut layer = layer(shape, w.to_vec(), Dtype::F32);
    quantize(settings, &mut layer).unwrap();
    layer.weight.to_f32()
}

/// Standard normal numbers: SplitMix64 and the Box-Muller transform.
fn normal(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut one = || (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..count).map(|_| one() as f32).collect()
}

fn rms(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| ((a - b) as f64).powi(2)).sum();
    (sum / a.len() as f64).sqrt()
}

#[test]
fn a_small_group_is_known_by_hand() {
    // Symmetric, 2 bits: s = 3 / 1.5 = 2, z = 2, codes round(w / 2) + 2 in 0..=3.
    let w = [3.0, -3.0, 0.9, -1.1];
    assert_eq!(quantized(json!({"bits": 2, "group": 4}), [1, 4], &w), [2.0, -4.0, 0.0, -2.0]);
    // Asymmetric: s = 6 / 3 = 2, z = round(3 / 2) = 2.
    let asymmetric = json!({"bits": 2, "group": 4, "symmetric": false});
    assert_eq!(quantized(asymmetric, [1, 4], &w), [2.0, -4.0, 0.0, -2.0]);
    // Only positive weights: s = 3 / 3 = 1, z = 0.
    let asymmetric = json!({"bits": 2, "group": "channel", "symmetric": false});
    assert_eq!(quantized(asymmetric, [1, 4], &[3.0, 2.2, 0.9, 1.1]), [3.0, 2.0, 1.0, 1.0]);
}

#[test]
fn points_of_the_grid_stay_where_they_are() {
    let settings = json!({"bits": 4, "group": 32, "symmetric": false});
    let w = normal(32 * 40);
    let once = quantized(settings.clone(), [20, 64], &w);
    let twice = quantized(settings, [20, 64], &once);
    assert!(rms(&w, &once) > 0.01);
    assert!(rms(&once, &twice) < 1e-6, "{}", rms(&once, &twice));
}

#[test]
fn a_constant_matrix_is_kept_by_a_grid_with_zero_points() {
    for constant in [0.0, 0.3, -7.0] {
        let back = quantized(json!({"group": 8, "symmetric": false}), [4, 16], &[constant; 64]);
        assert!(back.iter().all(|x| (x - constant).abs() <= 1e-6 * constant.abs()), "{constant}: {}", back[0]);
    }
    assert_eq!(quantized(json!({"group": 8}), [4, 16], &[0.0; 64]), [0.0; 64]);
}

#[test]
fn normal_weights_are_rounded_as_well_as_theory_says() {
    // Errors of 4-bit grids with groups of 64, computed independently on 2.5 million numbers: 0.1028 with all 16
    // codes around zero, 0.0911 with a zero point; fifteen codes, scaled by absmax / 7, would leave 0.1077.
    let w = normal(4096 * 64);
    let shape = [4096, 64];
    let error = |settings| rms(&w, &quantized(settings, shape, &w));
    let near = |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 0.01, "{found} {wanted}");
    near(error(json!({"group": 64})), 0.1028);
    near(error(json!({"group": 64, "symmetric": false})), 0.0911);
    let levels: Vec<f32> = (-7..=7).map(|q| q as f32).collect();
    let levels = Levels::new(&levels, ScaleType::F32).unwrap();
    let group = grid::Group::Size(64);
    let scales = levels.fit(group, false, &w, shape, None).unwrap();
    let (mut codes, mut back) = (vec![0; w.len()], vec![0.0; w.len()]);
    levels.encode(group, false, &scales, &w, shape, None, &mut codes).unwrap();
    levels.decode(group, false, &scales, &codes, shape, &mut back).unwrap();
    near(rms(&w, &back), 0.1077);
}

#[test]
fn eight_bits_lose_less_than_half_a_percent() {
    // Groups of 32 normal numbers span 4.1 on average: a step of 4.1 / 255 leaves 0.0047.
    let w = normal(64 * 128);
    let back = quantized(json!({"bits": 8, "group": 32, "symmetric": false}), [64, 128], &w);
    let relative = rms(&w, &back) / rms(&w, &vec![0.0; w.len()]);
    assert!(relative < 0.005, "{relative}");
}

#[test]
fn clipping_pays_at_few_bits() {
    let w = normal(64 * 128);
    for bits in 2..=4 {
        let error = |range| rms(&w, &quantized(json!({"bits": bits, "range": range}), [64, 128], &w));
        assert!(error("mse") < error("min_max"), "{bits}");
    }
}

#[test]
fn one_bit_around_zero_keeps_signs_and_the_mean_magnitude() {
    let w = [1.0, -2.0, 3.0, -2.0, 0.5, 0.5, -0.5, -0.5];
    let back = quantized(json!({"bits": 1, "group": 4}), [1, 8], &w);
    assert_eq!(back, [2.0, -2.0, 2.0, -2.0, 0.5, 0.5, -0.5, -0.5]);
    let tensor = quantized(json!({"bits": 1, "group": "tensor"}), [2, 4], &w);
    assert_eq!(tensor, [1.25, -1.25, 1.25, -1.25, 1.25, 1.25, -1.25, -1.25]);
}

#[test]
fn removed_entries_read_zero_and_stretch_no_range() {
    let w = [100.0, 1.0, -0.5, 0.25];
    for settings in [
        json!({"group": 4}),
        json!({"group": 4, "symmetric": false}),
        json!({"group": 4, "range": "mse"}),
        json!({"group": 4, "bits": 1}),
    ] {
        let mut layer = layer([1, 4], w.to_vec(), Dtype::F32);
        let Expr::Leaf(leaf) = &mut layer.weight else { unreachable!() };
        leaf.mask = Some(Mask::from_bools([1, 4], &[false, true, true, true]));
        quantize(settings.clone(), &mut layer).unwrap();
        let back = layer.weight.to_f32();
        assert_eq!(back[0], 0.0, "{settings}");
        assert!(back[1] > 0.4 && back[1] < 1.2, "{settings}: {back:?}");
        let Expr::Leaf(Leaf { code: Code::Grid(grid), mask: Some(_), .. }) = &layer.weight else { panic!() };
        if grid.levels.is_none() {
            assert_eq!(grid.to_f32([1, 4])[0], 0.0, "readers without masks see zeros: {settings}");
        }
    }
}

#[test]
fn a_group_that_does_not_divide_is_refused_padded_or_widened() {
    let w = normal(2 * 100);
    let error = quantize(json!({"group": 64}), &mut layer([2, 100], w.clone(), Dtype::F32)).unwrap_err();
    assert_eq!(error, Error::Group { site: site(), leaf: String::new(), inputs: 100, group: 64 });
    let scales = |ragged: &str| {
        let mut layer = layer([2, 100], w.clone(), Dtype::F32);
        let at = site();
        let mut cx = Cx::new(&at, 0);
        Rtn::parse(json!({"group": 64, "ragged": ragged})).unwrap().rewrite(&mut layer, &mut cx).unwrap();
        let Expr::Leaf(Leaf { code: Code::Grid(grid), .. }) = layer.weight else { panic!() };
        (grid.group, grid.scales.len(), cx.notes)
    };
    let note = |then: &str| vec![format!("group 64 does not divide 100 inputs: {then}")];
    assert_eq!(scales("pad"), (Group::Columns(64), 4, note("the last group is shorter")));
    assert_eq!(scales("channel"), (Group::Channel, 2, note("a group a row")));
}

#[test]
fn scales_are_stored_as_the_weight_is_unless_told_otherwise() {
    for (dtype, setting, scale) in [
        (Dtype::Bf16, "auto", Dtype::Bf16),
        (Dtype::F16, "auto", Dtype::F16),
        (Dtype::F32, "auto", Dtype::F32),
        (Dtype::F8E4m3, "auto", Dtype::Bf16),
        (Dtype::Bf16, "f16", Dtype::F16),
    ] {
        let mut layer = layer([2, 8], normal(16), dtype);
        quantize(json!({"group": 8, "scale_dtype": setting}), &mut layer).unwrap();
        let Expr::Leaf(Leaf { code: Code::Grid(grid), .. }) = layer.weight else { panic!() };
        assert_eq!(grid.scale_dtype, scale);
        assert!(grid.scales.iter().all(|&s| scale.round(s) == s));
    }
}

#[test]
fn a_coded_weight_is_not_coded_again() {
    let mut layer = layer([2, 8], normal(16), Dtype::Bf16);
    quantize(json!({"group": 8}), &mut layer).unwrap();
    let error = quantize(json!({"group": 8}), &mut layer).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot apply `quantize.rtn` to `blocks.3.mlp.down`: it is already coded as a 4-bit grid"
    );
    let mut form = Linear { weight: Form::of(&layer.weight), bias: None };
    assert_eq!(Rtn::default().predict(&site(), &mut form), Err(error));
}

#[test]
fn nan_and_infinity_are_refused_with_their_counts() {
    let mut w = normal(2 * PIECE);
    w[3] = f32::NAN;
    w[2 * PIECE - 1] = f32::NEG_INFINITY;
    let error = quantize(json!({"group": 64}), &mut layer([PIECE / 32, 64], w, Dtype::Bf16)).unwrap_err();
    assert_eq!(error.to_string(), "`blocks.3.mlp.down` holds 1 NaN and 1 infinite values among 2097152");
}

#[test]
fn matrices_larger_than_a_piece_equal_their_rows_coded_alone() {
    let (rows, columns) = (PIECE / 1000 * 2 + 7, 1000);
    let w = normal(rows * columns);
    for settings in [json!({"group": 100, "symmetric": false}), json!({"group": "channel", "bits": 1})] {
        let whole = quantized(settings.clone(), [rows, columns], &w);
        for row in [0, PIECE / columns - 1, PIECE / columns, rows - 1] {
            let at = row * columns..(row + 1) * columns;
            assert_eq!(whole[at.clone()], quantized(settings.clone(), [1, columns], &w[at]));
        }
    }
}

#[test]
fn empty_and_one_row_matrices_are_fine() {
    for (shape, scales) in [([0, 8], 0), ([1, 8], 1), ([3, 0], 0)] {
        let mut layer = layer(shape, normal(shape[0] * shape[1]), Dtype::F32);
        quantize(json!({"group": 8}), &mut layer).unwrap();
        let Expr::Leaf(Leaf { code: Code::Grid(grid), .. }) = &layer.weight else { panic!() };
        assert_eq!((grid.scales.len(), grid.codes.len()), (scales, shape[0] * shape[1]));
    }
}

#[test]
fn settings_out_of_range_say_what_is_taken() {
    for (settings, name) in [
        (json!({"bits": 9}), "bits"),
        (json!({"bits": 0}), "bits"),
        (json!({"group": 0}), "group"),
        (json!({"group": "row"}), "group"),
        (json!({"ragged": "yes"}), "ragged"),
        (json!({"symmetric": 1}), "symmetric"),
    ] {
        match Rtn::parse(settings) {
            Err(Error::Value { name: found, .. }) => assert_eq!(found, name),
            other => panic!("{other:?}"),
        }
    }
}
