//! A directory that is written shard by shard, whole or not at all.
//!
//! ```text
//! .brevity-run.json                   the journal: there as long as the run is not finished
//! model-00001-of-00003.safetensors    one shard for each stage that has tensors
//! config.json, tokenizer.json, …      when all shards are there
//! model.safetensors.index.json        last: with it the output is complete
//! ```
//!
//! The index of a directory with coded weights in our native layout is called `brevity.safetensors.index.json`: tools
//! that do not know the layout find no weights then, where they would take random ones for those they miss.
//!
//! Each file is written beside its place (`.NAME.part`), flushed to disk and renamed, so no file with its final name
//! is ever cut off. The journal holds the identity of the run, the files it writes, and size and digest of each
//! finished shard. A run that was killed is opened again with the same identity and trusts a shard exactly if its
//! size and digest are as recorded. When all is written the record moves into the index (under `metadata.brevity`), so
//! that a finished directory is known as ours, too.

pub(crate) mod disk;
mod fault;
mod journal;
mod shard;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub use self::disk::free_bytes;
pub use self::fault::OutputFault;
use self::journal::{Finished, JOURNAL, Journal};
use self::shard::Shard;
use crate::error::Error;
use crate::native;
use crate::tensor::{Tensor, TensorSpec};

/// The file that says which shard holds which tensor.
pub const INDEX: &str = "model.safetensors.index.json";

/// The same where only we can read the weights.
pub const NATIVE_INDEX: &str = "brevity.safetensors.index.json";

/// A directory that is being written.
#[derive(Debug)]
pub struct Output {
    dir: PathBuf,
    /// For each stage its shard; stages without tensors have none.
    shards: Vec<Option<Shard>>,
    /// The name of the index.
    index: &'static str,
    journal: Journal,
    /// Locked against other processes as long as this lives.
    _lock: Option<File>,
}

impl Output {
    /// Makes a directory ready for a run, or finds out what an earlier one has finished.
    ///
    /// `identity` names the run: the same identity promises the same bytes, so it must depend on everything that
    /// decides them (input, recipe, seed, format) and on nothing else (not on the directory, say, because it is
    /// written into the index). `specs` are the tensors of each stage. With `fresh`, what an earlier run of ours wrote
    /// to the directory is removed first, and nothing else.
    ///
    /// # Errors
    /// [`Error::Output`] if the directory is a file, is in use, cannot be written, holds something that is not ours or
    /// belongs to a run of another identity, or if the disk has not enough space for what is left to write.
    pub fn open(dir: &Path, identity: &str, specs: &[Vec<TensorSpec>], fresh: bool) -> Result<Self, Error> {
        Self::open_as(dir, identity, specs, false, fresh)
    }

    /// The same; with `ours`, only we can read the result, whatever its tensors look like.
    ///
    /// # Errors
    /// As [`Output::open`].
    pub fn open_as(
        dir: &Path,
        identity: &str,
        specs: &[Vec<TensorSpec>],
        ours: bool,
        fresh: bool,
    ) -> Result<Self, Error> {
        let shards = shards(specs)?;
        let planned = Journal {
            identity: identity.to_owned(),
            shards: shards
                .iter()
                .flatten()
                .map(|shard| (shard.file.clone(), Finished { bytes: shard.size_bytes(), blake3: None, note: None }))
                .collect(),
            files: Vec::new(),
        };
        let lock = prepare(dir)?;
        let coded = ours || specs.iter().flatten().any(|spec| spec.name.starts_with(native::FORMS));
        let index = if coded { NATIVE_INDEX } else { INDEX };
        let mut output = Output { dir: dir.to_owned(), shards, index, journal: planned, _lock: lock };
        match output.earlier() {
            // A damaged record still says that a run of ours was here, but not what it wrote.
            Err(Error::Output { fault: OutputFault::Journal { .. }, .. }) if fresh => {
                disk::remove(&dir.join(JOURNAL))?;
                output.must_be_empty()?;
            }
            Err(error) => return Err(error),
            Ok(Some(earlier)) if fresh => output.clear(&earlier)?,
            Ok(Some(earlier)) => output.resume(earlier)?,
            Ok(None) => output.must_be_empty()?,
        }
        output.check_space()?;
        output.write_journal().map_err(|error| match error {
            Error::Output { fault: OutputFault::Write { source }, .. } => OutputFault::Unwritable { source }.at(dir),
            error => error,
        })?;
        Ok(output)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes of all shards, headers included: exactly what the files will have.
    pub fn predicted_bytes(&self) -> u64 {
        self.shards.iter().flatten().map(Shard::size_bytes).sum()
    }

    /// Whether a stage needs no writing: its shard is there, or it has no tensors.
    pub fn is_done(&self, stage: usize) -> bool {
        self.shards[stage].as_ref().is_none_or(|shard| self.journal.shards[&shard.file].blake3.is_some())
    }

    /// The name of the shard of a stage, if the stage has tensors.
    pub fn shard_file(&self, stage: usize) -> Option<&str> {
        self.shards[stage].as_ref().map(|shard| shard.file.as_str())
    }

    /// BLAKE3 of the shard of a stage, in hexadecimal, if it is there.
    pub fn shard_digest(&self, stage: usize) -> Option<&str> {
        self.journal.shards[self.shard_file(stage)?].blake3.as_deref()
    }

    /// What was noted when the shard of a stage was written, if it is there and the run is not finished.
    pub fn note(&self, stage: usize) -> Option<&Value> {
        self.journal.shards[self.shard_file(stage)?].note.as_ref()
    }

    /// Writes the tensors of a stage, and in the same step a note for whoever resumes the run.
    ///
    /// # Errors
    /// As [`Output::write`].
    pub fn write_noted(&mut self, stage: usize, tensors: Vec<Tensor>, note: Value) -> Result<(), Error> {
        if let Some(shard) = &self.shards[stage] {
            self.journal.shards[&shard.file].note = Some(note);
        }
        self.write(stage, tensors)
    }

    /// Writes the tensors of a stage. When this returns, they are on the disk and will be found by the next run.
    ///
    /// # Errors
    /// If they are not those announced, or if they cannot be written.
    pub fn write(&mut self, stage: usize, tensors: Vec<Tensor>) -> Result<(), Error> {
        let Some(shard) = &self.shards[stage] else {
            return match tensors.into_iter().next() {
                None => Ok(()),
                Some(tensor) => Err(OutputFault::Drift { tensor: tensor.spec.name }.at(&self.dir)),
            };
        };
        let path = self.dir.join(&shard.file);
        let mut named: BTreeMap<String, Tensor> = BTreeMap::new();
        for tensor in tensors {
            if tensor.data.len() as u64 != tensor.spec.bytes() {
                return Err(OutputFault::Drift { tensor: tensor.spec.name }.at(&path));
            }
            named.insert(tensor.spec.name.clone(), tensor);
        }
        let mut parts = vec![&shard.header[..]];
        for spec in &shard.specs {
            match named.get(&spec.name) {
                Some(tensor) if tensor.spec == *spec => parts.push(&tensor.data),
                _ => return Err(OutputFault::Drift { tensor: spec.name.clone() }.at(&path)),
            }
        }
        if let Some(extra) = named.keys().find(|name| !shard.specs.iter().any(|spec| spec.name == **name)) {
            return Err(OutputFault::Drift { tensor: extra.clone() }.at(&path));
        }
        let digest = disk::write_whole(&self.dir, &shard.file, &parts)?;
        self.journal.shards[&shard.file].blake3 = Some(digest);
        self.write_journal()
    }

    /// Writes the small files, each a name and its bytes, then the index, and removes the journal.
    ///
    /// # Errors
    /// If a shard is missing, or if a file cannot be written.
    pub fn finish(mut self, files: Vec<(String, Vec<u8>)>) -> Result<(), Error> {
        if let Some((file, _)) = self.journal.shards.iter().find(|(_, finished)| finished.blake3.is_none()) {
            return Err(OutputFault::Unwritten.at(&self.dir.join(file)));
        }
        if let Some((name, _)) = files.iter().find(|(name, _)| !disk::is_inside(name)) {
            return Err(OutputFault::Outside.at(Path::new(name)));
        }
        self.journal.files = files.iter().map(|(name, _)| name.clone()).collect();
        self.write_journal()?;
        for (name, bytes) in &files {
            if let Some(parent) = Path::new(name).parent().filter(|parent| !parent.as_os_str().is_empty()) {
                let parent = self.dir.join(parent);
                fs::create_dir_all(&parent).map_err(|source| OutputFault::Unwritable { source }.at(&parent))?;
            }
            disk::write_whole(&self.dir, name, &[bytes])?;
        }
        disk::write_whole(&self.dir, self.index, &[self.index().as_bytes()])?;
        disk::remove(&self.dir.join(JOURNAL))?;
        disk::sync_dir(&self.dir).map_err(|source| OutputFault::Write { source }.at(&self.dir))
    }

    /// The text of the index. Its metadata count bytes only: the number of parameters that other writers add is that of
    /// the model, which packed tensors do not tell.
    fn index(&self) -> String {
        let shards = || self.shards.iter().flatten();
        let mut map: BTreeMap<&str, &str> = BTreeMap::new();
        for shard in shards() {
            map.extend(shard.specs.iter().map(|spec| (spec.name.as_str(), shard.file.as_str())));
        }
        let total: u64 = shards().map(|shard| shard.data_bytes).sum();
        let index =
            json!({ "metadata": { "total_size": total, "brevity": self.journal.without_notes() }, "weight_map": map });
        serde_json::to_string_pretty(&index).expect("strings and numbers are JSON") + "\n"
    }

    /// The record of an earlier run in the directory.
    fn earlier(&self) -> Result<Option<Journal>, Error> {
        let path = self.dir.join(JOURNAL);
        let damaged = |error: serde_json::Error| OutputFault::Journal { what: error.to_string() }.at(&path);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(damaged).map(Some),
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(OutputFault::Unwritable { source }.at(&path))
            }
            // No journal: finished, if there is an index that says so.
            Err(_) => Ok([INDEX, NATIVE_INDEX].into_iter().find_map(|name| {
                let index: Value = serde_json::from_slice(&fs::read(self.dir.join(name)).ok()?).ok()?;
                serde_json::from_value(index["metadata"]["brevity"].clone()).ok()
            })),
        }
    }

    /// Takes over the shards of an earlier run that are still as it left them.
    fn resume(&mut self, earlier: Journal) -> Result<(), Error> {
        if !earlier.same_run(&self.journal) {
            return Err(OutputFault::OtherRun.at(&self.dir));
        }
        self.remove_parts(&earlier)?;
        self.journal.files = earlier.files;
        for (file, finished) in earlier.shards {
            if finished.blake3.is_some() && disk::digest(&self.dir.join(&file), finished.bytes) == finished.blake3 {
                self.journal.shards[&file].blake3 = finished.blake3;
                self.journal.shards[&file].note = finished.note;
            }
        }
        Ok(())
    }

    /// Removes everything that an earlier run wrote, if nothing else is there: the index first, so that what is left
    /// does not look whole.
    fn clear(&self, earlier: &Journal) -> Result<(), Error> {
        self.must_be_empty_but_for(earlier.all_files().chain([INDEX, NATIVE_INDEX, JOURNAL]))?;
        [INDEX, NATIVE_INDEX].iter().try_for_each(|index| disk::remove(&self.dir.join(index)))?;
        self.remove_parts(earlier)?;
        for name in earlier.all_files().filter(|name| disk::is_inside(name)) {
            disk::remove(&self.dir.join(name))?;
            // The directories made for it, unless something else is in them.
            for parent in Path::new(name).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
                let _ = fs::remove_dir(self.dir.join(parent));
            }
        }
        disk::remove(&self.dir.join(JOURNAL))
    }

    /// Removes files that an earlier run had begun.
    fn remove_parts(&self, earlier: &Journal) -> Result<(), Error> {
        let names = earlier.all_files().filter(|name| disk::is_inside(name)).chain([INDEX, NATIVE_INDEX, JOURNAL]);
        names.map(|name| disk::part_of(&self.dir.join(name))).try_for_each(|part| disk::remove(&part))
    }

    fn must_be_empty(&self) -> Result<(), Error> {
        // A run killed before it had a journal leaves the beginning of one.
        self.must_be_empty_but_for([JOURNAL].into_iter())
    }

    /// Fails if there is something that is neither one of these files, nor begun as one, nor a directory for one.
    fn must_be_empty_but_for<'a>(&self, ours: impl Iterator<Item = &'a str>) -> Result<(), Error> {
        let mut known = BTreeSet::new();
        for name in ours.filter(|name| disk::is_inside(name)) {
            let path = self.dir.join(name);
            let parents = Path::new(name).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
            known.extend(parents.map(|parent| self.dir.join(parent)));
            known.insert(disk::part_of(&path));
            known.insert(path);
        }
        let unreadable = |source| OutputFault::Unwritable { source }.at(&self.dir);
        let mut entries = fs::read_dir(&self.dir).map_err(unreadable)?.filter_map(Result::ok);
        match entries.find(|entry| !known.contains(&entry.path())) {
            None => Ok(()),
            Some(entry) => {
                let entry = entry.file_name().to_string_lossy().into_owned();
                Err(OutputFault::NotEmpty { entry }.at(&self.dir))
            }
        }
    }

    /// Whether what is left to write fits on the disk.
    fn check_space(&self) -> Result<(), Error> {
        let left = (0..self.shards.len()).filter(|&stage| !self.is_done(stage));
        let needed = left.filter_map(|stage| self.shards[stage].as_ref()).map(Shard::size_bytes).sum();
        match disk::free_bytes(&self.dir) {
            Some(free) if free < needed => Err(OutputFault::Full { needed, free: Some(free) }.at(&self.dir)),
            _ => Ok(()),
        }
    }

    fn write_journal(&self) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(&self.journal).expect("strings and numbers are JSON");
        disk::write_whole(&self.dir, JOURNAL, &[text.as_bytes()]).map(|_| ())
    }
}

/// Bytes of the shards that hold these tensors, stage by stage: exactly what the files will have.
///
/// # Errors
/// If two tensors have one name.
pub fn predicted_bytes(specs: &[Vec<TensorSpec>]) -> Result<u64, Error> {
    Ok(shards(specs)?.iter().flatten().map(Shard::size_bytes).sum())
}

/// The shard of each stage that has tensors.
fn shards(specs: &[Vec<TensorSpec>]) -> Result<Vec<Option<Shard>>, Error> {
    let mut names = BTreeSet::new();
    if let Some(spec) = specs.iter().flatten().find(|spec| !names.insert(spec.name.as_str())) {
        return Err(OutputFault::Twice { tensor: spec.name.clone() }.at(Path::new(INDEX)));
    }
    let count = specs.iter().filter(|specs| !specs.is_empty()).count();
    let mut number = 0;
    let shard = |specs: &Vec<TensorSpec>| {
        (!specs.is_empty()).then(|| {
            number += 1;
            Shard::new(format!("model-{number:05}-of-{count:05}.safetensors"), specs)
        })
    };
    Ok(specs.iter().map(shard).collect())
}

/// Makes the directory if need be and locks it.
fn prepare(dir: &Path) -> Result<Option<File>, Error> {
    if fs::metadata(dir).is_ok_and(|metadata| !metadata.is_dir()) {
        return Err(OutputFault::IsFile.at(dir));
    }
    let unwritable = |source| OutputFault::Unwritable { source }.at(dir);
    fs::create_dir_all(dir).map_err(unwritable)?;
    let handle = File::open(dir).map_err(unwritable)?;
    match handle.try_lock() {
        Ok(()) => Ok(Some(handle)),
        Err(TryLockError::WouldBlock) => Err(OutputFault::Busy.at(dir)),
        // Not every file system has locks.
        Err(TryLockError::Error(_)) => Ok(None),
    }
}
