use super::*;
use crate::report::{Difference, Facts, Flips, Kind, Measured, Model, On, Tally, Unit};

fn limit(text: &str) -> Limit {
    text.parse().unwrap()
}

fn score(on: On, name: &str, value: f64) -> Measured {
    Measured { name: name.into(), on, value, error: None, n: None, unit: Unit::Number, higher_is_better: true }
}

fn difference(on: On, name: &str, kind: Kind, value: f64, interval: Option<[f64; 2]>) -> Difference {
    let higher_is_better = false;
    Difference { name: name.into(), on, kind, value, interval, p: None, n: None, unit: Unit::Number, higher_is_better }
}

fn text(name: &str) -> On {
    On::Text(name.into())
}

fn task(name: &str) -> On {
    On::Task(name.into())
}

/// One model against a reference. Perplexity goes from 20 to 21, arc_easy from 0.60 to 0.57.
fn report() -> Report {
    let model = |name: &str, perplexity, easy, kick| Model {
        name: name.into(),
        size_bytes: if name == "before" { 4000 } else { 1000 },
        bits_per_weight: 4.5,
        scores: vec![
            score(text("wiki"), "perplexity", perplexity),
            score(task("arc_easy"), "acc", easy),
            score(task("arc_easy"), "acc_norm", 0.5),
            score(task("kick_factoid"), "exact_match", kick),
        ],
        ..Model::default()
    };
    let mut report = Report::new(model("before", 20.0, 0.60, 0.40));
    report.others.push(Compressed {
        model: model("after", 21.0, 0.57, 0.38),
        differences: vec![
            difference(text("wiki"), "kl_mean", Kind::Distance, 0.05, Some([0.04, 0.06])),
            difference(text("wiki"), "perplexity_ratio", Kind::Ratio, 1.05, Some([1.04, 1.06])),
            difference(text("wiki"), "top1_agreement", Kind::Agreement, 0.91, None),
            difference(task("arc_easy"), "acc", Kind::Change, -0.03, Some([-0.05, -0.01])),
        ],
        facts: Some(Facts {
            all: Tally { asked: 400, known: 300, lost: 15, gained: 3, ..Tally::default() },
            ..Facts::default()
        }),
        flips: vec![Flips { task: "arc_easy".into(), asked: 100, lost: 5, gained: 2, moved: 3, ..Flips::default() }],
        ..Compressed::default()
    });
    report
}

const TASKS: [&str; 3] = ["arc_easy", "kick_factoid", "boolq"];

fn judged(text: &str, report: &Report) -> Vec<Verdict> {
    Gate { limits: vec![limit(text)] }.judge(report, &TASKS).unwrap()
}

#[test]
fn limits_are_read_and_written_alike() {
    for (text, name, compare, bound, percent) in [
        ("kl_mean<=0.05", "kl_mean", Compare::AtMost, 0.05, false),
        ("arc_easy>=-0.02", "arc_easy", Compare::AtLeast, -0.02, false),
        ("arc_easy.acc_norm>-1e-3", "arc_easy.acc_norm", Compare::More, -0.001, false),
        ("kick_factoid >= -5 %", "kick_factoid", Compare::AtLeast, -5.0, true),
        ("perplexity <= +5%", "perplexity", Compare::AtMost, 5.0, true),
        (" perplexity @ wiki.test.raw < 25 ", "perplexity", Compare::Less, 25.0, false),
    ] {
        let limit = limit(text);
        assert_eq!((limit.name.as_str(), limit.compare, limit.bound, limit.percent), (name, compare, bound, percent));
        assert_eq!(limit.to_string().parse::<Limit>().unwrap(), limit, "{text}");
    }
    assert_eq!(limit("perplexity@wiki.test.raw<25").text.as_deref(), Some("wiki.test.raw"));
}

#[test]
fn what_is_no_limit_says_why() {
    for (text, why) in [
        ("kl_mean", "it has no comparison"),
        ("kl_mean=0.05", "it compares with `=`"),
        ("kl_mean<=", "its bound is not a number"),
        ("kl_mean<=nan", "its bound is not a number"),
        ("kl_mean<=0.05 nats", "its bound is not a number"),
        ("<=0.05", "it names no figure"),
        ("perplexity@<=5", "it names no figure"),
    ] {
        let error = text.parse::<Limit>().unwrap_err();
        assert_eq!(error.to_string(), format!("`{text}` is not a limit: {why}"));
        assert_eq!(error.hint().unwrap(), "write a figure, a comparison and a bound: `kl_mean<=0.05`");
    }
}

#[test]
fn recipes_give_limits_as_a_list_a_mapping_or_one() {
    #[derive(Deserialize)]
    struct Recipe {
        gate: Gate,
    }
    let read = |yaml: &str| serde_saphyr::from_str::<Recipe>(yaml).map(|recipe| recipe.gate.limits);
    let both = vec![limit("kl_mean<=0.05"), limit("kick_factoid>=-5%")];
    assert_eq!(read("gate: [kl_mean<=0.05, kick_factoid>=-5%]").unwrap(), both);
    assert_eq!(read("gate:\n  - kl_mean<=0.05\n  - kick_factoid >= -5 %\n").unwrap(), both);
    assert_eq!(read("gate:\n  kl_mean: <=0.05\n  kick_factoid: '>= -5%'\n").unwrap(), both);
    assert_eq!(read("gate: kl_mean<=0.05").unwrap(), both[..1]);
    let error = read("gate: [kl_mean]").unwrap_err().to_string();
    assert!(error.contains("`kl_mean` is not a limit: it has no comparison"), "{error}");
}

#[test]
fn each_figure_is_compared_as_documented() {
    let report = report();
    for (text, value, kept) in [
        ("kl_mean<=0.05", 0.05, true), // equal is kept
        ("kl_mean<0.05", 0.05, false),
        ("perplexity<=25", 21.0, true),
        ("perplexity<=+5%", 5.0, true),
        ("perplexity@wiki<=20.9", 21.0, false),
        ("perplexity_ratio<=1.05", 1.05, true),
        ("perplexity_ratio<=104%", 105.0, false),
        ("top1_agreement>=0.9", 0.91, true),
        ("top1_agreement>=92%", 91.0, false),
        ("arc_easy>=-0.03", -0.03, true),
        ("arc_easy>=-0.02", -0.03, false),
        ("arc_easy.acc_norm>=0", 0.0, true), // no difference in the report: after minus before
        ("arc_easy.flips<=10%", 10.0, true),
        ("kick_factoid>=-5%", -5.0, true), // 0.38 / 0.40 - 1, but for rounding
        ("kick_factoid>-5%", -5.0, false),
        ("kick_factoid>=-0.01", -0.02, false),
        ("facts.lost<=0.05", 0.05, true),
        ("facts.lost<=4.9%", 5.0, false),
        ("facts.gained>=1%", 1.0, true),
        ("size_ratio<=0.25", 0.25, true),
        ("bits_per_weight<=4.5", 4.5, true),
    ] {
        let verdicts = judged(text, &report);
        let [verdict] = &verdicts[..] else { panic!("{text}: {verdicts:?}") };
        assert!((verdict.value.unwrap() - value).abs() < 1e-9, "{text}: {verdict:?}");
        let expected = if kept { Outcome::Passed } else { Outcome::Failed };
        assert_eq!((verdict.outcome, verdict.is_kept(), verdict.model.as_str()), (expected, kept, "after"), "{text}");
    }
}

#[test]
fn a_verdict_says_what_was_measured_and_whether_it_is_close() {
    let report = report();
    let said = |text| judged(text, &report)[0].to_string();
    assert_eq!(said("kl_mean<=0.1"), "kl_mean<=0.1 passed: 0.05 [0.04, 0.06] on wiki");
    let close = "arc_easy>=-4% failed: -5 % [-8.333, -1.667] on arc_easy.acc; the bound is within its interval";
    assert_eq!(said("arc_easy>=-4%"), close);
    assert_eq!(said("boolq>=-0.02"), "boolq>=-0.02 not measured, so not kept: nothing of this name was measured");
}

#[test]
fn what_is_not_finite_keeps_nothing() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut report = report();
        report.others[0].differences[0].value = value;
        for text in ["kl_mean<=0.05", "kl_mean>=0.05"] {
            let verdict = &judged(text, &report)[0];
            assert_eq!((verdict.outcome, verdict.value), (Outcome::Failed, None), "{text} of {value}");
            assert_eq!(verdict.why.as_deref(), Some("its value is not finite"));
            let json = serde_json::to_string(verdict).unwrap();
            assert_eq!(&serde_json::from_str::<Verdict>(&json).unwrap(), verdict);
        }
    }
}

#[test]
fn what_was_not_measured_is_not_kept() {
    let mut report = report();
    report.others[0].facts = None;
    report.reference.scores[3].value = 0.0;
    for (text, why) in [
        ("boolq>=-0.02", "nothing of this name was measured"),
        ("boolq.acc>=-0.02", "nothing of this name was measured"),
        ("kl_p99<=1", "nothing of this name was measured"),
        ("perplexity@c4<=25", "nothing of this name was measured"),
        ("facts.lost<=0.05", "no facts were asked that the reference knows"),
        ("kick_factoid.flips<=0.05", "answers were not compared one by one"),
        ("kick_factoid>=-5%", "the reference scores no more than 0, so no change is relative to it"),
    ] {
        let verdict = &judged(text, &report)[0];
        assert_eq!((verdict.outcome, verdict.why.as_deref()), (Outcome::NotMeasured, Some(why)), "{text}");
        assert!(!verdict.is_kept());
    }
    report.reference.scores.truncate(1);
    assert_eq!(judged("arc_easy.acc_norm>=0", &report)[0].why.as_deref(), Some("the reference was not measured"));
}

#[test]
fn a_limit_holds_on_every_text_and_for_every_model() {
    let mut report = report();
    report.others[0].differences.push(difference(text("c4"), "kl_mean", Kind::Distance, 0.2, None));
    let mut second = report.others[0].clone();
    second.model.name = "second".into();
    report.others.push(second);
    let verdicts = judged("kl_mean<=0.1", &report);
    let seen: Vec<_> = verdicts.iter().map(|v| (v.model.as_str(), v.on.as_deref().unwrap(), v.is_kept())).collect();
    let expected = [("after", "wiki", true), ("after", "c4", false), ("second", "wiki", true), ("second", "c4", false)];
    assert_eq!(seen, expected);
    let gate = Gate { limits: vec![limit("kl_mean@wiki<=0.1")] };
    assert!(gate.apply(&mut report, &TASKS).unwrap());
    assert_eq!(report.others[1].gate.len(), 1);
}

#[test]
fn an_unknown_figure_lists_what_there_is() {
    let error = |text| Gate { limits: vec![limit(text)] }.judge(&report(), &TASKS).unwrap_err();
    let typo = error("kl_meen<=0.05");
    assert_eq!(typo.to_string(), "there is no figure `kl_meen` to keep within limits");
    let hint = typo.hint().unwrap();
    assert!(hint.starts_with("did you mean `kl_mean`? there are facts.lost, "), "{hint}");
    assert!(hint.contains("arc_easy, kick_factoid, boolq"), "{hint}");
    let metric = error("arc_easy.akk>=0").hint().unwrap();
    assert_eq!(metric, "did you mean `arc_easy.acc`? there are arc_easy.acc, arc_easy.acc_norm, arc_easy.flips");
    assert!(error("acc>=0").to_string().contains("there is no figure `acc`"), "a metric alone is of no task");
}

#[test]
fn names_are_known_before_anything_is_measured() {
    let check = |text| Gate { limits: vec![limit(text)] }.check_names(&TASKS);
    for text in ["kl_mean<=1", "boolq>=0", "boolq.acc>=0", "boolq.flips<=5%", "facts.lost<=5%", "perplexity<=9%"] {
        assert!(check(text).is_ok(), "{text}");
    }
    assert!(matches!(check("hellaswag>=0"), Err(Error::Limit { .. })));
    assert_eq!(check("kl_mean<=5%").unwrap_err().to_string(), "`kl_mean` cannot be limited in percent");
}
