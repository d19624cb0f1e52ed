use super::*;
use crate::activation::Act;
use crate::attention::{Bias, Reach, Spec};
use crate::rope::Layout;
use candle_core::Var;
use std::sync::Arc;

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_add(99);
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(numbers(shape.iter().product(), seed), shape, &Device::Cpu).unwrap()
}

fn close(a: &Tensor, b: &Tensor, bound: f32) {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (a.flatten_all().unwrap().to_vec1::<f32>().unwrap(), b.flatten_all().unwrap().to_vec1().unwrap());
    for (x, y) in a.iter().zip(&b) {
        let (x, y): (&f32, &f32) = (x, y);
        assert!((x - y).abs() <= bound, "{x} {y}");
    }
}

type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// The fast path equals the path with gradients, and its gradients equal finite differences.
fn agrees(op: Op<'_>, inputs: &[Tensor]) {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let (quick, slow) = (op(inputs).unwrap(), op(&tracked).unwrap());
    assert!(!quick.track_op() && slow.track_op());
    close(&quick, &slow, 2e-5);
    // the derivative of a fixed random combination of the outputs
    let mix = tensor(quick.dims(), 5);
    let loss = |out: &Tensor| -> f64 {
        let out = out.to_dtype(DType::F64).unwrap();
        (out * mix.to_dtype(DType::F64).unwrap()).unwrap().sum_all().unwrap().to_scalar().unwrap()
    };
    let grads = (&slow * &mix).unwrap().sum_all().unwrap().backward().unwrap();
    for (n, var) in vars.iter().enumerate() {
        let grad = grads.get(var).expect("every input has a gradient").flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let values = inputs[n].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for i in (0..values.len()).step_by(values.len().div_ceil(7).max(1)) {
            let at = |step: f32| {
                let mut moved = values.clone();
                moved[i] += step;
                let mut all = inputs.to_vec();
                all[n] = Tensor::from_vec(moved, inputs[n].dims(), &Device::Cpu).unwrap();
                loss(&op(&all).unwrap())
            };
            let h = 2e-2;
            let slope = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h as f64);
            assert!(
                (slope - grad[i] as f64).abs() < 5e-3 * slope.abs().max(1.0),
                "input {n}[{i}]: {slope} {}",
                grad[i]
            );
        }
    }
}

#[test]
fn linear_layers_have_a_fast_path_and_gradients() {
    agrees(
        &|t| linear(&t[0], &Prepared::F32(t[1].clone()), Some(&t[2])),
        &[tensor(&[2, 3, 5], 1), tensor(&[4, 5], 2), tensor(&[4], 3)],
    );
    agrees(&|t| linear(&t[0], &Prepared::F32(t[1].clone()), None), &[tensor(&[11, 5], 1), tensor(&[4, 5], 2)]);
}

#[test]
fn packed_weights_pass_gradients_to_their_inputs() {
    // weights that are bfloat16 already; inputs are rounded on the fast path only
    let w = (tensor(&[6, 8], 1) * 16.0).unwrap().round().unwrap();
    let w = (w / 16.0).unwrap();
    let x = ((tensor(&[3, 8], 2) * 16.0).unwrap().round().unwrap() / 16.0).unwrap();
    let packed = Prepared::dense(&w, Compute::Bf16).unwrap();
    assert!(matches!(packed, Prepared::Bf16(_)));
    assert_eq!((packed.shape(), packed.size_bytes()), ([6, 8], 4 * 48 * 4));
    close(&packed.dense_tensor(&Device::Cpu).unwrap(), &w, 0.0);
    let var = Var::from_tensor(&x).unwrap();
    let slow = linear(&var, &packed, None).unwrap();
    close(&linear(&x, &packed, None).unwrap(), &slow, 1e-6);
    let grad = slow.sum_all().unwrap().backward().unwrap().get(&var).unwrap().clone();
    let want = w.sum_keepdim(0).unwrap().broadcast_as((3, 8)).unwrap().contiguous().unwrap();
    close(&grad, &want, 1e-5);
}

#[test]
fn grid_weights_multiply_like_the_dense_tensor_they_stand_for() {
    use crate::grid::{Group, Range, ScaleType, Spec as Grid, encode, fit};
    use crate::packed::PackedGrid;
    let grid = Grid {
        bits: 4,
        group: Group::Size(16),
        symmetric: false,
        range: Range::MinMax,
        scale: ScaleType::F32,
        ragged: false,
    };
    let (w, shape) = (numbers(6 * 32, 1), [6, 32]);
    let scales = fit(&grid, &w, shape, None).unwrap();
    let mut codes = vec![0; w.len()];
    encode(&grid, &scales, &w, shape, None, &mut codes).unwrap();
    let packed = Arc::new(PackedGrid::new(&grid, &scales, &codes, shape).unwrap());
    for (compute, bound) in [(Compute::F32, 1e-5), (Compute::Bf16, 0.1)] {
        let w = Prepared::Grid(packed.clone(), compute);
        assert_eq!(w.shape(), shape);
        for rows in [3, 20] {
            let (x, bias) = (tensor(&[rows, 32], 2), tensor(&[6], 3));
            let var = Var::from_tensor(&x).unwrap();
            let slow = linear(&var, &w, Some(&bias)).unwrap();
            assert!(slow.track_op());
            close(&linear(&x, &w, Some(&bias)).unwrap(), &slow, bound);
        }
    }
}

#[test]
fn a_variable_stays_a_variable_when_prepared() {
    let var = Var::from_tensor(&tensor(&[3, 4], 1)).unwrap();
    let Prepared::F32(w) = Prepared::dense(&var, Compute::Bf16).unwrap() else { panic!("a variable is not packed") };
    assert!(w.track_op());
}

#[test]
fn norms_activations_and_softmax_have_a_fast_path_and_gradients() {
    let (x, gain, bias) = (tensor(&[2, 3, 8], 1), tensor(&[8], 2), tensor(&[8], 3));
    for offset in [0.0, 1.0] {
        agrees(&|t| rms_norm(&t[0], &t[1], offset, 1e-3), &[x.clone(), gain.clone()]);
    }
    agrees(&|t| rms_norm(&t[0], &t[1], 0.0, 1e-3), &[x.clone(), tensor(&[4], 4)]);
    agrees(&|t| layer_norm(&t[0], &t[1], Some(&t[2]), 1e-3), &[x.clone(), gain.clone(), bias]);
    agrees(&|t| layer_norm(&t[0], &t[1], None, 1e-3), &[x.clone(), gain]);
    // away from zero, where relu has no derivative
    let away = (x.sign().unwrap() * 0.2).unwrap();
    let away = (&x + away).unwrap();
    for a in [Act::Silu, Act::Gelu, Act::GeluTanh, Act::Relu, Act::QuickGelu] {
        agrees(&|t| act(a, &t[0]), std::slice::from_ref(&away));
        agrees(&|t| act_mul(a, &t[0], &t[1]), &[away.clone(), tensor(&[2, 3, 8], 7)]);
    }
    agrees(&|t| softmax(&t[0]), std::slice::from_ref(&x));
    agrees(&|t| log_softmax(&t[0]), std::slice::from_ref(&x));
    agrees(&|t| add(&t[0], &t[1]), &[x.clone(), tensor(&[2, 3, 8], 7)]);
}

#[test]
fn rotary_positions_have_a_fast_path_and_gradients() {
    let (cos, sin) = (tensor(&[9, 3], 1), tensor(&[9, 3], 2));
    for layout in [Layout::Half, Layout::Pairs] {
        for shape in [&[2, 4, 16][..], &[4, 16]] {
            agrees(&|t| rope(&t[0], layout, 2, &cos, &sin, 5, &[]), &[tensor(shape, 3)]);
            agrees(&|t| rope(&t[0], layout, 2, &cos, &sin, 5, &[1, 0]), &[tensor(shape, 3)]);
        }
    }
    assert!(rope(&tensor(&[4, 16], 1), Layout::Half, 2, &cos, &sin, 6, &[]).is_err());
    assert!(rope(&tensor(&[4, 16], 1), Layout::Half, 4, &cos, &sin, 0, &[]).is_err());
}

fn spec(reach: Reach, softcap: Option<f32>) -> Spec<'static> {
    Spec { kv_of: &[0, 1, 1], kv_heads: 2, qk_dim: 4, v_dim: 3, scale: 0.5, reach, softcap, bias: None }
}

#[test]
fn attention_has_a_fast_path_and_gradients() {
    for (reach, cap) in
        [(Reach::Causal, None), (Reach::Both, Some(1.5)), (Reach::Window(2), None), (Reach::Around(1), None)]
    {
        for queries in [2, 6] {
            let t = [tensor(&[2, queries, 12], 1), tensor(&[2, 6, 8], 2), tensor(&[2, 6, 6], 3)];
            let lengths: &[usize] = &[6, 0];
            for lengths in [None, Some(lengths)] {
                agrees(&|t| attention(&spec(reach, cap), Compute::F32, &t[0], &t[1], &t[2], lengths), &t);
            }
        }
    }
    let t = [tensor(&[6, 12], 1), tensor(&[6, 8], 2), tensor(&[6, 6], 3)];
    agrees(&|t| attention(&spec(Reach::Causal, None), Compute::F32, &t[0], &t[1], &t[2], None), &t);
    let values: Vec<f32> = (0..15).map(|n| (n % 7) as f32 * 0.3 - 1.0).collect();
    let bias = Some(Bias { values: &values, reach: 2 });
    for cap in [None, Some(1.5)] {
        let spec = Spec { bias, ..spec(Reach::Both, cap) };
        agrees(&|t| attention(&spec, Compute::F32, &t[0], &t[1], &t[2], None), &t);
    }
}

#[test]
fn views_are_read_where_they_lie_and_strided_ones_are_copied() {
    let all = tensor(&[10, 6], 1);
    let w = Prepared::dense(&tensor(&[3, 6], 2), Compute::F32).unwrap();
    let whole = linear(&all, &w, None).unwrap();
    close(&linear(&all.narrow(0, 4, 3).unwrap(), &w, None).unwrap(), &whole.narrow(0, 4, 3).unwrap(), 1e-6);
    let strided = all.t().unwrap().contiguous().unwrap().t().unwrap();
    assert!(!strided.is_contiguous());
    close(&linear(&strided, &w, None).unwrap(), &whole, 1e-6);
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let w = Prepared::dense(&tensor(&[3, 6], 2), Compute::F32).unwrap();
    assert!(linear(&tensor(&[2, 5], 1), &w, None).is_err());
    assert!(linear(&tensor(&[2, 6], 1), &w, Some(&tensor(&[2], 1))).is_err());
    assert!(rms_norm(&tensor(&[2, 6], 1), &tensor(&[4], 1), 0.0, 0.0).is_err());
    let few = Spec { bias: Some(Bias { values: &[0.0; 3], reach: 2 }), ..spec(Reach::Causal, None) };
    let s = spec(Reach::Causal, None);
    let (q, k, v) = (tensor(&[6, 12], 1), tensor(&[6, 8], 2), tensor(&[6, 6], 3));
    assert!(attention(&s, Compute::F32, &k, &q, &v, None).is_err());
    assert!(attention(&few, Compute::F32, &q, &k, &v, None).is_err());
    assert!(attention(&s, Compute::F32, &q, &k, &v, Some(&[1, 2])).is_err());
    assert!(attention(&s, Compute::F32, &q, &k.narrow(0, 0, 5).unwrap(), &v.narrow(0, 0, 5).unwrap(), None).is_err());
}
