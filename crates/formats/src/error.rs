//! What can go wrong with files, where, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use brevity_model::Site;

use crate::coded::CodedFault;
use crate::output::OutputFault;
use crate::unholdable::Why;
use crate::view::ViewFault;

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
    /// An output directory, or a file in it, cannot be used or finished.
    #[error("cannot write `{}`: {fault}", path.display())]
    Output {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it.
        fault: OutputFault,
    },
}

/// Why a model cannot be had from the hub.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HubFault {
    /// There is no such model.
    #[error("model not found")]
    NotFound,
    /// The model has no such branch, tag or commit.
    #[error("it has no revision `{revision}`")]
    NoRevision {
        /// The revision.
        revision: String,
    },
    /// The model is gated or private, or there is none of this name: the hub does not tell these apart.
    #[error("the hub does not let us in")]
    NotForUs,
    /// The hub has had enough of us.
    #[error("too many requests")]
    TooMany,
    /// The hub cannot be reached.
    #[error("`{url}` cannot be reached: {what}")]
    Unreachable {
        /// The address.
        url: String,
        /// What the network says.
        what: String,
    },
    /// We are offline and the model is not in the cache, or not all of it.
    #[error("offline, and it is not in the cache")]
    NotCached,
    /// The model has no such file.
    #[error("it has no file `{file}`{}", list("; there are ", files))]
    NoFile {
        /// The file.
        file: String,
        /// Files of its kind that are there.
        files: Vec<String>,
    },
    /// The model has no weights that are read.
    #[error("it has neither safetensors nor GGUF weights")]
    NoWeights,
    /// The model has several GGUF files.
    #[error("it has several GGUF files{}", list(": ", files))]
    ManyGguf {
        /// The files.
        files: Vec<String>,
    },
    /// A file has come incompletely.
    #[error("of `{file}` came {here} bytes of {there}")]
    Size {
        /// The file.
        file: String,
        /// Bytes that came.
        here: u64,
        /// Bytes it should have.
        there: u64,
    },
    /// The cache has no room.
    #[error("the disk of the cache is full")]
    DiskFull,
    /// The hub answers something unexpected.
    #[error("{what}")]
    Answer {
        /// What it is.
        what: String,
    },
}

/// What is wrong with a weight file as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileFault {
    /// It ends before its header does.
    #[error("it has {size} bytes, too few for a header")]
    TooShort {
        /// Bytes of the file.
        size: u64,
    },
    /// The header is longer than the file, or than any header may be.
    #[error("its header claims {claimed} bytes, where the file has {size} and a header at most {limit}")]
    HeaderLength {
        /// Bytes the header claims.
        claimed: u64,
        /// Bytes of the file.
        size: u64,
        /// Bytes that are accepted at most.
        limit: u64,
    },
    /// The header is not UTF-8.
    #[error("its header is not UTF-8: byte {at_byte} of the file is invalid")]
    HeaderNotText {
        /// The first invalid byte of the file.
        at_byte: u64,
    },
    /// The header is not the JSON it should be.
    #[error("its header is not valid: {what}")]
    HeaderJson {
        /// What the parser says.
        what: String,
    },
    /// The file does not begin as GGUF files do.
    #[error("it is not a GGUF file")]
    NotGguf,
    /// Its version is not one that is read.
    #[error("its GGUF version is {version}; 2 and 3 are read")]
    GgufVersion {
        /// The version.
        version: u32,
    },
    /// The header ends in the middle of something.
    #[error("it ends inside {what} that begins at byte {at_byte}")]
    Cut {
        /// What is cut off.
        what: &'static str,
        /// Where it begins.
        at_byte: u64,
    },
    /// The header counts more than the file can hold.
    #[error("at byte {at_byte} it claims {count} {what}, more than can be")]
    Count {
        /// What is counted, or the text whose length it is.
        what: &'static str,
        /// How many.
        count: u64,
        /// Where it says so.
        at_byte: u64,
    },
    /// A value of the header has a type that is not known, or a list of lists.
    #[error("its key `{key}` has a value of the unknown type {id}")]
    ValueType {
        /// The key.
        key: String,
        /// The number of the type.
        id: u32,
    },
    /// A truth value is neither true nor false.
    #[error("its key `{key}` is neither true nor false but {byte}")]
    Flag {
        /// The key.
        key: String,
        /// What it is.
        byte: u8,
    },
    /// A key occurs twice.
    #[error("its header has the key `{key}` twice")]
    KeyTwice {
        /// The key.
        key: String,
    },
    /// Tensors cannot be aligned like this.
    #[error("its alignment {alignment} is not a power of two up to 2^20")]
    Alignment {
        /// The alignment.
        alignment: u64,
    },
    /// candle refused the header.
    #[error("{what}")]
    Candle {
        /// What candle says.
        what: String,
    },
    /// Bytes that no tensor covers.
    #[error("bytes {start}..{end} of its data belong to no tensor")]
    Uncovered {
        /// First byte, counted from the start of the data.
        start: u64,
        /// The byte behind the last one.
        end: u64,
    },
}

/// What is wrong with the vocabulary of a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyFault {
    /// There is none.
    #[error("there is none")]
    None,
    /// Its kind is not known.
    #[error("its kind `{kind}` is not known")]
    Kind {
        /// The kind.
        kind: String,
    },
    /// The rule that cuts text is not known.
    #[error("its rule `{name}` for cutting text is not known")]
    Cut {
        /// The name of the rule.
        name: String,
    },
    /// A list has not one element for each token.
    #[error("`{list}` has {found} elements for {tokens} tokens")]
    Length {
        /// The key of the list.
        list: &'static str,
        /// Its elements.
        found: usize,
        /// The tokens.
        tokens: usize,
    },
    /// A merge is not two tokens with a space between them.
    #[error("the merge `{merge}` is not two tokens with a space between them")]
    Merge {
        /// The merge.
        merge: String,
    },
    /// A special token is not there.
    #[error("its special token `{token}` is missing")]
    Special {
        /// The token.
        token: String,
    },
    /// The tokenizers library refused it.
    #[error("{what}")]
    Refused {
        /// What the library says.
        what: String,
    },
}

/// What is wrong with one tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorFault {
    /// A number type nobody knows.
    #[error("its type `{dtype}` is not known")]
    Dtype {
        /// What the header says.
        dtype: String,
    },
    /// The header entry lacks something or has something of the wrong kind.
    #[error("its entry in the header is not valid: {what}")]
    Entry {
        /// What the parser says.
        what: String,
    },
    /// The header has two entries of this name.
    #[error("the header names it twice")]
    Twice,
    /// The range of bytes ends before it begins, or past the end of the file.
    #[error("it claims bytes {begin}..{end} of the {available} bytes of data")]
    Range {
        /// First byte, counted from the start of the data.
        begin: u64,
        /// The byte behind the last one.
        end: u64,
        /// Bytes of data in the file.
        available: u64,
    },
    /// Type and shape need another number of bytes than the range has.
    #[error("shape {shape:?} of {dtype} needs {} bytes, but it has {has}", needs.map_or("too many".into(), |n| n.to_string()))]
    Size {
        /// Its type.
        dtype: String,
        /// Its dimensions.
        shape: Vec<u64>,
        /// Bytes needed, unless even their number does not fit.
        needs: Option<u64>,
        /// Bytes there are.
        has: u64,
    },
    /// It has no values but an absurd dimension.
    #[error("shape {shape:?} is too large for no values")]
    Empty {
        /// Its dimensions.
        shape: Vec<u64>,
    },
    /// It has more dimensions than tensors have.
    #[error("it has {count} dimensions")]
    Dimensions {
        /// How many.
        count: u32,
    },
    /// Its rows are not whole blocks.
    #[error("its rows of {columns} values are not whole blocks of {block}, which have {values}")]
    Block {
        /// Values of a row.
        columns: u64,
        /// The block type.
        block: String,
        /// Values of a block.
        values: usize,
    },
    /// It does not begin where tensors may begin.
    #[error("it begins at byte {offset}, which is no multiple of {alignment}")]
    Unaligned {
        /// Where it begins, counted from the start of the data.
        offset: u64,
        /// The alignment of the file.
        alignment: u64,
    },
    /// Its bytes are also those of another tensor.
    #[error("its bytes {begin}..{end} overlap those of `{other}`")]
    Overlap {
        /// First byte, counted from the start of the data.
        begin: u64,
        /// The byte behind the last one.
        end: u64,
        /// The other tensor.
        other: String,
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

/// The first few names of a list behind some words, or nothing if there are none.
fn list(words: &str, names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => String::new(),
        n if n <= SHOWN => format!("{words}{}", shown.join(", ")),
        n => format!("{words}{} and {} more", shown.join(", "), n - SHOWN),
    }
}
