//! What can be typed.

mod encoders;

use std::path::PathBuf;

use brevity::formats::GgufType;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

pub use encoders::{Axes, Codec, CodecKind, Distill, Embed, Search, TokensFrom, Tune, TuneFor, Type, Weighting};

/// Makes transformer checkpoints smaller, says what was lost, and writes files your tools can load.
///
/// MODEL is a directory in Hugging Face layout, a `.gguf` file, a hub id `owner/name[@revision]`, or `tiny`, the small
/// model that comes with this program. TEXT is a file, `wikitext:FILE` (a WikiText `.raw`, row by row),
/// `jsonl:FILE#field`, or `heldout`, the text that comes with `tiny`.
///
/// Results go to stdout, progress to stderr. Exit codes: 0 done, 2 usage or bad input, 3 a quality gate failed,
/// 4 would not fit into memory or on disk, 5 the format cannot hold the result, 130 interrupted.
#[derive(Parser, Debug)]
#[command(name = "brevity", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show what a checkpoint holds: stages, shapes, types, sizes. Reads headers only.
    Inspect(Inspect),
    /// Make a checkpoint smaller by a recipe and write it to a directory.
    Compress(Compress),
    /// Measure a model: perplexity of a text, divergence from a reference, tasks, facts, similarity and retrieval.
    Eval(Eval),
    /// Put models beside the one they were made from: size, perplexity, divergence, tasks, forgotten facts; as a table, JSON or
    /// one HTML file.
    Compare(Compare),
    /// Write a checkpoint in another format, or to one GGUF file.
    Export(Export),
    /// Continue a prompt.
    Generate(Generate),
    /// Turn texts into vectors.
    Embed(Embed),
    /// Fit a codec to vectors, so that each takes a few bits instead of floats, encode them, and say how many neighbours it keeps.
    Codec(Codec),
    /// Find the nearest of codes for vectors.
    Search(Search),
    /// Make a static table out of an encoder: a vector for each token, whose mean is the vector of a text.
    Distill(Distill),
    /// Train an encoder so that fewer layers and dimensions of it work, on raw texts or on pairs.
    Tune(Tune),
    /// List recipes, show one, or list the methods that recipes are made of.
    Recipes(Recipes),
    /// Say what this machine offers: processor features, threads, memory, and the formats and models known.
    Doctor(Doctor),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff.
    Man,
}

#[derive(Args, Debug)]
pub struct Inspect {
    /// The model.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: String,
    /// Every weight, not a summary by role.
    #[arg(long)]
    pub all: bool,
    /// Treat an unknown architecture as unrelated weights.
    #[arg(long)]
    pub loose: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Compress {
    /// The model.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: String,
    /// A recipe of `brevity recipes`, or a YAML file.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub recipe: String,
    /// The directory to write. It must be empty, new, or hold an unfinished run of the same work, which is then resumed.
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// Change a setting of the recipe: `quantize.rtn.bits=3`, `2.sparsity=0.6` (step by number), `format=native`.
    #[arg(long = "set", value_name = "STEP.KEY=VALUE")]
    pub set: Vec<String>,
    /// The format to write, instead of the recipe's.
    #[arg(long)]
    pub format: Option<String>,
    /// Multiply factors and tensor trains out, so that formats which cannot hold them hold the result; `dense` always does.
    #[arg(long)]
    pub materialize: bool,
    /// Take as much from every block, whatever the recipe says, and as many heads of each group: other tools open what is
    /// alike in all blocks.
    #[arg(long)]
    pub uniform: bool,
    /// The text to calibrate on, for recipes whose methods look at activations. `chat:FILE#field` is JSON lines of
    /// chat messages, put through the model's own template.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub text: Option<String>,
    /// How many samples of it to look at. Default: what the recipe says, or 128.
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Tokens in each sample. Default: what the recipe says, or 2048.
    #[arg(long, value_name = "TOKENS")]
    pub length: Option<usize>,
    /// How samples are drawn: `spread` evenly over the text, the `first` ones, or `random` by the seed.
    #[arg(long, value_name = "HOW", value_parser = ["spread", "first", "random"])]
    pub draw: Option<String>,
    /// Compare before and after on this text when done. `tiny` is compared on `heldout` unless this is `none`.
    #[arg(long, value_name = "TEXT", value_hint = ValueHint::FilePath)]
    pub compare: Option<String>,
    #[command(flatten)]
    pub asked: Asked,
    #[command(flatten)]
    pub judged: Judged,
    #[command(flatten)]
    pub windows: Windows,
    /// The seed of everything random.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub machine: Machine,
    /// Print the plan - sites, bytes, memory, disk, warnings - and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Throw away what an unfinished run left in the directory.
    #[arg(long)]
    pub fresh: bool,
    /// Treat an unknown architecture as unrelated weights.
    #[arg(long)]
    pub loose: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Eval {
    /// The model.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: String,
    /// The text. Default: `heldout`, unless tasks or facts are asked for.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub text: Option<String>,
    #[command(flatten)]
    pub asked: Asked,
    /// Keep what the model answered to each item of the tasks, one JSON object a line.
    #[arg(long, value_name = "FILE.jsonl", value_hint = ValueHint::FilePath)]
    pub log_samples: Option<PathBuf>,
    /// Measures, separated by commas: `perplexity`, `loss`, and with a reference `kl`, `agreement`. Default: all that
    /// apply.
    #[arg(long, value_delimiter = ',')]
    pub measures: Vec<String>,
    /// What to diverge from: a model, or a file written by `--save-reference`.
    #[arg(long, value_hint = ValueHint::AnyPath)]
    pub reference: Option<String>,
    /// Keep this model's predictions in a file, so that others can be held against them without running it again:
    /// the 64 likeliest tokens of each, and the mass of the rest.
    #[arg(long, value_name = "FILE.kld", value_hint = ValueHint::FilePath)]
    pub save_reference: Option<PathBuf>,
    #[command(flatten)]
    pub windows: Windows,
    #[command(flatten)]
    pub machine: Machine,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Compare {
    /// The model before.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub before: String,
    /// The models after, one or more; with several, the frontier of quality against size is told.
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    pub after: Vec<String>,
    /// The text; `none` for none. Default: `heldout`, unless tasks or facts are asked for and no limit is about a text.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub text: Option<String>,
    #[command(flatten)]
    pub asked: Asked,
    /// Follow value vectors that stand for concepts: a file in the layout of ConceptVectors, or how many of the most
    /// coherent ones to look for.
    #[arg(long, value_name = "FILE|N", value_hint = ValueHint::FilePath)]
    pub traces: Option<String>,
    /// Write the answers of both models to tasks that are answered in writing, ready for a judge: one JSON object for each
    /// question and order.
    #[arg(long, value_name = "FILE.jsonl", value_hint = ValueHint::FilePath)]
    pub judge_pairs: Option<PathBuf>,
    /// Measure how fast each model reads and writes; it is kept in memory whole for that.
    #[arg(long)]
    pub speed: bool,
    #[command(flatten)]
    pub judged: Judged,
    #[command(flatten)]
    pub windows: Windows,
    #[command(flatten)]
    pub machine: Machine,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Export {
    /// The model.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: String,
    /// The format; `brevity doctor` lists them. `gguf` is one file with everything decoded, multiplied out, and encoded as
    /// `--type` says.
    #[arg(long)]
    pub format: String,
    /// How the weights of a GGUF file are stored: `f32`, `f16`, `bf16`, `q8_0`, `q4_0` or `q4_k`. Default: `f16`.
    ///
    /// Vectors are always F32. As llama.cpp does under these names, `q4_0` and `q4_k` have the table that gives the logits
    /// (the token table, if both are one) in Q6_K, and `q4_k` is its mixture Q4_K_M: values and the last matrix of MLPs are
    /// Q6_K in half of the blocks. Rows that are no multiple of 256 wide have Q5_0 for Q4_K, Q5_1 for Q5_K and Q8_0 for
    /// Q6_K; where 32 does not divide them either, F16. What was chosen is told.
    #[arg(long = "type", value_name = "TYPE", value_parser = gguf_type)]
    pub kind: Option<GgufType>,
    /// Multiply factors and tensor trains out, so that formats which cannot hold them hold the model; `dense` and `gguf`
    /// always do.
    #[arg(long)]
    pub materialize: bool,
    /// The directory to write; for `gguf` the file, which is there when it is whole, and not before.
    #[arg(long, value_hint = ValueHint::AnyPath)]
    pub out: PathBuf,
    /// Throw away what an unfinished run left in the directory; replace a GGUF file that is there.
    #[arg(long)]
    pub fresh: bool,
    #[command(flatten)]
    pub machine: Machine,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A type of GGUF files by its name.
fn gguf_type(name: &str) -> Result<GgufType, String> {
    name.parse().map_err(|()| format!("the types are {}", GgufType::ALL.map(GgufType::name).join(", ")))
}

#[derive(Args, Debug)]
pub struct Generate {
    /// The model.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: String,
    /// The text to continue.
    #[arg(long)]
    pub prompt: String,
    /// At most so many tokens more.
    #[arg(long, default_value_t = 64)]
    pub max_tokens: usize,
    /// 0 takes the likeliest token; 1 draws from the model's distribution.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f32,
    /// The seed of the draw.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub machine: Machine,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Recipes {
    #[command(subcommand)]
    pub command: Option<RecipesCommand>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand, Debug)]
pub enum RecipesCommand {
    /// The recipes that come with the program.
    List,
    /// One recipe, as YAML.
    Show {
        /// Its name, or a file.
        name: String,
    },
    /// The methods, and their settings.
    Methods {
        /// A method, or the first words of its name; all, without one.
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
    },
    /// The tasks that models can be asked.
    Tasks {
        /// A task, to print as YAML; all, in a table, without one.
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
    },
}

#[derive(Args, Debug)]
pub struct Doctor {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What to ask models in words.
#[derive(Args, Clone, Debug)]
pub struct Asked {
    /// Tasks, separated by commas: names of `brevity recipes tasks`, or YAML files.
    #[arg(long, value_name = "TASKS", value_delimiter = ',')]
    pub tasks: Vec<String>,
    /// The folder with the data of the tasks. Default: that of a task's own YAML file, or else the current one.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data: Option<PathBuf>,
    /// Ask at most so many items of each task, and so many facts. Default: all, or `--limit` where there is no text.
    #[arg(long, value_name = "N")]
    pub items: Option<usize>,
    /// How the LLM-KICK tasks are scored.
    #[arg(long, value_enum, default_value_t = Scoring::Strict)]
    pub mode: Scoring,
    /// Facts to ask for: a JSON file as `known_1000.json`, JSON lines, or `tiny`, those that `tiny` was trained on.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub facts: Option<String>,
    /// Ask whether the vectors of texts order pairs as people do: a file of the STS benchmark, tab-separated. Can be given several
    /// times.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub sts: Vec<PathBuf>,
    /// Ask whether the vectors of queries find relevant documents: a directory in the layout of BEIR. Can be given several times.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub retrieval: Vec<PathBuf>,
    /// Score every number of layers with these numbers of dimensions, separated by commas, in each of `--sts` and `--retrieval`;
    /// `usual` for all, a half and powers of two.
    #[arg(long, value_name = "DIMS", value_delimiter = ',')]
    pub cuts: Vec<String>,
    /// With `--cuts`: keep the first principal axes of the vectors of these texts, instead of the first dimensions. A file with a
    /// text on each line, or `jsonl:FILE#field`.
    #[arg(long, value_name = "TEXTS", requires = "cuts", value_hint = ValueHint::FilePath)]
    pub pca: Option<String>,
    /// With `--pca`: how far axes are brought to spread alike, from 0 (as they are) to 1 (whitened).
    #[arg(long, value_name = "W", requires = "pca", default_value_t = 0.0)]
    pub whiten: f64,
    /// Answer `--sts` and `--retrieval` also with scores of attention divided by each of these, separated by commas; the step
    /// `adjust.temperature` of a recipe makes one of them last.
    #[arg(long, value_name = "TAUS", value_delimiter = ',')]
    pub temperatures: Vec<f32>,
    /// Ask the facts also with an open book: each fact itself in front of its prompt.
    #[arg(long, requires = "facts")]
    pub open_book: bool,
}

/// How tasks of LLM-KICK are scored.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// What the model says counts, and nothing else.
    Strict,
    /// As the published code scores, with its quirks, for figures that can be compared with published ones.
    Compat,
}

/// What becomes of a comparison.
#[derive(Args, Clone, Debug)]
pub struct Judged {
    /// A limit that has to be kept, such as `kl_mean<=0.05`, `perplexity<=+5%`, `arc_easy>=-0.02`, `facts.lost<=0.05`; the
    /// exit code is 3 if one is not. Can be given several times. A task that a limit names is asked.
    #[arg(long = "gate", value_name = "LIMIT")]
    pub gate: Vec<String>,
    /// Write all of it to one HTML file.
    #[arg(long, value_name = "FILE.html", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,
}

/// How a text is cut.
#[derive(Args, Clone, Copy, Debug)]
pub struct Windows {
    /// Tokens in a window. Default: what the model was made for, at most 2048.
    #[arg(long)]
    pub window: Option<usize>,
    /// Use only so many tokens of the text; where there is no text, ask only so many items of each task.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Which predictions of a window count.
    #[arg(long, value_enum, default_value_t = Protocol::Window)]
    pub protocol: Protocol,
}

/// Which predictions of a window count.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// All but the first token: what the compression literature reports.
    Window,
    /// The second half, behind the tokenizer's first token: figures comparable with llama.cpp's perplexity tool only.
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// Whole documents - pages of `wikitext:FILE`, otherwise the text - by words and bytes: figures comparable with those of
    /// lm-evaluation-harness only.
    Harness,
}

/// What the machine may give.
#[derive(Args, Debug)]
pub struct Machine {
    /// Threads. Default: one for each core. Results do not depend on it.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Memory to keep to: `8GiB`, `700MB`. Work that needs more is refused before it starts. Without it, memory that was
    /// freed is kept for a second, which is faster by up to a fifth.
    #[arg(long, value_name = "BYTES", value_parser = crate::units::parse_bytes)]
    pub max_memory: Option<u64>,
    /// Arithmetic of the forward pass.
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,
}

/// Arithmetic of the forward pass.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// f32 for models stored in f32, bf16 for others where the processor has it.
    Auto,
    /// Single precision.
    F32,
    /// Products of bf16 numbers, summed in single precision.
    Bf16,
}
