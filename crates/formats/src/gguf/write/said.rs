//! Whether a GGUF file says what the model is: read back from the header alone, it must be the same tree.
//!
//! Files say much by the name of their architecture (which layers have a window, how scores are scaled, which
//! nonlinearity there is). A model that differs there would be written without a word and compute something else. So
//! the configuration and the tensors that a reader will find are made into a model, and held against the one that is
//! being written.

use std::collections::BTreeMap;
use std::convert::Infallible;

use brevity_model::{Block, Config, Dtype, Form, Heads, Model, Reach, Rope, Source, Stage, Tensors, build};

use super::super::config::{self, Facts};
use super::super::names::{self, Change};
use super::architecture::Shape;
use super::fault::GgufFault;
use super::keys::Keys;
use super::tensors::{Data, Planned};
use crate::error::Error;

/// Two numbers that differ by less are one.
const SAME: f32 = 2e-5;

/// Checks that a file with these keys and tensors is the model.
///
/// # Errors
/// [`GgufFault::Differs`] or [`GgufFault::Unreadable`] if it is not.
pub fn check(model: &Model<Source>, shape: &Shape<'_>, keys: &Keys, tensors: &[Planned]) -> Result<(), GgufFault> {
    let unreadable = |source| GgufFault::Unreadable { source: Box::new(source) };
    let back = read_back(shape, keys, tensors).map_err(unreadable)?;
    let stages = model.stages.iter().filter(|stage| !matches!(stage, Stage::Loose(_)));
    for (n, (stage, back)) in stages.zip(&back.stages).enumerate() {
        if let Some(what) = difference(&shapes(stage), &shapes(back), shape.context) {
            return Err(GgufFault::Differs { place: model.place(n), what });
        }
    }
    Ok(())
}

/// The model that a reader makes of the file.
fn read_back(shape: &Shape<'_>, keys: &Keys, tensors: &[Planned]) -> Result<Model<Source>, Error> {
    let architecture = shape.architecture.name;
    let find = |name: &str| tensors.iter().find(|tensor| tensor.info.name == name);
    let values = |name: &str| match find(name).map(|tensor| &tensor.data) {
        Some(Data::Values(values)) => Some(values.clone()),
        _ => None,
    };
    let rows = |name: &str| find(name).map(|tensor| tensor.info.shape[0]);
    let long_short = values("rope_factors_long.weight").zip(values("rope_factors_short.weight"));
    let facts = Facts {
        vocabulary: rows("token_embd.weight").unwrap_or(0),
        types: rows("token_types.weight"),
        output: find("output.weight").is_some(),
        dtype: "float32",
        divisors: values("rope_freqs.weight"),
        long_short: long_short.map(|(long, short)| [long, short]),
    };
    let said = config::config(architecture, &keys.as_read(), &facts)?;
    let config = said.into_iter().fold(Config::default(), |mut config, (key, value)| {
        config.set(&key, value);
        config
    });
    let mut forms = BTreeMap::new();
    for tensor in tensors.iter().filter(|tensor| !matches!(tensor.data, Data::Values(_))) {
        forms.extend(in_checkpoint(architecture, &tensor.info.name, &tensor.info.shape));
    }
    // A block without attention is read as if it had that of another; it is not compared.
    let donor = shape.blocks.iter().position(|block| block.attn.is_some()).unwrap_or(0);
    for n in (0..shape.blocks.len()).filter(|&n| shape.blocks[n].attn.is_none()) {
        let prefix = format!("blk.{donor}.attn_");
        for tensor in tensors.iter().filter(|tensor| tensor.info.name.starts_with(&prefix)) {
            let name = tensor.info.name.replacen(&prefix, &format!("blk.{n}.attn_"), 1);
            forms.extend(in_checkpoint(architecture, &name, &tensor.info.shape));
        }
    }
    build(&config, &Forms(forms)).map_err(|fault| Error::Model { file: "the file to be written".into(), fault })
}

/// The name and the form of a tensor in a checkpoint.
fn in_checkpoint(architecture: &str, name: &str, shape: &[usize]) -> Option<(String, Form)> {
    let (name, change) = names::in_checkpoint(architecture, name, &|_| (1, 1))?;
    let stored = match *shape {
        [n] => [1, n],
        [rows, columns] if change == Change::Transposed => [columns, rows],
        [rows, columns] => [rows, columns],
        _ => return None,
    };
    Some((name, Form::float(stored, Dtype::F32)))
}

/// Tensors of which only the forms are known.
struct Forms(BTreeMap<String, Form>);

impl Tensors for Forms {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn form(&self, name: &str) -> Option<Form> {
        self.0.get(name).cloned()
    }
}

fn shapes(stage: &Stage<Source>) -> Stage<[usize; 2]> {
    let shape = |_, _, source: &Source| Ok::<_, Infallible>(source.form.shape());
    stage.try_map(shape).unwrap_or_else(|never| match never {})
}

/// What is different between a stage and what a reader takes it for, on inputs of up to so many tokens.
fn difference(stage: &Stage<[usize; 2]>, back: &Stage<[usize; 2]>, context: usize) -> Option<&'static str> {
    let (Stage::Block(block), Stage::Block(back)) = (stage, back) else {
        return (stage != back).then_some("what it is made of");
    };
    if let (Some(attn), Some(read)) = (&block.attn, &back.attn)
        && let Some(what) = heads_differ(&attn.heads, &read.heads, context)
    {
        return Some(what);
    }
    // Heads are compared; what a block lacks is not.
    let mut read: Block<[usize; 2]> = back.clone();
    match (&block.attn, &mut read.attn) {
        (Some(attn), Some(read)) => read.heads = attn.heads.clone(),
        (None, read) => *read = None,
        _ => {}
    }
    if block.mlp.is_none() {
        read.mlp = None;
    }
    match () {
        () if block.parallel != read.parallel => Some("the order of attention and MLP"),
        () if block.attn != read.attn => Some("a norm, a bias or a shape of attention"),
        () if block.mlp.as_ref().map(|mlp| mlp.act) != read.mlp.as_ref().map(|mlp| mlp.act) => Some("the nonlinearity"),
        () if block.mlp != read.mlp => Some("a norm, a bias or a shape of the MLP"),
        () => None,
    }
}

fn heads_differ(heads: &Heads, read: &Heads, context: usize) -> Option<&'static str> {
    let close = |a: f32, b: f32| (a - b).abs() <= SAME * a.abs().max(b.abs());
    let all_close = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(*a, *b));
    let same_rope = |a: &Rope, b: &Rope| {
        let long = match (&a.long, &b.long) {
            (None, None) => true,
            (Some(a), Some(b)) => a.beyond == b.beyond && all_close(&a.inv_freq, &b.inv_freq),
            _ => false,
        };
        long && a.style == b.style && close(a.amplitude, b.amplitude) && all_close(&a.inv_freq, &b.inv_freq)
    };
    let reach = |heads: &Heads| match heads.reach {
        Reach::Window(n) if n >= context => Reach::Causal,
        reach => reach,
    };
    let same_cap = match (heads.softcap, read.softcap) {
        (None, None) => true,
        (Some(a), Some(b)) => close(a, b),
        _ => false,
    };
    let turned = match (&heads.rope, &read.rope) {
        (None, None) => true,
        (Some(a), Some(b)) => same_rope(a, b),
        _ => false,
    };
    match () {
        () if heads.kv_of != read.kv_of || heads.qk_dim != read.qk_dim || heads.v_dim != read.v_dim => {
            Some("the number or width of heads")
        }
        () if !turned => Some("the rotary frequencies"),
        () if reach(heads) != reach(read) => Some("the reach of attention"),
        () if !close(heads.scale, read.scale) => Some("the scale of scores"),
        () if !same_cap => Some("the cap of scores"),
        () => None,
    }
}
