//! What can be typed about encoders.

use std::path::PathBuf;

use brevity::embed::Pooling;
use clap::{Args, ValueEnum, ValueHint};

use super::Machine;

#[derive(Args, Debug)]
pub struct Embed {
    /// The model: an encoder, or a decoder whose tokens are pooled.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: String,
    /// The texts: a file with one on each line, `jsonl:FILE#field`, or `-` for stdin.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub input: String,
    /// A file for the vectors, by its ending: `.npy` for NumPy, `.jsonl` for one list a line. Default: such lists on stdout.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// So many dimensions, from the first on; vectors of length one are made so again.
    #[arg(long, value_name = "N")]
    pub dims: Option<usize>,
    /// So many blocks of the model, from the first on.
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// How the states of tokens become one vector, instead of what the model says: `cls`, `mean`, `max`, `weightedmean`,
    /// `mean_sqrt_len_tokens` or `lasttoken`. A model that says nothing is averaged.
    #[arg(long, value_name = "MODE", value_parser = pooling)]
    pub pooling: Option<Pooling>,
    /// The name of a prompt of the model, which stands in front of each text. Default: that of the model, if it has one.
    #[arg(long, value_name = "NAME")]
    pub prompt: Option<String>,
    /// Cut texts to so many tokens. Default: what the model says.
    #[arg(long, value_name = "TOKENS")]
    pub max_tokens: Option<usize>,
    #[command(flatten)]
    pub machine: Machine,
    /// Print JSON: the vectors, and what it took.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Codec {
    /// Vectors, a row for each: a `.npy` file, such as `brevity embed` writes.
    #[arg(value_name = "VECTORS.npy", value_hint = ValueHint::FilePath)]
    pub vectors: PathBuf,
    /// The kind of codec to fit to them.
    #[arg(long, value_enum, required_unless_present = "codec", conflicts_with = "codec")]
    pub kind: Option<CodecKind>,
    /// A codec that was fitted before, instead of a new one.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub codec: Option<PathBuf>,
    /// Where to write the codec. Applications encode and score with it, and codes go with no other.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "codec")]
    pub out: Option<PathBuf>,
    /// Where to write the codes of the vectors.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub codes: Option<PathBuf>,
    /// Where to write them as an index of faiss.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub faiss: Option<PathBuf>,
    /// `sign` and `recurrent`: how many axes bits are taken along. Default: as many as dimensions.
    #[arg(long, value_name = "N")]
    pub dims: Option<usize>,
    /// `recurrent`: bits of an axis, 1 to 4; by default 2. `product` and `opq`: bits of a part, 1 to 8; by default 8.
    #[arg(long, value_name = "N", value_parser = bits)]
    pub bits: Option<usize>,
    /// `product` and `opq`: how many parts a vector is cut into. Default: one for eight dimensions.
    #[arg(long, value_name = "N")]
    pub parts: Option<usize>,
    /// `sign` and `recurrent`: along which axes. Default: learned.
    #[arg(long, value_enum)]
    pub axes: Option<Axes>,
    /// `sign` and `recurrent`: take the mean of the vectors away first.
    #[arg(long)]
    pub centre: bool,
    /// The seed of everything random.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub machine: Machine,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Codecs of vectors.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecKind {
    /// A byte for each dimension, between the least and the largest value it has.
    Int8,
    /// A bit for each axis.
    Sign,
    /// A few bits for each axis, each of what those before leave (BEBR).
    Recurrent,
    /// A few bits for each part (product quantization).
    Product,
    /// The same behind a rotation that is fitted, too.
    Opq,
}

/// Axes along which bits are taken.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axes {
    /// The dimensions as they are.
    None,
    /// Drawn at random.
    Random,
    /// Turned until codes and vectors are near each other.
    Learned,
}

#[derive(Args, Debug)]
pub struct Search {
    /// The codes, as `brevity codec` writes them.
    #[arg(value_hint = ValueHint::FilePath)]
    pub codes: PathBuf,
    /// The codec that made them.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub codec: PathBuf,
    /// Vectors to look for, a row for each: a `.npy` file.
    #[arg(long, value_name = "VECTORS.npy", value_hint = ValueHint::FilePath)]
    pub queries: PathBuf,
    /// How many to find for each.
    #[arg(short, long, default_value_t = 10)]
    pub k: usize,
    /// Look at the best four times `k` codes again by these, the vectors that were encoded.
    #[arg(long, value_name = "VECTORS.npy", value_hint = ValueHint::FilePath)]
    pub rescore: Option<PathBuf>,
    /// The texts behind the codes, to be shown: as `brevity embed` takes them.
    #[arg(long, value_name = "TEXTS", value_hint = ValueHint::FilePath)]
    pub texts: Option<String>,
    #[command(flatten)]
    pub machine: Machine,
    /// Print JSON: a line for each query.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Distill {
    /// The encoder.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: String,
    /// The directory to write, new or empty; model2vec and sentence-transformers open it.
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// Dimensions to keep, the principal ones; 0 for all of them as they are.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub dims: usize,
    /// Where the vectors of tokens come from.
    #[arg(long, value_enum, default_value_t = TokensFrom::Forward)]
    pub from: TokensFrom,
    /// `a` of the weights `a / (a + p)`, `p` being how often a token is there; 0 for no weights. Default: 1e-4.
    #[arg(long, value_name = "A", allow_negative_numbers = true)]
    pub sif: Option<f64>,
    /// Count tokens in these texts. Without them the vocabulary is taken to be ordered by frequency, as that of WordPiece is. A file
    /// with a text on each line, or `jsonl:FILE#field`.
    #[arg(long, value_name = "TEXTS", value_hint = ValueHint::FilePath)]
    pub counts: Option<String>,
    /// Let tokens of like directions share so many rows: a smaller table, and a row number and a length for each token. model2vec opens
    /// it, sentence-transformers does not. Default: a row for each token.
    #[arg(long, value_name = "N")]
    pub clusters: Option<usize>,
    /// How numbers are stored. Of `int8`, sentence-transformers makes nothing.
    #[arg(long = "type", value_enum, default_value_t = Type::F16)]
    pub kind: Type,
    #[command(flatten)]
    pub machine: Machine,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Where the vectors of tokens come from.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokensFrom {
    /// What the whole encoder says of each token alone.
    Forward,
    /// The rows of its token table.
    Table,
}

/// How numbers of a table are stored.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Whole numbers of eight bits.
    Int8,
}

#[derive(Args, Debug)]
pub struct Tune {
    /// The encoder to train, whole or cut.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: String,
    /// The directory to write, new or empty.
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// What to train for.
    #[arg(long = "for", value_enum, default_value_t = TuneFor::Distil)]
    pub objective: TuneFor,
    /// Raw texts: a file with one on each line, or `jsonl:FILE#field`.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub texts: Option<String>,
    /// Pairs that belong together: JSON lines with `anchor` and `positive`.
    #[arg(long, value_name = "FILE.jsonl", value_hint = ValueHint::FilePath)]
    pub pairs: Option<PathBuf>,
    /// Pairs with scores: a file of the STS benchmark.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub sts: Option<PathBuf>,
    /// Who teaches in `distil`. Default: the encoder itself, as it is before.
    #[arg(long, value_hint = ValueHint::AnyPath)]
    pub teacher: Option<String>,
    /// Numbers of dimensions, separated by commas, for `matryoshka` and `any-cut`.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub dims: Vec<usize>,
    /// Cuts, such as `3x128` for 3 layers and 128 dimensions, separated by commas. Default: for `fixed-cuts` those of Starbucks, for
    /// `distil` the whole encoder.
    #[arg(long, value_name = "CUT", value_delimiter = ',')]
    pub cuts: Vec<String>,
    /// How much the losses of shallow layers count in `any-cut`.
    #[arg(long, value_enum, default_value_t = Weighting::Uniform)]
    pub layer_weighting: Weighting,
    /// Steps.
    #[arg(long, default_value_t = 1000)]
    pub steps: usize,
    /// Examples in a step, in two halves.
    #[arg(long, default_value_t = 64)]
    pub batch: usize,
    /// The highest rate.
    #[arg(long, default_value_t = 1e-4)]
    pub rate: f64,
    /// Tokens that texts are cut to.
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    pub max_tokens: usize,
    /// Steps between looks at examples that are held out; the weights that do best there are kept.
    #[arg(long, value_name = "STEPS", default_value_t = 100)]
    pub check_every: usize,
    /// Looks without an improvement after which training ends.
    #[arg(long, value_name = "LOOKS", default_value_t = 5)]
    pub patience: usize,
    /// End after so many minutes.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Where to keep what an interrupted training goes on from; the same command then does. It is removed at the end.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub state: Option<PathBuf>,
    /// The seed of everything random.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub machine: Machine,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What an encoder is trained for.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TuneFor {
    /// That it says of raw texts what a teacher says.
    Distil,
    /// That prefixes of its vectors work, on pairs.
    Matryoshka,
    /// That any layer with any prefix works, on pairs (2D Matryoshka).
    AnyCut,
    /// That some cuts work, all in each step, on pairs (Starbucks).
    FixedCuts,
    /// That a text is near itself with some tokens said twice (ESimCSE).
    Repetition,
}

/// How much the losses of shallow layers count.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighting {
    /// As much as that of the last.
    Uniform,
    /// Layer n: 1 / n.
    Linear,
    /// Layer n: 1 / (1 + ln n).
    Log,
}

/// A number of bits.
fn bits(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|bits| (1..=8).contains(bits)).ok_or_else(|| "it can be 1 to 8".into())
}

/// A pooling by its name.
fn pooling(name: &str) -> Result<Pooling, String> {
    name.parse().map_err(|()| format!("the modes are {}", Pooling::ALL.map(Pooling::name).join(", ")))
}
