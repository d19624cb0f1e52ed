//! Models that are functions, whose results are known.

use serde_json::json;

use super::*;

const CHOICE: &str = "data: d.csv\nkind: choice\nprompt: '{{ q }}'\nchoices: [A, B, C, D]\ngold: g\ngroup: s\n\
    groups: {both: [x, y], none: [z]}\nmetrics: [acc]\n";
const ROWS: &[u8] = b"q,g,s\n1,A,x\n2,B,x\n3,A,y\n4,D,y\n5,A,y\n";

#[test]
fn always_a_gets_the_frequency_of_a() {
    let (task, dir) = with_data(CHOICE, &[("d.csv", ROWS)]);
    let result = result(&task, dir.path(), Mode::Strict, |_| weights(&[-1.0, -2.0, -3.0, -4.0]));
    assert_eq!(score(&result, "acc"), 0.6);
    // Values 1 0 1 0 1: variance 0.3, error sqrt(0.3 / 5).
    assert!((result.scores[0].error.unwrap() - 0.06f64.sqrt()).abs() < 1e-12);
    assert_eq!(result.values["acc"], [1.0, 0.0, 1.0, 0.0, 1.0]);
    let parts: Vec<(&str, usize, f64)> =
        result.parts.iter().map(|part| (part.name.as_str(), part.items, part.scores[0].value)).collect();
    assert_eq!(parts, [("x", 2, 0.5), ("y", 3, 2.0 / 3.0), ("both", 5, 0.6)]);
}

#[test]
fn a_uniform_model_takes_the_first_option() {
    let (task, dir) = with_data(CHOICE, &[("d.csv", ROWS)]);
    for same in [-3.0, f64::NEG_INFINITY] {
        assert_eq!(score(&result(&task, dir.path(), Mode::Strict, |_| weights(&[same; 4])), "acc"), 0.6);
    }
}

#[test]
fn the_order_of_options_does_not_change_accuracy() {
    let yaml = "data: d.jsonl\nkind: choice\nprompt: q\nchoices: c\ngold: g\n";
    let rows = |order: [usize; 3]| {
        let row = |(n, words): (usize, [&str; 3])| {
            let options: Vec<&str> = order.iter().map(|&at| words[at]).collect();
            json!({"c": options, "g": words[n % 3]}).to_string()
        };
        let rows = [["one", "three", "seventeen"], ["aa", "b", "cccc"], ["x y", "z", "wwwww"], ["p", "qq", "r s t"]];
        rows.into_iter().enumerate().map(row).collect::<Vec<_>>().join("\n")
    };
    // Any model that looks at the option alone, and never finds two equal.
    let model = |item: &Item| {
        let Ask::Weigh(pairs) = &item.ask else { panic!() };
        let value =
            |pair: &Pair| -pair.continuation.bytes().fold(7.0, |sum, byte| (sum * 31.0 + f64::from(byte)) % 97.3);
        weights(&pairs.iter().map(value).collect::<Vec<_>>())
    };
    let results = [[0, 1, 2], [2, 0, 1], [1, 0, 2]].map(|order| {
        let (task, dir) = with_data(yaml, &[("d.jsonl", rows(order).as_bytes())]);
        let result = result(&task, dir.path(), Mode::Strict, model);
        (result.values["acc"].clone(), result.values["acc_norm"].clone())
    });
    assert!(results.iter().all(|one| one == &results[0]), "{results:?}");
}

#[test]
fn acc_norm_is_by_characters_and_acc_bytes_by_bytes() {
    let yaml = "data: d.jsonl\nkind: choice\nprompt: q\nchoices: c\ngold: g\nmetrics: [acc, acc_norm, acc_bytes]\n";
    let row = json!({"c": ["\u{e9}\u{e9}", "abc"], "g": 1}).to_string();
    let (task, dir) = with_data(yaml, &[("d.jsonl", row.as_bytes())]);
    // By characters -6/2 = -3 against -8/3; by bytes -6/4 against -8/3.
    let result = result(&task, dir.path(), Mode::Strict, |_| weights(&[-6.0, -8.0]));
    assert_eq!(["acc", "acc_norm", "acc_bytes"].map(|metric| score(&result, metric)), [0.0, 1.0, 0.0]);
}

#[test]
fn mass_is_the_share_of_the_true_options() {
    let yaml = "data: d.jsonl\nkind: mass\nprompt: q\nchoices: t\ngold: t.values() | list | ones\n";
    let row = br#"{"t": {"yes": 1, "no": 0, "sure": 1}}"#;
    let (task, dir) = with_data(yaml, &[("d.jsonl", row)]);
    let logs = [0.5f64, 0.25, 0.25].map(f64::ln);
    assert!((score(&result(&task, dir.path(), Mode::Strict, |_| weights(&logs)), "acc") - 0.75).abs() < 1e-12);
    let low = logs.map(|log| log - 2000.0);
    assert!((score(&result(&task, dir.path(), Mode::Strict, |_| weights(&low)), "acc") - 0.75).abs() < 1e-9);
    let even = score(&result(&task, dir.path(), Mode::Strict, |_| weights(&[-1.0; 3])), "acc");
    assert!((even - 2.0 / 3.0).abs() < 1e-12);
}

#[test]
fn partial_evaluation_weighs_the_same_end_behind_each_context() {
    let yaml =
        "data: d.jsonl\nkind: contexts\ncontexts: ['{{ a }} x', '{{ a }} y']\ncontinuation: '{{ e }}'\ngold: g\n";
    let (task, dir) = with_data(yaml, &[("d.jsonl", br#"{"a": "S", "e": "end", "g": 1}"#)]);
    let items = task.items(dir.path(), None, Mode::Strict).unwrap();
    let pair = |context: &str| Pair { context: context.into(), continuation: " end".into() };
    assert_eq!(items[0].ask, Ask::Weigh(vec![pair("S x"), pair("S y")]));
    assert_eq!(score(&result(&task, dir.path(), Mode::Strict, |_| weights(&[-2.0, -1.0])), "acc"), 1.0);
}

#[test]
fn perplexity_is_over_items_with_the_error_of_the_delta_method() {
    let yaml = "data: d.jsonl\nkind: continuation\nprompt: '{{ t }}'\ncontinuation: end\n";
    let (task, dir) = with_data(yaml, &[("d.jsonl", b"{\"t\": 1}\n{\"t\": 2}\n")]);
    let result = result(&task, dir.path(), Mode::Strict, |item| {
        Answer::Weights(vec![Weighed { log_prob: -1.0 - 2.0 * item.id as f64, tokens: 1, greedy: item.id == 0 }])
    });
    assert!((score(&result, "perplexity") - 2f64.exp()).abs() < 1e-12);
    // Log-probabilities -1 and -3: error of the mean 1.
    assert!((result.scores[0].error.unwrap() - 2f64.exp()).abs() < 1e-12);
    assert_eq!(score(&result, "acc"), 0.5);
    assert_eq!(result.values["perplexity"], [-1.0, -3.0]);
}

#[test]
fn results_have_the_form_of_lm_evaluation_harness() {
    let (task, dir) = with_data(CHOICE, &[("d.csv", ROWS)]);
    let mut result = result(&task, dir.path(), Mode::Strict, |_| weights(&[-1.0, -2.0, -3.0, -4.0]));
    result.original = 50;
    let json = harness_json(&[result]);
    assert_eq!(json["results"]["t"]["acc,none"], 0.6);
    assert_eq!(json["results"]["t"]["alias"], "t");
    assert!(json["results"]["t"]["acc_stderr,none"].is_f64());
    assert_eq!(json["results"]["t_x"], json!({"alias": "x", "acc,none": 0.5, "acc_stderr,none": 0.5}));
    assert_eq!(json["n-samples"]["t"], json!({"original": 50, "effective": 5}));
    assert_eq!(json["versions"]["t_both"], 1.0);
    assert!(matches!(TaskResult::new(&task, Mode::Strict, &[]), Err(crate::Error::Nothing)));
    let items = task.items(dir.path(), Some(1), Mode::Strict).unwrap();
    let one = TaskResult::new(&task, Mode::Strict, &[task.grade(&items[0], &weights(&[0.0; 4])).unwrap()]).unwrap();
    assert_eq!(harness_json(&[one])["results"]["t"]["acc_stderr,none"], "N/A");
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let (task, dir) = with_data(CHOICE, &[("d.csv", ROWS)]);
    let items = task.items(dir.path(), None, Mode::Strict).unwrap();
    let error = task.grade(&items[1], &weights(&[0.0])).unwrap_err();
    assert_eq!(error.to_string(), "item 1 of the task `t` asks for 4 weights, the answer is 1 weights");
    let error = task.grade(&items[1], &text("A")).unwrap_err();
    assert_eq!(error.to_string(), "item 1 of the task `t` asks for 4 weights, the answer is a text");
}

#[test]
fn a_log_of_samples_says_what_was_chosen() {
    let (task, dir) = with_data(CHOICE, &[("d.csv", ROWS)]);
    let items = task.items(dir.path(), None, Mode::Strict).unwrap();
    let graded = task.grade(&items[1], &weights(&[-1.0, -2.0, -3.0, -4.0])).unwrap();
    let json = serde_json::to_value(graded).unwrap();
    assert_eq!((&json["chosen"], &json["gold"]), (&json!(0), &json!({"options": [1]})));
    assert_eq!((&json["values"], &json["place"]["row"]), (&json!({"acc": 0.0}), &json!(3)));
    assert!(json.get("text").is_none());
}
