//! The `brevity` command: one file per subcommand, each prints a table or JSON.
#![deny(unsafe_code)]

mod answers;
mod args;
mod asked;
mod codec;
mod compare;
mod compress;
mod distill;
mod doctor;
mod embed;
mod eval;
mod export;
mod failure;
mod generate;
mod inspect;
mod machine;
mod print;
mod progress;
mod recipes;
mod search;
mod table;
mod tune;
mod units;

use std::process::ExitCode;

use args::{Cli, Command};
use brevity::Checkpoint;
use clap::{CommandFactory, Parser};

// The allocator keeps large buffers for a while instead of handing them back to the system after every operation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    progress::watch_for_interrupts();
    let outcome = match &cli.command {
        Command::Inspect(args) => inspect::run(args),
        Command::Compress(args) => compress::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Export(args) => export::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Codec(args) => codec::run(args),
        Command::Search(args) => search::run(args),
        Command::Distill(args) => distill::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Tune(args) => tune::run(args),
        Command::Recipes(args) => recipes::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "brevity", &mut script);
            print::bytes(&script)
        }
        Command::Man => manual(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

/// Opens a model by any of the names that the command takes.
fn open(name: &str, loose: bool) -> anyhow::Result<Checkpoint> {
    Ok(brevity::open(name, brevity::Open { loose })?)
}

/// The page of the command and, behind it, of each of its subcommands.
fn manual() -> anyhow::Result<()> {
    let mut out = Vec::new();
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut out)?;
    for subcommand in command.get_subcommands() {
        clap_mangen::Man::new(subcommand.clone()).render(&mut out)?;
    }
    print::bytes(&out)
}
