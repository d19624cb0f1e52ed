//! `brevity recipes`: what can be done to a model.

use std::path::Path;

use brevity::engine::Recipe;
use brevity::eval::Task;
use brevity::methods::METHODS;
use serde_json::{Value, json};

use crate::args::{Recipes, RecipesCommand};
use crate::failure::Usage;
use crate::{print, table};

pub fn run(args: &Recipes) -> anyhow::Result<()> {
    match args.command.as_ref().unwrap_or(&RecipesCommand::List) {
        RecipesCommand::List => list(args.json),
        RecipesCommand::Show { name } => show(name, args.json),
        RecipesCommand::Methods { name } => methods(name, args.json),
        RecipesCommand::Tasks { name } => tasks(name, args.json),
    }
}

/// Reads a recipe by its name, or from a file.
pub fn read(name: &str) -> anyhow::Result<Recipe> {
    if is_file(name) {
        return Ok(Recipe::parse(&text(name)?, name)?);
    }
    let named = Recipe::named(name);
    if named.is_err() && Path::new(name).is_dir() {
        let hint = Some("give the YAML file, or one of `brevity recipes`".into());
        return Err(Usage { what: format!("`{name}` is a directory, where a recipe was expected"), hint }.into());
    }
    Ok(named?)
}

/// Whether a name means a file: it looks like a path or ends as YAML files do.
fn is_file(name: &str) -> bool {
    name.contains(['/', '\\']) || name.ends_with(".yaml") || name.ends_with(".yml") || Path::new(name).is_file()
}

fn text(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path).map_err(|e| anyhow::anyhow!("cannot read the recipe `{path}`: {e}"))
}

fn list(as_json: bool) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for named in Recipe::list() {
        all.push((named.name, named.recipe()?));
    }
    if as_json {
        let rows: Vec<Value> = all
            .iter()
            .map(|(name, recipe)| json!({ "name": name, "about": recipe.about, "recipe": recipe.normalised() }))
            .collect();
        return print::line(&serde_json::to_string_pretty(&rows)?);
    }
    let format = |recipe: &Recipe| recipe.format.clone().unwrap_or_else(|| "dense".to_owned());
    let rows = all.iter().map(|(name, recipe)| vec![name.to_string(), format(recipe), recipe.about.clone()]);
    print::line(&table::table(&["recipe", "format", "what it does"], &[], rows))
}

/// The tasks in a table, or one as YAML.
fn tasks(name: &str, as_json: bool) -> anyhow::Result<()> {
    if !name.is_empty() {
        let known = Task::named(name)?;
        let stock = Task::list().into_iter().find(|stock| stock.name == known.name);
        return print::line(stock.map_or("", |stock| stock.text).trim_end());
    }
    let all = Task::list().into_iter().map(|stock| stock.task()).collect::<Result<Vec<_>, _>>()?;
    if as_json {
        let row = |task: &Task| json!({ "name": task.name, "about": task.about, "source": task.source });
        return print::line(&serde_json::to_string_pretty(&all.iter().map(row).collect::<Vec<_>>())?);
    }
    let rows = all.iter().map(|task| vec![task.name.clone(), task.about.clone()]);
    print::line(&table::table(&["task", "what it asks"], &[], rows))
}

fn show(name: &str, as_json: bool) -> anyhow::Result<()> {
    let recipe = read(name)?;
    if as_json {
        return print::line(&serde_json::to_string_pretty(&recipe.normalised())?);
    }
    let yaml = match Recipe::list().into_iter().find(|named| named.name == name && !is_file(name)) {
        Some(named) => named.text.to_owned(),
        None => text(name)?,
    };
    print::line(yaml.trim_end())
}

fn methods(name: &str, as_json: bool) -> anyhow::Result<()> {
    let chosen = || METHODS.iter().filter(|entry| entry.name.starts_with(name));
    if chosen().next().is_none() {
        let hint = Some("`brevity recipes methods` lists them".into());
        return Err(Usage { what: format!("no method's name begins with `{name}`"), hint }.into());
    }
    if as_json {
        let settings = |entry: &brevity::methods::Entry| -> Vec<Value> {
            let one = |s: &brevity::methods::Setting| json!({ "name": s.name, "about": s.about, "default": s.default });
            entry.settings.iter().map(one).collect()
        };
        let rows: Vec<Value> = chosen()
            .map(|entry| json!({ "name": entry.name, "about": entry.about, "settings": settings(entry) }))
            .collect();
        return print::line(&serde_json::to_string_pretty(&rows)?);
    }
    for (n, entry) in chosen().enumerate() {
        let blank = if n > 0 { "\n" } else { "" };
        print::line(&format!("{blank}{}\n  {}\n", entry.name, entry.about))?;
        let rows =
            entry.settings.iter().map(|s| vec![format!("  {}", s.name), s.default.to_owned(), s.about.to_owned()]);
        print::line(&table::table(&["  setting", "default", ""], &[], rows))?;
    }
    Ok(())
}
