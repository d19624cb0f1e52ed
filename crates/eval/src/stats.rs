//! What numbers about items are worth: means with standard errors, intervals by resampling, tests and correlations.
//!
//! ```
//! use brevity_eval::stats::{Bootstrap, mcnemar};
//!
//! let (before, after) = ([1.0, 1.0, 0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]);
//! let change = Bootstrap::default().difference(&before, &after).unwrap();
//! assert!(change.low < change.value && change.value < change.high);
//! // Two answers were lost and one was gained, which says nothing.
//! assert_eq!(mcnemar(2, 1).p, 1.0);
//! ```

mod bootstrap;
mod estimate;
mod mcnemar;
mod rank;
mod samples;

pub use bootstrap::{Bootstrap, Interval};
pub use estimate::{Estimate, mean_of, ratio, share};
pub use mcnemar::{EXACT_UP_TO, McNemar, mcnemar};
pub use rank::{pearson, ranks, spearman};
pub(crate) use samples::Samples;
