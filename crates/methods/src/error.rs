//! What can go wrong: a setting, a shape, or the weights themselves.

use brevity_model::Site;

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a method refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such method.
    #[error("there is no method `{name}`")]
    Method {
        /// What was asked for.
        name: String,
        /// The method with the most similar name.
        nearest: Option<&'static str>,
    },
    /// A method that rewrites whole sublayers was asked to rewrite a layer.
    #[error("`{method}` rewrites whole sublayers of blocks, not single layers")]
    Sublayers {
        /// The method.
        method: String,
    },
    /// The method has no such setting.
    #[error("`{method}` has no setting `{name}`")]
    Setting {
        /// The method.
        method: &'static str,
        /// What was set.
        name: String,
        /// The setting with the most similar name.
        nearest: Option<&'static str>,
        /// The settings there are.
        known: Vec<&'static str>,
    },
    /// The setting cannot have that value.
    #[error("`{method}` cannot take `{name}: {value}`")]
    Value {
        /// The method.
        method: &'static str,
        /// The setting.
        name: &'static str,
        /// The value, as JSON.
        value: String,
        /// What it may be.
        wants: String,
    },
    /// Settings that need or exclude each other.
    #[error("`{method}` needs {wants}")]
    Settings {
        /// The method.
        method: &'static str,
        /// What it needs.
        wants: &'static str,
    },
    /// The group size does not divide the number of inputs.
    #[error("cannot quantize `{}`: group {group} does not divide its {inputs} inputs", place(.site, .leaf))]
    Group {
        /// The layer.
        site: Site,
        /// The path of the matrix in the layer's expression; empty for a lone matrix.
        leaf: String,
        /// Its inputs.
        inputs: usize,
        /// The group that was asked for.
        group: usize,
    },
    /// The method works on floats, but the weight is already coded.
    #[error("cannot apply `{method}` to `{}`: it is already coded as {code}", place(.site, .leaf))]
    Coded {
        /// The method.
        method: &'static str,
        /// The layer.
        site: Site,
        /// The path of the matrix in the layer's expression.
        leaf: String,
        /// How it is coded.
        code: String,
    },
    /// Weights that are not numbers, or infinite.
    #[error("`{}` holds {nan} NaN and {infinite} infinite values among {total}", place(.site, .leaf))]
    NotFinite {
        /// The layer.
        site: Site,
        /// The path of the matrix in the layer's expression.
        leaf: String,
        /// How many are NaN.
        nan: usize,
        /// How many are infinite.
        infinite: usize,
        /// How many values there are.
        total: usize,
    },
    /// The method depends on a look at all layers, which has not been taken.
    #[error("`{method}` must look at all layers before `{site}` can be rewritten or its size predicted")]
    NeedsSurvey {
        /// The method.
        method: &'static str,
        /// The layer.
        site: Site,
    },
    /// The method depends on what calibration sees, and was not given it.
    #[error("`{method}` needs to see {what} to rewrite `{site}`")]
    Unseen {
        /// The method.
        method: &'static str,
        /// The layer.
        site: Site,
        /// What it was not shown.
        what: &'static str,
    },
    /// What calibration saw of the inputs of a layer holds NaN or infinity.
    #[error("cannot apply `{method}` to `{}`: {count} of its {inputs} inputs were not finite in calibration", place(.site, .leaf))]
    Inputs {
        /// The method.
        method: &'static str,
        /// The layer.
        site: Site,
        /// The path of the matrix in the layer's expression.
        leaf: String,
        /// How many inputs were not finite.
        count: usize,
        /// How many inputs there are.
        inputs: usize,
    },
    /// A layer is not as it was when the survey looked at it.
    #[error("`{site}` is not the layer that `{method}` looked at before")]
    Changed {
        /// The method.
        method: &'static str,
        /// The layer.
        site: Site,
    },
    /// The residual stream of the model cannot be turned.
    #[error("`{method}` cannot turn the residual stream of this model, because of `{site}`: {why}")]
    Stream {
        /// The method.
        method: &'static str,
        /// What stands in the way.
        site: Site,
        /// Why.
        why: &'static str,
    },
    /// What is left would hold more than what was there.
    #[error("`{method}` would leave {after} parameters, where the model has {before}")]
    Grows {
        /// The method.
        method: &'static str,
        /// Numbers that the model holds.
        before: u64,
        /// Numbers that would be left.
        after: u64,
    },
    /// A sublayer that carries the residual stream from one set of directions to the next cannot go.
    #[error("`{method}` cannot take out `{site}`: the residual stream is turned there")]
    Turned {
        /// The method.
        method: String,
        /// The shortcut.
        site: Site,
    },
    /// A kernel refused.
    #[error("cannot apply `{method}` to `{}`: {source}", place(.site, .leaf))]
    Kernel {
        /// The method.
        method: &'static str,
        /// The layer.
        site: Site,
        /// The path of the matrix in the layer's expression.
        leaf: String,
        /// What it said.
        source: brevity_kernels::Error,
    },
}

/// A layer, or one factor or term of it: `blocks.0.mlp.up`, `blocks.0.mlp.up/1`.
fn place(site: &Site, leaf: &str) -> String {
    if leaf.is_empty() { site.to_string() } else { format!("{site}/{leaf}") }
}

impl Error {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Method { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Error::Method { .. } => {
                let names: Vec<&str> = crate::METHODS.iter().map(|entry| entry.name).collect();
                Some(format!("the methods are {}", names.join(", ")))
            }
            Error::Setting { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Error::Setting { known, .. } => Some(format!("its settings are {}", known.join(", "))),
            Error::Settings { .. } => {
                Some("a setting is taken out of a recipe with `null`: `--set STEP.KEY=null`".into())
            }
            Error::Value { wants, .. } => Some(format!("it takes {wants}")),
            Error::Group { site, inputs, group, .. } => {
                let near = divisors_near(*inputs, *group);
                let divide = match near.as_slice() {
                    [] => String::new(),
                    [one] => format!("{one} divides {inputs}; or "),
                    [rest @ .., last] => {
                        let rest: Vec<String> = rest.iter().map(usize::to_string).collect();
                        format!("{} and {last} divide {inputs}; or ", rest.join(", "))
                    }
                };
                Some(format!(
                    "{divide}set `ragged: pad` (a shorter last group) or `ragged: channel` (one group a row here), \
                     or leave this layer out with `except: [{}]`",
                    site.role
                ))
            }
            Error::Coded { .. } => Some("put this step before the one that quantizes, or leave the layer out".into()),
            Error::Unseen { site, .. } => {
                Some(format!("leave this layer out with `except: [{}]`, if no activations pass it", site.role))
            }
            Error::Inputs { site, .. } => Some(format!(
                "activations overflowed: run the model in single precision, or leave this layer out with \
                 `except: [{}]`",
                site.role
            )),
            Error::NotFinite { .. } => {
                Some("the checkpoint is damaged, or overflowed when it was saved; get it again".into())
            }
            Error::Stream { .. } => {
                Some("use `decompose.modegpt` or `prune.channels`, which leave the stream as it is".into())
            }
            Error::Grows { .. } => Some(
                "shortcuts and an output table of its own cost more than is saved; take more away, or set `grow: true`"
                    .into(),
            ),
            Error::Turned { .. } => Some("leave blocks in place, or take them out first, in a run of their own".into()),
            Error::Kernel { source, .. } => source.hint(),
            _ => None,
        }
    }
}

/// Up to three divisors of `inputs` near `group`, by ratio; multiples of 8 if there are any.
fn divisors_near(inputs: usize, group: usize) -> Vec<usize> {
    let distance = |d: usize| (d as f64 / group.max(1) as f64).ln().abs();
    let mut divisors: Vec<usize> = (8..=inputs).filter(|d| inputs.is_multiple_of(*d)).collect();
    if divisors.iter().any(|d| d % 8 == 0) {
        divisors.retain(|d| d % 8 == 0);
    }
    divisors.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(a.cmp(&b)));
    divisors.truncate(3);
    divisors.sort_unstable();
    divisors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_does_not_divide_names_layer_numbers_and_divisors() {
        let error =
            Error::Group { site: "blocks.3.mlp.down".parse().unwrap(), leaf: String::new(), inputs: 11000, group: 128 };
        assert_eq!(
            error.to_string(),
            "cannot quantize `blocks.3.mlp.down`: group 128 does not divide its 11000 inputs"
        );
        assert_eq!(
            error.hint().unwrap(),
            "40, 88 and 200 divide 11000; or set `ragged: pad` (a shorter last group) or `ragged: channel` \
             (one group a row here), or leave this layer out with `except: [mlp.down]`"
        );
        assert_eq!(divisors_near(7, 64), [] as [usize; 0]);
    }

    #[test]
    fn a_factor_of_a_layer_is_named_by_its_path() {
        let site: Site = "blocks.0.mlp.up".parse().unwrap();
        let error = Error::NotFinite { site, leaf: "1".into(), nan: 2, infinite: 1, total: 64 };
        assert_eq!(error.to_string(), "`blocks.0.mlp.up/1` holds 2 NaN and 1 infinite values among 64");
    }
}
