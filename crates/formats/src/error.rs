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
    /// Bytes that no tensor covers.
    #[error("bytes {start}..{end} of its data belong to no tensor")]
    Uncovered {
        /// First byte, counted from the start of the data.
        start: u64,
        /// The byte behind the last one.
        end: u64,
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
