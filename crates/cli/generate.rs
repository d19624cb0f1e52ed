//! `brevity generate`: continues a prompt.

use std::ops::ControlFlow;
use std::time::Instant;

use brevity::runtime::{Resident, Sampling, generate};
use serde_json::json;

use crate::args::Generate;
use crate::failure::Usage;
use crate::progress::cancelled;
use crate::{machine, print};

pub fn run(args: &Generate) -> anyhow::Result<()> {
    machine::use_what_is_allowed(&args.machine)?;
    if !args.temperature.is_finite() || args.temperature < 0.0 {
        return Err(Usage { what: "a temperature is a number from 0 up".into(), hint: None }.into());
    }
    let checkpoint = crate::open(&args.model, false)?;
    let tokenizer = checkpoint.tokenizer()?;
    let encode =
        |text: &str| tokenizer.encode(text, true).map_err(|e| anyhow::anyhow!("cannot tokenize the prompt: {e}"));
    let prompt = encode(&args.prompt)?.get_ids().to_vec();
    if prompt.is_empty() {
        return Err(
            Usage { what: "the prompt is empty".into(), hint: Some("give some text to continue".into()) }.into()
        );
    }
    machine::resident(&args.machine, &checkpoint)?;
    let model = Resident::load(&checkpoint, machine::compute(&args.machine, &checkpoint))?;
    let sampling = Sampling {
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        seed: args.seed,
        stop: brevity::end_tokens(&checkpoint),
    };
    let decode =
        |ids: &[u32]| tokenizer.decode(ids, true).map_err(|e| anyhow::anyhow!("cannot decode what was generated: {e}"));

    let mut closed = None;
    // Text is printed as far as it is known: a token may hold only the first bytes of a letter.
    let (mut all, mut printed) = (prompt.clone(), decode(&prompt)?.len());
    if !args.json {
        print::bytes(args.prompt.as_bytes())?;
    }
    let started = Instant::now();
    let mut show = |token: u32| {
        all.push(token);
        if let Ok(text) = decode(&all)
            && !args.json
            && !text.ends_with('\u{FFFD}')
            && text.len() > printed
        {
            closed = print::bytes(text.get(printed..).unwrap_or("").as_bytes()).err();
            printed = text.len();
        }
        if closed.is_some() || cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let more = generate(&model, &prompt, &sampling, &mut show)?;
    let seconds = started.elapsed().as_secs_f64();
    if let Some(error) = closed {
        return Err(error);
    }
    if args.json {
        let report = json!({
            "model": args.model, "prompt": args.prompt, "prompt_tokens": prompt.len(), "tokens": more.len(),
            "text": decode(&more)?, "seconds": seconds, "tokens_per_second": more.len() as f64 / seconds,
        });
        return print::line(&serde_json::to_string_pretty(&report)?);
    }
    print::line("")?;
    eprintln!("{} tokens in {:.2} s, {:.1} tokens/s", more.len(), seconds, more.len() as f64 / seconds);
    Ok(())
}
