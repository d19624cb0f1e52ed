//! Encoders through the command: embedded, scored, cut, trained, turned into tables.

mod common;

#[path = "common/bert.rs"]
mod bert;

use std::path::{Path, PathBuf};

use bert::{HIDDEN, LAYERS, directory};
use common::{digests, failure, success as brevity};
use serde_json::Value;

const MEAN: &str = r#"{"pooling_mode": "mean"}"#;

/// What a failed run said.
fn failing(args: &[&str]) -> String {
    failure(args).1
}

/// What a run printed, as JSON.
fn json(args: &[&str]) -> Value {
    serde_json::from_str(&brevity(args)).unwrap()
}

/// Texts of words that the small encoder knows.
fn texts(count: usize) -> Vec<String> {
    let words = ["a", "cat", "dog", "sat", "on", "mat"];
    let mut state = 7usize;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    (0..count).map(|_| (0..3 + next(5)).map(|_| words[next(6)]).collect::<Vec<_>>().join(" ")).collect()
}

fn written(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn lines(dir: &Path, count: usize) -> String {
    written(dir, "texts.txt", &texts(count).iter().map(|text| format!("{text}\n")).collect::<String>())
}

/// Pairs, with the share of words they have in common for a score.
fn sts(dir: &Path, count: usize) -> String {
    let texts = texts(2 * count);
    let row = |pair: &[String]| {
        let [one, two] = [&pair[0], &pair[1]].map(|text| text.split(' ').collect::<std::collections::BTreeSet<_>>());
        let score = 5.0 * one.intersection(&two).count() as f64 / one.union(&two).count() as f64;
        format!("g\tf\t2012\t1\t{score:.3}\t{}\t{}\n", pair[0], pair[1])
    };
    written(dir, "pairs.csv", &texts.chunks(2).map(row).collect::<String>())
}

fn vectors(args: &[&str]) -> Vec<Vec<f64>> {
    let found: Value = json(args);
    serde_json::from_value(found["vectors"].clone()).unwrap()
}

fn model() -> (tempfile::TempDir, String) {
    let dir = directory(MEAN, "{}");
    let name = dir.path().display().to_string();
    (dir, name)
}

fn out(dir: &Path, name: &str) -> (PathBuf, String) {
    let path = dir.join(name);
    let text = path.display().to_string();
    (path, text)
}

#[test]
fn texts_become_vectors_in_every_form() {
    let (_model, model) = model();
    let dir = tempfile::tempdir().unwrap();
    let input = written(dir.path(), "t.txt", "a cat\n\na dog sat\n");
    let all = vectors(&["embed", &model, "--input", &input, "--json"]);
    assert_eq!((all.len(), all[0].len()), (3, HIDDEN));
    assert!(all.iter().all(|row| (row.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5));
    let printed = brevity(&["embed", &model, "--input", &input]);
    let first: Vec<f64> = serde_json::from_str(printed.lines().next().unwrap()).unwrap();
    assert_eq!(first, all[0]);
    let (npy, name) = out(dir.path(), "v.npy");
    brevity(&["embed", &model, "--input", &input, "--out", &name]);
    assert_eq!(std::fs::metadata(npy).unwrap().len(), 128 + 3 * HIDDEN as u64 * 4);
    let some = vectors(&["embed", &model, "--input", &input, "--dims", "5", "--layers", "2", "--json"]);
    assert_eq!((some.len(), some[0].len()), (3, 5));
}

#[test]
fn what_cannot_be_embedded_is_told() {
    let (_model, model) = model();
    let dir = tempfile::tempdir().unwrap();
    let input = written(dir.path(), "t.txt", "a cat\n");
    let embed = |more: &[&str]| failing(&[&["embed", model.as_str(), "--input", &input], more].concat());
    assert!(embed(&["--dims", "17"]).contains("17 dimensions are more than the 16"));
    assert!(embed(&["--layers", "4"]).contains("4 layers are more than the 3"));
    assert!(embed(&["--pooling", "median"]).contains("the modes are cls, max, mean"));
    assert!(embed(&["--prompt", "query"]).contains("no prompt `query`"));
    assert!(embed(&["--out", "vectors.bin"]).contains("`.npy` and `.jsonl`"));
}

#[test]
fn an_encoder_is_scored_with_all_its_cuts() {
    let (_model, model) = model();
    let dir = tempfile::tempdir().unwrap();
    let pairs = sts(dir.path(), 60);
    let found = json(&["eval", &model, "--sts", &pairs, "--cuts", "16,8,4", "--temperatures", "0.5,1", "--json"]);
    let score = found["results"]["pairs"]["spearman,none"].as_f64().unwrap();
    let cuts = &found["cuts"][0];
    assert_eq!((cuts["layers"].as_array().unwrap().len(), cuts["dims"].to_string()), (LAYERS + 1, "[4,8,16]".into()));
    let last = cuts["values"][LAYERS][2].as_f64().unwrap();
    assert!((last - score).abs() < 1e-6, "{last} and {score}: the uncut one is the model itself");
    let tempered = found["temperatures"].as_array().unwrap();
    let of = |n: usize| tempered[n]["scores"][0]["value"].as_f64().unwrap();
    assert!((of(1) - score).abs() < 1e-9 && (of(0) - score).abs() > 1e-6);
    let table = brevity(&["eval", &model, "--sts", &pairs, "--cuts", "usual"]);
    assert!(table.contains("spearman of pairs by layers and dimensions") && table.contains(" *"), "{table}");
    let pca = json(&["eval", &model, "--sts", &pairs, "--cuts", "16,4", "--pca", &lines(dir.path(), 50), "--json"]);
    assert!(pca["cuts"][0]["how"].as_str().unwrap().contains("principal axes"));
}

#[test]
fn a_cut_encoder_is_written_scored_and_compared() {
    let (_model, model) = model();
    let dir = tempfile::tempdir().unwrap();
    let (pairs, text) = (sts(dir.path(), 60), lines(dir.path(), 200));
    let recipe = "format: dense\nvectors: {dims: 6, turn: fit, texts: 150}\ncalibration: {samples: 1, length: 16}\nsteps:\n  - prune.layers: {keep: 2}\n";
    let recipe = written(dir.path(), "half.yaml", recipe);
    let (path, cut) = out(dir.path(), "cut");
    let report = json(&["compress", &model, "--recipe", &recipe, "--text", &text, "--out", &cut, "--json"]);
    assert_eq!(report["size_bytes_after"], report["size_bytes_predicted"]);
    let config: Value = serde_json::from_slice(&std::fs::read(path.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["num_hidden_layers"], 2);
    assert!(path.join("2_Dense/model.safetensors").exists() && path.join("modules.json").exists());
    let input = written(dir.path(), "t.txt", "a cat\na dog sat\n");
    let rows = vectors(&["embed", &cut, "--input", &input, "--json"]);
    assert_eq!((rows.len(), rows[0].len()), (2, 6));
    assert!((rows[0].iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
    let html = dir.path().join("r.html").display().to_string();
    let compared = json(&[
        "compare",
        &model,
        &cut,
        "--sts",
        &pairs,
        "--cuts",
        "usual",
        "--report",
        &html,
        "--gate",
        "pairs>=-2",
        "--json",
    ]);
    assert_eq!(compared["gate"], "passed");
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("Layers and dimensions") && page.contains("class=\"heat h"));
    let again = json(&["compress", &model, "--recipe", &recipe, "--text", &text, "--out", &cut, "--json"]);
    assert_eq!(again["size_bytes_after"], report["size_bytes_after"], "a finished run is found again");
}

#[test]
fn vectors_that_cannot_be_cut_are_refused_before_the_work() {
    let (_model, model) = model();
    let dir = tempfile::tempdir().unwrap();
    let compress = |recipe: &str, more: &[&str]| {
        let recipe = written(dir.path(), "r.yaml", recipe);
        let (_, target) = out(dir.path(), "out");
        failing(&[&["compress", model.as_str(), "--recipe", &recipe, "--out", &target], more].concat())
    };
    assert!(compress("vectors: {dims: 17}\n", &[]).contains("17 dimensions cannot be kept of 16"));
    assert!(compress("vectors: {dims: 4, turn: pca}\n", &[]).contains("there is no text"));
    assert!(compress("vectors: {turn: pca}\n", &[]).contains("does not say how many `dims`"));
    assert!(compress("vectors: {dims: 4, turn: spin}\n", &[]).contains("it takes none, pca or fit"));
    assert!(compress("vectors: {dims: 4, turn: pca, whiten: 2}\n", &[]).contains("it takes a number from 0 to 1"));
    assert!(compress("vectors: {dims: 4, whiten: 0.5}\n", &[]).contains("cannot be whitened"));
    let short = written(dir.path(), "short.txt", "a cat\na dog\n");
    let said = compress("vectors: {dims: 4, turn: pca}\ncalibration: {samples: 1, length: 4}\n", &["--text", &short]);
    assert!(said.contains("2 lines of text are too few"), "{said}");
}

#[test]
fn a_static_table_is_distilled_read_and_scored() {
    let (_model, model) = model();
    let dir = tempfile::tempdir().unwrap();
    let (path, table) = out(dir.path(), "table");
    let report = json(&["distill", &model, "--out", &table, "--dims", "6", "--type", "f32", "--json"]);
    assert_eq!((report["tokens"].as_u64(), report["dims"].as_u64()), (Some(9), Some(6)));
    assert!(path.join("modules.json").exists());
    let input = written(dir.path(), "t.txt", "cat\ncat cat\nzebra\n");
    let rows = vectors(&["embed", &table, "--input", &input, "--json"]);
    assert_eq!(rows[0], rows[1]);
    let found = json(&["eval", &table, "--sts", &sts(dir.path(), 40), "--json"]);
    assert!(found["results"]["pairs"]["spearman,none"].as_f64().is_some());
    assert!(failing(&["distill", &model, "--out", &table]).contains("is not empty"));
    let (_, wide) = out(dir.path(), "wide");
    assert!(failing(&["distill", &model, "--out", &wide, "--dims", "17"]).contains("17 dimensions"));
}

#[test]
fn tokens_of_a_static_table_share_rows() {
    let (_model, model) = model();
    let dir = tempfile::tempdir().unwrap();
    let (path, table) = out(dir.path(), "table");
    let common = ["distill", model.as_str(), "--dims", "6", "--type", "f32", "--json"];
    let report = json(&[&common[..], &["--clusters", "4", "--out", &table]].concat());
    assert_eq!((report["tokens"].as_u64(), report["dims"].as_u64()), (Some(9), Some(6)));
    // Sentence-transformers would take the rows of other tokens.
    assert!(!path.join("modules.json").exists());
    let config: Value = serde_json::from_slice(&std::fs::read(path.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["vocabulary_quantization"], 4);
    let input = written(dir.path(), "t.txt", "cat\ncat cat\n");
    let rows = vectors(&["embed", &table, "--input", &input, "--json"]);
    assert_eq!((rows[0].len(), &rows[0]), (6, &rows[1]));
    let (_, more) = out(dir.path(), "more");
    assert!(
        failing(&[&common[..], &["--clusters", "10", "--out", &more]].concat())
            .contains("9 tokens cannot share 10 rows")
    );
}

#[test]
fn vectors_become_codes_that_are_searched_by_their_own_codec_alone() {
    let (_model, model) = model();
    let dir = tempfile::tempdir().unwrap();
    let [file, codec, codes, faiss] = ["v.npy", "a.codec", "a.codes", "a.faiss"].map(|name| out(dir.path(), name).1);
    let texts = lines(dir.path(), 60);
    brevity(&["embed", &model, "--input", &texts, "--out", &file]);
    for (kind, bytes) in [("int8", 16), ("sign", 2), ("recurrent", 4)] {
        let common = ["codec", file.as_str(), "--kind", kind, "--out", &codec, "--codes", &codes, "--json"];
        let report = json(&common);
        assert_eq!((report["bytes_of_a_vector"].as_u64(), report["vectors"].as_u64()), (Some(bytes), Some(60)));
        let (first, again) =
            (report["recall"]["codes"].as_f64().unwrap(), report["recall"]["rescored"].as_f64().unwrap());
        assert!(0.0 < first && first <= 1.0 && again + 1e-9 >= first, "{kind}: {first} {again}");
        let found = brevity(&[
            "search",
            &codes,
            "--codec",
            &codec,
            "--queries",
            &file,
            "-k",
            "3",
            "--rescore",
            &file,
            "--json",
        ]);
        let found: Vec<Value> = found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((found.len(), found[7]["hits"].as_array().unwrap().len()), (60, 3));
    }
    // Every vector is its own nearest, and the table says so.
    let printed = brevity(&["search", &codes, "--codec", &codec, "--queries", &file, "-k", "1", "--texts", &texts]);
    assert!(printed.lines().next().unwrap().contains("text"), "{printed}");
    assert_eq!(printed.lines().count(), 61);
    let other = out(dir.path(), "b.codec").1;
    let report = json(&["codec", &file, "--kind", "sign", "--out", &other, "--faiss", &faiss, "--json"]);
    assert_eq!(report["codec"].as_str().unwrap().len(), 64);
    assert!(std::fs::read(&faiss).unwrap().starts_with(b"IBxF"));
    let search = |codec: &str| failing(&["search", &codes, "--codec", codec, "--queries", &file]);
    assert!(search(&other).contains("the codes were made by the codec"));
    assert!(search(&texts).contains("is not a whole file of a codec"));
    let wrong = |more: &[&str]| failing(&[&["codec", file.as_str()], more].concat());
    assert!(wrong(&["--kind", "sign", "--parts", "2"]).contains("`--parts` is no setting of this kind"));
    assert!(wrong(&["--kind", "product", "--parts", "2"]).contains("60 vectors cannot make 256 clusters"));
    assert!(wrong(&["--kind", "product", "--parts", "3", "--bits", "4"]).contains("3 parts do not divide 16"));
    assert!(wrong(&["--kind", "recurrent", "--bits", "9"]).contains("1 to 8"));
    assert!(wrong(&["--codec", &codec, "--centre"]).contains("when a codec is fitted"));
    assert!(
        wrong(&["--kind", "recurrent", "--faiss", &faiss]).contains("faiss has no index for recurrent codes of 2 bits")
    );
    assert!(failing(&["codec", &texts, "--kind", "sign"]).contains("is not a `.npy` file"));
}

#[test]
fn a_cut_encoder_learns_again_what_the_whole_one_says() {
    let (_model, model) = model();
    let dir = tempfile::tempdir().unwrap();
    let text = lines(dir.path(), 300);
    let recipe = "format: dense\nvectors: {dims: 8}\nsteps:\n  - prune.layers: {keep: 1}\n";
    let recipe = written(dir.path(), "cut.yaml", recipe);
    let (_, cut) = out(dir.path(), "cut");
    brevity(&["compress", &model, "--recipe", &recipe, "--out", &cut]);
    let train = |to: &str| {
        let options = ["--steps", "40", "--batch", "16", "--rate", "3e-3", "--check-every", "10", "--json"];
        json(&[&["tune", cut.as_str(), "--teacher", &model, "--texts", &text, "--out", to], &options[..]].concat())
    };
    let (one, first) = out(dir.path(), "one");
    let (two, second) = out(dir.path(), "two");
    let report = train(&first);
    let [before, after] = ["held_out_before", "held_out_after"].map(|key| report[key].as_f64().unwrap());
    assert!(after < 0.8 * before, "{before} -> {after}");
    train(&second);
    assert_eq!(digests(&one), digests(&two), "training is repeatable");
    let input = written(dir.path(), "t.txt", "a cat\n");
    assert_eq!(vectors(&["embed", &first, "--input", &input, "--json"])[0].len(), 8);
}

#[test]
fn every_objective_trains_and_pairs_are_needed_where_they_are() {
    let (_model, model) = model();
    let dir = tempfile::tempdir().unwrap();
    let (pairs, text) = (sts(dir.path(), 80), lines(dir.path(), 80));
    let common = ["--steps", "4", "--batch", "8", "--check-every", "2", "--json"];
    for (n, more) in [
        &["--for", "matryoshka", "--dims", "16,8", "--sts", &pairs][..],
        &["--for", "any-cut", "--dims", "16,8", "--sts", &pairs, "--layer-weighting", "log"],
        &["--for", "fixed-cuts", "--cuts", "1x4,2x8", "--sts", &pairs],
        &["--for", "repetition", "--texts", &text],
    ]
    .into_iter()
    .enumerate()
    {
        let (_, target) = out(dir.path(), &n.to_string());
        let report = json(&[&["tune", model.as_str(), "--out", &target], more, &common[..]].concat());
        assert_eq!(report["steps"], 4, "{more:?}");
    }
    let (_, target) = out(dir.path(), "none");
    let tune = |more: &[&str]| failing(&[&["tune", model.as_str(), "--out", &target], more, &common[..]].concat());
    assert!(tune(&["--for", "matryoshka", "--dims", "8", "--texts", &text]).contains("to be trained on pairs"));
    assert!(tune(&["--for", "matryoshka", "--dims", "17", "--sts", &pairs]).contains("not 3 and 17"));
    assert!(tune(&["--for", "fixed-cuts", "--sts", &pairs]).contains("has 3 layers and 16 dimensions"));
    assert!(tune(&["--texts", &written(dir.path(), "few.txt", "a cat\n")]).contains("1 examples for batches of 8"));
}
