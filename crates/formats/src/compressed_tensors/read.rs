//! Quantized modules as logical tensors `M.weight` on a grid.

use std::collections::{BTreeMap, BTreeSet};

use brevity_kernels::bits;
use brevity_model::{Code, CodeForm, Config, Dtype, Expr, Form, Grid, Group, Leaf, LeafForm, Weight};

use super::groups::{Groups, Scheme};
use crate::coded::{CodedFault, Stored, float_dtype, words};
use crate::container::{self, Container, Raw};
use crate::error::Error;
use crate::fp8::Fp8;
use crate::safetensors::SafetensorsFiles;

/// Opens the files of a checkpoint whose `config.json` has a `quantization_config` of compressed-tensors.
///
/// # Errors
/// [`Error::Coded`] if the tensors of a quantized module do not fit each other or the configuration.
pub fn open(files: SafetensorsFiles, config: &Config) -> Result<Box<dyn Container>, Error> {
    let groups = Groups::parse(config)?;
    let inner = Fp8::wrap(files, groups.float_dtype(config), groups.block())?;
    Ok(Box::new(CompressedFiles::wrap(Box::new(inner), &groups)?))
}

/// Files with quantized modules in them.
pub struct CompressedFiles {
    inner: Box<dyn Container>,
    /// By logical name, `M.weight`.
    modules: BTreeMap<String, Module>,
    /// Stored tensors that are part of a module.
    consumed: BTreeSet<String>,
}

struct Module {
    form: LeafForm,
    codes: Codes,
    /// Its tensors, of which the first holds the codes, the second the scales and the third the zero points.
    tensors: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Codes {
    /// A dense bit stream along each row.
    Stream,
    /// Whole codes in each word, the rest of it unused.
    Words,
    /// One signed byte each.
    Bytes,
}

impl CompressedFiles {
    fn wrap(inner: Box<dyn Container>, groups: &Groups) -> Result<Self, Error> {
        let mut modules = BTreeMap::new();
        let mut consumed = BTreeSet::new();
        for stored in inner.stored() {
            let module = match stored.strip_suffix(".weight_packed") {
                Some(module) => module,
                None => match stored.strip_suffix(".weight") {
                    Some(module) if inner.raw(&stored).is_some_and(|raw| raw.dtype == "I8") => module,
                    _ => continue,
                },
            };
            let weight = format!("{module}.weight");
            modules.insert(weight.clone(), describe(&*inner, module, &stored, groups.of(module), groups)?);
            // Scales of activations belong to the quantization that is undone by reading.
            let parts = ["weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"];
            let inputs = ["input_scale", "input_zero_point", "output_scale", "output_zero_point"];
            let names = parts.iter().chain(&inputs).map(|part| format!("{module}.{part}"));
            consumed.extend(names.filter(|name| inner.raw(name).is_some()));
        }
        Ok(CompressedFiles { inner, modules, consumed })
    }
}

/// What the tensors of a module are.
fn describe(
    inner: &dyn Container,
    module: &str,
    stored: &str,
    scheme: Option<&Scheme>,
    groups: &Groups,
) -> Result<Module, Error> {
    let weight = format!("{module}.weight");
    let files = Stored { files: inner, weight: &weight };
    let name = |part: &str| format!("{module}.{part}");
    let raw = files.raw(stored)?;
    if let Some(scheme) = scheme
        && !scheme.is_int()
    {
        return Err(CodedFault::Unsupported { what: format!("`{}`", groups.format_of(scheme)) }.of(&weight));
    }
    let packed = stored.ends_with("_packed");
    if packed && raw.dtype != "I32" {
        return Err(files.unfit(stored, &raw, "I32"));
    }
    let shape = if packed { shape_of(files, &name("weight_shape"))? } else { matrix(files, stored, &raw)? };
    let [rows, columns] = shape;
    let width = |bits: u8| bits::words(columns, u32::from(bits));
    let old_width = |bits: u8| columns.div_ceil(32 / bits as usize);
    let fits = |bits: u8| raw.shape == [rows, width(bits)] || raw.shape == [rows, old_width(bits)];
    let bits = match scheme.map(|scheme| scheme.bits) {
        Some(bits) => bits,
        None if !packed => 8,
        // The width of a row tells the bits, if only one width does.
        None => match (1..=8).filter(|&bits| fits(bits)).collect::<Vec<u8>>()[..] {
            [bits] => bits,
            _ => return Err(CodedFault::Unknown.of(&weight)),
        },
    };
    let codes = match packed {
        false => Codes::Bytes,
        true if raw.shape == [rows, width(bits)] => Codes::Stream,
        true if raw.shape == [rows, old_width(bits)] => Codes::Words,
        true => return Err(files.unfit(stored, &raw, format!("[{rows}, {}] for {bits} bits", width(bits)))),
    };
    let scale_name = name("weight_scale");
    let scale = files.raw(&scale_name)?;
    let scale_dtype = float_dtype(scale.dtype).ok_or_else(|| files.unfit(&scale_name, &scale, "floats"))?;
    let group = match (scale.shape, scheme.and_then(|scheme| scheme.group)) {
        ([] | [1], _) => Group::Tensor,
        ([r, 1], _) if *r == rows => Group::Channel,
        ([r, c], Some(size)) if *r == rows && *c == columns.div_ceil(size) => Group::Columns(size),
        ([r, c], None) if *r == rows && *c > 0 && columns.is_multiple_of(*c) => Group::Columns(columns / *c),
        (_, size) => {
            let c = size.map_or(1, |size| columns.div_ceil(size));
            return Err(files.unfit(&scale_name, &scale, format!("[{rows}, {c}]")));
        }
    };
    let mut tensors = vec![stored.to_owned(), scale_name];
    let zero_name = name("weight_zero_point");
    let zeros = inner.raw(&zero_name).is_some();
    if zeros {
        let raw = files.raw(&zero_name)?;
        let [r, c] = group.scales(shape);
        let packed_shape = [bits::words(r, u32::from(bits)), c];
        let fits = match raw.dtype {
            "I32" => packed && raw.shape == packed_shape,
            "I8" => raw.shape.iter().product::<usize>() == r * c,
            _ => false,
        };
        if !fits {
            return Err(files.unfit(&zero_name, &raw, format!("I32 {packed_shape:?} or I8 {:?}", [r, c])));
        }
        tensors.push(zero_name);
    } else if scheme.is_some_and(|scheme| !scheme.symmetric) {
        return Err(CodedFault::Missing { tensor: zero_name }.of(&weight));
    }
    if inner.raw(&name("weight_g_idx")).is_some() {
        in_order(files, &name("weight_g_idx"), columns, group)?;
    }
    let code = CodeForm::Grid { bits, group, scale_dtype, zeros, levels: None };
    Ok(Module { form: LeafForm { shape, code, mask: None }, codes, tensors })
}

/// `[out, in]` as a tensor of its own.
fn shape_of(files: Stored<'_>, name: &str) -> Result<[usize; 2], Error> {
    let raw = files.raw(name)?;
    let values: Vec<i64> = match raw.dtype {
        "I64" => words(raw.bytes),
        "I32" => words::<i32>(raw.bytes).into_iter().map(i64::from).collect(),
        _ => return Err(files.unfit(name, &raw, "I64 [2]")),
    };
    // Far above any real matrix, far below what overflows when multiplied.
    const LIMIT: i64 = 1 << 31;
    match values[..] {
        [rows, columns] if (0..LIMIT).contains(&rows) && (0..LIMIT).contains(&columns) => {
            Ok([rows as usize, columns as usize])
        }
        [_, _] => {
            let what = format!("`{name}` says {values:?}");
            Err(CodedFault::Description { what }.of(files.weight))
        }
        _ => Err(files.unfit(name, &raw, "I64 [2]")),
    }
}

fn matrix(files: Stored<'_>, name: &str, raw: &Raw<'_>) -> Result<[usize; 2], Error> {
    match *raw.shape {
        [rows, columns] => Ok([rows, columns]),
        _ => Err(files.unfit(name, raw, "a matrix")),
    }
}

/// Checks that groups are runs of columns, which is all that a grid can say.
fn in_order(files: Stored<'_>, name: &str, columns: usize, group: Group) -> Result<(), Error> {
    let index = words::<i32>(files.exact(name, "I32", &[columns])?.bytes);
    let run = group.columns(columns);
    // A lone -1 in front says that there is no order.
    if index.first() == Some(&-1) || index.iter().enumerate().all(|(column, &g)| g as usize == column / run) {
        Ok(())
    } else {
        Err(CodedFault::Unsupported { what: "groups of columns in another order (`weight_g_idx`)".into() }
            .of(files.weight))
    }
}

impl Module {
    /// Reads codes, scales and zero points.
    fn load(&self, files: Stored<'_>) -> Result<Leaf, Error> {
        let shape @ [rows, columns] = self.form.shape;
        let CodeForm::Grid { bits, group, scale_dtype, zeros, .. } = self.form.code else {
            unreachable!("modules are grids")
        };
        let limit = (1u64 << bits) - 1;
        let table @ [r, c] = group.scales(shape);
        let raw = files.raw(&self.tensors[0])?;
        let codes = match self.codes {
            Codes::Stream => bits::unpack_rows(&words(raw.bytes), rows, columns, u32::from(bits)),
            Codes::Words => whole_words(&words(raw.bytes), rows, columns, u32::from(bits)),
            Codes::Bytes => unsigned(raw.bytes, bits),
        };
        files.check(&self.tensors[0], &codes, limit)?;
        let (_, scales) = files.floats(&self.tensors[1], r * c)?;
        let zeros = match self.tensors.get(2).filter(|_| zeros) {
            None => None,
            Some(name) => {
                let raw = files.raw(name)?;
                let zeros = match raw.dtype {
                    "I32" => bits::unpack_columns(&words(raw.bytes), table[0], table[1], u32::from(bits)),
                    _ => unsigned(raw.bytes, bits),
                };
                files.check(name, &zeros, limit)?;
                Some(zeros)
            }
        };
        files.files.release(&self.tensors);
        let code = Code::Grid(Grid { bits, codes, scales, zeros, group, scale_dtype, levels: None });
        Ok(Leaf { shape, code, mask: None })
    }
}

/// Signed codes as unsigned ones.
fn unsigned(bytes: &[u8], bits: u8) -> Vec<u8> {
    bytes.iter().map(|&byte| byte.wrapping_add(1 << (bits - 1))).collect()
}

/// Codes packed in the older way: `floor(32 / bits)` in each word.
fn whole_words(packed: &[u32], rows: usize, columns: usize, bits: u32) -> Vec<u8> {
    let each = 32 / bits as usize;
    let width = columns.div_ceil(each);
    let mut codes = Vec::with_capacity(rows * columns);
    for row in packed.chunks(width.max(1)).take(rows) {
        codes.extend(
            (0..columns).map(|at| (row[at / each] >> (at % each * bits as usize)) as u8 & ((1 << bits) - 1) as u8),
        );
    }
    codes
}

impl Container for CompressedFiles {
    fn names(&self) -> Vec<String> {
        let plain = self.inner.names().into_iter().filter(|name| !self.consumed.contains(name));
        let mut names: BTreeSet<String> = plain.collect();
        names.extend(self.modules.keys().cloned());
        names.into_iter().collect()
    }

    fn form(&self, name: &str) -> Option<Form> {
        match self.modules.get(name) {
            Some(module) => Some(Expr::Leaf(module.form.clone())),
            None if self.consumed.contains(name) => None,
            None => self.inner.form(name),
        }
    }

    fn load(&self, name: &str) -> Result<Weight, Error> {
        match self.modules.get(name) {
            Some(module) => module.load(Stored { files: &*self.inner, weight: name }).map(Expr::Leaf),
            None => self.inner.load(name),
        }
    }

    fn load_view(&self, source: &brevity_model::Source) -> Result<Weight, Error> {
        if !self.modules.contains_key(&source.tensor) {
            return self.inner.load_view(source);
        }
        crate::view::of_weight(self.load(&source.tensor)?, &source.view, source.form.shape())
            .map_err(|fault| Error::View { tensor: source.tensor.clone(), fault })
    }

    fn parts(&self, name: &str) -> Vec<String> {
        match self.modules.get(name) {
            Some(module) => module.tensors.clone(),
            None if self.consumed.contains(name) => Vec::new(),
            None => self.inner.parts(name),
        }
    }

    fn files(&self) -> &dyn container::Files {
        self.inner.files()
    }
}

/// The type of floats that a configuration names.
pub(super) fn config_dtype(config: &Config) -> Dtype {
    let named = ["dtype", "torch_dtype"].iter().find_map(|key| config.get(key).and_then(|value| value.as_str()));
    match named.map(|name| name.trim_start_matches("torch.")) {
        Some("float16") => Dtype::F16,
        Some("float32") => Dtype::F32,
        _ => Dtype::Bf16,
    }
}
