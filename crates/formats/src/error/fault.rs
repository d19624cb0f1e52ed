//! What can be wrong with a hub, a file, a vocabulary or a tensor: the details of an [`Error`](super::Error).

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

/// The first few names of a list behind some words, or nothing if there are none.
pub(super) fn list(words: &str, names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => String::new(),
        n if n <= SHOWN => format!("{words}{}", shown.join(", ")),
        n => format!("{words}{} and {} more", shown.join(", "), n - SHOWN),
    }
}
