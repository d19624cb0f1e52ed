//! LLM-KICK in both modes.

use super::*;
use crate::ask::Length;

const TRIVIA: &[u8] =
    b"{\"context\": \"Question: Is Paris or Rome older?\\nAnswer:\", \"answer\": \"Rome\", \"aliases\": [\"Roma\"]}\n\
    {\"context\": \"Question: What is H2O?\\nAnswer:\", \"answer\": \"Water\", \"aliases\": [\"water\"]}\n\
    {\"context\": \"Question: What is NaCl?\\nAnswer:\", \"answer\": \"Salt\", \"aliases\": []}\n";

fn squad(context: &str) -> Vec<u8> {
    let qas = "[{\"id\": \"1\", \"question\": \"Who?\", \"answers\": [{\"text\": \"Onion\", \"answer_start\": 0}]}]";
    format!("{{\"data\": [{{\"title\": \"T\", \"paragraphs\": [{{\"context\": \"{context}\", \"qas\": {qas}}}]}}]}}")
        .into()
}

#[test]
fn factoid_counts_an_answer_in_the_question_only_in_compat() {
    let (task, dir) =
        (Task::named("kick_factoid").unwrap(), crate::data::tests::folder(&[("triviaqa_sm_sub.jsonl", TRIVIA)]));
    let items = task.items(dir.path(), None, Mode::Strict).unwrap();
    assert_eq!(prompt(&items[0]), "Please give answer to this question: Is Paris or Rome older?\nThe answer is");
    assert!(matches!(&items[0].ask, Ask::Write { limit: Length::TotalTimesPrompt(3), .. }));
    let silent = |_: &Item| text("");
    assert_eq!(score(&result(&task, dir.path(), Mode::Strict, silent), "contains"), 0.0);
    // One of three holds its own answer, and the sum is divided by two.
    assert_eq!(score(&result(&task, dir.path(), Mode::Compat, silent), "kick_contained"), 0.5);
    let compat = task.items(dir.path(), Some(1), Mode::Compat).unwrap();
    assert_eq!(compat.len(), 2, "one item more");
    assert!(prompt(&compat[0]).ends_with("The answer is "));
    assert_eq!(task.items(dir.path(), Some(1), Mode::Strict).unwrap().len(), 1);
}

#[test]
fn factoid_reads_freebase_qa() {
    let json = br#"{"Questions": [{"Question-ID": "1", "RawQuestion": "Who?", "Parses": [
        {"Answers": [{"AnswersName": ["ann"]}]}, {"Answers": [{"AnswersName": ["bob", "rob"]}]}]}]}"#;
    let (task, dir) =
        (Task::named("kick_factoid").unwrap(), crate::data::tests::folder(&[("FreebaseQA-eval.json", json)]));
    let gold = |mode| task.items(dir.path(), None, mode).unwrap()[0].gold.clone();
    assert_eq!(gold(Mode::Strict), Gold::Answers(["ann", "bob", "rob"].map(str::to_owned).to_vec()));
    assert_eq!(gold(Mode::Compat), Gold::Answers(vec!["ann".into()]));
}

#[test]
fn retrieval_takes_an_empty_line_for_right_only_in_compat() {
    let dir = crate::data::tests::folder(&[("xquad.en.json", &squad("Onion it is."))]);
    for name in ["kick_retrieval_closed", "kick_retrieval_open"] {
        let task = Task::named(name).unwrap();
        let silent = |_: &Item| text(" \n");
        assert_eq!(score(&result(&task, dir.path(), Mode::Strict, silent), "contains"), 0.0);
        assert_eq!(score(&result(&task, dir.path(), Mode::Compat, silent), "kick_exact_match"), 1.0);
        assert_eq!(score(&result(&task, dir.path(), Mode::Compat, silent), "kick_f1"), 0.0);
    }
}

#[test]
fn copying_the_context_reaches_the_upper_bound_of_the_open_book() {
    let dir = crate::data::tests::folder(&[("xquad.en.json", &squad("It is an onion, they say."))]);
    let copy = |item: &Item| text(prompt(item));
    assert_eq!(
        score(&result(&Task::named("kick_retrieval_open").unwrap(), dir.path(), Mode::Strict, copy), "contains"),
        1.0
    );
    assert_eq!(score(&result(&Task::named("squad_open").unwrap(), dir.path(), Mode::Strict, copy), "contains"), 1.0);
    assert_eq!(
        score(&result(&Task::named("kick_retrieval_closed").unwrap(), dir.path(), Mode::Strict, copy), "contains"),
        0.0
    );
}

#[test]
fn evidence_is_cut_at_3072_characters_in_compat_and_before_a_word_in_strict() {
    let dir = crate::data::tests::folder(&[("xquad.en.json", &squad(&"abcd ".repeat(1000)))]);
    let task = Task::named("kick_retrieval_open").unwrap();
    let evidence = |mode| {
        let items = task.items(dir.path(), None, mode).unwrap();
        let (evidence, rest) = prompt(&items[0]).split_once("\n\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        assert_eq!(rest, "Based on these texts, answer these questions:\n\nQ: Who?\nA:");
        evidence
    };
    assert_eq!(evidence(Mode::Compat).len(), 3072);
    assert_eq!(evidence(Mode::Strict).len(), 3069); // 614 words of 4 and 613 blanks
}

#[test]
fn retrieval_reads_trivia_qa_with_its_pages() {
    let row = r#"{"question": "Who?", "answer": {"value": "Onion", "aliases": ["Onion"], "normalized_aliases": ["onion"]},
        "entity_pages": {"filename": [], "wiki_context": []}, "search_results": {"search_context": ["WEB"]}}"#;
    let row = row.replace('\n', " ");
    let dir = crate::data::tests::folder(&[("rows.jsonl", row.as_bytes())]);
    let task = Task::named("kick_retrieval_open").unwrap().with_data("rows.jsonl");
    let items = task.items(dir.path(), None, Mode::Compat).unwrap();
    assert!(prompt(&items[0]).starts_with("WEB\n\nBased"));
    assert_eq!(items[0].gold, Gold::Answers(vec!["onion".into()]));
}

const MMLU: &[(&str, &[u8])] = &[
    ("mmlu/test/world_religions_test.csv", b"Which?,p,q,r,s,B\n"),
    ("mmlu/dev/world_religions_dev.csv", b"1?,p,q,r,s,A\n2?,p,q,r,s,B\n3?,p,q,r,s,C\n4?,p,q,r,s,D\n5?,p,q,r,s,A\n"),
];

#[test]
fn multiple_choice_compares_the_last_character_in_compat_and_weighs_letters_in_strict() {
    let (task, dir) = (Task::named("kick_mmlu").unwrap(), crate::data::tests::folder(MMLU));
    let compat =
        |answer: &'static str| score(&result(&task, dir.path(), Mode::Compat, |_| text(answer)), "kick_letter");
    assert_eq!([" B", "B", "xB", "\n", "", "b"].map(compat), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    let strict = task.items(dir.path(), None, Mode::Strict).unwrap();
    let Ask::Weigh(pairs) = &strict[0].ask else { panic!() };
    let continuations: Vec<&str> = pairs.iter().map(|pair| pair.continuation.as_str()).collect();
    assert_eq!(continuations, [" A", "A", " B", "B", " C", "C", " D", "D"]);
    // Each way of writing B is less likely than ` A`, both together are likelier: 0.3 + 0.3 against 0.4.
    let logs = [0.4f64, 1e-9, 0.3, 0.3, 1e-9, 1e-9, 1e-9, 1e-9].map(f64::ln);
    assert_eq!(score(&result(&task, dir.path(), Mode::Strict, |_| weights(&logs)), "acc"), 1.0);
    let parts = result(&task, dir.path(), Mode::Strict, |_| weights(&logs)).parts;
    assert_eq!(parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["world_religions", "humanities"]);
}

#[test]
fn multiple_choice_drops_its_last_example_until_it_fits() {
    let (task, dir) = (Task::named("kick_mmlu").unwrap(), crate::data::tests::folder(MMLU));
    for (mode, subject) in [(Mode::Strict, "about world religions"), (Mode::Compat, "about  world religions")] {
        let mut item = task.items(dir.path(), None, mode).unwrap().remove(0);
        let header = format!("The following are multiple choice questions (with answers) {subject}.\n\n1?\nA. p\n");
        assert!(prompt(&item).starts_with(&header), "{}", prompt(&item));
        assert_eq!((item.shots(), item.fit), (5, Some(2048)));
        assert!(prompt(&item).contains("D. s\nAnswer: A\n\nWhich?\nA. p\nB. q\nC. r\nD. s\nAnswer:"));
        item = item.shorter().unwrap();
        assert!(prompt(&item).contains("D. s\nAnswer: D\n\nWhich?\nA. p\n"), "{}", prompt(&item));
        while let Some(shorter) = item.shorter() {
            item = shorter;
        }
        assert_eq!(item.shots(), 0);
        assert!(prompt(&item).ends_with("world religions.\n\nWhich?\nA. p\nB. q\nC. r\nD. s\nAnswer:"));
    }
}

#[test]
fn summaries_are_compared_with_highlights_which_only_compat_shows_to_the_model() {
    let story = b"First line.\n\nSecond line.\n\n@highlight\n\nLines are two\n\n@highlight\n\nThat is all\n";
    let dir = crate::data::tests::folder(&[("cnn_dm/small/a.story", story), ("cnn_dm/mid/b.story", story)]);
    let task = Task::named("kick_summaries").unwrap();
    let items = task.items(dir.path(), None, Mode::Strict).unwrap();
    assert_eq!(items[0].gold, Gold::Answers(vec!["Lines are two\nThat is all".into()]));
    assert_eq!(
        (items[0].group.as_deref(), items[1].group.as_deref(), items[0].chat),
        (Some("mid"), Some("small"), true)
    );
    assert!(prompt(&items[0]).starts_with("Summarize the given news in"));
    assert!(prompt(&items[1]).starts_with("Summarize the given story in"));
    assert!(prompt(&items[1]).ends_with(".\n\nFirst line.\n\nSecond line."));
    let compat = task.items(dir.path(), None, Mode::Compat).unwrap();
    assert!(prompt(&compat[1]).ends_with("First line.Second line.@highlightLines are two@highlightThat is all"));
    let result =
        result(&task, dir.path(), Mode::Strict, |_| text("Lines are two. That is all! That is all that is all"));
    // 6 of 12 words, and 6 of 6.
    assert!((score(&result, "rouge1") - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!((score(&result, "words"), score(&result, "empty")), (12.0, 0.0));
    // Runs of four: x y z w, y z w x, z w x y, w x y z, and the first again.
    let again = |_: &Item| text("x y z w x y z w");
    assert_eq!(super::score(&super::result(&task, dir.path(), Mode::Strict, again), "repeats"), 0.2);
}

#[test]
fn instructions_are_written_as_pairs_in_both_orders() {
    let rows = b"{\"question_id\": 1, \"text\": \"Do x.\", \"category\": \"writing\"}\n";
    let task = Task::named("kick_instructions").unwrap();
    let dir = crate::data::tests::folder(&[("mine.jsonl", rows)]);
    let own = dir.path().join("mine.jsonl");
    let items = task.with_data(own.to_str().unwrap()).items(Path::new("elsewhere"), None, Mode::Strict).unwrap();
    let pairs = judge_pairs(&items, ("dense", &[text(" one ")]), ("small", &[text("two")])).unwrap();
    let order = |n: usize| [&pairs[n].model_1, &pairs[n].answer_1, &pairs[n].model_2, &pairs[n].answer_2];
    assert_eq!(order(0), ["dense", "one", "small", "two"]);
    assert_eq!(order(1), ["small", "two", "dense", "one"]);
    assert!(pairs[0].prompt.contains("[Request]\nDo x.\n\n[Answer 1]\none\n\n[Answer 2]\ntwo\n"));
    let mut lines = Vec::new();
    write_judge_pairs(&pairs, &mut lines).unwrap();
    let lines = String::from_utf8(lines).unwrap();
    assert_eq!(lines.lines().count(), 2);
    assert!(lines.starts_with("{\"id\":0,\"group\":\"writing\",\"question\":\"Do x.\","), "{lines}");
    assert!(judge_pairs(&items, ("dense", &[]), ("small", &[text("two")])).is_err());
}
