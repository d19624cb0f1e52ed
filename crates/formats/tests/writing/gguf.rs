//! GGUF files: every architecture and every type, read back; blocks of their own shapes; what cannot be said.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::Cursor;
use std::path::Path;

use brevity_formats::{Checkpoint, Error, Gguf, GgufAbout, GgufExport, GgufFault, GgufNote, GgufType};
use brevity_model::{
    Activation, Attention, Block, Dtype, Embed, Expr, Floats, Head, Heads, Leaf, Linear, Mlp, Model, Norm, NormKind,
    Reach, Role, Rope, RopeStyle, Slot, Source, Stage, View, Weight,
};
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, IndexOp};
use serde_json::{Value, json};

use crate::architectures::{checkpoint, golden};
use crate::battery::load;
use crate::common::{Tensor, numbers, safetensors};
use crate::models::{kinds, llama, rewritten};

fn plan(checkpoint: &Checkpoint, kind: GgufType) -> Result<GgufExport, Error> {
    let about = GgufAbout { name: "toy", config: checkpoint.config(), files: &[] };
    GgufExport::plan(checkpoint.model(), &about, kind)
}

fn write(export: &GgufExport, path: &Path, stages: &[Stage<Weight>]) -> Result<(), Error> {
    export.write(path, false, |n| Ok::<_, Error>(stages[n].clone()), |_| Ok(()))
}

/// Writes a model and opens the file.
fn through(checkpoint: &Checkpoint, stages: &[Stage<Weight>], kind: GgufType, dir: &Path) -> Checkpoint {
    let export = plan(checkpoint, kind).unwrap();
    let path = dir.join(format!("{kind}.gguf"));
    write(&export, &path, stages).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), export.size_bytes(), "the size was known before");
    Checkpoint::open(&path).unwrap()
}

/// Root of the mean squared difference, in root mean squares of what was wanted.
fn relative_error(got: &[f32], wanted: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let difference = squares(&mut got.iter().zip(wanted).map(|(a, b)| f64::from(a - b)));
    (difference / squares(&mut wanted.iter().map(|x| f64::from(*x))).max(1e-30)).sqrt()
}

/// The largest error that a type may make of numbers that are evenly spread.
fn allowed(kind: GgufType) -> f64 {
    match kind {
        GgufType::F32 => 0.0,
        GgufType::F16 => 3e-4,
        GgufType::Bf16 => 3e-3,
        GgufType::Q8_0 => 6e-3,
        GgufType::Q4_0 => 0.11,
        GgufType::Q4K => 0.08,
    }
}

fn compare(name: &str, kind: GgufType, got: &[Stage<Weight>], wanted: &[Stage<Weight>]) {
    for (got, wanted) in got.iter().zip(wanted) {
        for ((role, slot, got), (_, _, wanted)) in got.weights().into_iter().zip(wanted.weights()) {
            assert_eq!(got.shape(), wanted.shape(), "{name} {kind}: {role}");
            let error = relative_error(&got.to_f32(), &wanted.to_f32());
            let vector = wanted.shape()[0] == 1 || matches!(role, Role::Positions | Role::Types) || slot == Slot::Bias;
            let limit = if vector { 1e-6 } else { allowed(kind) };
            assert!(error <= limit, "{name} {kind}: {role} is off by {error}");
        }
    }
}

/// What a model is, without where its weights are.
fn meaning(model: &Model<Source>) -> Vec<Stage<[usize; 2]>> {
    let shape = |_, _, source: &Source| Ok::<_, Infallible>(source.form.shape());
    let stages = model.stages.iter().filter(|stage| !matches!(stage, Stage::Loose(_)));
    stages.map(|stage| stage.try_map(shape).unwrap_or_else(|never| match never {})).collect()
}

/// The models that no file can hold, and why.
const REFUSED: &str = "\
distilbert: no GGUF architecture is known for models of the kind `distilbert`\n\
gemma2: read back, the scale of scores of `blocks.0` would not be what the model has\n\
gemma3: read back, the rotary frequencies of `blocks.0` would not be what the model has\n\
gpt_neo: no GGUF architecture is known for models of the kind `gpt_neo`\n\
gpt_neo-old-keys: no GGUF architecture is known for models of the kind `gpt_neo`\n\
gpt_neox: no GGUF architecture is known for models of the kind `gpt_neox`\n\
gpt_neox-sequential-old-keys: no GGUF architecture is known for models of the kind `gpt_neox`\n\
modernbert: no GGUF architecture is known for models of the kind `modernbert`\n\
modernbert-biases: no GGUF architecture is known for models of the kind `modernbert`\n\
modernbert-old-keys: no GGUF architecture is known for models of the kind `modernbert`\n\
mpnet: no GGUF architecture is known for models of the kind `mpnet`\n\
nomic_bert: no GGUF architecture is known for models of the kind `nomic_bert`\n\
nomic_bert-old-keys: no GGUF architecture is known for models of the kind `nomic_bert`\n\
olmo2: no GGUF architecture is known for models of the kind `olmo2`\n\
opt: no GGUF architecture is known for models of the kind `opt`\n\
opt-projected-norm-after: no GGUF architecture is known for models of the kind `opt`\n\
roberta: no GGUF architecture is known for models of the kind `roberta`\n\
roberta-camembert: no GGUF architecture is known for models of the kind `roberta`\n\
roberta-masked-lm: no GGUF architecture is known for models of the kind `roberta`\n\
roberta-xlm: no GGUF architecture is known for models of the kind `roberta`\n\
smollm3: no GGUF architecture is known for models of the kind `smollm3`\n\
smollm3-window: no GGUF architecture is known for models of the kind `smollm3`";

#[test]
fn every_architecture_reads_back_from_every_type() {
    let mut refused = BTreeMap::new();
    let mut written = BTreeSet::new();
    for (name, mut golden) in golden() {
        if name == "gemma3-old-keys" {
            // What files of this architecture cannot say otherwise.
            golden["config"]["sliding_window_pattern"] = json!(6);
            golden["config"]["rope_local_base_freq"] = json!(1e4);
        }
        if name == "llama-scaled-llama3" {
            // Files have the divisors alone, and our reader finds the rule again for contexts that there are.
            golden["config"]["rope_parameters"]["original_max_position_embeddings"] = json!(8192);
            golden["config"]["rope_parameters"]["rope_theta"] = json!(500000.0);
        }
        let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = checkpoint(dir.path(), &golden);
        let stages = load(&source);
        for kind in GgufType::ALL {
            let export = match plan(&source, kind) {
                Ok(export) => export,
                Err(Error::Gguf { fault }) => {
                    refused.insert(name.clone(), fault.to_string());
                    break;
                }
                Err(other) => panic!("{name}: {other}"),
            };
            written.insert(export.architecture());
            let read = through(&source, &stages, kind, out.path());
            compare(&name, kind, &load(&read), &stages);
            if export.notes().iter().all(|note| !matches!(note, GgufNote::Window { .. })) {
                let (got, wanted) = (meaning(read.model()), meaning(source.model()));
                assert_eq!(got.len(), wanted.len(), "{name}");
                for (got, wanted) in got.iter().zip(&wanted) {
                    let (got, wanted) = (format!("{got:?}"), format!("{wanted:?}"));
                    // Frequencies may differ in the last bit where a rule is found again from its result.
                    assert!(
                        got == wanted || name.contains("scaled") || name.contains("long"),
                        "{name}: {got}\n{wanted}"
                    );
                }
            }
        }
    }
    assert_eq!(
        written.into_iter().collect::<Vec<_>>(),
        ["bert", "gemma2", "gemma3", "gpt2", "llama", "phi3", "qwen2", "qwen3"]
    );
    let refused: Vec<String> = refused.into_iter().map(|(name, why)| format!("{name}: {why}")).collect();
    assert_eq!(refused.join("\n"), REFUSED);
}

#[test]
fn weights_of_every_kind_are_decoded_and_multiplied_out() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = llama(dir.path());
    let count = kinds([16, 16]).len();
    for first in 0..count {
        let stages: Vec<_> = load(&source).iter().map(|stage| rewritten(stage, |n| (first + n) % count)).collect();
        let path = out.path().join(format!("{first}.gguf"));
        write(&plan(&source, GgufType::F32).unwrap(), &path, &stages).unwrap();
        compare("llama", GgufType::F32, &load(&Checkpoint::open(&path).unwrap()), &stages);
    }
}

/// A llama 256 wide, whose blocks have heads and channels as given: query heads, key heads, channels of the MLP. No
/// heads is no attention, no channels no MLP.
fn uneven(blocks: &[[usize; 3]]) -> (Model<Source>, Vec<Stage<Weight>>) {
    const HIDDEN: usize = 256;
    const WIDTH: usize = 32;
    let mut seed = 0;
    let mut weight = |shape: [usize; 2]| {
        seed += 1;
        Weight::float(shape, Floats::F32(numbers(shape[0] * shape[1], seed)))
    };
    let mut stages = vec![Stage::Embed(Embed {
        tokens: Linear { weight: weight([96, HIDDEN]), bias: None },
        positions: None,
        position_offset: 0,
        types: None,
        relative: None,
        project: None,
        norm: None,
        scale: 1.0,
    })];
    for &[heads, kv, ffn] in blocks {
        let mut linear = |rows, columns| Linear { weight: weight([rows, columns]), bias: None };
        let projections =
            [(heads * WIDTH, HIDDEN), (kv * WIDTH, HIDDEN), (kv * WIDTH, HIDDEN), (HIDDEN, heads * WIDTH)];
        let [q, k, v, o] = projections.map(|(rows, columns)| linear(rows, columns));
        let [gate, up, down] =
            [(ffn, HIDDEN), (ffn, HIDDEN), (HIDDEN, ffn)].map(|(rows, columns)| linear(rows, columns));
        let mut norm = || Some(Norm { gain: weight([1, HIDDEN]), bias: None, kind: NormKind::Rms, eps: 1e-5 });
        let inv_freq = (0..WIDTH / 2).map(|i| 1e4f64.powf(-(i as f64) * 2.0 / WIDTH as f64) as f32).collect();
        let attn = (heads > 0).then(|| Attention {
            before: norm(),
            q,
            k,
            v,
            o,
            q_norm: None,
            k_norm: None,
            after: None,
            sum: None,
            relative: None,
            shortcut: None,
            heads: Heads {
                kv_of: (0..heads).map(|head| (head * kv / heads) as u16).collect(),
                qk_dim: WIDTH,
                v_dim: WIDTH,
                scale: (WIDTH as f32).powf(-0.5),
                rope: Some(Rope { inv_freq, style: RopeStyle::Half, amplitude: 1.0, long: None, pairs: None }),
                reach: Reach::Causal,
                softcap: None,
                relative: None,
            },
        });
        let mlp = (ffn > 0).then(|| Mlp {
            before: norm(),
            gate: Some(gate),
            up,
            down,
            act: Activation::Silu,
            after: None,
            sum: None,
            shortcut: None,
        });
        stages.push(Stage::Block(Block { attn, mlp, parallel: false }));
    }
    stages.push(Stage::Head(Head {
        norm: Some(Norm { gain: weight([1, HIDDEN]), bias: None, kind: NormKind::Rms, eps: 1e-5 }),
        project: None,
        out: None,
        logits: true,
        softcap: None,
    }));
    let sources = stages.iter().map(|stage| {
        let source = |role: Role, _, weight: &Weight| {
            let form = brevity_model::Form::of(weight);
            Ok::<_, Infallible>(Source { tensor: role.to_string(), form, view: View::whole() })
        };
        stage.try_map(source).unwrap_or_else(|never| match never {})
    });
    let model = Model {
        name: "llama".into(),
        hidden: HIDDEN,
        vocabulary: 96,
        context: Some(64),
        block_name: None,
        stages: sources.collect(),
    };
    (model, stages)
}

fn plan_of(model: &Model<Source>, kind: GgufType) -> Result<GgufExport, Error> {
    let config = brevity_model::Config::default();
    GgufExport::plan(model, &GgufAbout { name: "uneven", config: &config, files: &[] }, kind)
}

#[test]
fn blocks_of_their_own_shapes_make_a_deci() {
    let dir = tempfile::tempdir().unwrap();
    let (model, stages) = uneven(&[[8, 4, 512], [4, 2, 256], [8, 8, 768]]);
    for kind in GgufType::ALL {
        let export = plan_of(&model, kind).unwrap();
        assert_eq!(export.architecture(), "deci");
        assert!(export.notes().contains(&GgufNote::Uneven));
        let path = dir.path().join(format!("{kind}.gguf"));
        write(&export, &path, &stages).unwrap();
        let read = Checkpoint::open(&path).unwrap();
        compare("deci", kind, &load(&read), &stages);
        assert_eq!(meaning(read.model()), meaning(&model));
    }
    let (even, _) = uneven(&[[8, 4, 512], [8, 4, 512]]);
    assert_eq!(plan_of(&even, GgufType::F16).unwrap().architecture(), "llama");
}

#[test]
fn a_block_without_attention_has_no_heads_and_one_without_an_mlp_has_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let (model, stages) = uneven(&[[8, 4, 512], [0, 0, 256], [8, 4, 0]]);
    let export = plan_of(&model, GgufType::Q8_0).unwrap();
    assert!(export.notes().contains(&GgufNote::ZeroMlp { blocks: 1 }));
    let path = dir.path().join("m.gguf");
    write(&export, &path, &stages).unwrap();
    let mut bytes = Cursor::new(std::fs::read(&path).unwrap());
    let content = Content::read(&mut bytes).unwrap();
    let list = |key: &str| -> Vec<i32> {
        content.metadata[key].to_vec().unwrap().iter().map(|n| n.to_i32().unwrap()).collect()
    };
    assert_eq!(list("deci.attention.head_count"), [8, 0, 8]);
    assert_eq!(list("deci.attention.head_count_kv"), [4, 0, 4]);
    assert_eq!(list("deci.feed_forward_length"), [512, 256, 32]);
    assert!(!content.tensor_infos.keys().any(|name| name.starts_with("blk.1.attn")));
    for (name, value) in [("ffn_gate", 0.0), ("ffn_up", 0.0), ("ffn_down", 0.0), ("ffn_norm", 1.0)] {
        let tensor = content.tensor(&mut bytes, &format!("blk.2.{name}.weight"), &Device::Cpu).unwrap();
        let values = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(values.iter().all(|&x| x == value), "{name}");
    }
}

#[test]
fn candle_reads_quantized_files_and_finds_the_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let (model, stages) = uneven(&[[8, 4, 512]; 8]);
    for (kind, types) in [
        (GgufType::Q8_0, "57 Q8_0"),
        (GgufType::Q4_0, "56 Q4_0, 1 Q6_K"),
        // Of eight blocks the first, the last, and each third between: 0, 3, 6, 7.
        (GgufType::Q4K, "48 Q4_K, 9 Q6_K"),
    ] {
        let export = plan_of(&model, kind).unwrap();
        let counts: Vec<String> =
            export.types().iter().filter(|(name, _)| **name != "F32").map(|(name, n)| format!("{n} {name}")).collect();
        assert_eq!(counts.join(", "), types, "{kind}");
        let path = dir.path().join(format!("{kind}.gguf"));
        write(&export, &path, &stages).unwrap();
        let mut file = std::fs::File::open(&path).unwrap();
        let content = Content::read(&mut file).unwrap();
        assert_eq!(content.metadata["llama.feed_forward_length"].to_u32().unwrap(), 512);
        let Stage::Block(block) = &stages[1] else { panic!("a block") };
        let wanted = block.mlp.as_ref().unwrap().up.weight.to_f32();
        let up = content.tensor(&mut file, "blk.0.ffn_up.weight", &Device::Cpu).unwrap();
        let up = up.dequantize(&Device::Cpu).unwrap();
        assert_eq!(up.dims(), [512, 256]);
        let values = up.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(relative_error(&values, &wanted) < allowed(kind), "{kind}");
        // The rows of a query head that are rotated together stand side by side.
        let q =
            content.tensor(&mut file, "blk.0.attn_q.weight", &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap();
        let wanted = &block.attn.as_ref().unwrap().q.weight.to_f32()[16 * 256..17 * 256];
        let second: Vec<f32> = q.i(1).unwrap().to_vec1().unwrap();
        assert!(relative_error(&second, wanted) < 2.0 * allowed(kind), "{kind}");
    }
}

fn fault(model: &Model<Source>) -> GgufFault {
    match plan_of(model, GgufType::F16) {
        Err(Error::Gguf { fault }) => fault,
        other => panic!("{other:?}"),
    }
}

fn attention(model: &mut Model<Source>, block: usize) -> &mut Attention<Source> {
    match &mut model.stages[block + 1] {
        Stage::Block(Block { attn: Some(attn), .. }) => attn,
        _ => panic!("no attention"),
    }
}

#[test]
fn what_files_cannot_say_is_refused_before_anything_is_written() {
    let spoilt = |spoil: &dyn Fn(&mut Model<Source>)| {
        let (mut model, _) = uneven(&[[8, 4, 512], [8, 4, 512]]);
        spoil(&mut model);
        let fault = fault(&model);
        let error = Error::Gguf { fault };
        (error.to_string(), error.hint().unwrap())
    };
    for (spoil, said, hint) in [
        (
            (&|model: &mut Model<Source>| model.name = "opt".into()) as &dyn Fn(&mut Model<Source>),
            "no GGUF architecture is known for models of the kind `opt`",
            "--format dense",
        ),
        (
            &|model| attention(model, 1).heads.v_dim = 16,
            "the heads of `blocks.1` are 32 wide in queries and keys and 16 wide in values",
            "--format native",
        ),
        (
            &|model| attention(model, 1).heads.kv_of = vec![0, 0, 0, 1, 1, 2, 2, 3],
            "the query heads of `blocks.1` do not share its key heads evenly",
            "--format native",
        ),
        (
            &|model| attention(model, 1).heads.rope.as_mut().unwrap().inv_freq[3] *= 1.01,
            "the rotary frequencies of `blocks.1` would not be what the model has",
            "--format dense",
        ),
        (&|model| attention(model, 0).heads.scale = 1.0, "the scale of scores of `blocks.0`", "--format dense"),
        (&|model| attention(model, 1).heads.softcap = Some(50.0), "the cap of scores of `blocks.1`", "--format dense"),
        (
            &|model| attention(model, 1).before.as_mut().unwrap().eps = 1e-6,
            "a norm, a bias or a shape of attention of `blocks.1`",
            "--format dense",
        ),
        (
            &|model| {
                model.name = "qwen2".into();
                let Stage::Block(block) = &mut model.stages[2] else { panic!("a block") };
                block.mlp = None;
            },
            "`blocks.1` has no MLP, which files of the architecture `qwen2` must have",
            "--format native",
        ),
    ] {
        let (found, advice) = spoilt(spoil);
        assert!(found.contains(said), "{found}");
        assert!(advice.contains(hint), "{found}: {advice}");
    }
    let (mut model, _) = uneven(&[[8, 4, 512], [4, 4, 512]]);
    model.name = "qwen2".into();
    assert!(matches!(fault(&model), GgufFault::Uneven { what: "query heads", found: 4, wanted: 8, .. }));
    assert!(matches!(fault(&uneven(&[[0, 0, 512], [8, 4, 512]]).0), GgufFault::FirstBlock));
    assert!(matches!(fault(&uneven(&[[0, 0, 512]]).0), GgufFault::NoneLeft { part: "attention" }));
}

#[test]
fn a_window_that_files_cannot_say_bounds_the_length_of_inputs() {
    let golden = golden().into_iter().find(|(name, _)| name == "mistral").unwrap().1;
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = checkpoint(dir.path(), &golden);
    let export = plan(&source, GgufType::F16).unwrap();
    assert!(export.notes().contains(&GgufNote::Window { window: 5 }));
    let read = through(&source, &load(&source), GgufType::F16, out.path());
    assert_eq!(read.model().context, Some(5));
}

#[test]
fn a_failed_export_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (model, stages) = uneven(&[[8, 4, 512], [8, 4, 512]]);
    let export = plan_of(&model, GgufType::Q8_0).unwrap();
    let path = dir.path().join("m.gguf");
    let left = || std::fs::read_dir(dir.path()).unwrap().count();
    let broken = |n: usize| match n {
        2 => Err(Error::NoTensor { tensor: "lost".into() }),
        n => Ok(stages[n].clone()),
    };
    let error = export.write(&path, false, broken, |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::NoTensor { .. }));
    assert_eq!(left(), 0, "a weight could not be read");
    let stop = |done: usize| if done == 2 { Err(Error::NoTensor { tensor: "stopped".into() }) } else { Ok(()) };
    assert!(export.write(&path, false, |n| Ok(stages[n].clone()), stop).is_err());
    assert_eq!(left(), 0, "stopped by the user");
    // Half precision ends at 65504.
    let mut large = stages.clone();
    if let Stage::Block(Block { mlp: Some(mlp), .. }) = &mut large[1]
        && let Expr::Leaf(Leaf { code: brevity_model::Code::Float(Floats::F32(values)), .. }) = &mut mlp.up.weight
    {
        values[7] = -7e4;
    }
    let error = write(&export, &path, &large).unwrap_err();
    assert!(error.to_string().contains("`blocks.0.mlp.up` holds -7e4"), "{error}");
    assert!(error.hint().unwrap().contains("--type bf16"));
    assert_eq!(left(), 0, "a value is too large");
    write(&plan_of(&model, GgufType::Bf16).unwrap(), &path, &large).unwrap();
    // What is there is kept, unless it is to be replaced.
    let error = write(&export, &path, &stages).unwrap_err();
    assert!(error.to_string().contains("there is such a file already"), "{error}");
    export.write(&path, true, |n| Ok::<_, Error>(stages[n].clone()), |_| Ok(())).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), export.size_bytes());
    assert_eq!(left(), 1);
}

/// What a file says of a llama of one block.
const KEYS: &str = "\
general.architecture = llama\n\
general.type = model\n\
general.name = uneven\n\
general.file_type = 15\n\
general.quantization_version = 2\n\
llama.context_length = 64\n\
llama.embedding_length = 256\n\
llama.block_count = 1\n\
llama.attention.head_count = 8\n\
llama.attention.head_count_kv = 4\n\
llama.feed_forward_length = 512\n\
llama.vocab_size = 96\n\
llama.attention.key_length = 32\n\
llama.attention.value_length = 32\n\
llama.attention.layer_norm_rms_epsilon = 0.00001\n\
llama.rope.dimension_count = 32\n\
llama.rope.freq_base = 10000\n\
tokenizer.ggml.model = no_vocab";

#[test]
fn the_header_of_a_tiny_model_names_its_keys_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (model, stages) = uneven(&[[8, 4, 512]]);
    let path = dir.path().join("m.gguf");
    write(&plan_of(&model, GgufType::Q4K).unwrap(), &path, &stages).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(&bytes[..8], b"GGUF\x03\0\0\0");
    // Eleven tensors: tokens, nine of the block, the last norm.
    assert_eq!((number(8), number(16)), (11, 19));
    let mut at = 24;
    let mut keys = Vec::new();
    for _ in 0..number(16) {
        let key = &bytes[at + 8..][..number(at) as usize];
        at += 8 + key.len();
        let id = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        at += 4;
        let value = match id {
            4 => u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).to_string(),
            6 => f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).to_string(),
            8 => String::from_utf8(bytes[at + 8..][..number(at) as usize].to_vec()).unwrap(),
            other => panic!("type {other}"),
        };
        at += if id == 8 { 8 + value.len() } else { 4 };
        keys.push(format!("{} = {value}", std::str::from_utf8(key).unwrap()));
    }
    keys.retain(|key| !key.starts_with("general.quantized_by = brevity "));
    assert_eq!(keys.join("\n"), KEYS);
    let gguf = Gguf::open(&path, brevity_formats::Bytes::map(&path).unwrap()).unwrap();
    assert_eq!(gguf.architecture(), "llama");
}

#[test]
fn tensors_that_no_description_claims_are_left_out_and_told() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = llama(dir.path());
    let export = plan(&source, GgufType::F16).unwrap();
    let example = "extra.weight".to_owned();
    assert!(export.notes().contains(&GgufNote::LeftOut { tensors: 2, example }), "{:?}", export.notes());
    let read = through(&source, &load(&source), GgufType::Bf16, out.path());
    // Bfloat16 comes back bit for bit.
    for (got, wanted) in load(&read).iter().zip(load(&source)) {
        for ((_, _, got), (_, _, wanted)) in got.weights().into_iter().zip(wanted.weights()) {
            assert_eq!(got.to_f32(), wanted.to_f32());
        }
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (model, stages) = uneven(&[[8, 4, 512], [4, 2, 256]]);
    let export = plan_of(&model, GgufType::Q4K).unwrap();
    let files = [1, 2, 5].map(|threads| {
        let path = dir.path().join(format!("{threads}.gguf"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| write(&export, &path, &stages)).unwrap();
        std::fs::read(path).unwrap()
    });
    assert!(files[0] == files[1] && files[1] == files[2]);
}

#[test]
fn halves_come_back_bit_for_bit() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config: Value = crate::common::llama_config();
    let tensors: Vec<Tensor> = crate::common::llama_tensors()
        .into_iter()
        .map(|(name, _, shape, bytes)| {
            let halves = bytes
                .chunks(4)
                .flat_map(|b| half::f16::from_f32(f32::from_le_bytes(b.try_into().unwrap())).to_le_bytes());
            (name, "F16", shape, halves.collect())
        })
        .collect();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), safetensors(&tensors)).unwrap();
    let source = Checkpoint::open(dir.path()).unwrap();
    let read = through(&source, &load(&source), GgufType::F16, out.path());
    let dtype = |checkpoint: &Checkpoint| {
        let (_, _, source) = checkpoint.model().weights().next().unwrap();
        source.form.as_leaf().map(|leaf| leaf.code.clone())
    };
    assert_eq!(dtype(&read), Some(brevity_model::CodeForm::Float(Dtype::F16)));
    for (got, wanted) in load(&read).iter().zip(load(&source)) {
        for ((_, _, got), (_, _, wanted)) in got.weights().into_iter().zip(wanted.weights()) {
            assert_eq!(got.to_f32(), wanted.to_f32());
        }
    }
}
