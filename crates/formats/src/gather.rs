//! From the weights of a stage back to the tensors they were taken from.
//!
//! A reader of a checkpoint knows its tensors: one for query, key and value together, say, or one that is transposed.
//! The tree has one weight for each, always `[out, in]`. What the source says about each weight (its tensor, its view)
//! is undone here.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;

use brevity_model::{Form, Model, Place, Role, Site, Slot, Source, Stage, View};

use crate::container::Container;
use crate::error::Error;
use crate::renumber::Renumber;
use crate::tensor::{Tensor, TensorSpec};
use crate::unholdable::Why;

/// One stage of the source, for a format to write it in another way.
#[derive(Clone, Copy)]
pub struct StageView<'a> {
    /// Which stage it is.
    pub place: Place,
    /// Where its weights were.
    pub source: &'a Stage<Source>,
    /// The files they were in; needed for tensors that are carried through byte by byte.
    pub container: Option<&'a dyn Container>,
    /// The new numbers of blocks, if some were dropped.
    pub numbers: Option<&'a Renumber>,
}

impl StageView<'_> {
    /// What a tensor of the source is called in the output; none if it belongs to a block that was dropped.
    fn renamed(&self, tensor: &str) -> Option<String> {
        self.numbers.map_or_else(|| Some(tensor.to_owned()), |numbers| numbers.name(tensor))
    }

    /// Where the stage stands in the output.
    pub(crate) fn new_place(&self) -> Place {
        Renumber::moved(self.numbers, self.place)
    }
}

/// One tensor and the weights it is made of.
pub(crate) struct Whole<'a, T> {
    /// The name of the tensor in the source.
    pub stored: String,
    /// Its name in the output.
    pub tensor: String,
    /// The weights, in the order of the tree.
    pub parts: Vec<Part<'a, T>>,
}

/// A weight that is (part of) a tensor.
pub(crate) struct Part<'a, T> {
    pub site: Site,
    pub slot: Slot,
    /// Which part.
    pub view: View,
    /// Where the weight was; `None` if it is new.
    pub source: Option<&'a Source>,
    /// What stands for the weight.
    pub item: &'a T,
}

/// The tensors of a stage in the order of the tree, with the weights that they are made of.
pub(crate) fn wholes<'a, T>(
    format: &'static str,
    at: &StageView<'a>,
    stage: &'a Stage<T>,
) -> Result<Vec<Whole<'a, T>>, Error> {
    let mut sources: BTreeMap<(Role, Slot), &Source> =
        at.source.weights().into_iter().map(|(role, slot, source)| ((role, slot), source)).collect();
    let biased = sources.clone();
    let mut wholes: Vec<Whole<T>> = Vec::new();
    for (role, slot, item) in stage.weights() {
        let source = sources.remove(&(role.clone(), slot));
        let site = Site::new(at.new_place(), role.clone());
        let (stored, view) = match source {
            Some(source) => (source.tensor.clone(), source.view.clone()),
            None => match new_name(&site, slot, biased.get(&(role.clone(), Slot::Weight)).copied()) {
                Some(named) => named,
                None => return Err(Error::Unholdable { format, site, why: Why::New }),
            },
        };
        let part = Part { site, slot, view, source, item };
        match wholes.iter_mut().find(|whole| whole.stored == stored) {
            Some(whole) => whole.parts.push(part),
            None => {
                let tensor = at.renamed(&stored).unwrap_or_else(|| stored.clone());
                wholes.push(Whole { stored, tensor, parts: vec![part] });
            }
        }
    }
    // What belongs to a sublayer that was dropped as a whole is meant to be gone.
    if let Stage::Block(block) = stage {
        let gone = |role: &Role| match role.as_str().split('.').next() {
            Some("attn") => block.attn.is_none(),
            Some("mlp") => block.mlp.is_none(),
            _ => false,
        };
        sources.retain(|(role, _), _| !gone(role));
    }
    // A norm whose bias was folded into what it is in front of has none.
    sources.retain(|(role, slot), _| !(is_vector(role, Slot::Weight) && *slot == Slot::Bias));
    match sources.into_keys().next() {
        None => Ok(wholes),
        Some((role, _)) => Err(Error::Unholdable { format, site: Site::new(at.place, role), why: Why::Dropped }),
    }
}

/// Where the weights of a result with these forms lie, by the names that their tensors have in the source: parts of a tensor
/// that have other rows than in the source lie one above the other.
///
/// # Errors
/// [`Error::Unholdable`] if a weight is new and nothing says what it is called.
pub fn laid(model: &Model<Source>, forms: &Model<Form>) -> Result<Model<Source>, Error> {
    let mut laid: BTreeMap<(Site, Slot), Source> = BTreeMap::new();
    for (n, (source, forms)) in model.stages.iter().zip(&forms.stages).enumerate() {
        let at = StageView { place: model.place(n), source, container: None, numbers: None };
        for whole in wholes("result", &at, forms)? {
            let views = if whole.is_reshaped(Form::shape) { whole.relaid(Form::shape) } else { None };
            for (n, part) in whole.parts.into_iter().enumerate() {
                let view = views.as_ref().map_or(part.view, |views| views[n].clone());
                let source = Source { tensor: whole.stored.clone(), form: part.item.clone(), view };
                laid.insert((part.site, part.slot), source);
            }
        }
    }
    // Blocks read the table of the embedding.
    let shared = laid.get(&(Site::new(Place::Embed, Role::Relative), Slot::Weight)).cloned();
    let taken = |site: Site, slot, _: &Form| {
        let source = if site.role == Role::AttnRelative { shared.clone() } else { laid.remove(&(site, slot)) };
        Ok::<_, Infallible>(source.expect("every weight is a part of a tensor"))
    };
    Ok(forms.try_map(taken).unwrap_or_else(|never| match never {}))
}

impl<T> Whole<'_, T> {
    /// Whether a part has other rows than it had in the source.
    pub fn is_reshaped(&self, shape: impl Fn(&T) -> [usize; 2]) -> bool {
        self.parts.iter().any(|part| part.source.is_some_and(|source| source.form.shape() != shape(part.item)))
    }

    /// The same with parts that have other rows than in the source laid one above the other, if that is how they lay
    /// there.
    pub fn relaid(&self, shape: impl Fn(&T) -> [usize; 2]) -> Option<Vec<View>> {
        let mut end = 0;
        let mut stacked: Vec<(usize, usize)> = Vec::new();
        for (n, part) in self.parts.iter().enumerate() {
            let [one] = part.view.rows.as_deref()? else { return None };
            stacked.push((one.start, n));
        }
        stacked.sort_unstable();
        let mut views: Vec<View> = self.parts.iter().map(|part| part.view.clone()).collect();
        for (_, n) in stacked {
            let part = &self.parts[n];
            let [rows, columns] = shape(part.item);
            let count = if is_vector(&part.site.role, part.slot) { columns } else { rows };
            views[n].rows = Some(std::iter::once(end..end + count).collect());
            end += count;
        }
        Some(views)
    }
}

/// The tensor of a weight that was not in the source, and its part of it: a bias goes by the name of its `matrix`, an output table that
/// is no longer that of the tokens by the name that nearly all architectures give it, and what no architecture has by its
/// site.
pub(crate) fn new_name(site: &Site, slot: Slot, matrix: Option<&Source>) -> Option<(String, View)> {
    match (&site.role, slot, matrix) {
        (Role::Out, Slot::Weight, _) => Some(("lm_head.weight".into(), View::whole())),
        (Role::Out, Slot::Bias, None) => Some(("lm_head.bias".into(), View::whole())),
        (Role::AttnShortcut | Role::MlpShortcut, Slot::Weight, _) => Some((site.tensor(slot), View::whole())),
        (_, Slot::Bias, Some(matrix)) => new_bias(matrix),
        _ => None,
    }
}

/// The tensor of a bias that a matrix did not have, and its part of it.
pub(crate) fn new_bias(matrix: &Source) -> Option<(String, View)> {
    let stem = matrix.tensor.strip_suffix(".weight")?;
    Some((format!("{stem}.bias"), View { transposed: false, rows: matrix.view.rows.clone() }))
}

/// Tensors of the stage that are no weights, to be carried through as they are.
pub(crate) fn others(format: &'static str, at: &StageView<'_>) -> Result<Vec<TensorSpec>, Error> {
    let Stage::Loose(loose) = at.source else { return Ok(Vec::new()) };
    let spec = |(name, renamed): (&String, String)| {
        let raw = at.container.and_then(|container| container.raw(name));
        let raw = raw.ok_or_else(|| Error::NoTensor { tensor: name.clone() })?;
        let spec = TensorSpec::new(renamed, raw.dtype, raw.shape);
        if spec.bytes() == raw.bytes.len() as u64 && is_safetensors(raw.dtype) {
            return Ok(spec);
        }
        let site = Site::new(at.place, Role::Loose(name.as_str().into()));
        let why = Why::Dtype { tensor: name.clone(), dtype: raw.dtype.to_owned() };
        Err(Error::Unholdable { format, site, why })
    };
    loose.others.iter().filter_map(|name| Some((name, at.renamed(name)?))).map(spec).collect()
}

/// The same with their bytes.
pub(crate) fn carry_others(format: &'static str, at: &StageView<'_>) -> Result<Vec<Tensor>, Error> {
    let Stage::Loose(loose) = at.source else { return Ok(Vec::new()) };
    let kept = loose.others.iter().filter(|name| at.renamed(name).is_some());
    let bytes = |(name, spec): (&String, TensorSpec)| {
        let raw = at.container.and_then(|container| container.raw(name));
        let data = raw.ok_or_else(|| Error::NoTensor { tensor: name.clone() })?.bytes.to_vec();
        Ok(spec.with(data))
    };
    let tensors = kept.zip(others(format, at)?).map(bytes).collect();
    if let Some(container) = at.container {
        container.release(&loose.others);
    }
    tensors
}

fn is_safetensors(dtype: &str) -> bool {
    const KNOWN: &[&str] = &[
        "BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2", "U16", "I16", "F16", "BF16",
        "U32", "I32", "F32", "U64", "I64", "F64", "C64",
    ];
    KNOWN.contains(&dtype)
}

/// How the rows of the parts lie in the whole.
#[derive(Debug, PartialEq)]
pub(crate) struct Frame {
    /// Rows and columns of the whole before it is turned; the entries of a vector are rows of one column.
    pub matrix: [usize; 2],
    /// The tensor holds `[columns, rows]`.
    pub transposed: bool,
    /// Dimensions of the tensor.
    pub shape: Vec<usize>,
    /// For each part its rows.
    rows: Vec<Vec<Range<usize>>>,
}

impl Frame {
    /// The frame of a tensor whose parts have these shapes.
    pub fn of<T>(
        format: &'static str,
        container: Option<&dyn Container>,
        whole: &Whole<'_, T>,
        shape: impl Fn(&T) -> [usize; 2],
    ) -> Result<Frame, Error> {
        let first = &whole.parts[0];
        let fail = |why| Err(Error::Unholdable { format, site: first.site.clone(), why });
        let vector = is_vector(&first.site.role, first.slot);
        let transposed = first.view.transposed;
        let mut columns = 0;
        let mut rows = Vec::new();
        let mut taken = Vec::new();
        let mut unchanged = true;
        let relaid = if whole.is_reshaped(&shape) { whole.relaid(&shape) } else { None };
        for (n, part) in whole.parts.iter().enumerate() {
            let [r, c] = if vector { [shape(part.item)[1], 1] } else { shape(part.item) };
            let view = relaid.as_ref().map_or(&part.view, |views| &views[n]);
            let ranges = view.rows.clone().unwrap_or_else(|| std::iter::once(0..r).collect());
            let fits = ranges.iter().map(|range| range.len()).sum::<usize>() == r;
            if !fits || part.view.transposed != transposed || (columns != c && !rows.is_empty()) {
                return fail(Why::Fused { tensor: whole.tensor.clone() });
            }
            columns = c;
            unchanged &= part.source.is_some_and(|source| source.form.shape() == shape(part.item));
            taken.extend(ranges.iter().filter(|range| !range.is_empty()).cloned());
            rows.push(ranges);
        }
        taken.sort_by_key(|range| range.start);
        let mut end = 0;
        for range in taken {
            if range.start > end {
                return fail(Why::Uncovered { tensor: whole.tensor.clone() });
            }
            if range.start < end {
                return fail(Why::Shared { tensor: whole.tensor.clone() });
            }
            end = range.end;
        }
        let (stored, plain) = match (vector, transposed) {
            (true, _) => ([1, end], vec![end]),
            (false, true) => ([columns, end], vec![columns, end]),
            (false, false) => ([end, columns], vec![end, columns]),
        };
        // The source knows whether one row is a vector or a matrix, and whether rows are left over.
        let known = container.filter(|_| unchanged);
        if known.and_then(|container| container.form(&whole.stored)).is_some_and(|form| form.shape() != stored) {
            return fail(Why::Uncovered { tensor: whole.tensor.clone() });
        }
        let raw = known.and_then(|container| container.raw(&whole.stored)).map(|raw| raw.shape.to_vec());
        let same = |shape: &Vec<usize>| match shape[..] {
            [n] => stored == [1, n],
            [r, c] => stored == [r, c],
            _ => false,
        };
        let shape = raw.filter(same).unwrap_or(plain);
        Ok(Frame { matrix: [end, columns], transposed, shape, rows })
    }

    /// Rows and columns as they are stored; a vector is one row.
    pub fn stored(&self) -> [usize; 2] {
        let [rows, columns] = self.matrix;
        match self.shape[..] {
            [n] => [1, n],
            _ if self.transposed => [columns, rows],
            _ => [rows, columns],
        }
    }

    /// Puts the entries of the parts, each row by row with `columns` entries a row, in their places.
    pub fn place<T: bytemuck::Pod>(&self, columns: usize, mut parts: Vec<Vec<T>>) -> Vec<T> {
        if self.is_lone() {
            return parts.remove(0);
        }
        let mut whole = vec![T::zeroed(); self.matrix[0] * columns];
        let bytes: Vec<&[u8]> = parts.iter().map(|part| bytemuck::cast_slice(part)).collect();
        self.copy(size_of::<T>(), columns, &bytes, bytemuck::cast_slice_mut(&mut whole));
        whole
    }

    /// The same for entries of `width` bytes.
    pub fn place_bytes(&self, width: usize, columns: usize, mut parts: Vec<Vec<u8>>) -> Vec<u8> {
        if self.is_lone() {
            return parts.remove(0);
        }
        let mut whole = vec![0; self.matrix[0] * columns * width];
        let bytes: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        self.copy(width, columns, &bytes, &mut whole);
        whole
    }

    /// Whether there is one part, which is the whole as it lies.
    fn is_lone(&self) -> bool {
        !self.transposed
            && self.rows.len() == 1
            && self.rows[0].as_slice() == std::slice::from_ref(&(0..self.matrix[0]))
    }

    fn copy(&self, width: usize, columns: usize, parts: &[&[u8]], whole: &mut [u8]) {
        let (rows, line) = (self.matrix[0], columns * width);
        for (ranges, part) in self.rows.iter().zip(parts) {
            let mut from = 0;
            for range in ranges {
                let taken = &part[from * line..(from + range.len()) * line];
                from += range.len();
                if !self.transposed {
                    whole[range.start * line..range.end * line].copy_from_slice(taken);
                    continue;
                }
                // Tiles, so that neither side is walked in steps of a whole row for long.
                const TILE: usize = 32;
                for first_row in (0..range.len()).step_by(TILE) {
                    for first_column in (0..columns).step_by(TILE) {
                        for row in first_row..range.len().min(first_row + TILE) {
                            for column in first_column..columns.min(first_column + TILE) {
                                let to = (column * rows + range.start + row) * width;
                                let at = row * line + column * width;
                                whole[to..to + width].copy_from_slice(&taken[at..at + width]);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Whether the weight is a vector: its single row is the entries.
pub(crate) fn is_vector(role: &Role, slot: Slot) -> bool {
    slot == Slot::Bias
        || matches!(
            role,
            Role::EmbedNorm
                | Role::AttnBefore
                | Role::AttnAfter
                | Role::AttnSum
                | Role::QNorm
                | Role::KNorm
                | Role::MlpBefore
                | Role::MlpAfter
                | Role::MlpSum
                | Role::HeadNorm
        )
}
