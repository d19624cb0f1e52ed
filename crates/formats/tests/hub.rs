//! Fetching models, from a hub of our own.
#![cfg(feature = "hub")]

mod common;
#[path = "common/server.rs"]
mod server;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use brevity_formats::hub::{Downloaded, Hub, HubId, fetch, is_hub_id};
use brevity_formats::{Checkpoint, Error, HubFault};
use common::{gguf, llama_blocks, llama_config, llama_meta, llama_tensors, safetensors, tokenizer_json};
use server::{COMMIT, Files, OLD};

/// The tiny llama as one file, with things beside it that nobody needs.
fn single() -> Files {
    let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    Files::from([
        file("config.json", llama_config().to_string().as_bytes()),
        file("tokenizer.json", tokenizer_json(16).as_bytes()),
        file("model.safetensors", &safetensors(&llama_tensors())),
        file("pytorch_model.bin", b"large"),
        file("pytorch_model.bin.index.json", b"{}"),
        file("onnx/model.onnx", b"large"),
        file("1_Pooling/config.json", b"{}"),
        file("README.md", b"text"),
        file("LICENSE", b"text"),
    ])
}

/// The tiny llama in two shards.
fn sharded() -> Files {
    let mut files = single();
    files.remove("model.safetensors");
    let tensors = llama_tensors();
    let (one, two) = tensors.split_at(5);
    let mut map = serde_json::Map::new();
    for (n, part) in [one, two].into_iter().enumerate() {
        let name = format!("model-{:05}-of-00002.safetensors", n + 1);
        part.iter().for_each(|tensor| drop(map.insert(tensor.0.clone(), name.clone().into())));
        files.insert(name, safetensors(part));
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    files.insert("model.safetensors.index.json".into(), index.into_bytes());
    files
}

/// What the hub of each test holds.
fn hub() -> server::Hub {
    let mut hub = server::Hub::default();
    let mut add = |id: &str, commit, files| drop(hub.repositories.insert((id.to_owned(), commit), files));
    add("us/single", COMMIT, single());
    let mut old = single();
    old.insert("generation_config.json".into(), b"{}".to_vec());
    add("us/single", OLD, old);
    add("us/sharded", COMMIT, sharded());
    add("us/gated", COMMIT, single());
    add("us/short", COMMIT, single());
    add("us/pickled", COMMIT, Files::from([("pytorch_model.bin".to_owned(), vec![0; 9])]));
    let bytes = gguf(&llama_meta(), &llama_blocks());
    let many = ["a.Q4_0.gguf", "a.Q8_0.gguf"].map(|name| (name.to_owned(), bytes.clone()));
    add("us/many-gguf", COMMIT, Files::from(many));
    add("us/one-gguf", COMMIT, Files::from([("a.gguf".to_owned(), bytes)]));
    let mut hostile = single();
    hostile.remove("model.safetensors");
    let index = br#"{"weight_map":{"a":"../../../../etc/passwd"}}"#.to_vec();
    hostile.insert("model.safetensors.index.json".into(), index);
    add("us/hostile", COMMIT, hostile);
    hub.gated.insert("us/gated".into(), "hf_secret".into());
    hub.short.insert("us/short".into(), 700);
    hub
}

struct World {
    hub: Arc<server::Hub>,
    cache: tempfile::TempDir,
    settings: Hub,
}

fn world() -> World {
    let hub = Arc::new(hub());
    let cache = tempfile::tempdir().unwrap();
    let settings = Hub {
        endpoint: Some(hub.clone().start()),
        cache: Some(cache.path().to_owned()),
        token: Some("hf_nobody".into()),
        offline: Some(false),
        on_progress: None,
    };
    World { hub, cache, settings }
}

impl World {
    fn fetch(&self, id: &str) -> Result<PathBuf, Error> {
        self.settings.fetch(&id.parse()?)
    }

    fn fault(&self, id: &str) -> HubFault {
        match self.fetch(id) {
            Err(Error::Hub { fault, id: named }) => {
                assert_eq!(named, id);
                fault
            }
            other => panic!("{other:?}"),
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    brevity_formats::Folder::open(dir).unwrap().list().unwrap()
}

#[test]
fn a_model_is_fetched_with_what_it_needs_and_nothing_else() {
    let mut world = world();
    let seen: Arc<Mutex<Vec<Downloaded>>> = Arc::default();
    let log = seen.clone();
    world.settings.on_progress = Some(Arc::new(move |progress| log.lock().unwrap().push(progress)));
    let dir = world.fetch("us/single").unwrap();
    assert_eq!(names(&dir), ["1_Pooling/config.json", "LICENSE", "config.json", "model.safetensors", "tokenizer.json"]);
    let checkpoint = Checkpoint::open(&dir).unwrap();
    assert_eq!(checkpoint.model().stages.len(), 3);
    checkpoint.tokenizer().unwrap();

    let bytes: u64 = names(&dir).iter().map(|name| std::fs::metadata(dir.join(name)).unwrap().len()).sum();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.last(), Some(&Downloaded { bytes, total: bytes }));
    assert!(seen.windows(2).all(|pair| pair[0].bytes <= pair[1].bytes));
    assert!(!world.hub.asked.lock().unwrap().iter().any(|path| path.contains("pytorch") || path.contains("onnx")));
}

#[test]
fn a_second_fetch_downloads_nothing() {
    let world = world();
    let dir = world.fetch("us/single").unwrap();
    let before = world.hub.asked.lock().unwrap().len();
    assert_eq!(world.fetch("us/single").unwrap(), dir);
    let asked = world.hub.asked.lock().unwrap();
    assert!(!asked[before..].iter().any(|request| request.contains("/resolve/")), "{:?}", &asked[before..]);
}

#[test]
fn shards_are_fetched_as_their_index_says() {
    let world = world();
    let dir = world.fetch("us/sharded").unwrap();
    let shards = names(&dir).into_iter().filter(|name| name.ends_with(".safetensors")).count();
    assert_eq!(shards, 2);
    Checkpoint::open(&dir).unwrap();
}

#[test]
fn a_revision_is_a_commit_of_its_own() {
    let world = world();
    for revision in ["old", OLD] {
        let dir = world.fetch(&format!("us/single@{revision}")).unwrap();
        assert!(dir.ends_with(OLD) && dir.join("generation_config.json").exists(), "{revision}");
    }
    assert!(world.fetch("us/single@main").unwrap().ends_with(COMMIT));
    assert_eq!(world.fault("us/single@none"), HubFault::NoRevision { revision: "none".into() });
    assert_eq!(world.fault("us/nothing@main"), HubFault::NotFound);
}

#[test]
fn a_model_that_is_not_there_is_said_so() {
    let world = world();
    let error = world.fetch("us/nothing").unwrap_err();
    assert_eq!(error.to_string(), "cannot get `us/nothing` from the hub: model not found");
    assert!(error.hint().unwrap().contains("spelling"));
}

#[test]
fn a_gated_model_asks_for_a_token() {
    let mut world = world();
    let error = world.fetch("us/gated").unwrap_err();
    assert!(matches!(error, Error::Hub { fault: HubFault::NotForUs, .. }));
    assert!(error.hint().unwrap().contains("HF_TOKEN"));
    world.settings.token = Some("hf_secret".into());
    Checkpoint::open(&world.fetch("us/gated").unwrap()).unwrap();
}

#[test]
fn offline_the_cache_is_used_or_missed() {
    let mut world = world();
    let online = world.fetch("us/single").unwrap();
    world.settings.offline = Some(true);
    // Nobody is there to be asked.
    world.settings.endpoint = Some("http://127.0.0.1:9".into());
    assert_eq!(world.fetch("us/single").unwrap(), online);
    let error = world.fetch("us/sharded").unwrap_err();
    assert!(matches!(error, Error::Hub { fault: HubFault::NotCached, .. }));
    assert!(error.hint().unwrap().contains("HF_HUB_OFFLINE"));
    // A cache that lacks the weights holds no model.
    std::fs::remove_file(online.join("model.safetensors")).unwrap();
    assert_eq!(world.fault("us/single"), HubFault::NotCached);
}

#[test]
fn a_hub_that_does_not_answer_is_named() {
    let mut world = world();
    world.settings.endpoint = Some("http://127.0.0.1:9".into());
    let error = world.fetch("us/single").unwrap_err();
    assert!(matches!(error, Error::Hub { fault: HubFault::Unreachable { .. }, .. }), "{error}");
    assert!(error.to_string().contains("http://127.0.0.1:9"), "{error}");
}

#[test]
fn a_gguf_file_is_taken_alone_or_by_name() {
    let world = world();
    assert!(Checkpoint::open(&world.fetch("us/one-gguf").unwrap()).is_ok());
    let files = vec!["a.Q4_0.gguf".to_owned(), "a.Q8_0.gguf".to_owned()];
    assert_eq!(world.fault("us/many-gguf"), HubFault::ManyGguf { files: files.clone() });
    let path = world.fetch("us/many-gguf/a.Q8_0.gguf").unwrap();
    assert!(Checkpoint::open(&path).is_ok());
    assert_eq!(names(path.parent().unwrap()), ["a.Q8_0.gguf"]);
    assert_eq!(world.fault("us/many-gguf/b.gguf"), HubFault::NoFile { file: "b.gguf".into(), files });
    assert_eq!(world.fault("us/pickled"), HubFault::NoWeights);
}

#[test]
fn a_download_that_breaks_off_leaves_no_model() {
    let world = world();
    world.fetch("us/short").unwrap_err();
    let mut offline = world.settings.clone();
    offline.offline = Some(true);
    let error = offline.fetch(&"us/short".parse().unwrap()).unwrap_err();
    assert!(matches!(error, Error::Hub { fault: HubFault::NotCached, .. }), "{error}");
}

#[test]
fn an_index_on_the_hub_cannot_name_files_elsewhere() {
    let world = world();
    assert!(matches!(world.fetch("us/hostile"), Err(Error::Outside { .. })));
}

#[test]
fn ids_are_told_from_paths() {
    for id in ["a/b", "HuggingFaceTB/SmolLM2-135M", "a/b@main", "a/b@refs/pr/1", "a/b@v1/c.gguf", "a/b/c.Q4_0.gguf"] {
        assert!(is_hub_id(id), "{id}");
        assert_eq!(id.parse::<HubId>().unwrap().to_string(), id);
    }
    for text in
        ["a", "", "/a/b", "./a", "../a", "a/b/c", "a/b@", "a/..", "a/b@../..", "a b/c", "a//b", "~/a", "a/b@x y"]
    {
        assert!(!is_hub_id(text), "{text}");
    }
    let error = "a/b/c".parse::<HubId>().unwrap_err();
    assert!(error.to_string().starts_with("`a/b/c` is neither a file or directory nor the id of a model"));
}

/// Run by the test below in a process of its own, as the environment is shared by all tests of one.
#[test]
fn child_fetches_with_what_the_environment_says() {
    if std::env::var_os("BREVITY_TEST_CHILD").is_none() {
        return;
    }
    let dir = fetch("us/gated").unwrap();
    println!("fetched {}", dir.display());
}

#[test]
fn the_environment_is_honoured() {
    let world = world();
    let run = |variables: &[(&str, &str)]| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.env("BREVITY_TEST_CHILD", "1").args([
            "--exact",
            "--nocapture",
            "child_fetches_with_what_the_environment_says",
        ]);
        for name in ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"] {
            child.env_remove(name);
        }
        let output = child.envs(variables.iter().copied()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find_map(|line| Some(PathBuf::from(line.split_once("fetched ")?.1)))
    };
    let endpoint = world.settings.endpoint.as_deref().unwrap();
    let (home, cache) = (world.cache.path().join("home"), world.cache.path().join("cache"));
    let (home, cache) = (home.to_str().unwrap(), cache.to_str().unwrap());
    assert_eq!(run(&[("HF_ENDPOINT", endpoint), ("HF_HOME", home)]), None, "no token");
    let token = ("HF_TOKEN", "hf_secret");
    let dir = run(&[("HF_ENDPOINT", endpoint), ("HF_HOME", home), token]).unwrap();
    assert!(dir.starts_with(Path::new(home).join("hub")), "{dir:?}");
    let dir = run(&[("HF_ENDPOINT", endpoint), ("HF_HOME", home), ("HF_HUB_CACHE", cache), token]).unwrap();
    assert!(dir.starts_with(cache), "{dir:?}");
    let offline = [("HF_HOME", home), ("HF_HUB_OFFLINE", "1")];
    assert!(run(&offline).unwrap().starts_with(home));
    assert_eq!(run(&[("HF_HUB_CACHE", "elsewhere"), ("HF_HUB_OFFLINE", "TRUE")]), None);
}
