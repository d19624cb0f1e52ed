//! The loop: a recipe says what to do, a plan says exactly what will happen, a run does it stage by stage.
//!
//! ```no_run
//! use brevity_engine::{Plan, PlanOptions, Recipe, RunOptions};
//! use brevity_formats::Checkpoint;
//!
//! let checkpoint = Checkpoint::open("models/my-llama".as_ref())?;
//! let mut recipe = Recipe::named("int4")?;
//! recipe.set("quantize.rtn.bits=8")?;
//! let plan = Plan::make(&checkpoint, &recipe, &PlanOptions::default())?;
//! println!("{} bytes after {}", plan.size.size_bytes_after, plan.size.size_bytes_before);
//! let report = plan.run(&checkpoint, "out/my-llama-int8".as_ref(), &RunOptions::default(), &mut ())?;
//! println!("{} layers", report.sites.len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A run writes one shard for each stage and is found again by the next run of the same plan, so it can be stopped
//! at any moment. This crate knows no method and no format by name, and measures no quality: see
//! `brevity-methods`, `brevity-formats` and `brevity-eval`.
#![forbid(unsafe_code)]

mod card;
mod decode;
mod digest;
mod error;
mod plan;
mod recipe;
mod report;
mod run;
mod samples;
mod select;
mod turned;
mod vectors;
mod work;

pub use card::{CARD, CardScore, write_card};
pub use error::Error;
pub use plan::{Consumers, Lint, Plan, PlanOptions, PlannedSite, PlannedStage, Size};
pub use recipe::{BadRecipe, Named, Recipe, Step, named, stock};
pub use report::{Input, Phases, RECORD, Record, Report, SiteReport, peak_rss_bytes};
pub use run::{Observer, RunOptions};
pub use samples::{Calibration, Draw, Samples, Wanted};
pub use select::{BadSelector, Selector};
pub use vectors::{Turn, VectorCut};
