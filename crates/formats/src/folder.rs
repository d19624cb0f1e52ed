//! Where the files of a model are: a directory on disk, or files that are part of the program.

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

use crate::error::Error;
use crate::map::Bytes;

/// The files of a model, by name.
#[derive(Clone, Debug)]
pub struct Folder(Place);

#[derive(Clone, Debug)]
enum Place {
    Disk(PathBuf),
    File { directory: PathBuf, name: String },
    Embedded { name: &'static str, files: &'static [(&'static str, &'static [u8])] },
}

impl Folder {
    /// A directory on disk.
    ///
    /// # Errors
    /// If there is nothing at this path, or something other than a directory.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let metadata = std::fs::metadata(path).map_err(|source| Error::reading(path, source))?;
        if metadata.is_dir() {
            Ok(Folder(Place::Disk(path.to_owned())))
        } else {
            Err(Error::NotADirectory { path: path.to_owned() })
        }
    }

    /// A lone file: whatever lies beside it is not there.
    ///
    /// # Errors
    /// If there is no file at this path.
    pub fn of_file(path: &Path) -> Result<Self, Error> {
        let metadata = std::fs::metadata(path).map_err(|source| Error::reading(path, source))?;
        if !metadata.is_file() {
            // Opening a pipe would wait for somebody to write into it.
            let why = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not an ordinary file");
            return Err(Error::reading(path, why));
        }
        match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
            (Some(directory), Some(name)) => {
                Ok(Folder(Place::File { directory: directory.to_owned(), name: name.to_owned() }))
            }
            _ => Err(Error::reading(path, std::io::ErrorKind::InvalidFilename.into())),
        }
    }

    /// Files that are part of the program, each a name and its bytes; `name` stands for the directory in messages.
    pub fn embedded(name: &'static str, files: &'static [(&'static str, &'static [u8])]) -> Self {
        Folder(Place::Embedded { name, files })
    }

    /// The directory, or the name that stands for it.
    pub fn path(&self) -> &Path {
        match &self.0 {
            Place::Disk(path) | Place::File { directory: path, .. } => path,
            Place::Embedded { name, .. } => Path::new(name),
        }
    }

    /// Whether the files are part of the program.
    pub fn is_embedded(&self) -> bool {
        matches!(self.0, Place::Embedded { .. })
    }

    /// Names of the files, sorted. Files one directory deeper are there as `1_Pooling/config.json`; hidden files and
    /// directories are left out.
    pub fn list(&self) -> Result<Vec<String>, Error> {
        let mut names = match &self.0 {
            Place::Embedded { files, .. } => files.iter().map(|(name, _)| name.to_string()).collect(),
            Place::File { name, .. } => vec![name.clone()],
            Place::Disk(path) => {
                let mut names = Vec::new();
                list_into(path, "", true, &mut names)?;
                names
            }
        };
        names.sort();
        Ok(names)
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.size(name).is_some()
    }

    /// Bytes of a file, if it is there.
    pub fn size(&self, name: &str) -> Option<u64> {
        match &self.0 {
            Place::Embedded { .. } => self.find(name).map(|bytes| bytes.len() as u64),
            _ => {
                let metadata = std::fs::metadata(self.file(name).ok()?).ok()?;
                metadata.is_file().then_some(metadata.len())
            }
        }
    }

    /// The whole content of a file.
    pub fn read(&self, name: &str) -> Result<Cow<'static, [u8]>, Error> {
        match &self.0 {
            Place::Embedded { .. } => self.find(name).map(Cow::Borrowed).ok_or_else(|| self.missing(name)),
            _ => {
                let path = self.file(name)?;
                std::fs::read(&path).map(Cow::Owned).map_err(|source| Error::reading(&path, source))
            }
        }
    }

    /// The whole content of a file that must be UTF-8.
    pub fn read_text(&self, name: &str) -> Result<String, Error> {
        let bytes = self.read(name)?.into_owned();
        String::from_utf8(bytes)
            .map_err(|e| Error::NotText { file: self.path().join(name), at_byte: e.utf8_error().valid_up_to() as u64 })
    }

    /// The content of a file without reading it.
    pub fn map(&self, name: &str) -> Result<Bytes, Error> {
        match &self.0 {
            Place::Embedded { .. } => self.find(name).map(Bytes::from).ok_or_else(|| self.missing(name)),
            _ => {
                let path = self.file(name)?;
                Bytes::map(&path).map_err(|source| Error::reading(&path, source))
            }
        }
    }

    /// The path of a file, whose name must not lead out of the directory.
    fn file(&self, name: &str) -> Result<PathBuf, Error> {
        match &self.0 {
            Place::File { name: only, .. } if only != name => Err(self.missing(name)),
            _ if is_inside(name) => Ok(self.path().join(name)),
            _ => Err(Error::Outside { file: name.to_owned(), named_by: self.path().to_owned() }),
        }
    }

    fn find(&self, name: &str) -> Option<&'static [u8]> {
        match &self.0 {
            Place::Embedded { files, .. } => files.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes),
            _ => None,
        }
    }

    fn missing(&self, name: &str) -> Error {
        Error::reading(&self.path().join(name), std::io::ErrorKind::NotFound.into())
    }
}

/// Whether a file name stays inside the directory it is looked up in.
pub(crate) fn is_inside(name: &str) -> bool {
    let mut components = Path::new(name).components().peekable();
    components.peek().is_some()
        && !name.contains(['\\', '\0'])
        && components.all(|part| matches!(part, Component::Normal(_)))
}

fn list_into(path: &Path, prefix: &str, deeper: bool, names: &mut Vec<String>) -> Result<(), Error> {
    let entries = std::fs::read_dir(path).map_err(|source| Error::reading(path, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| Error::reading(path, source))?;
        // A name that is not UTF-8 can be neither asked for nor carried through: no file of a model has one.
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        // Links are followed (the cache of the hub is made of them); one that leads nowhere is no file.
        let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
        if name.starts_with('.') {
            continue;
        }
        if metadata.is_file() {
            names.push(format!("{prefix}{name}"));
        } else if deeper && metadata.is_dir() {
            list_into(&entry.path(), &format!("{prefix}{name}/"), false, names)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_and_embedded_files_answer_alike() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("1_Pooling/deep")).unwrap();
        for name in ["b.txt", "a.txt", ".hidden", "1_Pooling/config.json", "1_Pooling/deep/x"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let disk = Folder::open(dir.path()).unwrap();
        let embedded = Folder::embedded(
            "built-in",
            &[("b.txt", b"b.txt"), ("1_Pooling/config.json", b"1_Pooling/config.json"), ("a.txt", b"a.txt")],
        );
        for folder in [disk, embedded] {
            assert_eq!(folder.list().unwrap(), ["1_Pooling/config.json", "a.txt", "b.txt"]);
            for name in folder.list().unwrap() {
                assert_eq!(folder.read_text(&name).unwrap(), name);
                assert_eq!(&folder.map(&name).unwrap()[..], name.as_bytes());
                assert_eq!(folder.size(&name), Some(name.len() as u64));
            }
            assert!(!folder.has("c.txt") && folder.read("c.txt").is_err() && folder.map("c.txt").is_err());
        }
    }

    #[test]
    fn names_that_lead_out_of_the_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        for name in ["../x", "/etc/passwd", "a/../../x", "", ".", "..\\x", "a\0b"] {
            assert!(matches!(folder.map(name), Err(Error::Outside { .. })), "{name:?}");
            assert!(!folder.has(name));
        }
    }

    #[test]
    fn a_lone_file_has_no_neighbours() {
        let dir = tempfile::tempdir().unwrap();
        ["a", "b"].iter().for_each(|name| std::fs::write(dir.path().join(name), name).unwrap());
        let folder = Folder::of_file(&dir.path().join("a")).unwrap();
        assert_eq!(folder.list().unwrap(), ["a"]);
        assert_eq!(folder.read_text("a").unwrap(), "a");
        assert!(!folder.has("b") && folder.map("b").is_err());
        assert!(Folder::of_file(&dir.path().join("c")).is_err());
    }

    #[test]
    fn a_file_is_not_a_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Folder::open(file.path()), Err(Error::NotADirectory { .. })));
        assert!(matches!(Folder::open(Path::new("no such directory")), Err(Error::Io { .. })));
    }
}
