//! What a plan says about itself: things that are allowed and probably not meant.

use std::collections::BTreeMap;

use brevity_formats::Checkpoint;
use brevity_methods::Kind;
use brevity_model::{CodeForm, Form, Group, MaskForm, Model, Role, Source, Stage, Sublayer};
use serde::Serialize;

use super::predict::StepForms;
use super::{Plan, PlannedSite, is_coded};

/// Something that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lint {
    /// A sentence.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl Lint {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Lint { what: what.into(), hint: hint.into() }
    }
}

/// Everything that looks unintended.
pub(super) fn all(plan: &Plan, checkpoint: &Checkpoint, steps: &[StepForms]) -> Vec<Lint> {
    let mut lints = Vec::new();
    lints.extend(idle_excepts(plan));
    lints.extend(wrong_order(plan, steps));
    lints.extend(late_aim(plan, steps));
    lints.extend(normed(plan, checkpoint.model()));
    lints.extend(lost_masks(plan, steps));
    lints.extend(coded_twice(plan));
    lints.extend(other_groups(plan, steps));
    lints.extend(dense_tails(plan, steps));
    lints.extend(useless_factors(plan, steps));
    lints.extend(nothing(plan, steps));
    lints.extend(idle_zeros(plan));
    lints.extend(tied(plan, checkpoint.model()));
    lints.extend(larger(plan));
    lints.extend(guessed(plan));
    lints.extend(few_tokens(plan));
    lints.extend(hardly_known(plan, checkpoint));
    lints
}

/// `blocks.0.attn.q`, or `blocks.0.attn.q and 6 others`.
fn some<'a>(sites: impl IntoIterator<Item = &'a brevity_model::Site>) -> String {
    let mut sites = sites.into_iter();
    let Some(first) = sites.next() else { return "no layer".to_owned() };
    match sites.count() {
        0 => format!("`{first}`"),
        1 => format!("`{first}` and one other layer"),
        more => format!("`{first}` and {more} other layers"),
    }
}

fn step_name(plan: &Plan, step: usize) -> String {
    format!("step {} ({})", step + 1, plan.recipe.steps[step].method)
}

fn kind(plan: &Plan, step: usize) -> Option<Kind> {
    plan.recipe.steps[step].entry().map(|entry| entry.kind)
}

fn idle_excepts(plan: &Plan) -> Vec<Lint> {
    let idle = plan.work.idle_excepts.iter();
    idle.map(|(step, selector)| {
        Lint::new(
            format!("`except: {selector}` of {} leaves nothing out", step_name(plan, *step)),
            "the model has no such layer among those the step picks; correct it or take it out",
        )
    })
    .collect()
}

/// A step that prunes or decomposes what an earlier one has put on a grid.
fn wrong_order(plan: &Plan, steps: &[StepForms]) -> Vec<Lint> {
    let late = |n: usize| matches!(kind(plan, n), Some(Kind::Prune | Kind::Decompose));
    let mut lints = Vec::new();
    for n in (0..plan.recipe.steps.len()).filter(|&n| late(n)) {
        let coded: Vec<_> = steps.iter().filter(|step| step.step == n && is_coded(&step.before)).collect();
        let by_us = coded.iter().any(|coded| steps.iter().any(|step| step.site == coded.site && step.step < n));
        if by_us {
            lints.push(Lint::new(
                format!(
                    "{} comes behind the step that quantizes {}",
                    step_name(plan, n),
                    some(coded.iter().map(|c| &c.site))
                ),
                "prune and decompose first: it then works on the exact weights, and the grid is fitted to what is left",
            ));
        }
    }
    lints
}

/// A step whose result does not know which entries an earlier one removed.
fn lost_masks(plan: &Plan, steps: &[StepForms]) -> Vec<Lint> {
    let masked = |form: &Form| form.leaves().iter().any(|(_, leaf)| leaf.mask.is_some());
    let mut lints = Vec::new();
    for n in 0..plan.recipe.steps.len() {
        let lost: Vec<_> =
            steps.iter().filter(|step| step.step == n && masked(&step.before) && !masked(&step.after)).collect();
        if !lost.is_empty() {
            lints.push(Lint::new(
                format!(
                    "{} fills in again what was pruned in {}",
                    step_name(plan, n),
                    some(lost.iter().map(|l| &l.site))
                ),
                "put the pruning step behind it",
            ));
        }
    }
    lints
}

/// Codes that are made of codes of the source.
fn coded_twice(plan: &Plan) -> Vec<Lint> {
    let quantized = |site: &&PlannedSite| is_coded(&site.before) && site.after != site.before && is_coded(&site.after);
    let twice: Vec<&PlannedSite> = plan.sites.iter().filter(quantized).collect();
    if twice.is_empty() {
        return Vec::new();
    }
    vec![Lint::new(
        format!("the source is already quantized at {}", some(twice.iter().map(|site| &site.site))),
        "the errors of both add up; start from the original checkpoint if you can get it",
    )]
}

/// Groups other than those asked for.
fn other_groups(plan: &Plan, steps: &[StepForms]) -> Vec<Lint> {
    let mut lints = Vec::new();
    for n in 0..plan.recipe.steps.len() {
        let Some(asked) = plan.methods[n].settings().get("group").and_then(|group| group.as_u64()) else { continue };
        let other = |form: &Form| {
            form.leaves().into_iter().any(|(_, leaf)| match &leaf.code {
                CodeForm::Grid { group: Group::Columns(_), .. } => !(leaf.shape[1] as u64).is_multiple_of(asked),
                CodeForm::Grid { .. } => true,
                _ => false,
            })
        };
        let others: Vec<_> = steps.iter().filter(|step| step.step == n && other(&step.after)).collect();
        if let Some(first) = others.first() {
            let inputs =
                first.after.leaves().iter().map(|(_, leaf)| leaf.shape[1]).find(|&c| !(c as u64).is_multiple_of(asked));
            let inputs = inputs.map_or_else(String::new, |inputs| format!(" ({inputs} inputs)"));
            lints.push(Lint::new(
                format!("group {asked} does not divide the inputs of {}{inputs}", some(others.iter().map(|o| &o.site))),
                "these layers get one scale for each output, or a shorter last group, as `ragged` says; another group \
                 would give them as many scales as the others",
            ));
        }
    }
    lints
}

/// Inputs that are left over where a pattern does not divide a row.
fn dense_tails(plan: &Plan, steps: &[StepForms]) -> Vec<Lint> {
    let mut lints = Vec::new();
    for n in 0..plan.recipe.steps.len() {
        let settings = plan.methods[n].settings();
        let Some(pattern) = settings.get("pattern").and_then(|pattern| pattern.as_str()) else { continue };
        let of: Option<usize> = pattern.split_once(':').and_then(|(_, of)| of.parse().ok());
        let inputs = |step: &StepForms| {
            let inputs = step.before.leaves().into_iter().map(|(_, leaf)| leaf.shape[1]);
            of.and_then(|of| inputs.into_iter().find(|inputs| !inputs.is_multiple_of(of)))
        };
        let ragged: Vec<_> = steps.iter().filter(|step| step.step == n && inputs(step).is_some()).collect();
        if let Some(inputs) = ragged.first().and_then(|first| inputs(first)) {
            lints.push(Lint::new(
                format!(
                    "the pattern {pattern} does not divide the inputs of {} ({inputs} inputs)",
                    some(ragged.iter().map(|step| &step.site))
                ),
                "what is left over at the end of each row stays dense; leave these layers out with `except`, or remove \
                 a share of them (`sparsity`)",
            ));
        }
    }
    lints
}

/// Factors that take no less than the matrix did.
fn useless_factors(plan: &Plan, steps: &[StepForms]) -> Vec<Lint> {
    let mut lints = Vec::new();
    for n in (0..plan.recipe.steps.len()).filter(|&n| kind(plan, n) == Some(Kind::Decompose)) {
        // Where ranks are spread over all matrices, some are left whole on purpose.
        if plan.methods[n].settings().get("allocation").is_some_and(|spread| spread != "uniform") {
            continue;
        }
        let useless = |step: &&StepForms| step.step == n && step.after.bits() >= step.before.bits();
        let useless: Vec<_> = steps.iter().filter(useless).collect();
        if !useless.is_empty() {
            lints.push(Lint::new(
                format!("{} saves nothing at {}", step_name(plan, n), some(useless.iter().map(|u| &u.site))),
                "factors of a matrix [out, in] are smaller than it below the rank out * in / (out + in); ask for less",
            ));
        }
    }
    // What factors take, and a bias.
    let kept = |site: &PlannedSite| site.after.bits() + 32 * site.shape[0] as u64;
    let out = |site: &&PlannedSite| site.after.as_leaf().is_none() && 8 * site.bytes_after > kept(site);
    let written: Vec<_> = plan.sites.iter().filter(|site| site.bytes_after >= site.bytes_before).filter(out).collect();
    if !written.is_empty() && lints.is_empty() {
        lints.push(Lint::new(
            format!(
                "`{}` multiplies the factors of {} out again",
                plan.format.name(),
                some(written.iter().map(|w| &w.site))
            ),
            "use `--format custom`, which transformers opens, or `--format native` to keep the factors and the space they save; or \
             say `--materialize`",
        ));
    }
    lints
}

/// Steps, or a whole recipe, that change nothing.
fn nothing(plan: &Plan, steps: &[StepForms]) -> Vec<Lint> {
    let idle = |n: usize| steps.iter().filter(|step| step.step == n).all(|step| step.before == step.after);
    let count = plan.recipe.steps.len();
    // Ranks may be too high to save anything, and recovery leaves forms as they are.
    let unchanged = [Kind::Decompose, Kind::Retarget, Kind::Correct].map(Some);
    let idle: Vec<usize> = (0..count).filter(|&n| idle(n) && !unchanged.contains(&kind(plan, n))).collect();
    if count > 0 && idle.len() == count {
        return vec![Lint::new("the recipe changes nothing", "check its settings")];
    }
    let lint = |&n: &usize| Lint::new(format!("{} changes nothing", step_name(plan, n)), "check its settings");
    idle.iter().map(lint).collect()
}

/// Zeros that are stored like any other number.
fn idle_zeros(plan: &Plan) -> Vec<Lint> {
    let masked = |form: &Form| form.leaves().iter().any(|(_, leaf)| leaf.mask.is_some());
    let pattern =
        |form: &Form| form.leaves().iter().any(|(_, leaf)| matches!(leaf.mask, Some(MaskForm::Pattern { .. })));
    let idle =
        |site: &&PlannedSite| masked(&site.after) && !is_coded(&site.after) && site.bytes_after >= site.bytes_before;
    let idle: Vec<&PlannedSite> = plan.sites.iter().filter(idle).collect();
    if idle.is_empty() {
        return Vec::new();
    }
    let faster =
        if idle.iter().any(|site| pattern(&site.after)) { " (the pattern can still make them faster)" } else { "" };
    vec![Lint::new(
        format!(
            "the zeros of {} save no space in `{}`{faster}",
            some(idle.iter().map(|i| &i.site)),
            plan.format.name()
        ),
        "`--format native` stores only what is kept, and zip or zstd shrink the files",
    )]
}

/// The token table, where it is the output table as well.
fn tied(plan: &Plan, model: &Model<Source>) -> Vec<Lint> {
    let tokens = |site: &&PlannedSite| site.site.role == Role::Tokens && !site.methods.is_empty();
    match plan.sites.iter().find(tokens).filter(|_| model.is_tied() && plan.forms.is_tied()) {
        None => Vec::new(),
        Some(site) => vec![Lint::new(
            format!("`{}` is also the output table of this model", site.site),
            "errors in it move all logits; leave it out with `except: [embed.tokens]`, or give it more bits",
        )],
    }
}

fn larger(plan: &Plan) -> Vec<Lint> {
    let (before, after) = (plan.size.size_bytes_before, plan.size.size_bytes_after);
    // Decoding a quantized source makes it larger by intention, and headers differ by a few bytes.
    if plan.recipe.steps.is_empty() || after <= before + before / 100 + 65536 {
        return Vec::new();
    }
    vec![Lint::new(
        format!("the output is larger than the source: {after} bytes after {before}"),
        "a format that holds codes as codes (`compressed-tensors`, `native`) takes less",
    )]
}

/// Layers that are aimed at the original outputs only after something was taken from them.
fn late_aim(plan: &Plan, steps: &[StepForms]) -> Vec<Lint> {
    let takes = |n: usize| matches!(kind(plan, n), Some(Kind::Prune | Kind::Quantize | Kind::Decompose));
    let late = steps.iter().filter(|step| kind(plan, step.step) == Some(Kind::Retarget));
    let late = late.filter(|late| steps.iter().any(|s| s.site == late.site && s.step < late.step && takes(s.step)));
    let sites: Vec<_> = late.map(|step| &step.site).collect();
    if sites.is_empty() {
        return Vec::new();
    }
    vec![Lint::new(
        format!("{} had something taken before `recover.retarget`", some(sites.into_iter())),
        "it aims at what the layer gives as it gets it; put it first, so that the steps behind it keep to that aim",
    )]
}

/// Steps that look at the residual stream behind layers whose outputs are normed before they are it.
fn normed(plan: &Plan, model: &Model<Source>) -> Vec<Lint> {
    let is_normed = |stage: &Stage<Source>, role: &Role| match (stage, Sublayer::of(role)) {
        (Stage::Block(block), Some(part)) => matches!(role, Role::O | Role::Down) && !block.adds(part),
        _ => false,
    };
    let mut lints = Vec::new();
    for n in (0..plan.methods.len()).filter(|&n| plan.methods[n].needs(None).stream) {
        let own = model.stages.iter().enumerate().flat_map(|(at, stage)| {
            let own = plan.work.of(at).iter().filter(move |(_, steps)| steps.contains(&n));
            own.filter(|(site, _)| is_normed(stage, &site.role)).map(|(site, _)| site)
        });
        let sites: Vec<_> = own.collect();
        if !sites.is_empty() {
            lints.push(Lint::new(
                format!("{} leaves {} as it is", step_name(plan, n), some(sites)),
                "what it returns is normed before it is the residual stream, which a matrix alone cannot make up for; \
                 leave the step out for this model",
            ));
        }
    }
    lints
}

/// Shapes that depend on a text, in a plan without one.
fn guessed(plan: &Plan) -> Vec<Lint> {
    if plan.calibration.is_some() || !plan.is_surveyed() {
        return Vec::new();
    }
    vec![Lint::new(
        "how much each block loses depends on a text, and there is none: the sizes are those of blocks that are all alike",
        "give one with `--text FILE`; the sum will hardly change",
    )]
}

/// Fewer tokens than a layer has inputs, where any layer is looked at.
fn few_tokens(plan: &Plan) -> Vec<Lint> {
    let Some(calibration) = plan.calibration.as_ref().filter(|_| plan.looks_at_layers()) else { return Vec::new() };
    let tokens = calibration.samples.tokens();
    let touched = plan.sites.iter().filter(|site| !site.methods.is_empty());
    let Some(most) = touched.map(|site| site.shape[1]).max().filter(|&most| tokens < most) else { return Vec::new() };
    vec![Lint::new(
        format!("the samples have {tokens} tokens, and layers up to {most} inputs"),
        "that is too few to tell the inputs apart: take a longer text, or more and longer samples (`--samples`, `--length`)",
    )]
}

/// Samples that the tokenizer hardly knows how to say: it cuts characters into pieces, or gives one token for all that it
/// does not know.
fn hardly_known(plan: &Plan, checkpoint: &Checkpoint) -> Vec<Lint> {
    let Some(calibration) = plan.calibration.as_ref().filter(|_| plan.is_calibrated()) else { return Vec::new() };
    let samples = &calibration.samples;
    let Ok(tokenizer) = checkpoint.tokenizer() else { return Vec::new() };
    let text = |window: &Vec<u32>| tokenizer.decode(window, false).ok();
    let characters: Option<usize> = samples.windows.iter().map(|window| Some(text(window)?.chars().count())).sum();
    let Some(characters) = characters else { return Vec::new() };
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    samples.windows.iter().flatten().for_each(|token| *counts.entry(*token).or_default() += 1);
    let tokens = samples.tokens();
    let (token, count) = counts.into_iter().max_by_key(|(_, count)| *count).unwrap_or_default();
    let what = if tokens > characters {
        format!("the tokenizer makes {tokens} tokens of {characters} characters of `{}`", samples.text)
    } else if count > 32.max(tokens / 3) {
        let name = tokenizer.id_to_token(token).unwrap_or_else(|| token.to_string());
        format!("{count} of {tokens} tokens of `{}` are `{name}`", samples.text)
    } else {
        return Vec::new();
    };
    vec![Lint::new(
        what,
        "it hardly knows this kind of text, so the samples show little of how the model is used; calibrate on text of \
         the kind that the model was trained on",
    )]
}
