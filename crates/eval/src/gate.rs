//! Limits that a compressed model has to keep, and whether it does.
//!
//! A limit is a figure, a comparison and a bound: `kl_mean<=0.05`. What is compared depends on the figure alone:
//!
//! | figure | what is compared with the bound | with `%` |
//! | --- | --- | --- |
//! | a score on a text: `perplexity` | the value of the compressed model | its change relative to the reference: `perplexity<=+5%` |
//! | a task, or one of its scores: `arc_easy`, `arc_easy.acc_norm` | after minus before, absolute: `arc_easy>=-0.02` is two points | the change relative to the reference: `kick_factoid>=-5%` |
//! | `facts.lost`, `facts.gained` | facts lost (gained) for each fact that the reference knows | the same in percent |
//! | a task's `flips`: `arc_easy.flips` | the share of its answers that changed | the same in percent |
//! | `perplexity_ratio`, `top1_agreement` and other ratios and agreements | the value | the same in percent |
//! | `kl_mean`, `nll_change` and other distances and changes | the value, in nats | refused |
//! | `size_ratio`, `bits_per_weight` | bytes after divided by bytes before; the value | the same in percent; refused |
//!
//! `arc_easy` stands for the first score of that task of which more is better. A figure is looked up on each text it was measured on, and has to
//! keep the limit on all; `perplexity@wikitext<=25` names one. The measured value itself is compared, not the end of its
//! interval; a value that equals the bound keeps `<=` and `>=` and breaks `<` and `>`. A value that is not finite keeps
//! nothing, and what was not measured is not kept either: a gate that looks at nothing must not let everything through.

mod find;

use std::fmt;
use std::str::FromStr;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::report::{Compressed, Report};

/// Limits, all of which are to be kept.
///
/// In a recipe: `gate: [kl_mean<=0.05, arc_easy>=-0.02]`, or `gate: { kl_mean: <=0.05 }`, or one limit alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Gate {
    /// The limits, in the order in which they were given.
    pub limits: Vec<Limit>,
}

/// One limit: a figure, a comparison, a bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// The figure: `kl_mean`, `arc_easy.acc_norm`.
    pub name: String,
    /// The one text it is about; any if none.
    pub text: Option<String>,
    /// How the value is compared with the bound.
    pub compare: Compare,
    /// The bound; of one in percent the number in front of the sign.
    pub bound: f64,
    /// Whether the bound is in percent.
    pub percent: bool,
}

/// A comparison of a value (on the left) with a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// `<=`
    AtMost,
    /// `>=`
    AtLeast,
    /// `<`
    Less,
    /// `>`
    More,
}

/// What became of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is kept.
    Passed,
    /// It is broken.
    Failed,
    /// It could not be judged, which is a failure too.
    NotMeasured,
}

/// A limit, judged for one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The limit as it was given.
    pub limit: Limit,
    /// The model.
    pub model: String,
    /// What the value was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// What was compared with the bound, in percent if the bound is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Its interval at the report's confidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Why it could not be judged, or broke the limit without a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Gate {
    /// Refuses figures that could not be in any report. `tasks` are the tasks that there are; call it before anything is
    /// measured.
    ///
    /// # Errors
    /// [`Error::Limit`] with what there is, [`Error::Percent`].
    pub fn check_names(&self, tasks: &[&str]) -> Result<()> {
        self.limits.iter().try_for_each(|limit| find::check(limit, None, tasks))
    }

    /// Judges every model of a report, limit by limit; a limit on more than one text has one verdict for each.
    ///
    /// # Errors
    /// As [`Gate::check_names`], with what the report holds among what there is.
    pub fn judge(&self, report: &Report, tasks: &[&str]) -> Result<Vec<Verdict>> {
        self.limits.iter().try_for_each(|limit| find::check(limit, Some(report), tasks))?;
        Ok(report.others.iter().flat_map(|other| self.of(report, other)).collect())
    }

    /// Judges as [`Gate::judge`], writes what came of it into the report, and says whether all limits are kept.
    ///
    /// # Errors
    /// As [`Gate::judge`].
    pub fn apply(&self, report: &mut Report, tasks: &[&str]) -> Result<bool> {
        self.limits.iter().try_for_each(|limit| find::check(limit, Some(report), tasks))?;
        for n in 0..report.others.len() {
            report.others[n].gate = self.of(report, &report.others[n]);
        }
        Ok(report.others.iter().flat_map(|other| &other.gate).all(Verdict::is_kept))
    }

    /// What becomes of all limits on one model.
    fn of(&self, report: &Report, other: &Compressed) -> Vec<Verdict> {
        self.limits.iter().flat_map(|limit| limit.judge(report, other)).collect()
    }
}

impl Limit {
    /// Judges one model.
    fn judge(&self, report: &Report, other: &Compressed) -> Vec<Verdict> {
        let verdict = |outcome, why| Verdict {
            limit: self.clone(),
            model: other.model.name.clone(),
            on: None,
            outcome,
            value: None,
            interval: None,
            why,
        };
        let found = match find::find(self, &report.reference, other) {
            Ok(found) => found,
            Err(why) => return vec![verdict(Outcome::NotMeasured, Some(why))],
        };
        let judged = |found: find::Found| {
            // JSON has no number for what is not finite, and needs none: the sentence says it.
            let value = found.value.is_finite().then_some(found.value);
            let (outcome, why) = match value {
                None => (Outcome::Failed, Some("its value is not finite".to_owned())),
                Some(value) if self.holds(value) => (Outcome::Passed, None),
                Some(_) => (Outcome::Failed, None),
            };
            Verdict { on: found.on, value, interval: found.interval, ..verdict(outcome, why) }
        };
        found.into_iter().map(judged).collect()
    }

    /// Values that differ from the bound by rounding alone are equal to it: 0.57 - 0.60 keeps `>=-0.03`.
    fn holds(&self, value: f64) -> bool {
        let slack = 1e-9 * self.bound.abs().max(1e-3);
        let equal = (value - self.bound).abs() <= slack;
        match self.compare {
            Compare::AtMost => value < self.bound || equal,
            Compare::AtLeast => value > self.bound || equal,
            Compare::Less => value < self.bound && !equal,
            Compare::More => value > self.bound && !equal,
        }
    }
}

impl Outcome {
    /// In words: `passed`.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::NotMeasured => "not measured",
        }
    }
}

impl Verdict {
    /// Whether the limit is kept.
    pub fn is_kept(&self) -> bool {
        self.outcome == Outcome::Passed
    }

    /// Whether the bound lies inside the interval, so that another sample of questions could have turned the verdict.
    pub fn is_close(&self) -> bool {
        self.interval.is_some_and(|[low, high]| (low..=high).contains(&self.limit.bound))
    }
}

/// `arc_easy>=-0.02 passed: -0.01 [-0.03, 0.01]; the bound is within its interval`.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let so = if self.outcome == Outcome::NotMeasured { ", so not kept" } else { "" };
        write!(f, "{} {}{so}", self.limit, self.outcome.as_str())?;
        if let Some(value) = self.value {
            let percent = if self.limit.percent { " %" } else { "" };
            write!(f, ": {}{percent}", short(value))?;
            if let Some([low, high]) = self.interval {
                write!(f, " [{}, {}]", short(low), short(high))?;
            }
        }
        if let Some(on) = &self.on {
            write!(f, " on {on}")?;
        }
        if let Some(why) = &self.why {
            write!(f, ": {why}")?;
        }
        if self.is_close() { f.write_str("; the bound is within its interval") } else { Ok(()) }
    }
}

/// Four significant digits.
fn short(value: f64) -> String {
    let digits = (3.0 - value.abs().max(1e-9).log10().floor()).clamp(0.0, 12.0) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

const SIGNS: [(&str, Compare); 4] =
    [("<=", Compare::AtMost), (">=", Compare::AtLeast), ("<", Compare::Less), (">", Compare::More)];

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, _) = SIGNS.iter().find(|(_, compare)| *compare == self.compare).expect("each has a sign");
        f.write_str(&self.name)?;
        if let Some(text) = &self.text {
            write!(f, "@{text}")?;
        }
        write!(f, "{sign}{}{}", self.bound, if self.percent { "%" } else { "" })
    }
}

impl FromStr for Limit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Limit> {
        let wrong = |why| Error::BadLimit { text: text.to_owned(), why };
        let at = text.find(['<', '>', '=']).ok_or_else(|| wrong("it has no comparison"))?;
        let (left, rest) = text.split_at(at);
        let (sign, compare) =
            SIGNS.iter().find(|(sign, _)| rest.starts_with(sign)).ok_or_else(|| wrong("it compares with `=`"))?;
        let right = rest[sign.len()..].trim();
        let (number, percent) = match right.strip_suffix('%') {
            Some(number) => (number.trim_end(), true),
            None => (right, false),
        };
        let bound: f64 = number.parse().map_err(|_| wrong("its bound is not a number"))?;
        if !bound.is_finite() {
            return Err(wrong("its bound is not a number"));
        }
        let (name, on) = match left.trim().split_once('@') {
            Some((name, on)) => (name.trim_end(), Some(on.trim_start().to_owned())),
            None => (left.trim(), None),
        };
        if name.is_empty() || on.as_deref() == Some("") {
            return Err(wrong("it names no figure"));
        }
        Ok(Limit { name: name.to_owned(), text: on, compare: *compare, bound, percent })
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Limit, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Gate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Gate, D::Error> {
        struct Limits;
        impl<'de> Visitor<'de> for Limits {
            type Value = Vec<Limit>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("limits such as `kl_mean<=0.05`, or a mapping of figures to `<=0.05`")
            }

            fn visit_str<E: serde::de::Error>(self, one: &str) -> Result<Self::Value, E> {
                Ok(vec![one.parse().map_err(E::custom)?])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut limits = Vec::new();
                while let Some(limit) = items.next_element()? {
                    limits.push(limit);
                }
                Ok(limits)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                let mut limits = Vec::new();
                while let Some((name, bound)) = entries.next_entry::<String, String>()? {
                    limits.push(format!("{name}{bound}").parse().map_err(A::Error::custom)?);
                }
                Ok(limits)
            }
        }
        Ok(Gate { limits: deserializer.deserialize_any(Limits)? })
    }
}

#[cfg(test)]
mod tests;
