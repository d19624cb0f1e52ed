//! Prompts equal those of lm-evaluation-harness to the byte. `tests/golden/tasks/make.py` made them.

use serde_json::Value;

use super::*;
use crate::task::items::Gold;

#[test]
fn prompts_and_gold_are_those_of_lm_evaluation_harness() {
    let golden: Value = serde_json::from_str(include_str!("../../../../../tests/golden/tasks/prompts.json")).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let name = case["task"].as_str().unwrap();
        let task = Task::named(name).unwrap();
        for layout in case["layouts"].as_array().unwrap() {
            let files = layout.as_object().unwrap().iter();
            let files: Vec<(&str, &[u8])> =
                files.map(|(path, text)| (path.as_str(), text.as_str().unwrap().as_bytes())).collect();
            let dir = crate::data::tests::folder(&files);
            let items = task.items(dir.path(), None, Mode::Strict).unwrap_or_else(|e| panic!("{name}: {e}"));
            let wanted = case["items"].as_array().unwrap();
            assert_eq!(items.len(), wanted.len(), "{name}");
            for (item, wanted) in items.iter().zip(wanted) {
                assert_eq!(asked(item), expected(wanted), "{name} {:?}", files[0].0);
                assert_eq!(right(&item.gold), right_of(wanted), "{name} {}", item.place);
            }
        }
    }
}

fn asked(item: &Item) -> Vec<(String, String)> {
    match &item.ask {
        Ask::Weigh(pairs) => pairs.iter().map(|pair| (pair.context.clone(), pair.continuation.clone())).collect(),
        Ask::Write { prompt, until, .. } => vec![(prompt.clone(), until.join("|"))],
    }
}

fn expected(wanted: &Value) -> Vec<(String, String)> {
    let texts = |key: &str| wanted[key].as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned());
    if let Some(prompt) = wanted["prompt"].as_str() {
        return vec![(prompt.to_owned(), texts("until").collect::<Vec<_>>().join("|"))];
    }
    texts("contexts").flat_map(|context| texts("continuations").map(move |rest| (context.clone(), rest))).collect()
}

fn right(gold: &Gold) -> Value {
    match gold {
        Gold::Options(all) => serde_json::json!(all),
        Gold::Answers(all) => serde_json::json!(all),
        Gold::Continuation(text) => serde_json::json!([text]),
        Gold::Open => Value::Null,
    }
}

fn right_of(wanted: &Value) -> Value {
    match &wanted["gold"] {
        Value::Array(all) => Value::from(all.clone()),
        one => serde_json::json!([one]),
    }
}
