//! Why an output directory cannot be used or finished.

use std::io;
use std::path::Path;

use crate::error::Error;

/// Why an output directory cannot be used or finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputFault {
    /// There is a file where the directory should be.
    #[error("it is a file, where a directory is to be written")]
    IsFile,
    /// There is a directory where the file should be.
    #[error("it is a directory, where a file is to be written")]
    IsDirectory,
    /// There is a file already.
    #[error("there is such a file already")]
    Exists,
    /// The directory cannot be made or written to.
    #[error("it cannot be written: {source}")]
    Unwritable {
        /// What the system said.
        source: io::Error,
    },
    /// The directory holds something that no run of ours wrote.
    #[error("it is not empty: it holds `{entry}`, which was not written by an unfinished run")]
    NotEmpty {
        /// Something in it.
        entry: String,
    },
    /// The directory holds the work of another run.
    #[error("it holds the output of a run with another recipe, input or seed")]
    OtherRun,
    /// Another process is writing to the directory.
    #[error("another run is writing to it")]
    Busy,
    /// The journal does not say what a journal says.
    #[error("the record of the unfinished run in it is damaged: {what}")]
    Journal {
        /// What the parser says.
        what: String,
    },
    /// The disk is full, or will be.
    #[error("the disk is full: {needed} bytes are needed, {} are free", free.map_or("too few".into(), |n| n.to_string()))]
    Full {
        /// Bytes still to be written.
        needed: u64,
        /// Bytes the disk has left, if that is known.
        free: Option<u64>,
    },
    /// Writing failed in another way.
    #[error("writing failed: {source}")]
    Write {
        /// What the system said.
        source: io::Error,
    },
    /// Two tensors of one name were to be written.
    #[error("two tensors named `{tensor}` would be written")]
    Twice {
        /// The name.
        tensor: String,
    },
    /// What arrived is not what was announced, so predicted sizes would be wrong.
    #[error("tensor `{tensor}` is not as it was planned")]
    Drift {
        /// The tensor.
        tensor: String,
    },
    /// A shard was not written before the end.
    #[error("it was not written, although the run says it is complete")]
    Unwritten,
    /// The name of a file leads out of the directory.
    #[error("its name leads out of the output directory")]
    Outside,
}

impl OutputFault {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            OutputFault::IsFile | OutputFault::NotEmpty { .. } => "choose a directory that is empty or does not exist",
            OutputFault::IsDirectory => "name a file in it",
            OutputFault::Exists => "choose another name, or replace it with `--fresh`",
            OutputFault::Unwritable { .. } => "check the permissions, or choose another directory",
            OutputFault::OtherRun | OutputFault::Journal { .. } => {
                "choose another directory, or replace what that run wrote with `--fresh`"
            }
            OutputFault::Busy => "wait for the other run to end, or choose another directory",
            OutputFault::Full { .. } => {
                "free some space and run the same command again: what is finished is kept; or choose a directory on a \
                 larger disk"
            }
            OutputFault::Write { .. } => "run the same command again: what is finished is kept",
            OutputFault::Twice { .. } | OutputFault::Drift { .. } | OutputFault::Unwritten | OutputFault::Outside => {
                return None;
            }
        })
    }

    /// The error for `path`.
    pub(crate) fn at(self, path: &Path) -> Error {
        Error::Output { path: path.to_owned(), fault: self }
    }
}
