//! A report as one HTML file that stands alone: no network, no fonts, no script that it could not do without.
//!
//! What is shown is put together here, as tables and drawings; `report.html` arranges them. Everything that comes from models
//! and data is text to the template, which escapes it, or goes through [`svg::escaped`].

mod grid;
mod items;
mod limits;
mod sections;

use std::collections::HashSet;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use serde::Serialize;
use serde_json::Value as Json;

use crate::report::html::grid::Grid;
use crate::report::{Compressed, Model, Report, names, plots, svg, words};

/// The report as an HTML file.
///
/// # Panics
/// If the template of this crate is wrong, which its tests would have shown.
pub fn html(report: &Report) -> String {
    let mut page = Environment::new();
    page.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    page.set_syntax(syntax.expect("the usual delimiters"));
    page.add_filter("prose", prose);
    page.add_template("report.html", include_str!("report.html")).expect("the template is well formed");
    let page = page.get_template("report.html").expect("it was just added");
    let view = context! {
        style => Value::from_safe_string([svg::STYLE, include_str!("page.css")].concat()),
        script => Value::from_safe_string(include_str!("report.js").to_owned()),
        page => Value::from(minijinja::value::Serde(&Page::of(report))),
    };
    page.render(view).expect("the template asks for what there is")
}

/// Text in which `literals` stand between backticks, as everywhere in our messages.
fn prose(text: &str) -> Value {
    let mut out = String::new();
    for (n, part) in text.split('`').enumerate() {
        let part = svg::escaped(part);
        out += &if n % 2 == 1 { format!("<code>{part}</code>") } else { part };
    }
    Value::from_safe_string(out)
}

/// All that the template shows.
#[derive(Serialize)]
struct Page<'a> {
    tool: &'a str,
    title: String,
    reference: &'a str,
    warnings: &'a [String],
    models: Vec<Headline<'a>>,
    sections: Vec<Section>,
    origins: Vec<Origin>,
    method: &'a [String],
    glossary: Vec<[&'static str; 2]>,
    confidence: String,
    missing: Vec<&'static str>,
}

/// A model in the head of the page.
#[derive(Serialize)]
struct Headline<'a> {
    key: String,
    /// Its mark in drawings.
    mark: String,
    name: &'a str,
    verdict: String,
    notes: &'a [String],
    /// Whether all limits are kept, if there are any, and that in words.
    limits: Option<(bool, String)>,
}

/// A section: what it is about, and what it shows.
#[derive(Default, Serialize)]
struct Section {
    id: &'static str,
    title: &'static str,
    /// What the figures mean, in a sentence or two.
    about: String,
    blocks: Vec<Block>,
}

/// Something in a section.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Block {
    /// The parts of bars, to tell their colours.
    Legend(Vec<(usize, &'static str)>),
    /// Which mark is which model.
    Keys,
    /// The name of a model, above what is about it.
    Named(String),
    /// A drawing for wide pages and one for narrow ones.
    Plot([String; 2]),
    /// Drawings side by side.
    Plots(Vec<String>),
    /// A table.
    Grid(Grid),
    /// What is about one model alone, under its name; open from the start or not.
    Model { key: String, name: String, said: String, open: bool, grids: Vec<Grid> },
    /// What only those who look for it want to see.
    More { title: &'static str, grids: Vec<Grid> },
}

/// Where a model came from.
#[derive(Serialize)]
struct Origin {
    key: String,
    name: String,
    facts: Vec<[String; 2]>,
    recipe: Option<String>,
    rest: Option<String>,
}

impl<'a> Page<'a> {
    fn of(report: &'a Report) -> Self {
        let reference = report.reference.name.as_str();
        let title = match &report.others[..] {
            [one] => one.model.name.clone(),
            all => format!("{} models", all.len()),
        };
        let mut sections = vec![limits::section(report)];
        sections.extend(sections::all(report));
        sections.extend(items::all(report));
        sections.push(sections::speed(report));
        sections.retain(|section| !section.blocks.is_empty());
        let measured = |id: &str| sections.iter().any(|section| section.id == id);
        let missing = [
            ("quality", "scores"),
            ("layers", "error by layer"),
            ("facts", "facts"),
            ("flips", "changed answers"),
            ("traces", "traces of concepts"),
            ("speed", "speed and memory"),
        ];
        let missing = missing.into_iter().filter(|(id, _)| !measured(id)).map(|(_, what)| what).collect();
        Page {
            tool: &report.tool,
            title,
            reference,
            warnings: &report.warnings,
            models: headlines(report),
            origins: report.models().enumerate().filter_map(|(n, model)| origin(report, n, model)).collect(),
            method: &report.method,
            glossary: glossary(report),
            confidence: format!("{:.0} %", 100.0 * report.confidence),
            missing,
            sections,
        }
    }
}

fn headlines(report: &Report) -> Vec<Headline<'_>> {
    fn headline<'a>(report: &'a Report, n: usize, other: &'a Compressed) -> Headline<'a> {
        Headline {
            key: plots::letter(report, n),
            mark: plots::mark(n),
            name: &other.model.name,
            verdict: svg::minus(&words::verdict(report, other)),
            notes: &other.model.notes,
            limits: words::limits(other),
        }
    }
    (1..).zip(&report.others).map(|(n, other)| headline(report, n, other)).collect()
}

/// What a model's provenance says, its recipe as text, and the rest as it is.
fn origin(report: &Report, n: usize, model: &Model) -> Option<Origin> {
    let Json::Object(mut fields) = model.provenance.clone() else { return None };
    let recipe = fields.get("recipe_yaml").and_then(Json::as_str).map(str::to_owned);
    if recipe.is_some() {
        fields.shift_remove("recipe_yaml");
        fields.shift_remove("recipe");
    }
    // Short ones as they are; lists and mappings with the rest.
    let (mut facts, mut rest) = (Vec::new(), serde_json::Map::new());
    for (name, value) in fields {
        match value {
            Json::String(text) => facts.push([names::label(&name), text]),
            Json::Number(_) | Json::Bool(_) => facts.push([names::label(&name), value.to_string()]),
            value => drop(rest.insert(name, value)),
        }
    }
    let rest = (!rest.is_empty()).then(|| serde_json::to_string_pretty(&rest).expect("it was JSON"));
    Some(Origin { key: plots::letter(report, n), name: model.name.clone(), facts, recipe, rest })
}

/// What the figures of this report mean.
fn glossary(report: &Report) -> Vec<[&'static str; 2]> {
    let scores = report.models().flat_map(|model| &model.scores).map(|score| &score.name);
    let differences = report.others.iter().flat_map(|other| &other.differences).map(|d| &d.name);
    let used: HashSet<&String> = scores.chain(differences).collect();
    let known = names::KNOWN.iter().filter(|known| used.iter().any(|name| *name == known.name));
    known.map(|known| [known.label, known.about]).collect()
}
