//! Output directories: whole or not at all, resumed after any interruption, never somebody else's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use brevity_formats::{Error, INDEX, NATIVE_INDEX, Output, OutputFault, Tensor, TensorSpec};

const JOURNAL: &str = ".brevity-run.json";

fn specs() -> Vec<Vec<TensorSpec>> {
    let spec = |name: &str, dtype, shape: &[usize]| TensorSpec::new(name, dtype, shape);
    vec![
        vec![spec("a", "U8", &[5]), spec("b", "F32", &[2, 3])],
        vec![],
        vec![spec("c", "I64", &[1])],
        vec![spec("empty", "F32", &[0, 4])],
    ]
}

fn tensors(stage: usize) -> Vec<Tensor> {
    let tensor = |spec: TensorSpec| {
        let data = (0..spec.bytes()).map(|i| (i as usize * 7 + stage) as u8).collect();
        Tensor { spec, data }
    };
    specs().swap_remove(stage).into_iter().map(tensor).collect()
}

fn small() -> Vec<(String, Vec<u8>)> {
    vec![("config.json".into(), b"{}\n".to_vec()), ("1_Pooling/config.json".into(), b"{\"a\": 1}".to_vec())]
}

fn open(dir: &Path) -> Result<Output, Error> {
    Output::open(dir, "the run", &specs(), false)
}

fn fault(result: Result<Output, Error>) -> OutputFault {
    match result.unwrap_err() {
        Error::Output { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

/// Writes what is missing and returns which stages that were.
fn run(dir: &Path) -> Vec<usize> {
    let mut output = open(dir).unwrap();
    let todo: Vec<usize> = (0..4).filter(|&stage| !output.is_done(stage)).collect();
    for &stage in &todo {
        output.write(stage, tensors(stage)).unwrap();
    }
    output.finish(small()).unwrap();
    todo
}

/// All files below a directory with their contents.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            all.extend(files(&entry.path()).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            all.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    all
}

fn restore(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_finished_directory_holds_shards_index_and_small_files() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/out");
    let mut output = open(&out).unwrap();
    let predicted = output.predicted_bytes();
    assert_eq!((0..4).map(|stage| output.is_done(stage)).collect::<Vec<_>>(), [false, true, false, false]);
    assert_eq!(output.shard_file(2), Some("model-00002-of-00003.safetensors"));
    assert_eq!(output.shard_file(1), None);
    for stage in 0..4 {
        output.write(stage, tensors(stage)).unwrap();
    }
    assert!(output.shard_digest(2).is_some());
    output.finish(small()).unwrap();
    let files = files(&out);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "1_Pooling/config.json",
            "config.json",
            "model-00001-of-00003.safetensors",
            "model-00002-of-00003.safetensors",
            "model-00003-of-00003.safetensors",
            INDEX
        ]
    );
    let shards = || files.iter().filter(|(name, _)| name.ends_with(".safetensors"));
    assert_eq!(shards().map(|(_, bytes)| bytes.len() as u64).sum::<u64>(), predicted);
    let index: serde_json::Value = serde_json::from_slice(&files[INDEX]).unwrap();
    assert_eq!(index["metadata"]["total_size"], 5 + 24 + 8);
    assert_eq!(index["weight_map"]["c"], "model-00002-of-00003.safetensors");
    let folder = brevity_formats::Folder::open(&out).unwrap();
    let names: Vec<&String> = shards().map(|(name, _)| name).collect();
    let opened = brevity_formats::SafetensorsFiles::open(&folder, &names).unwrap();
    for tensor in (0..4).flat_map(tensors) {
        let raw = brevity_formats::Container::raw(&opened, &tensor.spec.name).unwrap();
        assert_eq!((raw.dtype, raw.shape, raw.bytes), (tensor.spec.dtype, &tensor.spec.shape[..], &tensor.data[..]));
    }
}

#[test]
fn coded_weights_get_an_index_that_other_tools_do_not_look_for() {
    let dir = tempfile::tempdir().unwrap();
    let forms = TensorSpec::new("brevity.forms.blocks.0", "U8", [2]);
    let write = |specs: &[Vec<TensorSpec>], identity: &str, fresh: bool| {
        let mut output = Output::open(dir.path(), identity, specs, fresh).unwrap();
        let tensors = specs[0].iter().map(|spec| Tensor { spec: spec.clone(), data: b"[]".to_vec() });
        output.write(0, tensors.collect()).unwrap();
        output.finish(Vec::new()).unwrap();
        files(dir.path()).into_keys().filter(|name| name.ends_with(".json")).collect::<Vec<_>>()
    };
    let (coded, plain) = ([vec![forms]], [vec![TensorSpec::new("a", "U8", [2])]]);
    assert_eq!(write(&coded, "coded", false), [NATIVE_INDEX]);
    assert_eq!(write(&coded, "coded", false), [NATIVE_INDEX], "a finished run is known as ours");
    assert_eq!(write(&plain, "plain", true), [INDEX], "and the other index goes with it");
    assert_eq!(write(&coded, "coded", true), [NATIVE_INDEX]);
}

/// The files of a directory with their bytes.
type Files = BTreeMap<String, Vec<u8>>;

/// Every state that a run which is killed can leave behind, as the files that are there.
fn interrupted() -> (Vec<Files>, Files) {
    let dir = tempfile::tempdir().unwrap();
    let mut states = Vec::new();
    let mut output = open(dir.path()).unwrap();
    states.push(files(dir.path()));
    for stage in [0, 2, 3] {
        let before = files(dir.path());
        output.write(stage, tensors(stage)).unwrap();
        let after = files(dir.path());
        let shard = output.shard_file(stage).unwrap().to_owned();
        // Half of the shard is written; the shard is there, but the journal is still the old one.
        let mut half = before.clone();
        half.insert(format!(".{shard}.part"), after[&shard][..after[&shard].len() / 2].to_vec());
        states.push(half);
        let mut unrecorded = before;
        unrecorded.insert(shard.clone(), after[&shard].clone());
        unrecorded.insert(format!(".{JOURNAL}.part"), after[JOURNAL][..20].to_vec());
        states.push(unrecorded);
        states.push(after);
    }
    let shards = files(dir.path());
    output.finish(small()).unwrap();
    let done = files(dir.path());
    // The small files come one by one, each first in part, then the index, then the journal goes.
    let mut state = shards;
    let mut journal: serde_json::Value = serde_json::from_slice(&state[JOURNAL]).unwrap();
    journal["files"] = serde_json::json!(["config.json", "1_Pooling/config.json"]);
    state.insert(JOURNAL.into(), journal.to_string().into_bytes());
    states.push(state.clone());
    for (name, part) in [
        ("config.json", ".config.json.part".to_owned()),
        ("1_Pooling/config.json", "1_Pooling/.config.json.part".to_owned()),
        (INDEX, format!(".{INDEX}.part")),
    ] {
        let mut half = state.clone();
        half.insert(part, done[name][..1].to_vec());
        states.push(half);
        state.insert(name.into(), done[name].clone());
        states.push(state.clone());
    }
    states.push(done.clone());
    (states, done)
}

#[test]
fn a_run_killed_at_any_moment_is_finished_with_the_same_bytes() {
    let (states, done) = interrupted();
    assert_eq!(states.len(), 18);
    for (n, state) in states.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        restore(dir.path(), state);
        let recorded = match n {
            0..=2 => 0,
            3..=5 => 1,
            6..=8 => 2,
            _ => 3,
        };
        assert_eq!(run(dir.path()), [0, 2, 3][recorded..], "state {n}");
        assert_eq!(files(dir.path()), done, "state {n}");
    }
}

#[test]
fn a_run_killed_at_any_moment_can_be_replaced_by_another() {
    let (states, _) = interrupted();
    for (n, state) in states.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        restore(dir.path(), state);
        let other = [vec![TensorSpec::new("x", "U8", [1])]];
        assert!(matches!(fault(Output::open(dir.path(), "other", &other, false)), OutputFault::OtherRun), "state {n}");
        assert_eq!(&files(dir.path()), state, "nothing was touched");
        let mut output = Output::open(dir.path(), "other", &other, true).unwrap();
        assert_eq!(files(dir.path()).into_keys().collect::<Vec<_>>(), [JOURNAL], "state {n}");
        output.write(0, vec![Tensor { spec: other[0][0].clone(), data: vec![1] }]).unwrap();
        output.finish(vec![]).unwrap();
    }
}

#[test]
fn a_changed_shard_is_written_again() {
    let (states, done) = interrupted();
    for change in [|bytes: &mut Vec<u8>| bytes[100] ^= 1, |bytes: &mut Vec<u8>| bytes.truncate(50)] {
        let dir = tempfile::tempdir().unwrap();
        let mut state = states[9].clone();
        change(state.get_mut("model-00001-of-00003.safetensors").unwrap());
        restore(dir.path(), &state);
        assert_eq!(run(dir.path()), [0]);
        assert_eq!(files(dir.path()), done);
    }
}

#[test]
fn a_directory_with_other_files_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "all of it").unwrap();
    for fresh in [false, true] {
        let error = Output::open(dir.path(), "the run", &specs(), fresh).unwrap_err();
        assert!(error.to_string().contains("`thesis.tex`"), "{error}");
        assert!(error.hint().unwrap().contains("empty"));
    }
    assert_eq!(files(dir.path()).len(), 1);
    // Not even the work of an earlier run is removed if something else is beside it.
    let (states, _) = interrupted();
    restore(dir.path(), &states[5]);
    let before = files(dir.path());
    assert!(matches!(fault(Output::open(dir.path(), "other", &specs(), true)), OutputFault::NotEmpty { .. }));
    assert_eq!(files(dir.path()), before);
}

#[test]
fn places_where_nothing_can_be_written_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(fault(open(&file)), OutputFault::IsFile));
    assert!(matches!(fault(open(&file.join("below"))), OutputFault::Unwritable { .. }));
    #[cfg(target_os = "linux")]
    assert!(matches!(fault(open(Path::new("/proc/brevity/out"))), OutputFault::Unwritable { .. }));
}

#[test]
fn two_runs_do_not_write_to_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    assert!(matches!(fault(open(dir.path())), OutputFault::Busy));
    drop(first);
    open(dir.path()).unwrap();
}

#[test]
fn a_model_larger_than_the_disk_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let huge = [vec![TensorSpec::new("a", "F32", [1 << 30, 1 << 20])]];
    let error = Output::open(dir.path(), "the run", &huge, false).unwrap_err();
    assert!(
        matches!(error, Error::Output { fault: OutputFault::Full { needed, free: Some(_) }, .. } if needed > 1 << 52)
    );
    assert!(files(dir.path()).is_empty());
}

#[test]
fn a_damaged_journal_is_named_and_can_be_replaced_if_nothing_else_is_there() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(JOURNAL), "{\"identity\": ").unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(error.to_string().contains(JOURNAL), "{error}");
    assert!(error.hint().unwrap().contains("--fresh"));
    Output::open(dir.path(), "the run", &specs(), true).unwrap();
}

#[test]
fn what_was_not_announced_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = open(dir.path()).unwrap();
    let mut other_type = tensors(0);
    other_type[1].spec.dtype = "I32";
    let mut cut = tensors(0);
    cut[0].data.pop();
    let mut extra = tensors(0);
    extra.extend(tensors(2));
    let missing = tensors(0).split_off(1);
    for wrong in [other_type, cut, extra, missing, vec![]] {
        assert!(matches!(output.write(0, wrong), Err(Error::Output { fault: OutputFault::Drift { .. }, .. })));
    }
    assert!(matches!(output.write(1, tensors(2)), Err(Error::Output { fault: OutputFault::Drift { .. }, .. })));
    assert!(matches!(output.finish(small()), Err(Error::Output { fault: OutputFault::Unwritten, .. })));
    assert_eq!(files(dir.path()).into_keys().collect::<Vec<_>>(), [JOURNAL]);
    let twice = [specs()[0].clone(), specs()[0].clone()];
    let fresh = tempfile::tempdir().unwrap();
    assert!(matches!(fault(Output::open(fresh.path(), "x", &twice, false)), OutputFault::Twice { .. }));
}

#[test]
fn names_that_lead_out_of_the_directory_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["../config.json", "/tmp/config.json", ""] {
        let out = dir.path().join("out");
        let output = Output::open(&out, "none", &[], false).unwrap();
        let result = output.finish(vec![(name.into(), vec![])]);
        assert!(matches!(result, Err(Error::Output { fault: OutputFault::Outside, .. })), "{name}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
