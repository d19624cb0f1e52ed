//! Why a format cannot hold a weight.

/// Why a format cannot hold a weight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// The weight is an expression or a code that the format has no tensors for.
    #[error("it is stored as {what}")]
    Kind {
        /// What it is, such as `a product of two matrices`.
        what: &'static str,
    },
    /// Codes of this width are not written.
    #[error("its codes have {bits} bits, where {held} can be held")]
    Bits {
        /// Bits of a code.
        bits: u8,
        /// The widths that can be held.
        held: &'static str,
    },
    /// The last group of a row is shorter than the others.
    #[error("its {columns} inputs are no multiple of the group of {group}")]
    Ragged {
        /// Columns of the matrix.
        columns: usize,
        /// Columns of a group.
        group: usize,
    },
    /// The tensor holds `[in, out]`, and codes are grouped along inputs.
    #[error("its tensor `{tensor}` is kept transposed, as [in, out]")]
    Transposed {
        /// The tensor.
        tensor: String,
    },
    /// Weights that share a tensor must be stored alike.
    #[error("it shares the tensor `{tensor}` with weights that are stored in another way")]
    Fused {
        /// The tensor.
        tensor: String,
    },
    /// Weights that share a tensor cannot have one scale each.
    #[error(
        "it shares the tensor `{tensor}`, which can have one scale for all or one for each row, not one for each part"
    )]
    FusedScale {
        /// The tensor.
        tensor: String,
    },
    /// The reader looks for quantized tables in another way, or not at all.
    #[error("it is a table, and readers of this format expect tables of floats")]
    Table,
    /// Quantized modules are known by a tensor called `….weight`.
    #[error("its tensor is called `{tensor}`, and only tensors called `….weight` can be quantized")]
    Name {
        /// The tensor.
        tensor: String,
    },
    /// The parts do not make up the whole tensor.
    #[error("its tensor `{tensor}` has rows that no weight of the model is made of")]
    Uncovered {
        /// The tensor.
        tensor: String,
    },
    /// Two weights are made of the same rows of a tensor.
    #[error("its tensor `{tensor}` is shared, row by row, with another weight")]
    Shared {
        /// The tensor.
        tensor: String,
    },
    /// The weight is no longer there.
    #[error("it was dropped, and the reader expects it")]
    Dropped,
    /// The weight is new and nothing says what readers call it.
    #[error("it is not in the source, so its name for readers is not known")]
    New,
    /// A bias that readers of the architecture do not look for.
    #[error("it has a bias, which the source has not, and readers of its architecture look for none")]
    Bias,
    /// The shapes of blocks cannot be said in the configuration of the architecture.
    #[error(
        "its block is not shaped like the others, or as its architecture has it, which readers of this format expect"
    )]
    Structure,
    /// The code that is written beside the weights is not made for the architecture.
    #[error("its block is not as `{name}` has it, and code for other blocks is written for {known} only")]
    Architecture {
        /// The architecture.
        name: String,
        /// Those that it is made for.
        known: String,
    },
    /// The bytes of a tensor are of a type that safetensors does not have.
    #[error("its tensor `{tensor}` has the type {dtype}, which safetensors files cannot hold")]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
    },
}

impl Why {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Why::Kind { .. } => "use `--format native`, which holds every expression, `--format custom`, which holds \
                products for transformers, or `--materialize`, which multiplies them out"
                .into(),
            Why::Bits { .. } => "use `--format native`, which holds 1 to 8 bits, or another number of bits".into(),
            Why::Ragged { columns, group } => {
                let near = near_divisors(*columns, *group);
                let groups = if near.is_empty() { String::new() } else { format!("use a group of {near}, or ") };
                format!("{groups}use `--format native`, which holds a shorter last group")
            }
            Why::Transposed { .. } => "use `--format native`, or `--format dense`".into(),
            Why::Fused { .. } => {
                "give all parts of the tensor the same method and settings, or use `--format native`".into()
            }
            Why::FusedScale { .. } => "use one scale for each row (`group: channel`), or `--format native`".into(),
            Why::Table => "leave it out (`except: [embed.tokens]`), or use `--format native`".into(),
            Why::Bias => "use `--format custom`, whose code adds it in transformers, or `--format native`".into(),
            Why::Structure => "use `--format custom`, whose code opens it in transformers, `--format native`, or one \
                share for all blocks (`--uniform`)"
                .into(),
            Why::Architecture { .. } => "use `--format native`, which holds any shape".into(),
            Why::Name { .. } | Why::New | Why::Dropped | Why::Uncovered { .. } | Why::Shared { .. } => {
                "use `--format native`".into()
            }
            Why::Dtype { .. } => return None,
        })
    }
}

/// Up to three divisors of `n` near `wanted`, in words.
fn near_divisors(n: usize, wanted: usize) -> String {
    let mut divisors: Vec<usize> = (2..=n.min(4096)).filter(|d| n.is_multiple_of(*d)).collect();
    divisors.sort_by_key(|d| (d.abs_diff(wanted), *d));
    divisors.truncate(3);
    divisors.sort_unstable();
    match divisors.split_last() {
        None => String::new(),
        Some((last, [])) => last.to_string(),
        Some((last, rest)) => {
            let rest: Vec<String> = rest.iter().map(usize::to_string).collect();
            format!("{} or {last}", rest.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ragged_group_names_groups_that_divide() {
        let why = Why::Ragged { columns: 11000, group: 128 };
        assert_eq!(why.to_string(), "its 11000 inputs are no multiple of the group of 128");
        assert!(why.hint().unwrap().starts_with("use a group of 100, 110 or 125, or"), "{:?}", why.hint());
        assert!(Why::Ragged { columns: 1, group: 2 }.hint().unwrap().starts_with("use `--format native`"));
    }
}
