//! `brevity export`: the same model in another format.

use brevity::engine::Plan;

use crate::args::Export;
use crate::compress::{carry_out, nothing, plan_options};
use crate::{machine, print, units};

pub fn run(args: &Export) -> anyhow::Result<()> {
    machine::use_what_is_allowed(&args.machine)?;
    let checkpoint = crate::open(&args.model, false)?;
    let options = plan_options(&args.model, &args.machine, Some(&args.out));
    let plan = Plan::make(&checkpoint, &nothing(&args.format), &options)?;
    let report = carry_out(&plan, &checkpoint, &args.out, args.fresh)?;
    if args.json {
        return print::line(&serde_json::to_string_pretty(&report.to_json(&args.out.display().to_string()))?);
    }
    print::line(&format!(
        "{}: {} -> {}, written to {} as {} in {}; opened by {}",
        report.model,
        units::bytes(report.size.size_bytes_before),
        units::bytes(report.size.size_bytes_after),
        args.out.display(),
        report.format,
        units::seconds(report.seconds),
        plan.consumers()
    ))
}
