//! Models from the Hugging Face hub: ids like `owner/name@revision` become directories in the local cache.
//!
//! Only what is needed is fetched: weights in one format, their index, configuration, tokenizer and the small files
//! beside them. `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` are honoured.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use hf_hub::progress::{DownloadEvent, Progress, ProgressEvent, ProgressHandler};
use hf_hub::repository::{RepoTreeEntry, RepoTypeModel};
use hf_hub::{HFClient, HFError, HFRepositorySync};

use crate::error::{Error, HubFault};
use crate::folder::{Folder, is_inside};
use crate::hf::{Index, WeightFiles};

/// The name of a model on the hub: `owner/name`, `owner/name@revision`, and for one GGUF file of many
/// `owner/name/file.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    /// Who published it.
    pub owner: String,
    /// What it is called.
    pub name: String,
    /// A branch, tag or commit; the main branch unless given.
    pub revision: Option<String>,
    /// One GGUF file.
    pub file: Option<String>,
}

impl FromStr for HubId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::HubId { text: text.to_owned() };
        let (rest, file) = match text.rsplit_once('/') {
            Some((rest, file)) if rest.contains('/') && file.ends_with(".gguf") => (rest, Some(file.to_owned())),
            _ => (text, None),
        };
        let (id, revision) = match rest.split_once('@') {
            Some((id, revision)) => (id, Some(revision.to_owned())),
            None => (rest, None),
        };
        let (owner, name) = id.split_once('/').ok_or_else(wrong)?;
        let is_name = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            (1..=96).contains(&part.len()) && part.chars().all(known) && !part.starts_with('.') && !part.contains("..")
        };
        let is_revision = |r: &str| is_inside(r) && !r.contains(char::is_whitespace);
        if !is_name(owner) || !is_name(name) || !revision.as_deref().is_none_or(is_revision) {
            return Err(wrong());
        }
        Ok(HubId { owner: owner.to_owned(), name: name.to_owned(), revision, file })
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// Bytes that have come so far.
    pub bytes: u64,
    /// Bytes to come in all, as far as that is known.
    pub total: u64,
}

/// What a download is told about.
pub type OnProgress = Arc<dyn Fn(Downloaded) + Send + Sync>;

/// Where models come from and where they are kept. What is `None` is taken from the environment.
#[derive(Clone, Default)]
pub struct Hub {
    /// The address of the hub; otherwise `HF_ENDPOINT`, or the public one.
    pub endpoint: Option<String>,
    /// The cache; otherwise `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub cache: Option<PathBuf>,
    /// The token; otherwise `HF_TOKEN`, or the one that was saved by logging in.
    pub token: Option<String>,
    /// Whether to use the cache alone; otherwise `HF_HUB_OFFLINE`.
    pub offline: Option<bool>,
    /// Told how far a download is.
    pub on_progress: Option<OnProgress>,
}

/// Fetches a model, with everything taken from the environment, and returns the directory or GGUF file it is in.
///
/// # Errors
/// If the id is malformed, the model is not there or not for us, or the hub cannot be reached.
pub fn fetch(id: &str) -> Result<PathBuf, Error> {
    Hub::default().fetch(&id.parse()?)
}

/// As [`fetch`], with somebody who is told how far the download is.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_with(id: &str, on_progress: OnProgress) -> Result<PathBuf, Error> {
    Hub { on_progress: Some(on_progress), ..Hub::default() }.fetch(&id.parse()?)
}

impl Hub {
    /// Fetches a model and returns the directory or GGUF file it is in.
    ///
    /// # Errors
    /// As [`fetch`].
    pub fn fetch(&self, id: &HubId) -> Result<PathBuf, Error> {
        let failed = |error: HFError| self.error(id, error);
        let mut builder = HFClient::builder();
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(cache) = &self.cache {
            builder = builder.cache_dir(cache);
        }
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        let client = builder.build_sync().map_err(failed)?;
        let models = client.model(&id.owner, &id.name);
        let offline = self.offline.unwrap_or_else(|| {
            let set = std::env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
            matches!(set.as_str(), "1" | "on" | "yes" | "true")
        });
        let dir = if offline { self.cached(id, &models)? } else { self.download(id, &models)? };
        Ok(match &id.file {
            Some(file) => dir.join(file),
            None => dir,
        })
    }

    /// The directory of a model that was fetched before.
    fn cached(&self, id: &HubId, models: &HFRepositorySync<RepoTypeModel>) -> Result<PathBuf, Error> {
        let absent = || Error::Hub { id: id.to_string(), fault: HubFault::NotCached };
        let dir = models
            .snapshot_download()
            .maybe_revision(id.revision.clone())
            .local_files_only(true)
            .send()
            .map_err(|_| absent())?;
        // What a download that was interrupted has left is no model.
        let folder = Folder::open(&dir)?;
        let complete = match &id.file {
            Some(file) => folder.has(file),
            None => WeightFiles::find(&folder).is_ok(),
        };
        if complete { Ok(dir) } else { Err(absent()) }
    }

    fn download(&self, id: &HubId, models: &HFRepositorySync<RepoTypeModel>) -> Result<PathBuf, Error> {
        let failed = |error: HFError| self.error(id, error);
        let fault = |fault| Error::Hub { id: id.to_string(), fault };
        // The listing and all files are of one commit, even if the branch moves on meanwhile.
        let info = models.info().maybe_revision(id.revision.clone()).send().map_err(failed)?;
        let commit = info.sha.ok_or_else(|| fault(HubFault::Answer { what: "it names no commit".into() }))?;
        let tree = models.list_tree().revision(&*commit).recursive(true).send().map_err(failed)?;
        let files: BTreeMap<String, u64> = tree
            .into_iter()
            .filter_map(|entry| match entry {
                RepoTreeEntry::File { path, size, .. } if is_inside(&path) => Some((path, size)),
                _ => None,
            })
            .collect();

        let report = Arc::new(Report { state: Mutex::default(), tell: self.on_progress.clone() });
        let get = |names: &[String], revision: Option<String>| -> Result<PathBuf, Error> {
            models
                .snapshot_download()
                .maybe_revision(revision)
                .allow_patterns(names.iter().map(|name| literal(name)).collect())
                .progress(Progress::from(report.clone()))
                .send()
                .map_err(failed)
        };
        let small: Vec<String> = files.keys().filter(|name| is_small(name)).cloned().collect();
        // Asking for the branch and not the commit leaves its name in the cache, for when the hub is out of reach.
        let mut dir = match id.revision.as_deref() {
            Some(revision) if revision == commit => get(&small, Some(commit.clone()))?,
            revision => get(&small, revision.map(str::to_owned))?,
        };
        if dir.file_name().is_some_and(|name| *name != *commit) {
            dir = get(&small, Some(commit.clone()))?;
        }
        let weights = self.weights(id, &files, &dir)?;
        dir = get(&weights, Some(commit))?;
        for name in small.iter().chain(&weights) {
            let here = std::fs::metadata(dir.join(name)).map_or(0, |metadata| metadata.len());
            if here != files[name] {
                let _ = std::fs::remove_file(dir.join(name));
                return Err(fault(HubFault::Size { file: name.clone(), here, there: files[name] }));
            }
        }
        Ok(dir)
    }

    /// The weight files to fetch, once the index is here.
    fn weights(&self, id: &HubId, files: &BTreeMap<String, u64>, dir: &Path) -> Result<Vec<String>, Error> {
        let fault = |fault| Error::Hub { id: id.to_string(), fault };
        let at_top = |end: &str| -> Vec<String> {
            files.keys().filter(|name| !name.contains('/') && name.ends_with(end)).cloned().collect()
        };
        if let Some(file) = &id.file {
            let known = files.contains_key(file).then(|| vec![file.clone()]);
            return known.ok_or_else(|| fault(HubFault::NoFile { file: file.clone(), files: at_top(".gguf") }));
        }
        if files.contains_key("model.safetensors") {
            return Ok(vec!["model.safetensors".into()]);
        }
        if let Some(index) = at_top(".safetensors.index.json").first() {
            let folder = Folder::open(dir)?;
            let shards = Index::parse(&dir.join(index), &folder.read_text(index)?)?.files();
            return match shards.iter().find(|shard| !files.contains_key(*shard)) {
                Some(shard) => Err(fault(HubFault::NoFile { file: shard.clone(), files: at_top(".safetensors") })),
                None => Ok(shards),
            };
        }
        let mut safetensors = at_top(".safetensors");
        if safetensors.len() > 1 {
            safetensors.retain(|name| !name.starts_with("consolidated"));
        }
        let mut gguf = at_top(".gguf");
        match (safetensors.is_empty(), gguf.len()) {
            (false, _) => Ok(safetensors),
            (true, 1) => Ok(vec![gguf.remove(0)]),
            (true, 0) => Err(fault(HubFault::NoWeights)),
            (true, _) => Err(fault(HubFault::ManyGguf { files: gguf })),
        }
    }

    fn error(&self, id: &HubId, error: HFError) -> Error {
        let fault = match error {
            HFError::RepoNotFound { .. } => HubFault::NotFound,
            HFError::RevisionNotFound { context: Some(context), .. }
                if context.error_code.as_deref() == Some("RepoNotFound") =>
            {
                HubFault::NotFound
            }
            HFError::RevisionNotFound { revision, .. } => HubFault::NoRevision { revision },
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => HubFault::NotForUs,
            HFError::RateLimited { .. } => HubFault::TooMany,
            HFError::Http { context } if matches!(context.status.as_u16(), 401 | 403) => HubFault::NotForUs,
            HFError::Request { source, url } => {
                HubFault::Unreachable { url: url.unwrap_or_default(), what: root_cause(&source) }
            }
            HFError::Io(source) if source.kind() == std::io::ErrorKind::StorageFull => HubFault::DiskFull,
            other => HubFault::Answer { what: other.to_string() },
        };
        Error::Hub { id: id.to_string(), fault }
    }
}

/// Whether a text could be the id of a model on the hub. A path of a file or directory that exists is to be tried first.
pub fn is_hub_id(text: &str) -> bool {
    HubId::from_str(text).is_ok()
}

/// Files beside the weights that are fetched: what tools need, and the licence.
fn is_small(name: &str) -> bool {
    let depth = name.matches('/').count();
    let file = name.rsplit('/').next().unwrap_or(name);
    let of_other_weights = file.ends_with(".index.json") && !file.ends_with(".safetensors.index.json");
    let ends = [".json", ".jinja", ".model", ".txt", ".py"].iter().any(|end| file.ends_with(end));
    match depth {
        0 => (ends && !of_other_weights) || file.starts_with("LICENSE") || file.starts_with("NOTICE"),
        // Modules of sentence-transformers.
        1 => file == "config.json" && name.as_bytes()[0].is_ascii_digit(),
        _ => false,
    }
}

/// A pattern that matches this name alone.
fn literal(name: &str) -> String {
    let escape = |c: char| match c {
        '*' | '?' | '[' | ']' | '{' | '}' => format!("[{c}]"),
        other => other.to_string(),
    };
    name.chars().map(escape).collect()
}

/// The innermost reason of an error, which says most.
fn root_cause(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().map_or_else(String::new, ToString::to_string)
}

/// Adds up what the parts of a download report.
struct Report {
    state: Mutex<State>,
    tell: Option<OnProgress>,
}

#[derive(Default)]
struct State {
    total: u64,
    /// Bytes of each file that comes as a whole.
    files: BTreeMap<String, u64>,
    /// Bytes of files that come in pieces, of which only the sum is reported.
    pieces: u64,
}

impl ProgressHandler for Report {
    fn on_progress(&self, event: &ProgressEvent) {
        let (Some(tell), ProgressEvent::Download(event)) = (&self.tell, event) else { return };
        let Ok(mut state) = self.state.lock() else { return };
        match event {
            // A file that is fetched alone announces itself once more within a batch.
            DownloadEvent::Start { total_files, total_bytes } if *total_files != 1 => state.total += total_bytes,
            DownloadEvent::Progress { files } => {
                for file in files {
                    let bytes = state.files.entry(file.filename.clone()).or_default();
                    *bytes = file.bytes_completed.max(*bytes);
                }
            }
            DownloadEvent::AggregateProgress { bytes_completed, .. } => {
                state.pieces = state.pieces.max(*bytes_completed);
            }
            _ => {}
        }
        let bytes = state.files.values().sum::<u64>() + state.pieces;
        tell(Downloaded { bytes, total: state.total.max(bytes) });
    }
}
