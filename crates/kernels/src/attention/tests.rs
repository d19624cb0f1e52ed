use super::*;
use crate::buffer::Shared;

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

struct Case {
    kv_of: Vec<u16>,
    kv_heads: usize,
    qk_dim: usize,
    v_dim: usize,
    reach: Reach,
    softcap: Option<f32>,
    /// The distance up to which what is added to the scores has numbers of its own.
    bias: Option<(usize, Vec<f32>)>,
    batch: usize,
    queries: usize,
    keys: usize,
    lengths: Option<Vec<usize>>,
}

impl Case {
    fn new(kv_of: &[u16], qk_dim: usize, v_dim: usize, queries: usize, keys: usize) -> Self {
        Case {
            kv_of: kv_of.to_vec(),
            kv_heads: kv_of.iter().max().map_or(1, |g| *g as usize + 1),
            qk_dim,
            v_dim,
            reach: Reach::Causal,
            softcap: None,
            bias: None,
            batch: 1,
            queries,
            keys,
            lengths: None,
        }
    }

    fn spec(&self) -> Spec<'_> {
        Spec {
            kv_of: &self.kv_of,
            kv_heads: self.kv_heads,
            qk_dim: self.qk_dim,
            v_dim: self.v_dim,
            scale: 1.7 / (self.qk_dim.max(1) as f32).sqrt(),
            reach: self.reach,
            softcap: self.softcap,
            bias: self.bias.as_ref().map(|(reach, values)| Bias { values, reach: *reach }),
        }
    }

    fn tokens(&self) -> Tokens<'_> {
        Tokens { batch: self.batch, queries: self.queries, keys: self.keys, key_lengths: self.lengths.as_deref() }
    }

    fn inputs(&self) -> [Vec<f32>; 3] {
        let (s, b) = (self.spec(), self.batch);
        let mut q = numbers(b * self.queries * s.q_width(), 1);
        q.iter_mut().for_each(|x| *x *= 3.0);
        [q, numbers(b * self.keys * s.k_width(), 2), numbers(b * self.keys * s.v_width(), 3)]
    }

    fn run(&self, f: impl Fn(&Spec<'_>, &Tokens<'_>, &[f32], &[f32], &[f32], &mut [f32])) -> Vec<f32> {
        let [q, k, v] = self.inputs();
        let mut out = vec![f32::NAN; self.batch * self.queries * self.spec().out_width()];
        f(&self.spec(), &self.tokens(), &q, &k, &v, &mut out);
        out
    }
}

type Attend = fn(&Spec<'_>, &Tokens<'_>, &[f32], &[f32], &[f32], &mut [f32]);

fn cases() -> Vec<Case> {
    let mut all = vec![
        Case::new(&[0], 1, 1, 1, 1),
        Case::new(&[0, 0, 0, 1, 1, 1], 64, 64, 200, 200),
        Case::new(&[1, 0, 1, 2, 2], 17, 9, 67, 67),
        Case::new(&[0, 1], 32, 48, 10, 300),
        Case::new(&[0, 1], 80, 80, 1, 1500),
        Case::new(&[0, 0, 1], 64, 64, 3, 600),
        Case::new(&[0], 0, 3, 9, 9),
        Case::new(&[0], 3, 0, 9, 9),
        Case::new(&[0, 1], 8, 8, 0, 0),
    ];
    let around = [Reach::Around(0), Reach::Around(5), Reach::Around(70), Reach::Around(usize::MAX)];
    for reach in [Reach::Both, Reach::Window(1), Reach::Window(70), Reach::Window(1000)].into_iter().chain(around) {
        for queries in [2, 130] {
            let mut c = Case::new(&[0, 0, 1], 24, 40, queries, 150);
            c.reach = reach;
            all.push(c);
        }
    }
    for reach in [Reach::Both, Reach::Causal] {
        for queries in [4, 90] {
            let mut c = Case::new(&[0, 1], 16, 16, queries, 90);
            (c.reach, c.batch, c.lengths) = (reach, 3, Some(vec![90, 0, 33]));
            c.softcap = Some(2.5);
            all.push(c);
        }
    }
    for (reach, cap, known) in [(Reach::Both, None, 7), (Reach::Causal, Some(2.5), 0), (Reach::Around(30), None, 200)] {
        for queries in [1, 4, 90] {
            let mut c = Case::new(&[0, 1, 1], 16, 24, queries, 90);
            (c.reach, c.softcap, c.batch, c.lengths) = (reach, cap, 2, Some(vec![90, 61]));
            c.bias = Some((known, numbers(3 * (2 * known + 1), 4)));
            all.push(c);
        }
    }
    all
}

fn close(got: &[f32], want: &[f32], bound: f32) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= bound, "at {i}: {g} {w}");
    }
}

#[test]
fn every_path_equals_the_definition() {
    for (n, c) in cases().iter().enumerate() {
        println!("case {n}");
        let want = c.run(attend_scalar);
        close(&c.run(attend), &want, 4e-6);
        if c.queries > 0 && c.v_dim > 0 {
            close(&c.run(tile::attend), &want, 4e-6);
            close(&c.run(|s, t, q, k, v, out| tile::plain(s, t, [q, k, v], Shared::new(out))), &want, 4e-6);
            close(&c.run(decode::attend), &want, 4e-6);
        }
    }
}

#[test]
fn bfloat16_products_stay_close_to_the_definition() {
    for c in cases() {
        let want = c.run(attend_scalar);
        close(&c.run(attend_bf16), &want, 0.05);
        #[cfg(target_arch = "x86_64")]
        if crate::cpu::features().avx512_bf16 && !want.is_empty() {
            // SAFETY: the processor has AVX-512 BF16; a processor with AMX as well has taken the other way above.
            close(&c.run(|s, t, q, k, v, out| unsafe { pairs::attend::<dot::Dot>(s, t, q, k, v, out) }), &want, 0.05);
        }
    }
}

#[test]
fn sequences_one_behind_the_other_are_those_alone() {
    let lengths = [3usize, 20, 0, 16, 33, 1, 70];
    for reach in [Reach::Both, Reach::Causal, Reach::Around(4)] {
        for compute in [Compute::F32, Compute::Bf16] {
            let mut c = Case::new(&[0, 0, 1], 24, 40, lengths.iter().sum(), lengths.iter().sum());
            c.reach = reach;
            let ([q, k, v], s) = (c.inputs(), c.spec());
            let mut out = vec![f32::NAN; c.queries * s.out_width()];
            attend_beside(&s, compute, &lengths, [&q, &k, &v], &mut out);
            let mut first = 0;
            for length in lengths {
                let rows = |x: &[f32], width: usize| x[first * width..(first + length) * width].to_vec();
                let t = Tokens { batch: 1, queries: length, keys: length, key_lengths: None };
                let mut want = vec![f32::NAN; length * s.out_width()];
                let alone = [rows(&q, s.q_width()), rows(&k, s.k_width()), rows(&v, s.v_width())];
                attend_by(compute, &s, &t, alone.each_ref().map(Vec::as_slice), &mut want);
                assert_eq!(rows(&out, s.out_width()), want);
                first += length;
            }
        }
    }
}

#[test]
fn how_many_vectors_a_tile_has_changes_no_bit() {
    // A sequence of ten queries fills one vector; its rows stand in a tile of three beside others, too.
    let mut long = Case::new(&[0, 1], 24, 40, 60, 60);
    long.reach = Reach::Causal;
    let ([q, k, v], s) = (long.inputs(), long.spec());
    let all = long.run(attend);
    for first in [5usize, 10, 20, 40] {
        let (rows, t) = (60 - first, Tokens { batch: 1, queries: 60 - first, keys: 60, key_lengths: None });
        let mut out = vec![f32::NAN; rows * s.out_width()];
        attend(&s, &t, &q[first * s.q_width()..], &k, &v, &mut out);
        assert_eq!(out, all[first * s.out_width()..]);
    }
}

#[test]
fn one_key_is_returned_as_it_is() {
    let mut out = [0.0; 2];
    let (reach, softcap, bias) = (Reach::Causal, None, None);
    let s = Spec { kv_of: &[0], kv_heads: 1, qk_dim: 1, v_dim: 2, scale: 1.0, reach, softcap, bias };
    let t = Tokens { batch: 1, queries: 1, keys: 1, key_lengths: None };
    attend(&s, &t, &[3.0], &[-2.0], &[5.0, 7.0], &mut out);
    assert_eq!(out, [5.0, 7.0]);
}

#[test]
fn a_window_to_both_sides_ends_where_it_says() {
    let t = Tokens { batch: 2, queries: 6, keys: 6, key_lengths: Some(&[6, 4]) };
    let seen = |b| (0..6).map(|i| t.visible(Reach::Around(2), b, i)).collect::<Vec<_>>();
    assert_eq!(seen(0), [(0, 3), (0, 4), (0, 5), (1, 6), (2, 6), (3, 6)]);
    assert_eq!(seen(1), [(0, 3), (0, 4), (0, 4), (1, 4), (2, 4), (3, 4)]);
}

#[test]
fn what_is_added_to_a_score_depends_on_head_and_distance() {
    // Two heads, distances from -2 to 2.
    let bias = Bias { values: &[1.0, 2.0, 3.0, 4.0, 5.0, -1.0, -2.0, -3.0, -4.0, -5.0], reach: 2 };
    let row = |h| [0, 3, 4, 5, 6, 7, 20].map(|key| bias.at(h, 5, key));
    assert_eq!(row(0), [1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 5.0]);
    assert_eq!(row(1), [-1.0, -1.0, -2.0, -3.0, -4.0, -5.0, -5.0]);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for queries in [1, 300] {
        let c = Case::new(&[0, 0, 1, 1], 64, 64, queries, 1300);
        for f in [attend, attend_bf16] {
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| c.run(f))
            };
            assert_eq!(run(1), run(3));
        }
    }
}

#[test]
fn scores_far_apart_neither_overflow_nor_vanish() {
    for queries in [1, 40] {
        let mut c = Case::new(&[0], 4, 4, queries, 200);
        c.reach = Reach::Both;
        let [mut q, k, v] = c.inputs();
        q.iter_mut().for_each(|x| *x *= 1e4);
        for (f, bound) in [(attend as Attend, 1e-2), (attend_bf16, 2.0)] {
            let (mut got, mut want) = (vec![0.0; queries * 4], vec![0.0; queries * 4]);
            f(&c.spec(), &c.tokens(), &q, &k, &v, &mut got);
            attend_scalar(&c.spec(), &c.tokens(), &q, &k, &v, &mut want);
            assert!(got.iter().all(|x| x.is_finite() && x.abs() <= 1.0));
            close(&got, &want, bound);
        }
    }
}

#[test]
fn a_nan_is_never_lost() {
    for queries in [1, 40] {
        let c = Case::new(&[0], 4, 4, queries, 70);
        let [q, mut k, v] = c.inputs();
        k[5] = f32::NAN;
        for f in [attend, attend_bf16] {
            let mut out = vec![0.0; queries * 4];
            f(&c.spec(), &c.tokens(), &q, &k, &v, &mut out);
            assert!(out.iter().all(|x| x.is_nan()), "every query sees key 1");
        }
    }
}
