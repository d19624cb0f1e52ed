use super::testing::{gram, numbers};
use super::*;
use crate::grid::{self, Range, ScaleType};

fn spec(bits: u32, group: usize, symmetric: bool) -> Spec {
    Spec { bits, group: Group::Size(group), symmetric, range: Range::MinMax, scale: ScaleType::F16, ragged: true }
}

fn falling(gram: &crate::gram::Gram) -> Vec<u32> {
    let diagonal = gram.diagonal();
    let mut order: Vec<u32> = (0..diagonal.len() as u32).collect();
    order.sort_by(|&a, &b| diagonal[b as usize].total_cmp(&diagonal[a as usize]).then(a.cmp(&b)));
    order
}

/// `tr((W - Q) (H + damp I) (W - Q)ᵀ)`, entry by entry.
fn damped_error(gram: &crate::gram::Gram, damp: f64, w: &[f32], q: &[f32]) -> f64 {
    let (n, h) = (gram.size(), gram.to_f64());
    let add = damp * gram.trace() / n as f64;
    let mut total = 0.0;
    for (w, q) in w.chunks(n).zip(q.chunks(n)) {
        let d: Vec<f64> = w.iter().zip(q).map(|(w, q)| f64::from(*w) - f64::from(*q)).collect();
        for i in 0..n {
            let row: f64 = (0..n).map(|j| h[i * n + j] * d[j]).sum();
            total += d[i] * (row + add * d[i]);
        }
    }
    total
}

/// A solver and the definition agree: nearly all codes and flags, and in rows where all do the values too.
fn agree(case: &str, columns: &Columns<'_>, w: &[f32], shape: [usize; 2], keep: Option<&[bool]>) {
    let (mut fast, mut plain) = (w.to_vec(), w.to_vec());
    let a = columns.solve(&mut fast, shape, keep).unwrap();
    let b = solve_scalar(columns, &mut plain, shape, keep);
    assert_eq!((a.codes.is_some(), a.keep.is_some()), (b.codes.is_some(), b.keep.is_some()), "{case}");
    assert!((a.loss - b.loss).abs() <= 2e-3 * b.loss, "{case}: {} {}", a.loss, b.loss);
    let mut differing = 0;
    for row in 0..shape[0] {
        let at = row * shape[1]..(row + 1) * shape[1];
        let same = |x: &Option<Vec<u8>>, y: &Option<Vec<u8>>| {
            x.as_ref().zip(y.as_ref()).is_none_or(|(x, y)| x[at.clone()] == y[at.clone()])
        };
        let same_keep = a.keep.as_ref().zip(b.keep.as_ref()).is_none_or(|(x, y)| x[at.clone()] == y[at.clone()]);
        if !same(&a.codes, &b.codes) || !same_keep {
            differing += 1;
            continue;
        }
        let most = plain[at.clone()].iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for (x, y) in fast[at.clone()].iter().zip(&plain[at]) {
            assert!((x - y).abs() <= 2e-3 * most, "{case}: {x} {y}");
        }
    }
    assert!(differing * 10 <= shape[0], "{case}: {differing} of {} rows", shape[0]);
    if let (Some(a), Some(b)) = (a.scales, b.scales) {
        let near = a.scales.iter().zip(&b.scales).filter(|(a, b)| (*a / *b - 1.0).abs() < 2e-3).count();
        assert!(near * 10 >= 9 * b.scales.len(), "{case}");
        assert_eq!(a.zeros.is_some(), b.zeros.is_some());
    }
}

#[test]
fn the_solver_equals_its_definition() {
    for (rows, n) in [(1, 1), (3, 37), (40, 150), (33, 64)] {
        let gram = gram(2 * n + 9, n, 5);
        let w = numbers(rows * n, 3);
        let shape = [rows, n];
        let mask: Vec<bool> = (0..rows * n).map(|i| i % 7 > 1 && i % 5 != 0).collect();
        let (natural, order) = (InverseFactor::new(&gram, None, 0.1).unwrap(), falling(&gram));
        let ordered = InverseFactor::new(&gram, Some(&order), 0.1).unwrap();
        for keep in [None, Some(&mask[..])] {
            for bits in [1, 3, 8] {
                for (symmetric, group) in [(true, 16), (false, 40), (true, 1000)] {
                    let spec = spec(bits, group, symmetric);
                    let scales = grid::fit(&spec, &w, shape, keep).unwrap();
                    let case = |what: &str| format!("{rows} {n} {bits} {symmetric} {group} {what}");
                    for (factor, fit, prune, what) in [
                        (&natural, Fit::Static(&scales), None, "natural"),
                        (&ordered, Fit::Static(&scales), None, "ordered"),
                        (&natural, Fit::Dynamic, None, "dynamic"),
                        (&natural, Fit::Static(&scales), Some(Prune::Pattern { removed: 2, of: 4 }), "pattern"),
                        (&natural, Fit::Dynamic, Some(Prune::Pattern { removed: 3, of: 5 }), "dynamic pattern"),
                        (&natural, Fit::Static(&scales), Some(Prune::Count(rows * n / 2)), "count"),
                    ] {
                        let grid = Some(Grid { spec: &spec, fit });
                        agree(&case(what), &Columns { factor, grid, prune, block: 32 }, &w, shape, keep);
                    }
                }
            }
            for prune in [None, Some(Prune::Count(rows * n * 2 / 3)), Some(Prune::Pattern { removed: 1, of: 3 })] {
                let columns = Columns { factor: &natural, grid: None, prune, block: 17 };
                agree(&format!("{rows} {n} {prune:?}"), &columns, &w, shape, keep);
            }
        }
    }
}

#[test]
fn whole_rows_and_whole_tensors_share_scales() {
    let (rows, n) = (35, 50);
    let gram = gram(120, n, 2);
    let w = numbers(rows * n, 3);
    let factor = InverseFactor::new(&gram, None, 0.1).unwrap();
    for group in [Group::Row, Group::Tensor] {
        let spec = Spec { group, ..spec(4, 1, false) };
        let scales = grid::fit(&spec, &w, [rows, n], None).unwrap();
        let grid = Some(Grid { spec: &spec, fit: Fit::Static(&scales) });
        let columns = Columns { factor: &factor, grid, prune: None, block: 16 };
        agree(&format!("{group:?}"), &columns, &w, [rows, n], None);
        let mut q = w.clone();
        let solved = columns.solve(&mut q, [rows, n], None).unwrap();
        let mut back = vec![0.0; w.len()];
        grid::decode(&spec, &scales, &solved.codes.unwrap(), [rows, n], &mut back).unwrap();
        assert_eq!(q, back, "the values are those that the codes stand for");
    }
}

#[test]
fn the_loss_is_the_damped_error_on_what_was_seen() {
    let (rows, n) = (64, 96);
    let gram = gram(300, n, 4);
    let w = numbers(rows * n, 9);
    let spec = spec(3, 32, false);
    let scales = grid::fit(&spec, &w, [rows, n], None).unwrap();
    let order = falling(&gram);
    let factor = InverseFactor::new(&gram, Some(&order), 0.3).unwrap();
    let grid = Some(Grid { spec: &spec, fit: Fit::Static(&scales) });
    for (grid, prune) in
        [(grid, None), (None, Some(Prune::Count(rows * n / 2))), (grid, Some(Prune::Count(rows * n / 3)))]
    {
        let columns = Columns { factor: &factor, grid, prune, block: 32 };
        for fast in [true, false] {
            let mut q = w.clone();
            let solved = match fast {
                true => columns.solve(&mut q, [rows, n], None).unwrap(),
                false => solve_scalar(&columns, &mut q, [rows, n], None),
            };
            let wanted = damped_error(&gram, 0.3, &w, &q);
            assert!((solved.loss / wanted - 1.0).abs() < 1e-6, "{prune:?} {fast}: {} {wanted}", solved.loss);
        }
    }
}

#[test]
fn unrelated_inputs_leave_plain_rounding() {
    let (rows, n) = (37, 70);
    let w = numbers(rows * n, 1);
    let factor = InverseFactor::new(&crate::gram::Gram::new(n), None, 0.01).unwrap();
    assert_eq!(factor.columns(), InverseFactor::identity(n).columns());
    for (bits, symmetric) in [(2, true), (4, false), (8, true)] {
        let spec = spec(bits, 32, symmetric);
        let scales = grid::fit(&spec, &w, [rows, n], None).unwrap();
        let mut codes = vec![0; w.len()];
        grid::encode(&spec, &scales, &w, [rows, n], None, &mut codes).unwrap();
        for fit in [Fit::Static(&scales), Fit::Dynamic] {
            let mut q = w.clone();
            let columns = Columns { factor: &factor, grid: Some(Grid { spec: &spec, fit }), prune: None, block: 16 };
            let solved = columns.solve(&mut q, [rows, n], None).unwrap();
            assert_eq!(solved.codes.as_ref(), Some(&codes));
            assert!(solved.scales.is_none_or(|fitted| fitted == scales));
        }
    }
    // And what is kept of a pruned weight stays as it was.
    let mut q = w.clone();
    let columns = Columns { factor: &factor, grid: None, prune: Some(Prune::Count(1000)), block: 16 };
    let keep = columns.solve(&mut q, [rows, n], None).unwrap().keep.unwrap();
    assert!(keep.iter().zip(w.iter().zip(&q)).all(|(keep, (w, q))| *q == if *keep { *w } else { 0.0 }));
}

#[test]
fn points_of_the_grid_stay_where_they_are() {
    let (rows, n) = (20, 60);
    let gram = gram(200, n, 6);
    let spec = spec(4, 20, false);
    let mut w = numbers(rows * n, 1);
    let scales = grid::fit(&spec, &w, [rows, n], None).unwrap();
    let mut codes = vec![0; w.len()];
    grid::encode(&spec, &scales, &w, [rows, n], None, &mut codes).unwrap();
    grid::decode(&spec, &scales, &codes, [rows, n], &mut w).unwrap();
    let factor = InverseFactor::new(&gram, None, 0.01).unwrap();
    let mut q = w.clone();
    let grid = Some(Grid { spec: &spec, fit: Fit::Static(&scales) });
    let solved = Columns { factor: &factor, grid, prune: None, block: 32 }.solve(&mut q, [rows, n], None).unwrap();
    assert_eq!((solved.codes.unwrap(), q, solved.loss), (codes, w, 0.0));
}

#[test]
fn the_size_of_a_block_changes_nothing_but_the_last_bits() {
    let (rows, n) = (48, 130);
    let gram = gram(400, n, 8);
    let w = numbers(rows * n, 2);
    let spec = spec(4, 48, true);
    let factor = InverseFactor::new(&gram, None, 0.1).unwrap();
    let scales = grid::fit(&spec, &w, [rows, n], None).unwrap();
    for (fit, prune) in
        [(Fit::Static(&scales), None), (Fit::Dynamic, None), (Fit::Dynamic, Some(Prune::Pattern { removed: 2, of: 4 }))]
    {
        let solve = |block| {
            let mut q = w.clone();
            let grid = Some(Grid { spec: &spec, fit });
            let solved = Columns { factor: &factor, grid, prune, block }.solve(&mut q, [rows, n], None).unwrap();
            (q, solved.loss)
        };
        let one = solve(1);
        for block in [7, 128, n] {
            let other = solve(block);
            let same = one.0.iter().zip(&other.0).filter(|(a, b)| (*a - *b).abs() < 1e-5).count();
            assert!(same * 100 >= 97 * w.len(), "{block} {prune:?}: {same} of {}", w.len());
            assert!((one.1 / other.1 - 1.0).abs() < 5e-3, "{block}: {} {}", one.1, other.1);
        }
    }
}

#[test]
fn exactly_as_many_weights_go_as_are_to_go() {
    let (rows, n) = (19, 90);
    let gram = gram(300, n, 8);
    let factor = InverseFactor::new(&gram, None, 0.1).unwrap();
    let mask: Vec<bool> = (0..rows * n).map(|i| i % n > 40 || i % 3 == 0).collect();
    let gone = mask.iter().filter(|k| !**k).count();
    for w in [numbers(rows * n, 2), vec![0.5; rows * n], vec![0.0; rows * n]] {
        for (count, keep) in [
            (0, None),
            (1, None),
            (777, None),
            (rows * n - 1, None),
            (gone, Some(&mask[..])),
            (gone + 301, Some(&mask[..])),
            (3, Some(&mask[..])),
        ] {
            let mut q = w.clone();
            let columns = Columns { factor: &factor, grid: None, prune: Some(Prune::Count(count)), block: 32 };
            let kept = columns.solve(&mut q, [rows, n], keep).unwrap().keep.unwrap();
            let before = if keep.is_some() { gone } else { 0 };
            assert_eq!(kept.iter().filter(|k| !**k).count(), count.max(before));
            if let Some(keep) = keep {
                assert!(keep.iter().zip(&kept).all(|(before, now)| *before || !*now), "what was gone stays so");
            }
            assert!(kept.iter().zip(&q).all(|(keep, q)| *keep || *q == 0.0));
        }
    }
}

#[test]
fn a_pattern_holds_in_every_whole_run_and_the_rest_stays_dense() {
    let (rows, n) = (34, 67);
    let gram = gram(200, n, 8);
    let factor = InverseFactor::new(&gram, None, 0.1).unwrap();
    for (removed, of) in [(2, 4), (1, 3), (7, 8), (40, 66)] {
        let mut q = numbers(rows * n, 2);
        let columns = Columns { factor: &factor, grid: None, prune: Some(Prune::Pattern { removed, of }), block: 16 };
        let keep = columns.solve(&mut q, [rows, n], None).unwrap().keep.unwrap();
        for row in keep.chunks(n) {
            let runs = row.chunks_exact(of);
            assert!(runs.remainder().iter().all(|&keep| keep));
            runs.for_each(|run| assert_eq!(run.iter().filter(|k| !**k).count(), removed));
        }
    }
}

#[test]
fn threads_change_nothing_and_empty_weights_are_fine() {
    let (rows, n) = (200, 64);
    let gram = gram(200, n, 8);
    let factor = InverseFactor::new(&gram, None, 0.1).unwrap();
    let spec = spec(4, 16, true);
    let w = numbers(rows * n, 2);
    for prune in [None, Some(Prune::Count(5000))] {
        let solve = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut q = w.clone();
            let grid = Some(Grid { spec: &spec, fit: Fit::Dynamic });
            let columns = Columns { factor: &factor, grid, prune, block: 32 };
            let solved = pool.install(|| columns.solve(&mut q, [rows, n], None).unwrap());
            (q, solved)
        };
        assert_eq!(solve(1), solve(3));
    }
    let columns = Columns { factor: &factor, grid: None, prune: Some(Prune::Count(0)), block: 32 };
    assert_eq!(columns.solve(&mut [], [0, n], None).unwrap().loss, 0.0);
    let none = InverseFactor::new(&crate::gram::Gram::new(0), None, 0.1).unwrap();
    let grid = Some(Grid { spec: &spec, fit: Fit::Dynamic });
    let solved = Columns { factor: &none, grid, prune: None, block: 32 }.solve(&mut [], [4, 0], None).unwrap();
    assert_eq!(solved.codes, Some(Vec::new()));
}
