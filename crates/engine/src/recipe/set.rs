//! Changing one key of a recipe from outside: `--set quantize.rtn.bits=3`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::node::Node;
use super::parse::{SELECTOR_HINT, calibrate, cut_vectors, entry, selectors};
use super::{BadRecipe, Recipe, nearest};

/// Applies `step.key=value`s; a step is a method's name, its last word, or a number counted from one. What settings
/// say together is looked at when all are in place.
pub(super) fn apply(recipe: &mut Recipe, assignments: &[impl AsRef<str>]) -> Result<(), BadRecipe> {
    let mut touched = BTreeMap::new();
    for assignment in assignments {
        if let Some(step) = one(recipe, assignment.as_ref())? {
            touched.insert(step, assignment.as_ref());
        }
    }
    for (at, assignment) in touched {
        let step = &recipe.steps[at];
        brevity_methods::any_method(&step.method, step.settings.clone().into()).map_err(|error| BadRecipe {
            origin: format!("--set {assignment}"),
            line: None,
            what: error.to_string(),
            hint: error.hint(),
        })?;
    }
    Ok(())
}

/// Applies one, and says whose settings it changed.
fn one(recipe: &mut Recipe, assignment: &str) -> Result<Option<usize>, BadRecipe> {
    let origin = format!("--set {assignment}");
    let wrong = |what: String, hint: Option<String>| BadRecipe { origin: origin.clone(), line: None, what, hint };
    let form = || {
        Some(
            "write `--set STEP.KEY=VALUE`, such as `quantize.rtn.bits=3` or `1.bits=3`, or `--set format=NAME`"
                .to_owned(),
        )
    };
    let (path, text) = assignment.split_once('=').ok_or_else(|| wrong("there is no `=`".into(), form()))?;
    let value = Node::parse(text).map_err(|(_, what)| wrong(format!("`{text}` is not a YAML value: {what}"), None))?;
    let value = value.to_json();
    let Some((step, key)) = path.trim().rsplit_once('.') else {
        return match (path.trim(), value) {
            ("format", Value::String(format)) => {
                recipe.format = Some(format);
                Ok(None)
            }
            ("format", other) => Err(wrong(format!("`format` is a text, not `{other}`"), None)),
            (key, _) => Err(wrong(format!("`{key}` does not say which step it is for"), form())),
        };
    };
    if step == "calibration" {
        let set = calibrate(&mut recipe.calibration, key, &value);
        return set.map(|()| None).map_err(|(what, hint)| wrong(what, Some(hint)));
    }
    if step == "vectors" {
        let set = cut_vectors(&mut recipe.vectors, key, &value);
        return set.map(|()| None).map_err(|(what, hint)| wrong(what, Some(hint)));
    }
    let at = find(recipe, step).map_err(|(what, hint)| wrong(what, hint))?;
    let step = &mut recipe.steps[at];
    match key {
        "at" | "except" => {
            let list = selectors(&value).map_err(|what| wrong(what, Some(SELECTOR_HINT.to_owned())))?;
            *(if key == "at" { &mut step.at } else { &mut step.except }) = list;
        }
        key => {
            let entry = entry(&step.method)
                .map_err(|hint| wrong(format!("there is no method `{}`", step.method), Some(hint)))?;
            if !entry.settings.iter().any(|setting| setting.name == key) {
                let known: Vec<&str> = entry.settings.iter().map(|s| s.name).chain(["at", "except"]).collect();
                let what = format!("`{}` has no setting `{key}`", entry.name);
                return Err(wrong(what, Some(nearest(key, &known, "its settings"))));
            }
            step.settings.insert(key.to_owned(), value);
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// The index of the step that is meant.
fn find(recipe: &Recipe, step: &str) -> Result<usize, (String, Option<String>)> {
    let count = recipe.steps.len();
    if let Ok(number) = step.parse::<usize>() {
        return match number {
            1.. if number <= count => Ok(number - 1),
            _ => Err((
                format!("there is no step {number}: the recipe has {count}"),
                Some("steps are counted from 1".into()),
            )),
        };
    }
    let named = |full: &str| full == step || full.rsplit('.').next() == Some(step);
    let found: Vec<usize> = (0..count).filter(|&n| named(&recipe.steps[n].method)).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => {
            let known: Vec<&str> = recipe.steps.iter().map(|step| step.method.as_str()).collect();
            Err((format!("the recipe has no step `{step}`"), Some(nearest(step, &known, "its steps"))))
        }
        several => {
            let numbers: Vec<String> = several.iter().map(|n| (n + 1).to_string()).collect();
            Err((
                format!("`{step}` is several steps: {}", numbers.join(", ")),
                Some("name the step by its number".into()),
            ))
        }
    }
}
