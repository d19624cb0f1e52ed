use brevity_model::{Floats, Mask};

use super::*;
use crate::method::Cx;
use crate::samples::{noise, sizes};

const ROWS: usize = 40;
const COLUMNS: usize = 50;

fn site(block: usize, role: &str) -> Site {
    format!("blocks.{block}.{role}").parse().unwrap()
}

/// Layers of four blocks; the higher the block, the more weights that stand out, in its larger layer.
fn layers() -> Vec<(Site, Linear<Weight>)> {
    let mut all = Vec::new();
    for block in 0..4 {
        for (role, rows) in [("attn.q", ROWS), ("mlp.up", 2 * ROWS)] {
            let mut w = noise(rows * COLUMNS, (block * 2 + rows) as u64);
            w.iter_mut().step_by(1000 / (1 + 5 * block)).for_each(|w| *w = 9.0);
            all.push((
                site(block, role),
                Linear { weight: Weight::float([rows, COLUMNS], Floats::F32(w)), bias: None },
            ));
        }
    }
    all
}

fn surveyed(settings: Value, layers: &[(Site, Linear<Weight>)]) -> Box<dyn LinearMethod> {
    let method = crate::method("prune.wanda", settings).unwrap();
    let Some(mut survey) = method.survey() else { return method };
    for (site, layer) in layers {
        let influence = match site.place {
            Place::Block(n) => Some([0.2, 0.1, 0.105, 0.15][n as usize]),
            _ => None,
        };
        survey.look(site, layer, &Seen { influence, ..sizes(&[1.0; COLUMNS]) }).unwrap();
    }
    assert!(!survey.next_pass());
    let method = survey.finish().unwrap();
    assert!(method.survey().is_none(), "it has learned what it needs");
    method
}

/// Removed entries of each layer.
fn removed(method: &dyn LinearMethod, layers: &[(Site, Linear<Weight>)]) -> Vec<usize> {
    let count = |(site, layer): &(Site, Linear<Weight>)| {
        let (seen, mut after) = (sizes(&[1.0; COLUMNS]), layer.clone());
        method.rewrite(&mut after, &mut Cx::with(site, 0, &seen)).unwrap();
        let mut form = Linear { weight: Form::of(&layer.weight), bias: None };
        method.predict(site, &mut form).unwrap();
        let mask = after.weight.as_leaf().unwrap().mask.as_ref().map_or(0, |mask: &Mask| {
            let [rows, columns] = mask.shape();
            rows * columns - mask.kept()
        });
        let (predicted, real) = (form.weight.as_leaf().unwrap().sparsity(), Form::of(&after.weight));
        assert!((predicted - real.as_leaf().unwrap().sparsity()).abs() < 1e-12, "prediction is exact after the survey");
        mask
    };
    layers.iter().map(count).collect()
}

fn found(values: &[(f64, Option<f64>)]) -> BTreeMap<Site, Found> {
    let entry =
        |(n, &(parameters, value)): (usize, &(f64, Option<f64>))| (site(n, "mlp.up"), Found { parameters, value });
    values.iter().enumerate().map(entry).collect()
}

fn allocation(spread: Spread, band: f64) -> Allocation {
    Allocation { spread, band, shares: None }
}

#[test]
fn uniform_is_what_there_is_without_an_allocation() {
    let layers = layers();
    let plain = crate::prune::wanda::Wanda::new(crate::prune::pattern::Amount::Share(0.5));
    let uniform = surveyed(json!({"sparsity": 0.5, "allocation": "uniform"}), &layers);
    assert_eq!(removed(&*uniform, &layers), removed(&plain, &layers));
    assert!(plain.survey().is_none() && plain.survey_needs().is_nothing());
}

#[test]
fn blocks_with_more_outliers_stay_denser() {
    let layers = layers();
    let counts = removed(&*surveyed(json!({"sparsity": 0.6, "allocation": "owl"}), &layers), &layers);
    let share = |n: usize| (counts[2 * n] + counts[2 * n + 1]) as f64 / (3 * ROWS * COLUMNS) as f64;
    assert!((1..4).all(|n| share(n) < share(n - 1)), "{counts:?}");
    assert!((0..4).all(|n| (share(n) - 0.6).abs() <= 0.08 + 1.0 / COLUMNS as f64), "{counts:?}");
    // Both layers of a block lose one share.
    assert!((0..4).all(|n| counts[2 * n + 1] == 2 * counts[2 * n]));
}

#[test]
fn blocks_that_change_more_stay_denser() {
    let layers = layers();
    let settings = json!({"sparsity": 0.6, "allocation": "influence", "band": 0.3});
    let counts = removed(&*surveyed(settings, &layers), &layers);
    assert!(counts[0] < counts[6] && counts[6] < counts[4] && counts[4] < counts[2], "{counts:?}");
}

#[test]
fn the_budget_is_met_within_one_entry_and_no_limit_is_passed() {
    let outliers = [(1e6, Some(0.01)), (4e6, Some(0.002)), (2e6, Some(0.2)), (5e5, None), (3e6, Some(0.0))];
    let influences = [(1e6, Some(0.6)), (4e6, Some(0.05)), (2e6, Some(0.04)), (5e5, None), (3e6, Some(0.1))];
    for (spread, values) in [(Spread::Owl, outliers), (Spread::Influence, influences)] {
        for sparsity in [0.01, 0.3, 0.5, 0.93, 0.97] {
            for band in [0.08, 0.3, 1.0] {
                let shares = allocation(spread, band).shares(&found(&values), sparsity);
                let shares: Vec<f64> = shares.into_values().collect();
                let total: f64 = shares.iter().zip(&values).map(|(share, (parameters, _))| share * parameters).sum();
                let all: f64 = values.iter().map(|(parameters, _)| parameters).sum();
                assert!((total - sparsity * all).abs() < 1.0, "{spread:?} {sparsity} {band}: {shares:?}");
                let most = (sparsity + band).min(0.95f64.max(sparsity)) + 1e-12;
                assert!(shares.iter().all(|s| (sparsity - band - 1e-12..=most).contains(s) && *s >= 0.0));
                assert_eq!(shares[3], sparsity, "nothing was seen of it");
            }
        }
    }
}

#[test]
fn influence_follows_the_softmax_between_the_limits() {
    // Two blocks of one size: shares in the ratio e^(0.03 / 0.15), with mean 0.5.
    let shares = allocation(Spread::Influence, 1.0).shares(&found(&[(10.0, Some(0.13)), (10.0, Some(0.1))]), 0.5);
    let ratio = 0.2f64.exp();
    let right = [1.0 / (1.0 + ratio), ratio / (1.0 + ratio)];
    assert!(shares.values().zip(right).all(|(a, b)| (a - b).abs() < 1e-12), "{shares:?}");
}

#[test]
fn blocks_that_are_alike_get_the_same() {
    for spread in [Spread::Owl, Spread::Influence] {
        let shares =
            allocation(spread, 0.08).shares(&found(&[(3.0, Some(0.1)), (7.0, Some(0.1)), (1.0, Some(0.1))]), 0.4);
        assert!(shares.values().all(|share| (share - 0.4).abs() < 1e-12), "{shares:?}");
    }
}

#[test]
fn the_order_of_layers_does_not_matter() {
    let mut layers = layers();
    for spread in ["owl", "influence"] {
        let settings = json!({"sparsity": 0.6, "allocation": spread});
        let one = surveyed(settings.clone(), &layers);
        let there = removed(&*one, &layers);
        layers.reverse();
        let other = surveyed(settings, &layers);
        let mut back = removed(&*other, &layers);
        back.reverse();
        layers.reverse();
        assert_eq!(there, back);
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
    }
}

#[test]
fn magnitude_can_be_spread_too() {
    let layers = layers();
    let method = crate::method("prune.magnitude", json!({"sparsity": 0.5, "allocation": "owl"})).unwrap();
    assert!(method.survey_needs().moments && method.needs().is_nothing());
    let mut survey = method.survey().unwrap();
    layers.iter().for_each(|(site, layer)| survey.look(site, layer, &sizes(&[1.0; COLUMNS])).unwrap());
    let counts = removed(&*survey.finish().unwrap(), &layers);
    assert!(counts[1] > counts[7]);
    let total: usize = counts.iter().sum();
    assert!((total as i64 - 12 * (ROWS * COLUMNS) as i64 / 2).abs() <= 8, "{total}");
}

#[test]
fn a_spread_needs_its_survey_and_knows_its_blocks() {
    let (at, elsewhere) = (site(0, "mlp.up"), site(9, "mlp.up"));
    let mut layer = layers().remove(1).1;
    let method = crate::method("prune.wanda", json!({"allocation": "owl"})).unwrap();
    let error = method.rewrite(&mut layer, &mut Cx::new(&at, 0)).unwrap_err();
    assert_eq!(error, Error::NeedsSurvey { method: "prune.wanda", site: at });
    let error =
        surveyed(json!({"allocation": "owl"}), &layers()).rewrite(&mut layer, &mut Cx::new(&elsewhere, 0)).unwrap_err();
    assert_eq!(error, Error::Changed { method: "prune.wanda", site: elsewhere });
}
