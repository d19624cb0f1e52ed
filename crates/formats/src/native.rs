//! Our own layout: every expression, code and mask as it is, in safetensors files.
//!
//! # Files
//!
//! The files are those of any other directory: shards, an index, `config.json`. The latter is the configuration of the
//! source with the key `"brevity": {"layout": "native", "version": 1}`. The index is `brevity.safetensors.index.json`, so
//! that a tool which does not know the layout finds no weights, rather than taking random ones for those it misses.
//!
//! # Plain tensors
//!
//! A tensor of the source whose weights are all floats of the type it had there, without masks, is stored as it was:
//! same name, same type, same shape. So is a bias that is new, unless it would be a part of a tensor whose other parts are
//! not there, and so are tensors that are no weights. Where that is all there is, the directory is an
//! ordinary one, with the ordinary `model.safetensors.index.json`.
//!
//! # Coded weights
//!
//! Any other weight is stored under a name of its own, `P`: its site and slot (`blocks.0.attn.q.weight`), or, for a
//! loose weight, the name of its tensor. A reader finds them in the forms: for each stage with coded weights a tensor
//! `brevity.forms.STAGE` (`brevity.forms.blocks.0`), U8, whose bytes are a JSON list with one object for each weight:
//!
//! | key | value |
//! |---|---|
//! | `site`, `bias` | where it stands in the model; `"bias": true` if it is the bias there, absent for the weight |
//! | `tensor` | the tensor of the source that it was (a part of) |
//! | `transposed`, `rows` | which part: whether the tensor holds `[in, out]`, and the rows `[[start, end], …]` after turning; absent for `false` and for all rows |
//! | `form` | the expression: `{"leaf": LEAF}`, `{"product": [A, B]}`, `{"sum": [A, B]}` or `{"train": TRAIN}` |
//!
//! `LEAF` is `{"shape": [rows, columns], "code": CODE, "mask": {"free": SHARE}}`; `mask` is absent if nothing was
//! removed, and `SHARE` is the removed share `1 - kept / (rows * columns)` as a double. `CODE` is one of
//!
//! ```json
//! {"float": "bf16"}                                      (f32, f16, bf16, f8e4m3)
//! {"grid": {"bits": 3, "group": {"columns": 64}, "scale_dtype": "f16", "zeros": true, "levels": 8}}
//!                                                        (group also "tensor", "channel"; levels absent if uniform)
//! {"codebook": {"dim": 8, "entries": [256, 256], "dtype": "f16"}}
//! "diagonal"   "permutation"   "hadamard"
//! ```
//!
//! `TRAIN` is a matrix as a chain of cores:
//!
//! ```json
//! {"shape": [out, in], "rows": [I_1, …, I_K], "columns": [J_1, …, J_K], "cores": [C_1, …, C_K]}
//! ```
//!
//! Core `k` is an expression of shape `[B_{k-1} I_k, J_k B_k]` with `B_0 = B_K = 1`. Entry `(i, j)` of the matrix, with
//! `i` in digits `i_1 … i_K` and `j` in digits `j_1 … j_K`, the most significant first, is the sum over all bonds
//! `b_1 … b_{K-1}` of the product over `k` of the core's entry `(b_{k-1} I_k + i_k, j_k B_k + b_k)`. The digits may reach
//! further than `shape`; nothing is there.
//!
//! # Leaves
//!
//! The tensors of a leaf are called `Q.codes` and so on, where `Q` is `P` for a lone leaf and `P.PATH` in an expression:
//! `PATH` is the way from the root, `0` for the first and `1` for the second operand, the number of the core, from `0` on,
//! in a train, with dots between levels (`blocks.0.attn.q.weight.1.0.codes`). Everything is row-major and little-endian. A *stream* of `b`-bit codes is U8
//! `[ceil(n b / 8)]`: code `i` has bits `i b .. (i + 1) b` of the string of bits in which bit `k` is bit `k % 8` of byte
//! `k / 8`; the last bits are zero.
//!
//! | code | tensors |
//! |---|---|
//! | float | `values`, of its type, `[rows, columns]` |
//! | grid | `codes`, a stream of `bits`; `scales` `[r, c]` of type `scale_dtype`; `zeros`, a stream of `bits`; `levels` F32. With groups of `g` columns `[r, c]` is `[rows, ceil(columns / g)]`, else `[rows, 1]` or `[1, 1]`. A code `q` is `scale * (q - zero)`, without zero points `scale * (q - 2^(bits-1))`, with levels `scale * levels[q]` |
//! | codebook | for each book `n`: `codes.n`, a stream of `ceil(log2(entries))` bits, at least one, with a code for each run of `dim` columns, and `books.n` `[entries, dim]`; `scales` `[rows]`. A run is the sum of its entries times the scale of its row |
//! | diagonal | `diagonal` F32 `[n]` |
//! | permutation | `permutation` U32 `[n]`: output `i` is input `p[i]` |
//! | hadamard | none: entry `(i, j)` is `n^(-1/2)`, negative if `i & j` has an odd number of ones |
//!
//! # Masks
//!
//! A mask that is stored is `mask`, U8 `[ceil(rows columns / 8)]`: bit `i % 8` of byte `i / 8` is set if entry `i` is
//! kept. Floats and grids then have `values` or `codes` of the kept entries only, in order (`values` is `[kept]`); other
//! codes keep all theirs.
//!
//! A bitmap costs a bit for each entry, so it pays only if enough is removed: floats and uniform grids are stored in
//! this way exactly if bitmap and kept entries take fewer bytes together than all entries, which is when more than one
//! entry in `b` is removed, where `b` is the bits of an entry. Otherwise there is no `mask` tensor, removed entries are
//! stored as zero (the code of the zero point, or middle), and a reader takes the entries that are zero for removed.
//! All other codes always have the bitmap.

mod leaf;
mod read;
mod stream;
mod write;

use brevity_model::{CodeForm, Config, Expr, Form, Model, Role, STRUCTURE, Site, Slot, Source, Stage, View, Weight};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use self::read::{NativeFiles, open};
use crate::dense::{self, Dense, dense_dtype};
use crate::error::Error;
use crate::format::{Format, Opens, any_config, forms, is_reshaped};
use crate::gather::{Frame, Part, StageView, Whole, carry_others, others, wholes};
use crate::tensor::{Tensor, TensorSpec};

/// The version of the layout that is written, and the newest that is read.
const VERSION: u64 = 1;

/// Names of the tensors with forms begin with this.
pub(crate) const FORMS: &str = "brevity.forms.";

/// Our own layout.
#[derive(Clone, Copy, Debug)]
pub struct Native;

/// One coded weight, as the tensor with the forms describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    site: Site,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    bias: bool,
    tensor: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    transposed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rows: Option<Vec<[usize; 2]>>,
    form: Form,
}

impl Record {
    /// The record of a part. Parts of a tensor that have other rows than in the source lie there one above the other, or,
    /// where they lay in turns, are tensors of their own.
    fn of(whole: &Whole<'_, Form>, part: &Part<'_, Form>, view: Option<&View>) -> Self {
        let alone = whole.is_reshaped(Form::shape) && part.view.rows.is_some() && view.is_none();
        let rows = view.unwrap_or(&part.view).rows.as_ref().filter(|_| !alone);
        Record {
            site: part.site.clone(),
            bias: part.slot == Slot::Bias,
            tensor: if alone { part.site.tensor(part.slot) } else { whole.tensor.clone() },
            transposed: part.view.transposed,
            rows: rows.map(|rows| rows.iter().map(|range| [range.start, range.end]).collect()),
            form: write::counted(part.item),
        }
    }

    /// The records of all parts of a tensor.
    fn all(whole: &Whole<'_, Form>) -> Vec<Record> {
        let views = if whole.is_reshaped(Form::shape) { whole.relaid(Form::shape) } else { None };
        let view = |n: usize| views.as_ref().map(|views| &views[n]);
        whole.parts.iter().enumerate().map(|(n, part)| Record::of(whole, part, view(n))).collect()
    }

    fn slot(&self) -> Slot {
        if self.bias { Slot::Bias } else { Slot::Weight }
    }

    fn view(&self) -> View {
        let rows = self.rows.as_ref().map(|rows| rows.iter().map(|[start, end]| *start..*end).collect());
        View { transposed: self.transposed, rows }
    }

    /// The name that the names of its tensors begin with.
    fn prefix(&self) -> String {
        match &self.site.role {
            Role::Loose(_) => self.tensor.clone(),
            _ => self.site.tensor(self.slot()),
        }
    }

    /// The name that the names of the tensors of a leaf begin with.
    fn leaf(&self, path: &str) -> String {
        let prefix = self.prefix();
        if path.is_empty() { prefix } else { format!("{prefix}.{path}") }
    }
}

/// Whether all weights of a tensor are floats of the type that it had, so that the tensor can be as it was.
fn is_plain(whole: &Whole<'_, Form>) -> bool {
    if whole.parts.iter().any(|part| part.view.rows.is_some()) && whole.is_reshaped(Form::shape) {
        return false;
    }
    whole.parts.iter().all(|part| match part.item {
        Expr::Leaf(leaf) if leaf.mask.is_none() => match (&leaf.code, part.source) {
            (CodeForm::Blocks(_), _) => true,
            (CodeForm::Float(dtype), Some(source)) => match source.form.as_leaf().map(|leaf| &leaf.code) {
                Some(CodeForm::Blocks(_)) => true,
                _ => *dtype == dense_dtype(&source.form),
            },
            // Readers of the architecture may not look for a new one, and pass over it without a word.
            (CodeForm::Float(_), None) => part.slot != Slot::Bias,
            _ => false,
        },
        _ => false,
    })
}

/// Whether a tensor that the source did not have would be incomplete: of several layers that share one, some get a bias.
fn has_gaps(at: &StageView<'_>, whole: &Whole<'_, Form>) -> bool {
    let new = whole.parts.iter().all(|part| part.source.is_none());
    new && Frame::of(Native.name(), at.container, whole, Form::shape).is_err()
}

impl Format for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn about(&self) -> &'static str {
        "every expression, code and mask as it is, in safetensors files of our own layout"
    }

    fn consumers(&self) -> &'static str {
        "brevity only, where a weight was rewritten"
    }

    fn opened_by(&self, opens: Opens) -> &'static str {
        match opens {
            Opens::Stock => Dense.consumers(),
            _ => "brevity only",
        }
    }

    fn opens(&self, config: &Config, specs: &[Vec<TensorSpec>]) -> Opens {
        let coded = specs.iter().flatten().any(|spec| spec.name.starts_with(FORMS));
        if coded || is_reshaped(config) { Opens::Brevity } else { Opens::Stock }
    }

    fn layout(&self, at: &StageView<'_>, forms: &Stage<Form>) -> Result<Vec<TensorSpec>, Error> {
        let mut specs = Vec::new();
        let mut records = Vec::new();
        for whole in wholes(self.name(), at, forms)? {
            if is_plain(&whole) && !has_gaps(at, &whole) {
                specs.push(dense::spec(self.name(), at, &whole)?);
                continue;
            }
            for record in Record::all(&whole) {
                specs.extend(write::specs(&record));
                records.push(record);
            }
        }
        specs.extend(write::forms_tensor(at.new_place(), &records).map(|tensor| tensor.spec));
        specs.extend(others(self.name(), at)?);
        Ok(specs)
    }

    fn encode(&self, at: &StageView<'_>, weights: &Stage<Weight>) -> Result<Vec<Tensor>, Error> {
        let forms = forms(weights);
        let mut tensors = Vec::new();
        let mut records = Vec::new();
        for (whole, forms) in wholes(self.name(), at, weights)?.iter().zip(wholes(self.name(), at, &forms)?) {
            if is_plain(&forms) && !has_gaps(at, &forms) {
                tensors.push(dense::floats(at, whole, dense::spec(self.name(), at, &forms)?, self.name())?);
                continue;
            }
            for (part, record) in whole.parts.iter().zip(Record::all(&forms)) {
                tensors.extend(write::tensors(&record, part.item));
                records.push(record);
            }
        }
        tensors.extend(write::forms_tensor(at.new_place(), &records));
        tensors.extend(carry_others(self.name(), at)?);
        Ok(tensors)
    }

    fn config(&self, source: &Config, model: &Model<Source>, forms: &Model<Form>) -> Result<Config, Error> {
        let mut config = any_config(source, model, forms).config;
        let mut ours = config.get(STRUCTURE).cloned().unwrap_or_else(|| json!({}));
        ours["layout"] = json!("native");
        ours["version"] = json!(VERSION);
        config.set(STRUCTURE, ours);
        Ok(config)
    }
}
