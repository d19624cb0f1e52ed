use brevity_kernels::linalg::svd_f64;
use brevity_model::{Expr, Floats, Leaf, Train};

use super::*;
use crate::method::surveyed;
use crate::seen::{Seen, Shared};
use crate::testing::{error, fold, layer, noise, related, seen, unrelated};

fn site() -> Site {
    "blocks.0.attn.o".parse().unwrap()
}

fn of(shape: [usize; 2], w: Vec<f32>) -> Linear<Weight> {
    Linear { weight: Weight::float(shape, Floats::F32(w)), bias: None }
}

/// The layer afterwards, its notes and its figures.
fn decomposed(
    settings: Value,
    layer: &Linear<Weight>,
    seen: &Seen,
) -> (Linear<Weight>, Vec<String>, Vec<(String, f64)>) {
    let (site, mut layer) = (site(), layer.clone());
    let mut cx = Cx::with(&site, 0, seen);
    Mpo::parse(settings).unwrap().rewrite(&mut layer, &mut cx).unwrap();
    (layer, cx.notes, cx.figures)
}

fn train_of(layer: &Linear<Weight>) -> &Train<Leaf> {
    match &layer.weight {
        Expr::Train(train) => train,
        other => panic!("a train, not {other:?}"),
    }
}

fn gap(a: &[f32], b: &[f32]) -> f64 {
    let squares = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    let gone = squares(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    (gone / squares(&mut a.iter().map(|&a| a.into()))).sqrt()
}

/// `Σ_n A_n ⊗ B_n` with `A_n` `[6, 4]` and `B_n` `[4, 6]`.
fn kroneckers(terms: u64) -> Vec<f32> {
    let mut w = vec![0.0; 24 * 24];
    for n in 0..terms {
        let (a, b) = (noise(24, 2 * n), noise(24, 2 * n + 1));
        for (at, w) in w.iter_mut().enumerate() {
            let (i, j) = (at / 24, at % 24);
            *w += a[i / 4 * 4 + j / 6] * b[i % 4 * 6 + j % 6];
        }
    }
    w
}

#[test]
fn the_full_bond_is_exact() {
    for (shape, cores) in [([24, 36], 2), ([36, 24], 3), ([13, 29], 2), ([30, 30], 4), ([1, 40], 2)] {
        let (w, layout) = (noise(shape[0] * shape[1], 3), Layout::new(shape, cores));
        let cores = split::cores(&w, &layout, &layout.bonds(usize::MAX), 0).unwrap();
        assert!(gap(&w, &layout.matrix(&cores)) < 1e-6, "{shape:?}");
    }
}

#[test]
fn a_kronecker_product_is_recovered_with_one_bond() {
    let layer = of([24, 24], kroneckers(1));
    let (after, notes, _) = decomposed(json!({"bond": 1}), &layer, &Seen::nothing());
    let train = train_of(&after);
    assert_eq!((&train.rows[..], &train.columns[..], &train.bonds()[..]), (&[6, 4][..], &[4, 6][..], &[1, 1, 1][..]));
    assert!(gap(&layer.weight.to_f32(), &after.weight.to_f32()) < 1e-6);
    assert_eq!(notes, ["2 cores, bond 1"]);
}

#[test]
fn a_sum_of_kronecker_products_is_recovered_with_as_many_bonds() {
    let layer = of([24, 24], kroneckers(3));
    let at = |bond: usize| {
        let (after, _, _) = decomposed(json!({ "bond": bond }), &layer, &Seen::nothing());
        gap(&layer.weight.to_f32(), &after.weight.to_f32())
    };
    assert!(at(2) > 0.1 && at(3) < 1e-6, "{} and {}", at(2), at(3));
}

#[test]
fn one_core_is_the_matrix_itself() {
    let before = layer([12, 20], 5);
    let layout = Layout::new([12, 20], 1);
    let w = before.weight.to_f32();
    assert_eq!(split::cores(&w, &layout, &layout.bonds(7), 0).unwrap(), [w]);
    let (after, notes, figures) = decomposed(json!({"cores": 1}), &before, &Seen::nothing());
    assert_eq!(after, before);
    assert_eq!(notes, ["stays dense: a train of 1 cores would save nothing"]);
    assert!(figures.is_empty());
}

#[test]
fn all_cores_but_the_last_are_orthogonal() {
    for (cores, refine) in [(2, 0), (3, 0), (3, 1)] {
        let seen = seen(200, 48);
        let settings = json!({"cores": cores, "bond": 7, "refine": refine});
        let (after, _, _) = decomposed(settings, &layer([40, 48], 2), &seen);
        let train = train_of(&after);
        for (k, core) in train.cores.iter().enumerate().take(cores - 1) {
            let (values, bond) = (core.to_f32(), train.bonds()[k + 1]);
            for a in 0..bond {
                for b in 0..bond {
                    let dot: f64 = values.chunks(bond).map(|row| f64::from(row[a]) * f64::from(row[b])).sum();
                    assert!((dot - f64::from(u8::from(a == b))).abs() < 1e-5, "core {k}: {dot} at {a}, {b}");
                }
            }
        }
    }
}

#[test]
fn prime_sizes_are_padded_and_cut_back() {
    let before = layer([97, 61], 4);
    let (after, _, _) = decomposed(json!({"ratio": 0.9}), &before, &Seen::nothing());
    let train = train_of(&after);
    assert_eq!((&train.rows[..], &train.columns[..]), (&[14, 7][..], &[7, 9][..]));
    assert_eq!((train.shape, after.weight.to_f32().len()), ([97, 61], 97 * 61));
    assert!(Form::of(&after.weight).parameters() <= (0.9 * 97.0 * 61.0) as u64);
    assert!(gap(&before.weight.to_f32(), &after.weight.to_f32()) < 0.5);
    // Refined, what lies beyond the matrix counts for nothing.
    let seen = seen(300, 61);
    let (fitted, _, _) = decomposed(json!({"ratio": 0.5, "refine": 2}), &before, &seen);
    let (plain, _, _) = decomposed(json!({"ratio": 0.5}), &before, &seen);
    assert!(error(&seen, &before, &fitted) < error(&seen, &before, &plain));
}

#[test]
fn a_bond_of_one_holds_one_number_for_each_pair_of_digits() {
    let (after, _, _) = decomposed(json!({"cores": 3, "bond": 1}), &layer([24, 36], 1), &Seen::nothing());
    let train = train_of(&after);
    let numbers: usize = train.rows.iter().zip(&train.columns).map(|(i, j)| i * j).sum();
    assert_eq!(Form::of(&after.weight).parameters(), numbers as u64);
    assert!(gap(&after.weight.to_f32(), &after.weight.to_f32()) == 0.0);
}

#[test]
fn the_squared_error_of_three_cores_is_at_most_the_sum_of_the_tails() {
    let (shape, w) = ([24, 36], noise(24 * 36, 9));
    let layout = Layout::new(shape, 3);
    let bonds = layout.bonds(9);
    let now = layout.matrix(&split::cores(&w, &layout, &bonds, 0).unwrap());
    let gone: f64 = w.iter().zip(&now).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    // Each cut alone: digits before it together against those behind it.
    let tail = |cut: usize| -> f64 {
        let [i2, j2] = [&layout.rows, &layout.columns].map(|digits| digits[cut..].iter().product::<usize>());
        let [i1, j1] = [24 / i2, 36 / j2];
        let matrix: Vec<f64> = split::turned(&w, [i1, i2, j1, j2]).into_iter().map(f64::from).collect();
        let s = svd_f64(&matrix, [i1 * j1, i2 * j2]).unwrap().s;
        s[bonds[cut]..].iter().map(|s| s * s).sum()
    };
    let (first, second) = (tail(1), tail(2));
    assert!(gone <= (first + second) * 1.000001, "{gone} above {first} + {second}");
    assert!(gone >= first.max(second) * 0.999999, "no cut can be made up for");
}

#[test]
fn two_cores_leave_exactly_the_tail() {
    let (shape, w) = ([24, 36], noise(24 * 36, 9));
    let layout = Layout::new(shape, 2);
    let now = layout.matrix(&split::cores(&w, &layout, &layout.bonds(5), 0).unwrap());
    let gone: f64 = w.iter().zip(&now).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let [i, j] = [layout.rows[1], layout.columns[1]];
    let matrix: Vec<f64> = split::turned(&w, [24 / i, i, 36 / j, j]).into_iter().map(f64::from).collect();
    let s = svd_f64(&matrix, [24 / i * (36 / j), i * j]).unwrap().s;
    let tail: f64 = s[5..].iter().map(|s| s * s).sum();
    assert!((gone - tail).abs() < 1e-5 * tail, "{gone} and {tail}");
}

#[test]
fn refinement_is_never_worse_and_here_much_better() {
    let seen = seen(400, 48);
    for cores in [2, 3] {
        let before = layer([40, 48], 2);
        let at = |refine: usize| {
            let (after, notes, _) = decomposed(json!({"cores": cores, "ratio": 0.4, "refine": refine}), &before, &seen);
            let held_out = Seen { fit: seen.held_out.clone(), ..Seen::default() };
            (error(&held_out, &before, &after), notes)
        };
        let errors: Vec<f64> = [0, 1, 2, 4].into_iter().map(|refine| at(refine).0).collect();
        assert!(errors.windows(2).all(|e| e[1] <= e[0] * 1.000001), "{errors:?}");
        assert!(errors[3] < 0.7 * errors[0], "{errors:?}");
        assert!(at(1).1.iter().any(|note| note.starts_with("refined 1 times: error on samples kept apart 0.")));
    }
}

#[test]
fn refinement_that_does_worse_on_other_samples_is_skipped_by_name() {
    // Fitted to samples that touch a few inputs, judged on others.
    let (few, many) = (
        (0..40 * 48).map(|at| if at % 48 < 5 { noise(1, at as u64)[0] } else { 0.0 }).collect::<Vec<f32>>(),
        (0..40 * 48).map(|at| if at % 48 < 5 { 0.0 } else { noise(1, at as u64)[0] }).collect::<Vec<f32>>(),
    );
    let seen = Seen { fit: fold(48, &few), held_out: fold(48, &many), ..Seen::default() };
    let before = layer([40, 48], 2);
    let (after, notes, figures) = decomposed(json!({"ratio": 0.4, "refine": 2}), &before, &seen);
    let (plain, _, _) = decomposed(json!({"ratio": 0.4}), &before, &seen);
    assert_eq!(after, plain);
    assert_eq!(notes[0], "refinement skipped: it does no better on samples kept apart");
    let figure = |name: &str| figures.iter().find(|(n, _)| n == name).unwrap().1;
    assert_eq!(figure("unrefined_error"), figure("refined_error"));
}

#[test]
fn refinement_without_inputs_is_refused_or_skipped() {
    let (site, mut before) = (site(), layer([40, 48], 2));
    let mpo = Mpo::parse(json!({"refine": 1})).unwrap();
    let error = mpo.rewrite(&mut before, &mut Cx::new(&site, 0)).unwrap_err();
    assert_eq!(error, Error::Unseen { method: NAME, site, what: "its inputs" });
    let silent = Seen { fit: fold(48, &[0.0; 96]), ..Seen::default() };
    let (_, notes, _) = decomposed(json!({"refine": 1}), &layer([40, 48], 2), &silent);
    assert_eq!(notes[0], "refinement skipped: its inputs were always zero");
}

#[test]
fn a_fitted_core_is_the_least_squares_solution() {
    // Cores of 16 and 9 numbers and one bond: conjugate gradients need no more steps than they take.
    let (w, layout) = (noise(12 * 12, 1), Layout { shape: [12, 12], rows: vec![4, 3], columns: vec![4, 3] });
    let gram = fold(12, &related(100, 12, 3)).gram.unwrap();
    let cores = split::cores(&w, &layout, &layout.bonds(1), 0).unwrap();
    let mut problem = refine::Problem::new(&w, &layout, &gram, cores);
    (0..30).for_each(|_| problem.sweep().unwrap());
    let at = |cores: &[Vec<f32>]| error_on(&gram, 12, &w, &layout.matrix(cores));
    let least = at(problem.cores());
    for k in 0..2 {
        for n in 0..problem.cores()[k].len() {
            for change in [1e-2, -1e-2] {
                let mut cores = problem.cores().to_vec();
                cores[k][n] += change;
                assert!(at(&cores) >= least, "number {n} of core {k}");
            }
        }
    }
}

#[test]
fn low_rank_at_as_many_numbers_is_told_beside_the_train() {
    let shared = Shared::default();
    for shape @ [rows, columns] in [[20, 30], [30, 20]] {
        let w = noise(rows * columns, 6);
        let gram = fold(columns, &related(200, columns, 1)).gram.unwrap();
        // The definition: eigenvalues of W H Wᵀ.
        let values = svd_f64(&gram.through(rows, &w).to_f64(), [rows, rows]).unwrap().s;
        let wanted = (values[7..].iter().sum::<f64>() / values.iter().sum::<f64>()).sqrt();
        let got = low_rank::error(&w, shape, 7, Some(&gram), &shared).unwrap();
        assert!((got - wanted).abs() < 1e-6 * wanted, "{got} and {wanted}");
        // With inputs that have nothing to do with each other it is that of the weight.
        let plain = low_rank::error(&w, shape, 7, None, &shared).unwrap();
        let even = unrelated(columns).fit.gram.unwrap();
        let even = low_rank::error(&w, shape, 7, Some(&even), &Shared::default()).unwrap();
        assert!((plain - even).abs() < 1e-6, "{plain} and {even}");
        assert_eq!(low_rank::error(&w, shape, 20, None, &shared).unwrap(), 0.0);
    }
    // A matrix of rank 2 is nothing to a train of two cores.
    let (a, b) = (noise(48, 1), noise(48, 2));
    let w = (0..24 * 24).map(|at| a[at / 24] * b[at % 24] + a[24 + at / 24] * b[24 + at % 24]).collect();
    let (_, notes, figures) = decomposed(json!({"ratio": 0.5}), &of([24, 24], w), &Seen::nothing());
    assert_eq!(figures.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["train_error", "low_rank_error"]);
    assert!(figures[1].1 < 1e-6 && figures[0].1 > 0.01, "{figures:?}");
    assert!(
        notes[1].starts_with("low rank is better: rank 6 has as many numbers and weight error 0.0000"),
        "{notes:?}"
    );
    // And the other way round.
    let (_, notes, figures) = decomposed(json!({"bond": 3}), &of([24, 24], kroneckers(3)), &Seen::nothing());
    assert!(figures[0].1 < figures[1].1 && notes.len() == 1, "{figures:?}");
}

#[test]
fn masks_are_lost_with_a_note_and_a_product_is_decomposed_anew() {
    let mut before = layer([24, 36], 2);
    let Expr::Leaf(leaf) = &mut before.weight else { panic!() };
    leaf.mask = Some(Mask::from_bools([24, 36], &(0..24 * 36).map(|n| n % 4 != 0).collect::<Vec<_>>()));
    let (_, notes, _) = decomposed(json!({}), &before, &Seen::nothing());
    assert_eq!(notes[0], "the mask over 216 removed entries is lost");
    let product = Weight::product(layer([24, 8], 1).weight, layer([8, 36], 2).weight);
    let product = Linear { weight: product, bias: None };
    // 480 numbers now; half of all would be 432.
    assert_eq!(train_of(&decomposed(json!({}), &product, &Seen::nothing()).0).cores.len(), 2);
    let (kept, notes, _) = decomposed(json!({"ratio": 0.6}), &product, &Seen::nothing());
    assert_eq!((kept, &*notes[0]), (product, "stays as it was: a train of 2 cores would save nothing"));
}

#[test]
fn sensitivity_gives_more_to_the_matrix_that_loses_more() {
    let (easy, hard) = (of([24, 24], kroneckers(2)), layer([24, 24], 8));
    let sites: [Site; 2] = ["blocks.0.attn.q".parse().unwrap(), "blocks.1.attn.q".parse().unwrap()];
    let mpo = Mpo::parse(json!({"ratio": 0.5, "allocation": "sensitivity"})).unwrap();
    let mut form = Linear { weight: Form::of(&easy.weight), bias: None };
    assert_eq!(mpo.predict(&sites[0], &mut form), Err(Error::NeedsSurvey { method: NAME, site: sites[0].clone() }));
    let layers = [(sites[0].clone(), &easy), (sites[1].clone(), &hard)];
    let ready = surveyed(Box::new(mpo), &layers).unwrap();
    let numbers = |site: &Site, layer: &Linear<Weight>| {
        let mut form = Linear { weight: Form::of(&layer.weight), bias: None };
        ready.predict(site, &mut form).unwrap();
        form.weight.parameters()
    };
    let (few, many) = (numbers(&sites[0], &easy), numbers(&sites[1], &hard));
    assert!(few < 200 && many > 350 && few + many <= 576, "{few} and {many}");
    let other: Site = "blocks.2.attn.q".parse().unwrap();
    let mut form = Linear { weight: Form::of(&easy.weight), bias: None };
    assert_eq!(ready.predict(&other, &mut form), Err(Error::Changed { method: NAME, site: other.clone() }));
}

#[test]
fn settings_that_exclude_each_other_are_refused() {
    let wants = |settings: Value| match Mpo::parse(settings).unwrap_err() {
        Error::Settings { wants, .. } => wants.to_owned(),
        Error::Value { name, .. } => name.to_owned(),
        other => panic!("{other}"),
    };
    assert_eq!(wants(json!({"bond": 3, "ratio": 0.5})), "one of `bond` and `ratio`");
    assert!(wants(json!({"bond": 3, "allocation": "sensitivity"})).contains("not `bond`"));
    assert_eq!(wants(json!({"bond": 0})), "bond");
    assert_eq!(wants(json!({"ratio": 1.5})), "ratio");
    assert_eq!(wants(json!({"cores": 9})), "cores");
}
