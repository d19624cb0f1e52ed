//! What a run has promised to write and what it has finished: a small file in the output directory.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the journal.
pub(super) const JOURNAL: &str = ".brevity-run.json";

/// The record of a run. It is in [`JOURNAL`] until the run is finished, then inside the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    /// What the run was made from; another identity means other bytes.
    pub identity: String,
    /// Every shard that the run writes, in order.
    pub shards: IndexMap<String, Finished>,
    /// The other files that it writes.
    pub files: Vec<String>,
}

/// A shard, and once it is there its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finished {
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of the whole file, in hexadecimal; none until it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// What the writer wants to know of it when the run is resumed. Not kept in the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Value>,
}

impl Journal {
    /// Whether both belong to one run: the same identity and the same shards, finished or not.
    pub fn same_run(&self, other: &Journal) -> bool {
        let sizes = |journal: &Journal| journal.shards.iter().map(|(f, s)| (f.clone(), s.bytes)).collect::<Vec<_>>();
        self.identity == other.identity && sizes(self) == sizes(other)
    }

    /// The record as it goes into the index.
    pub fn without_notes(&self) -> Journal {
        let mut journal = self.clone();
        journal.shards.values_mut().for_each(|shard| shard.note = None);
        journal
    }

    /// Every file the run may have written.
    pub fn all_files(&self) -> impl Iterator<Item = &str> {
        self.shards.keys().chain(&self.files).map(String::as_str)
    }
}
