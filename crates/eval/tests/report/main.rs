//! What a report looks like, on models that do not exist.
//!
//! The pages are left in `target/tmp`; `benches/screenshot.py` takes pictures of them.

mod sample;

use brevity_eval::report::{self, Report, frontier};
use serde_json::Value;

/// The shape of JSON: places and kinds, one line for each, lists by their first element.
fn shape(value: &Value, place: &str, lines: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                // What a model says about its origin is its own affair.
                let value = if name == "provenance" { &Value::Null } else { value };
                shape(value, &format!("{place}.{name}"), lines);
            }
        }
        Value::Array(items) => match items.first() {
            Some(first) => shape(first, &format!("{place}[]"), lines),
            None => lines.push(format!("{place}: nothing")),
        },
        Value::String(_) => lines.push(format!("{place}: text")),
        Value::Number(_) => lines.push(format!("{place}: number")),
        Value::Bool(_) => lines.push(format!("{place}: yes or no")),
        Value::Null => lines.push(format!("{place}: anything")),
    }
}

/// Leaves a page where pictures can be taken of it.
fn keep(name: &str, text: &str) {
    std::fs::write(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name), text).unwrap();
}

#[test]
fn the_json_of_a_report_has_this_shape_and_reads_back() {
    let report = sample::report();
    let json = serde_json::to_value(&report).unwrap();
    let mut lines = Vec::new();
    shape(&json, "", &mut lines);
    insta::assert_snapshot!("json", lines.join("\n"));
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
}

#[test]
fn tables_for_terminals() {
    let show = |table: report::Table| {
        let lines = std::iter::once(table.header).chain(table.rows).map(|row| row.join(" | ").trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    };
    let (pair, all) = (sample::pair(), sample::report());
    insta::assert_snapshot!("table-pair", show(report::table(&pair)));
    insta::assert_snapshot!("table-all", show(report::table(&all)));
    insta::assert_snapshot!("table-gate", show(report::verdicts(&pair)));
    insta::assert_snapshot!("table-frontier", show(frontier::frontier_table(&all, &frontier::metrics(&all)[0])));
}

#[test]
fn a_page_escapes_all_that_comes_from_models_and_data() {
    let report = sample::report();
    let page = report::html(&report);
    keep("sample-report.html", &page);
    assert!(!page.contains(sample::HOSTILE), "text of a fact or a name became code");
    assert_eq!(page.matches("<script").count(), 1, "our own");
    assert!(page.contains("&lt;script&gt;alert"), "what was escaped is shown");
}

#[test]
fn a_page_stands_alone() {
    let page = report::html(&sample::report());
    for outside in ["http://", "https://", "src=", "@import", "url(", "<link", "<iframe"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn a_page_has_every_section_and_says_what_its_drawings_show() {
    let sections = [
        "limits",
        "size",
        "quality",
        "cuts",
        "frontier",
        "layers",
        "facts",
        "flips",
        "traces",
        "speed",
        "provenance",
        "notes",
    ];
    let page = report::html(&sample::report());
    for id in sections {
        assert!(page.contains(&format!("<section id=\"{id}\">")), "{id}");
        assert!(page.contains(&format!("href=\"#{id}\"")), "{id}");
    }
    let drawings = page.matches("<svg class=\"plot\" role=\"img\"").count();
    assert!(drawings > 10);
    assert_eq!(page.matches("<desc id=").count(), drawings);
    let ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let different: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(different.len(), ids.len(), "no id is there twice");
}

#[test]
fn a_page_of_two_models_and_one_of_nothing_measured() {
    let page = report::html(&sample::pair());
    keep("sample-pair.html", &page);
    assert!(
        page.contains("times smaller; perplexity +2.7 % [2.4, 3.1]; worst of 6 tasks: arc_easy \u{2212}1.4 points"),
        "the verdict comes first"
    );
    assert!(!page.contains("<section id=\"frontier\">"), "two points are no frontier");
    let model = |name: &str| report::Model { name: name.into(), size_bytes: 1000, ..report::Model::default() };
    let mut bare = Report::new(model("before"));
    bare.others.push(report::Compressed { model: model("after"), ..report::Compressed::default() });
    let page = report::html(&bare);
    keep("sample-bare.html", &page);
    assert!(page.contains("same size") && page.contains("Not measured here:"), "{page}");
}

#[test]
fn what_is_not_finite_is_said_in_words() {
    let mut report = sample::pair();
    report.others[0].model.scores[0].value = f64::NAN;
    report.others[0].differences[0].value = f64::INFINITY;
    report.others[0].layers[3].relative_error = Some(f64::NAN);
    let page = report::html(&report);
    assert!(page.contains("not a number") && page.contains("infinite"));
    assert!(!page.contains("NaN") && !page.contains("\"inf\""));
}

#[test]
fn a_frontier_is_a_drawing_of_its_own() {
    let report = sample::report();
    let svg = frontier::frontier_svg(&report, &frontier::metrics(&report)[0]);
    keep("sample-frontier.svg", &svg);
    assert!(svg.contains("<desc id=") && !svg.contains(sample::HOSTILE));
}
