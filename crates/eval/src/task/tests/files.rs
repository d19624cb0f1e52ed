//! Files of tasks and of data that are wrong, and what is said about them.

use super::*;

const YAML: &str = "about: a\ndata: d.jsonl\nkind: choice\nprompt: '{{ q }}'\nchoices: c\ngold: g\n";

fn bad(yaml: &str) -> BadTask {
    Task::parse(yaml, "recipes/t.yaml").unwrap_err()
}

#[test]
fn every_embedded_task_can_be_read_and_says_what_it_is() {
    let all = Task::list();
    assert!(all.len() >= 19, "{}", all.len());
    for stock in all {
        let task = stock.task().unwrap_or_else(|bad| panic!("{bad}"));
        assert_eq!(task.name, stock.name);
        assert!(!task.about.is_empty() && !task.source.is_empty(), "{}", task.name);
        assert_eq!(task.has_compat(), task.name.starts_with("kick_") && task.name != "kick_instructions");
    }
}

#[test]
fn malformed_tasks_are_refused_with_line_and_hint() {
    for (yaml, what, line, hint) in [
        ("data: d\npromt: x\n", "there is no key `promt` here", Some(2), "did you mean `prompt`?"),
        ("kind: choise\n", "`choise` is nothing that can stand here", Some(1), "did you mean `choice`?"),
        (
            "kind: write\nmetrics: [f1, rouge]\n",
            "`rouge` is nothing that can stand here",
            Some(2),
            "did you mean `rouge1`?",
        ),
        ("data: d\n", "the task has no `kind`", None, "it is one of choice"),
        (
            "kind: choice\ndata: d\nprompt: p\n",
            "the task has no `choices`, which a task of kind `choice` needs",
            None,
            "README",
        ),
        (
            "kind: choice\nuntil: x\n",
            "`until` has no place in a task of kind `choice`",
            None,
            "it has prompt, choices, gold",
        ),
        ("kind: write\ndata: d\nprompt: p\nanswers: a\n", "nothing limits the answers", None, "max_tokens: 32"),
        (&YAML.replace("gold: g", "gold: g +"), "`gold` is not an expression", Some(6), ""),
        (&YAML.replace("{{ q }}", "{{ q }"), "`prompt` is not a template", Some(4), ""),
        (
            &format!("{YAML}metrics: [f1]\n"),
            "a task of kind `choice` does not measure `f1`",
            None,
            "its metrics are acc",
        ),
        ("- a\n", "this is no task", Some(1), ""),
        ("about: [1\n", "this is no task", None, ""),
    ] {
        let bad = bad(yaml);
        assert!(bad.what.starts_with(what), "{yaml}: {}", bad.what);
        assert!(line.is_none() || bad.line == line, "{yaml}: {:?}", bad.line);
        assert!(bad.hint.clone().unwrap_or_default().contains(hint), "{yaml}: {:?}", bad.hint);
    }
    let error = Task::named("arc_esy").unwrap_err();
    assert_eq!(
        (error.what.as_str(), error.hint.as_deref()),
        ("there is no task `arc_esy`", Some("did you mean `arc_easy`?"))
    );
}

#[test]
fn an_unknown_key_of_data_is_refused() {
    let bad = bad("kind: write\ndata:\n  - {files: a.csv, colums: [a]}\n");
    assert_eq!(bad.what, "there is no key `colums` here");
    assert_eq!(bad.hint.as_deref(), Some("did you mean `columns`?"));
}

#[test]
fn a_file_of_a_users_own_is_a_task_of_its_name() {
    let dir = crate::data::tests::folder(&[("mine.yaml", YAML.as_bytes())]);
    let path = dir.path().join("mine.yaml");
    let task = Task::load(path.to_str().unwrap()).unwrap();
    assert_eq!((task.name.as_str(), task.folder.as_deref()), ("mine", Some(dir.path())));
    assert!(Task::load("no/such.yaml").unwrap_err().to_string().starts_with("cannot read `no/such.yaml`"));
    assert_eq!(Task::load("boolq").unwrap().folder, None);
}

#[test]
fn a_column_that_is_missing_is_named_with_its_row() {
    let (task, dir) = with_data(YAML, &[("d.jsonl", b"{\"question\": \"x\", \"c\": [\"a\", \"b\"], \"g\": 0}\n")]);
    let error = task.items(dir.path(), None, Mode::Strict).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("`prompt` of the task `t` reads `q`, which a row does not have\n  line 1 of `"), "{text}");
    assert_eq!(error.hint().unwrap(), "the row has the fields question, c, g, file, folder, row");
}

#[test]
fn gold_that_is_no_option_and_options_that_are_none_are_refused() {
    for (row, wanted) in [
        (r#"{"q": "x", "c": ["a", "b"], "g": 2}"#, "`gold` of the task `t` is `2`, not one of the 2 options"),
        (r#"{"q": "x", "c": ["a", "b"], "g": -1}"#, "`gold` of the task `t` is `-1`"),
        (r#"{"q": "x", "c": ["a", "b"], "g": "c"}"#, "`gold` of the task `t` is `c`"),
        (r#"{"q": "x", "c": ["a", "b"], "g": []}"#, "`gold` of the task `t` is `[]`"),
        (r#"{"q": "x", "c": ["a"], "g": 0}"#, "`choices` of the task `t` is `['a']`, not a list of two or more"),
        (r#"{"q": "x", "c": 7, "g": 0}"#, "`choices` of the task `t` is `['7']`"),
    ] {
        let (task, dir) = with_data(YAML, &[("d.jsonl", row.as_bytes())]);
        let error = task.items(dir.path(), None, Mode::Strict).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
}

#[test]
fn gold_may_be_a_number_a_text_of_one_a_label_or_a_truth() {
    for (gold, wanted) in [("1", 1), ("\"1\"", 1), ("\"b\"", 1), ("true", 1), ("false", 0), ("1.0", 1)] {
        let row = format!("{{\"q\": \"x\", \"c\": [\"a\", \"b\"], \"g\": {gold}}}");
        let (task, dir) = with_data(YAML, &[("d.jsonl", row.as_bytes())]);
        let items = task.items(dir.path(), None, Mode::Strict).unwrap();
        assert_eq!(items[0].gold, Gold::Options(vec![wanted]), "{gold}");
    }
}

#[test]
fn blank_answers_are_left_out_and_none_at_all_is_refused() {
    let yaml = "data: d.jsonl\nkind: write\nprompt: '{{ q }}'\nanswers: a\nmax_tokens: 8\n";
    let (task, dir) = with_data(yaml, &[("d.jsonl", b"{\"q\": \"x\", \"a\": [\" \", \"y\"]}\n")]);
    assert_eq!(task.items(dir.path(), None, Mode::Strict).unwrap()[0].gold, Gold::Answers(vec!["y".into()]));
    let (task, dir) = with_data(yaml, &[("d.jsonl", b"{\"q\": \"x\", \"a\": [\" \"]}\n")]);
    let error = task.items(dir.path(), None, Mode::Strict).unwrap_err().to_string();
    assert!(error.starts_with("`answers` of the task `t` is `[]`, not a list with an answer in it"), "{error}");
}

#[test]
fn a_question_of_100_000_characters_is_asked() {
    let long = "\u{e9}".repeat(100_000);
    let row = format!("{{\"q\": \"{long}\", \"c\": [\"a\", \"b\"], \"g\": 0}}\n");
    let (task, dir) = with_data(YAML, &[("d.jsonl", row.as_bytes())]);
    assert_eq!(prompt(&task.items(dir.path(), None, Mode::Strict).unwrap()[0]), long);
}

#[test]
fn data_that_is_missing_empty_or_in_another_encoding_is_refused() {
    let (task, dir) = with_data(YAML, &[]);
    let error = task.items(dir.path(), None, Mode::Strict).unwrap_err();
    assert!(error.to_string().starts_with("there is no file `d.jsonl` in `"), "{error}");
    for (bytes, wanted) in [(&b""[..], "has no rows"), (b"{\"q\": \"\xe9\"}", "is not UTF-8: byte 8 of line 1")] {
        let (task, dir) = with_data(YAML, &[("d.jsonl", bytes)]);
        let error = task.items(dir.path(), None, Mode::Strict).unwrap_err();
        assert!(error.to_string().contains(wanted) && error.hint().is_some() | wanted.contains("rows"), "{error}");
    }
}

#[test]
fn examples_are_the_first_of_the_same_group_and_never_the_question_itself() {
    let yaml = "data: d.jsonl\nkind: choice\nprompt: 'Q: {{ q }}'\nchoices: [yes, no]\ngold: g\n\
        shots: {data: d.jsonl, count: 1, same: s, header: 'About {{ s }}: ', separator: ' / '}\n";
    let rows = b"{\"q\": 1, \"g\": 0, \"s\": \"x\"}\n{\"q\": 2, \"g\": 1, \"s\": \"y\"}\n\
        {\"q\": 3, \"g\": 1, \"s\": \"x\"}\n{\"q\": 4, \"g\": 0, \"s\": \"y\"}\n";
    let (task, dir) = with_data(yaml, &[("d.jsonl", rows)]);
    let items = task.items(dir.path(), None, Mode::Strict).unwrap();
    let prompts: Vec<&str> = items.iter().map(prompt).collect();
    assert_eq!(prompts[0], "About x: Q: 3 no / Q: 1");
    assert_eq!(prompts[2], "About x: Q: 1 yes / Q: 3");
    assert_eq!(prompts[1], "About y: Q: 4 yes / Q: 2");
    let shorter = items[0].shorter().unwrap();
    assert_eq!((prompt(&shorter), shorter.shots()), ("About x: Q: 1", 0));
    assert!(shorter.shorter().is_none());
    let (task, dir) = with_data(yaml, &[("d.jsonl", b"{\"q\": 1, \"g\": 0, \"s\": \"x\"}\n")]);
    let error = task.items(dir.path(), None, Mode::Strict).unwrap_err();
    assert_eq!(error.to_string(), "the task `t` shows 1 examples, 0 were found for `x`");
}
