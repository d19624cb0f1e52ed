//! The recipes that come with the program: the files in `recipes/`, embedded.

use include_dir::{Dir, include_dir};

use super::{BadRecipe, Recipe, nearest};

static FOLDER: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../../recipes");

/// An embedded recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: &'static str,
    /// The YAML text, as it is in the file.
    pub text: &'static str,
}

/// All embedded recipes, by name.
pub fn stock() -> Vec<Named> {
    let yaml = FOLDER.files().filter_map(|file| {
        let name = file.path().file_name()?.to_str()?.strip_suffix(".yaml")?;
        Some(Named { name, text: file.contents_utf8()? })
    });
    let mut all: Vec<Named> = yaml.collect();
    all.sort_by_key(|named| named.name);
    all
}

/// The embedded recipe of a name.
pub fn named(name: &str) -> Result<Named, BadRecipe> {
    let all = stock();
    all.iter().find(|named| named.name == name).copied().ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|named| named.name).collect();
        BadRecipe {
            origin: name.to_owned(),
            line: None,
            what: format!("there is no recipe `{name}`"),
            hint: Some(nearest(name, &known, "the recipes")),
        }
    })
}

impl Named {
    /// The recipe.
    pub fn recipe(&self) -> Result<Recipe, BadRecipe> {
        Recipe::parse(self.text, &format!("recipes/{}.yaml", self.name))
    }
}

impl Recipe {
    /// The embedded recipe of a name.
    pub fn named(name: &str) -> Result<Self, BadRecipe> {
        named(name)?.recipe()
    }

    /// All embedded recipes.
    pub fn list() -> Vec<Named> {
        stock()
    }
}
