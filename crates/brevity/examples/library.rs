//! Loads `tiny`, quantizes one layer to 3 bits, and lets both models continue a prompt.
//!
//! `cargo run --release -p brevity --example library`

use std::ops::ControlFlow;

use brevity::Checkpoint;
use brevity::methods::Cx;
use brevity::model::{LoadError, Model, Role, Source, Stage, Stages, Weight};
use brevity::runtime::{Compute, Resident, Sampling, generate};

/// The stages of a checkpoint after somebody has changed them.
struct InMemory<'a> {
    checkpoint: &'a Checkpoint,
    stages: Vec<Stage<Weight>>,
}

impl Stages for InMemory<'_> {
    fn model(&self) -> &Model<Source> {
        self.checkpoint.model()
    }

    fn load(&self, stage: usize) -> Result<Stage<Weight>, LoadError> {
        Ok(self.stages[stage].clone())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let checkpoint = brevity::open("tiny", brevity::Open::default())?;
    let tokenizer = checkpoint.tokenizer()?;
    let model = checkpoint.model();

    // Every stage as it is in the checkpoint, but one matrix on a grid of 3 bits.
    let mut stages = (0..model.stages.len()).map(|n| checkpoint.load(n)).collect::<Result<Vec<_>, _>>()?;
    let n = model.stages.iter().position(|stage| matches!(stage, Stage::Block(_))).ok_or("tiny has blocks")?;
    let site = model.site(n, Role::Down);
    let rtn = brevity::methods::method("quantize.rtn", serde_json::json!({ "bits": 3, "group": 64 }))?;
    for (role, layer) in stages[n].linears_mut() {
        if role == Role::Down {
            rtn.rewrite(layer, &mut Cx::new(&site, 0))?;
        }
    }

    let before = Resident::load(&checkpoint, Compute::F32)?;
    let after = Resident::load(&InMemory { checkpoint: &checkpoint, stages }, Compute::F32)?;
    let prompt = "a poodle is a kind of";
    let ids = tokenizer.encode(prompt, true)?.get_ids().to_vec();
    for (name, resident) in [("before", &before), ("after", &after)] {
        let more = generate(resident, &ids, &Sampling { max_tokens: 12, ..Sampling::default() }, &mut |_| {
            ControlFlow::Continue(())
        })?;
        println!("{name}: {prompt}{}", tokenizer.decode(&more, true)?);
    }
    println!("({site} is stored in 3 bits in the second model)");
    Ok(())
}
