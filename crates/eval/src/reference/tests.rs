use brevity_kernels::softmax::kl_scalar;

use super::*;

fn rows_of(count: usize, vocabulary: usize, seed: u64, spread: f32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count * vocabulary).map(|_| spread * (next() + next() + next())).collect()
}

fn windows(count: usize, length: usize) -> Windows {
    let tokens: Vec<u32> = (0..(count * length) as u32).map(|i| i * 7 % 40).collect();
    Windows::cut("t", &tokens, length, None).unwrap()
}

fn show(measure: &mut dyn Measure, windows: &Windows, vocabulary: usize, logits: &[f32]) -> Result<Vec<Score>> {
    let rows = windows.length - 1;
    for (n, window) in windows.windows.iter().enumerate() {
        let logits = &logits[n * rows * vocabulary..][..rows * vocabulary];
        // In two chunks, as a runtime would.
        for (first, targets, logits) in
            [(0, &window[1..2], &logits[..vocabulary]), (1, &window[2..], &logits[vocabulary..])]
        {
            measure.observe(&Rows::new(n, first, vocabulary, targets, logits)?)?;
        }
    }
    measure.report(windows)
}

#[test]
fn the_exact_divergence_lies_between_the_coarse_one_and_its_bound() {
    for (k, spread, noise) in [(1, 2.0, 0.5), (4, 5.0, 1.0), (16, 8.0, 0.1), (64, 3.0, 2.0)] {
        let (p, change) = (rows_of(20, 300, 1, spread), rows_of(20, 300, 2, noise));
        let q: Vec<f32> = p.iter().zip(&change).map(|(p, c)| p + c).collect();
        for (p, q) in p.chunks(300).zip(q.chunks(300)) {
            let found = apart(&top_k(p, k), q);
            let (exact, reverse) = (kl_scalar(p, q), kl_scalar(q, p));
            assert!(found.forward <= exact + 1e-6, "{k}: {found:?} {exact}");
            assert!(exact <= found.forward + found.bound + 1e-6, "{k}: {found:?} {exact}");
            assert!(found.reverse <= reverse + 1e-6, "{k}: {found:?} {reverse}");
        }
    }
}

#[test]
fn peaked_predictions_lose_next_to_nothing() {
    // Logits spread over 60: nearly all mass is in the first 64 of 2000.
    let (p, change) = (rows_of(20, 2000, 3, 30.0), rows_of(20, 2000, 4, 0.3));
    for (p, change) in p.chunks(2000).zip(change.chunks(2000)) {
        let q: Vec<f32> = p.iter().zip(change).map(|(p, c)| p + c).collect();
        let (found, exact) = (apart(&top_k(p, TOP), &q), kl_scalar(p, &q));
        assert!((exact - found.forward).abs() < 1e-3 * exact + 1e-6, "{found:?} {exact}");
        assert!(found.bound < 0.02, "{found:?}");
    }
}

#[test]
fn everything_stored_is_exact() {
    let (p, q) = (rows_of(1, 40, 5, 4.0), rows_of(1, 40, 6, 4.0));
    let found = apart(&top_k(&p, 40), &q);
    assert!((found.forward - kl_scalar(&p, &q)).abs() < 1e-5);
    assert!((found.reverse - kl_scalar(&q, &p)).abs() < 1e-5);
    assert_eq!(found.bound, 0.0);
}

#[test]
fn a_stored_reference_reads_back_and_finds_no_difference_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reference.bin");
    let windows = windows(3, 5);
    let logits = rows_of(3 * 4, 40, 7, 6.0);
    let mut recorder = Recorder::create(&path, &windows, 40, 8).unwrap();
    assert!(!path.exists(), "nothing half-written looks whole");
    assert!(show(&mut recorder, &windows, 40, &logits).unwrap().is_empty());
    let mut same = FromReference::open(&path, &windows, 40).unwrap();
    let scores = show(&mut same, &windows, 40, &logits).unwrap();
    let value = |name: &str| scores.iter().find(|s| s.name == name).unwrap().value;
    for name in ["kl_mean", "kl_median", "kl_p99", "kl_reverse"] {
        assert!(value(name) < 1e-6, "{name}: {}", value(name));
    }
    assert_eq!(value("top1_agreement"), 1.0);
    let mut other = FromReference::open(&path, &windows, 40).unwrap();
    let scores = show(&mut other, &windows, 40, &rows_of(3 * 4, 40, 8, 6.0)).unwrap();
    assert!(scores[0].value > 0.5, "{scores:?}");
}

#[test]
fn a_reference_of_other_windows_or_a_damaged_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reference.bin");
    let windows = windows(2, 4);
    let mut recorder = Recorder::create(&path, &windows, 40, 8).unwrap();
    show(&mut recorder, &windows, 40, &rows_of(6, 40, 1, 1.0)).unwrap();
    let open = |windows: &Windows, vocabulary| FromReference::open(&path, windows, vocabulary).unwrap_err().to_string();
    assert_eq!(open(&windows, 41), "the stored reference has vocabulary 40, this evaluation has 41");
    let mut others = windows.clone();
    others.windows[1][2] += 1;
    assert!(open(&others, 40).starts_with("the stored reference has tokens with the hash"));
    let bytes = std::fs::read(&path).unwrap();
    for (bytes, why) in [
        (&bytes[..bytes.len() - 1], "bytes instead of"),
        (&bytes[..20], "its header is too long"),
        (&bytes[..3], "it is too short"),
        (b"something else altogether", "it begins with other bytes"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        assert!(open(&windows, 40).contains(why), "{why}: {}", open(&windows, 40));
    }
}

#[test]
fn a_recording_that_ends_early_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reference.bin");
    let windows = windows(2, 4);
    let mut recorder = Recorder::create(&path, &windows, 40, 8).unwrap();
    let logits = rows_of(3, 40, 1, 1.0);
    recorder.observe(&Rows::new(0, 0, 40, &windows.windows[0][1..], &logits).unwrap()).unwrap();
    assert!(recorder.report(&windows).is_err());
    assert!(!path.exists());
}

#[test]
fn a_directory_where_the_reference_is_to_be_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("taken.kld");
    std::fs::create_dir(&place).unwrap();
    let error = Recorder::create(&place, &windows(2, 6), 24, 8).unwrap_err().to_string();
    assert!(error.contains("taken.kld"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
}
