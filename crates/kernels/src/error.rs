//! What can go wrong that depends on data or settings rather than on a broken caller.

/// Why a kernel refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Codes have between one and eight bits.
    #[error("a grid of {bits} bits: codes have 1 to 8 bits")]
    Bits {
        /// What was asked for.
        bits: u32,
    },
    /// The group size does not divide the number of inputs.
    #[error("group {group} does not divide {inputs} inputs")]
    Group {
        /// Inputs of the matrix.
        inputs: usize,
        /// Weights per group.
        group: usize,
    },
    /// A slice does not have the length its shape says.
    #[error("{what} has {found} elements, its shape needs {expected}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
    },
    /// A table of levels must be 2 to 256 finite values in strictly rising order.
    #[error("a table of {count} levels: 2 to 256 finite, strictly rising values are needed")]
    Levels {
        /// How many were given.
        count: usize,
    },
    /// A masked weight must decode to zero, but no level is zero.
    #[error("masked weights need a level that is exactly zero")]
    NoZeroLevel,
    /// The matrix holds NaN or infinity.
    #[error("a [{rows}, {cols}] matrix holds {count} values that are not finite")]
    NotFinite {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// How many values are NaN or infinite.
        count: usize,
    },
    /// A matrix that should be positive definite is not, as far as its precision can tell.
    #[error("a [{size}, {size}] matrix is not positive definite")]
    NotPositive {
        /// Its rows and columns.
        size: usize,
    },
    /// An iterative factorization did not converge.
    #[error("the singular values of a [{rows}, {cols}] matrix did not converge")]
    NoConvergence {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
}

impl Error {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Group { inputs, .. } => {
                let fits: Vec<String> = [8, 16, 32, 40, 64, 96, 128, 192, 256, 512]
                    .iter()
                    .filter(|g| *inputs > 0 && inputs % *g == 0)
                    .map(usize::to_string)
                    .collect();
                Some(match fits.len() {
                    0 => "use one group per row, or allow a shorter last group".into(),
                    _ => format!("{} divide {inputs}; or allow a shorter last group", fits.join(", ")),
                })
            }
            Error::NoZeroLevel => Some("add 0 to the levels, or quantize without a mask".into()),
            Error::NotFinite { .. } => Some("the checkpoint is damaged or overflowed when it was saved".into()),
            Error::NotPositive { .. } => Some("use more damping, or more samples".into()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_does_not_divide_is_told_which_ones_do() {
        let e = Error::Group { inputs: 576, group: 128 };
        assert_eq!(e.to_string(), "group 128 does not divide 576 inputs");
        assert!(e.hint().unwrap().contains("64"));
        assert!(!e.hint().unwrap().contains("128"));
    }
}
