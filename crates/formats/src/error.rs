//! What can go wrong with files, where, and what to do about it.

mod fault;

use std::io;
use std::path::{Path, PathBuf};

use brevity_model::Site;

use crate::coded::CodedFault;
use crate::gguf::GgufFault;
use crate::output::OutputFault;
use crate::unholdable::Why;
use crate::view::ViewFault;

use fault::list;
pub use fault::{FileFault, HubFault, TensorFault, VocabularyFault};

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    Io {
        /// What was being done: `read`, `write`, ….
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory was expected.
    #[error("`{}` is a file, where a model directory was expected", path.display())]
    NotADirectory {
        /// The file.
        path: PathBuf,
    },
    /// A file name that leads out of the directory of the model.
    #[error("`{}` names the file `{file}`, which is not inside the model directory", named_by.display())]
    Outside {
        /// The name.
        file: String,
        /// Who says so.
        named_by: PathBuf,
    },
    /// A file that should be UTF-8 is not.
    #[error("`{}` is not UTF-8 text: byte {at_byte} is invalid", file.display())]
    NotText {
        /// The file.
        file: PathBuf,
        /// The first invalid byte.
        at_byte: u64,
    },
    /// There is nothing in the directory.
    #[error("the directory `{}` is empty", path.display())]
    EmptyDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The directory has no weights of a kind that is read.
    #[error("`{}` has no safetensors or GGUF weights{}", path.display(), list(": only ", found))]
    NoWeights {
        /// The directory.
        path: PathBuf,
        /// Weights of other kinds that are there.
        found: Vec<String>,
    },
    /// The directory has several GGUF files.
    #[error("`{}` has several GGUF files{}", path.display(), list(": ", files))]
    ManyGguf {
        /// The directory.
        path: PathBuf,
        /// The files.
        files: Vec<String>,
    },
    /// The directory has several safetensors files and nothing says which belong together.
    #[error("`{}` has several safetensors files and no index{}", path.display(), list(": ", files))]
    ManySafetensors {
        /// The directory.
        path: PathBuf,
        /// The files.
        files: Vec<String>,
    },
    /// An index is not the JSON it should be.
    #[error("`{}` is not a valid index: {what}", file.display())]
    Index {
        /// The file.
        file: PathBuf,
        /// What the parser says.
        what: String,
    },
    /// A shard is not there.
    #[error("the shard `{shard}` is missing, which `{}` names{}", named_by.display(), list("; it holds ", tensors))]
    MissingShard {
        /// The file that is missing.
        shard: String,
        /// The file that asks for it.
        named_by: PathBuf,
        /// The tensors in it, if they are known.
        tensors: Vec<String>,
    },
    /// The directory has no `config.json`.
    #[error("`{}` has no config.json", path.display())]
    NoConfig {
        /// The directory.
        path: PathBuf,
    },
    /// The configuration and the tensors make up no model.
    #[error("cannot make a model of `{}`: {fault}", file.display())]
    Model {
        /// The file or directory.
        file: PathBuf,
        /// Why not.
        fault: brevity_model::Error,
    },
    /// The weights are quantized in a way that is not read.
    #[error("`{}` is quantized with `{method}`, which cannot be read yet", path.display())]
    QuantMethod {
        /// The directory.
        path: PathBuf,
        /// `quant_method` of its configuration.
        method: String,
    },
    /// A model has no stage of this number.
    #[error("there is no stage {stage}: the model has {stages}")]
    NoStage {
        /// The number, counted from zero.
        stage: usize,
        /// How many there are.
        stages: usize,
    },
    /// A weight holds values that are not numbers.
    #[error("`{site}` holds {nan} NaN and {infinite} infinite values (tensor `{tensor}`{})", more(*others))]
    NotFinite {
        /// The weight.
        site: Site,
        /// Its tensor.
        tensor: String,
        /// NaN values in it.
        nan: u64,
        /// Infinite values in it.
        infinite: u64,
        /// Other weights of the stage with such values.
        others: usize,
    },
    /// There is no tokenizer.
    #[error("`{}` has no tokenizer.json{}", path.display(), list(", only ", found))]
    NoTokenizer {
        /// The directory.
        path: PathBuf,
        /// Vocabulary files of other kinds.
        found: Vec<String>,
    },
    /// The tokenizers library refuses a file.
    #[error("`{}` is not a tokenizer: {what}", file.display())]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// What the library says.
        what: String,
    },
    /// The tokenizer gives an id for which the token table has no row.
    #[error("the tokenizer does not fit the model: token `{token}` has id {id}, but the token table has {rows} rows")]
    TokenTable {
        /// The largest id.
        id: u32,
        /// Its token.
        token: String,
        /// Rows of the table.
        rows: usize,
    },
    /// A text is not the id of a model on the hub.
    #[error("`{text}` is neither a file or directory nor the id of a model (`owner/name` or `owner/name@revision`)")]
    HubId {
        /// The text.
        text: String,
    },
    /// A model cannot be had from the hub.
    #[error("cannot get `{id}` from the hub: {fault}")]
    Hub {
        /// The model.
        id: String,
        /// Why not.
        fault: HubFault,
    },
    /// A weight file is damaged as a whole.
    #[error("`{}` is damaged: {fault}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        fault: FileFault,
    },
    /// A weight file describes one of its tensors wrongly.
    #[error("tensor `{tensor}` in `{}` is damaged: {fault}", file.display())]
    Tensor {
        /// The tensor.
        tensor: String,
        /// The file that holds it.
        file: PathBuf,
        /// What is wrong with it.
        fault: TensorFault,
    },
    /// Two files hold a tensor of the same name.
    #[error("tensor `{tensor}` is both in `{}` and in `{}`", first.display(), second.display())]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// A file that holds it.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
    },
    /// There is no tensor of this name.
    #[error("there is no tensor `{tensor}`")]
    NoTensor {
        /// The name.
        tensor: String,
    },
    /// The tensor is there, but its values are not numbers that weights are made of.
    #[error("tensor `{tensor}` of type {dtype} and shape {shape:?} is not a weight")]
    NotAWeight {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
        /// Its dimensions.
        shape: Vec<usize>,
    },
    /// The scales of an FP8 weight have a shape that does not fit it.
    #[error("the scales `{scale}` of shape {found:?} do not fit the FP8 weight `{tensor}` of shape {shape:?}")]
    ScaleShape {
        /// The weight.
        tensor: String,
        /// Its shape.
        shape: [usize; 2],
        /// The tensor with the scales.
        scale: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor has a block type that is not decoded.
    #[error("tensor `{tensor}` in `{}` has the block type {block}, which cannot be read", file.display())]
    BlockType {
        /// The tensor.
        tensor: String,
        /// The file that holds it.
        file: PathBuf,
        /// The type.
        block: String,
    },
    /// The metadata of a GGUF file do not say what is needed.
    #[error("`{key}` in the GGUF file should be {wanted}")]
    GgufKey {
        /// The key.
        key: String,
        /// What was expected.
        wanted: &'static str,
    },
    /// The rows of a tensor of queries or keys do not divide into heads.
    #[error("tensor `{tensor}` has {rows} rows, which do not divide into {heads} heads of an even width")]
    GgufHeads {
        /// The tensor.
        tensor: String,
        /// Its rows.
        rows: usize,
        /// The heads that the metadata count.
        heads: usize,
    },
    /// Two tensors of a GGUF file would have one name.
    #[error("tensors `{first}` and `{second}` are both called `{name}` in a checkpoint")]
    GgufSameName {
        /// A tensor.
        first: String,
        /// The other one.
        second: String,
        /// Their common name.
        name: String,
    },
    /// candle could not decode a tensor.
    #[error("cannot decode tensor `{tensor}` in `{}`: {what}", file.display())]
    Candle {
        /// The tensor.
        tensor: String,
        /// The file that holds it.
        file: PathBuf,
        /// What candle says.
        what: String,
    },
    /// The vocabulary of a GGUF file does not make a tokenizer.
    #[error("the vocabulary of the GGUF file makes no tokenizer: {fault}")]
    Vocabulary {
        /// Why not.
        fault: VocabularyFault,
    },
    /// A part of a tensor cannot be had.
    #[error("cannot read a part of tensor `{tensor}`: {fault}")]
    View {
        /// The tensor.
        tensor: String,
        /// Why not.
        fault: ViewFault,
    },
    /// The tensors of a coded weight do not fit each other, or what is said about them.
    #[error("cannot read the coded weight `{tensor}`: {fault}")]
    Coded {
        /// The weight.
        tensor: String,
        /// What is wrong with it.
        fault: CodedFault,
    },
    /// The format has no way to say this.
    #[error("the format `{format}` cannot hold `{site}`: {why}")]
    Unholdable {
        /// The format.
        format: &'static str,
        /// The weight.
        site: Site,
        /// Why not.
        why: Why,
    },
    /// A GGUF file has no way to say what the model is.
    #[error("a GGUF file cannot hold this model: {fault}")]
    Gguf {
        /// Why not.
        fault: GgufFault,
    },
    /// An output directory, or a file in it, cannot be used or finished.
    #[error("cannot write `{}`: {fault}", path.display())]
    Output {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it.
        fault: OutputFault,
    },
}

impl Error {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "check the path; a model is a directory, a .gguf file, or a hub id like `owner/name`".into()
            }
            Error::NotADirectory { .. } => {
                "give the directory that holds config.json and the weights, or a .gguf file".into()
            }
            Error::Outside { .. } => {
                "the file was made by mistake or with bad intent; get the model again from a source you trust".into()
            }
            Error::File { .. } | Error::Tensor { .. } => {
                "the file is cut off or damaged; compare its size with the original and fetch it again".into()
            }
            Error::EmptyDirectory { .. } => "was the download or the conversion interrupted?".into(),
            Error::NoWeights { found, .. } if found.is_empty() => {
                "give the directory that holds model.safetensors (or its shards and index), or a .gguf file".into()
            }
            Error::NoWeights { .. } => {
                "load the model in its own framework and save it as safetensors; with transformers: \
                 AutoModelForCausalLM.from_pretrained(dir).save_pretrained(new_dir)"
                    .into()
            }
            Error::ManyGguf { .. } => "give the path of one of them".into(),
            Error::ManySafetensors { .. } => {
                "keep one of them, or add the model.safetensors.index.json that names them".into()
            }
            Error::Index { .. } => "fetch the index again from where the model came from".into(),
            Error::NoConfig { .. } => {
                "copy the config.json of the model beside its weights, or treat the weights as loose matrices (`--loose`)"
                    .into()
            }
            Error::Model { fault, .. } => return fault.hint(),
            Error::QuantMethod { .. } => "start from the original model, or from a dequantized copy".into(),
            Error::NotFinite { .. } => {
                "the checkpoint is broken, or its values overflowed when it was converted; leave this weight out with \
                 `except`, or fetch the original"
                    .into()
            }
            Error::NoTokenizer { .. } | Error::Tokenizer { .. } => {
                "make one with transformers: AutoTokenizer.from_pretrained(dir).save_pretrained(dir)".into()
            }
            Error::TokenTable { .. } => "the tokenizer.json belongs to another model; take the one of this model".into(),
            Error::HubId { .. } => "check the path, or write the id as on the hub".into(),
            Error::Hub { fault, .. } => match fault {
                HubFault::NotFound => "check the spelling of owner and name; ids look like `HuggingFaceTB/SmolLM2-135M`".into(),
                HubFault::NoRevision { .. } => "leave out `@revision` for the main branch".into(),
                HubFault::NotForUs => {
                    "check the spelling; for a gated or private model accept its terms on the hub and set HF_TOKEN to a \
                     token that may read it"
                        .into()
                }
                HubFault::TooMany => "wait a little and try again; a token in HF_TOKEN raises the limit".into(),
                HubFault::Unreachable { .. } => {
                    "check the network and HF_ENDPOINT; with HF_HUB_OFFLINE=1 the cached copy is used".into()
                }
                HubFault::NotCached => "unset HF_HUB_OFFLINE once to fetch it".into(),
                HubFault::ManyGguf { .. } => "name one of them: `owner/name/FILE.gguf`".into(),
                HubFault::Size { .. } => "try again".into(),
                HubFault::DiskFull => "make room, or move the cache with HF_HOME".into(),
                _ => return None,
            },
            Error::BlockType { .. } => {
                "use a file with types of the Q4_0 to Q8_K families, F16, BF16 or F32; llama-quantize makes one from \
                 the original model"
                    .into()
            }
            Error::Vocabulary { .. } => "put the tokenizer.json of the original model beside the weights".into(),
            Error::ScaleShape { .. } => {
                "scales are one number, one for each row, or one for each block of `weight_block_size` in config.json"
                    .into()
            }
            Error::MissingShard { .. } => "the download is incomplete; fetch the missing file".into(),
            Error::Duplicate { .. } => "remove the file that does not belong to the model".into(),
            Error::Unholdable { why, .. } => return why.hint(),
            Error::Gguf { fault } => fault.hint().into(),
            Error::Output { fault, .. } => return fault.hint().map(str::to_owned),
            Error::Coded { fault: CodedFault::Unsupported { .. } | CodedFault::Unknown, .. } => {
                "convert the checkpoint to plain floats with the tool that made it".into()
            }
            Error::Coded { .. } => "fetch the checkpoint again; a file or `config.json` may be of another version".into(),
            _ => return None,
        })
    }

    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        Error::Io { doing: "read", path: path.to_owned(), source }
    }
}

/// How many others there are, if any.
fn more(count: usize) -> String {
    match count {
        0 => String::new(),
        n => format!(", and {n} more of this stage"),
    }
}
