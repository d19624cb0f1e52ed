//! Which steps touch which layers: the selectors of a recipe, resolved against a model.

use brevity_methods::{Method, Parse};
use brevity_model::{Model, Place, Role, Site, Stage, Sublayer};

use crate::error::Error;
use crate::recipe::{Recipe, Step, nearest};
use crate::select::Selector;

/// For each stage, for each of its linear layers in forward order, the steps that touch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    stages: Vec<Vec<(Site, Vec<usize>)>>,
    /// Selectors under `except` that leave nothing out, each with its step.
    pub idle_excepts: Vec<(usize, String)>,
}

impl Work {
    /// Resolves the selectors of a recipe.
    ///
    /// # Errors
    /// [`Error::Unmatched`] if a selector under `at` picks nothing, or a step has nothing left to do.
    pub fn resolve<W>(recipe: &Recipe, model: &Model<W>, methods: &[Method]) -> Result<Self, Error> {
        let mut stages: Vec<Vec<(Site, Vec<usize>)>> =
            sites(model).into_iter().map(|stage| stage.into_iter().map(|site| (site, Vec::new())).collect()).collect();
        let has_blocks = model.stages.iter().any(|stage| matches!(stage, Stage::Block(_)));
        let usual = if has_blocks { "blocks" } else { "loose" };
        let usual = Selector::parse(usual).expect("a word is a selector");
        let mut idle_excepts = Vec::new();
        for (number, step) in recipe.steps.iter().enumerate() {
            if methods[number].stream().is_some() {
                stages.iter_mut().flatten().for_each(|(_, steps)| steps.push(number));
                continue;
            }
            let at = if step.at.is_empty() { std::slice::from_ref(&usual) } else { &step.at };
            let mut left = 0;
            let mut used = vec![false; at.len()];
            let mut spared = vec![false; step.except.len()];
            for (site, steps) in stages.iter_mut().flatten() {
                let mut picked = false;
                for (selector, used) in at.iter().zip(&mut used) {
                    if selector.matches(site) {
                        (picked, *used) = (true, true);
                    }
                }
                // A method that has nothing to do with this kind of sublayer or layer does not touch it.
                let part = Sublayer::of(&site.role).filter(|_| matches!(site.place, Place::Block(_)));
                if let Some(method) = methods[number].block() {
                    picked &= part.is_some_and(|part| method.rewrites(part));
                }
                if let Some(method) = methods[number].linear() {
                    picked &= method.rewrites(&site.role);
                }
                if picked {
                    let mut except = false;
                    for (selector, spared) in step.except.iter().zip(&mut spared) {
                        if selector.matches(site) {
                            (except, *spared) = (true, true);
                        }
                    }
                    if !except {
                        steps.push(number);
                        left += 1;
                    }
                }
            }
            let all = || stages.iter().flatten().map(|(site, _)| site);
            if let Some(at) = at.iter().zip(&used).find(|(_, used)| !**used).map(|(selector, _)| selector) {
                return Err(unmatched(recipe, number, at, all()));
            }
            if left == 0 {
                return Err(Error::NothingLeft { place: step_place(recipe, number) });
            }
            if methods[number].block().is_some() {
                whole(&stages, recipe, number)?;
            }
            let idle = step.except.iter().zip(&spared).filter(|(_, spared)| !**spared);
            idle_excepts.extend(idle.map(|(selector, _)| (number, selector.to_string())));
        }
        Ok(Work { stages, idle_excepts })
    }

    /// The linear layers of a stage with the steps that touch each.
    pub fn of(&self, stage: usize) -> &[(Site, Vec<usize>)] {
        &self.stages[stage]
    }

    /// A layer of a stage by its role: its number among the layers of the source, its site, and the steps that touch it.
    pub fn at(&self, stage: usize, role: &Role) -> (usize, &Site, &[usize]) {
        let at = self.stages[stage].iter().position(|(site, _)| site.role == *role);
        let at = at.expect("layers go, none are added");
        let (site, steps) = &self.stages[stage][at];
        (at, site, steps)
    }

    /// The steps that rewrite a sublayer of a stage as a whole.
    pub fn of_part(&self, stage: usize, part: Sublayer, methods: &[Method]) -> Vec<usize> {
        let own = self.stages[stage].iter().find(|(site, _)| Sublayer::of(&site.role) == Some(part));
        let steps = own.map_or(&[][..], |(_, steps)| steps);
        let blocks = matches!(self.stages[stage].first(), Some((Site { place: Place::Block(_), .. }, _)));
        steps.iter().copied().filter(|&step| blocks && methods[step].block().is_some()).collect()
    }

    /// Whether any step touches a stage.
    pub fn touches(&self, stage: usize) -> bool {
        self.stages[stage].iter().any(|(_, steps)| !steps.is_empty())
    }
}

/// Refuses a step for whole sublayers that has only some layers of one, or comes behind one for single layers.
fn whole(stages: &[Vec<(Site, Vec<usize>)>], recipe: &Recipe, number: usize) -> Result<(), Error> {
    for stage in stages {
        for part in [Sublayer::Attn, Sublayer::Mlp] {
            let own = || {
                let blocks = stage.iter().filter(|(site, _)| matches!(site.place, Place::Block(_)));
                blocks.filter(move |(site, _)| Sublayer::of(&site.role) == Some(part))
            };
            let Some((some, _)) = own().find(|(_, steps)| steps.contains(&number)) else { continue };
            if let Some((left, _)) = own().find(|(_, steps)| !steps.contains(&number)) {
                let (site, place) = (left.clone(), step_place(recipe, number));
                return Err(Error::Part { site, other: some.clone(), place });
            }
            let before = own().flat_map(|(_, steps)| steps).find(|&&step| {
                step < number && recipe.steps[step].entry().is_some_and(|entry| matches!(entry.parse, Parse::Linear(_)))
            });
            if let Some(&step) = before {
                let method = recipe.steps[step].method.clone();
                return Err(Error::Late { method, site: some.clone(), place: step_place(recipe, number) });
            }
        }
    }
    Ok(())
}

/// The linear layers and tables of each stage, in the order of the forward pass.
fn sites<W>(model: &Model<W>) -> Vec<Vec<Site>> {
    // `linears_mut` is the one list of what may be rewritten; a copy of the tree without weights can be walked with it.
    let mut bare =
        model.try_map(|_, _, _| Ok::<_, std::convert::Infallible>(())).unwrap_or_else(|never| match never {});
    let places: Vec<Place> = (0..bare.stages.len()).map(|n| bare.place(n)).collect();
    let linears = bare.stages.iter_mut().zip(places);
    linears
        .map(|(stage, place)| stage.linears_mut().into_iter().map(|(role, _)| Site::new(place, role)).collect())
        .collect()
}

/// `recipes/int4.yaml, line 4, step 1 (quantize.rtn)`, for errors.
pub(crate) fn step_place(recipe: &Recipe, number: usize) -> String {
    let Step { method, line, .. } = &recipe.steps[number];
    let line = line.map_or_else(String::new, |line| format!(", line {line}"));
    format!("`{}`{line}, step {} ({method})", recipe.origin, number + 1)
}

fn unmatched<'a>(recipe: &Recipe, number: usize, selector: &Selector, all: impl Iterator<Item = &'a Site>) -> Error {
    // What there is, with the numbers of the blocks taken out: a list to choose from.
    let mut kinds: Vec<String> = Vec::new();
    let mut blocks = 0;
    for site in all {
        let kind = match site.place {
            Place::Block(n) => {
                blocks = blocks.max(n + 1);
                site.role.to_string()
            }
            Place::Loose(_) => site.role.to_string(),
            _ => site.to_string(),
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let known: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let near = nearest(&selector.to_string(), &known, "");
    let near = if near.starts_with("did") { format!("{near} ") } else { String::new() };
    const SHOWN: usize = 24;
    let more = if known.len() > SHOWN { format!(", and {} more", known.len() - SHOWN) } else { String::new() };
    let blocks = if blocks > 0 { format!(", in blocks 0 to {}", blocks - 1) } else { String::new() };
    let there_is = known.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    Error::Unmatched {
        selector: selector.to_string(),
        place: step_place(recipe, number),
        hint: format!("{near}the model has {there_is}{more}{blocks}"),
    }
}
