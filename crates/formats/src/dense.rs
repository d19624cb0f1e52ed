//! Plain floats: every weight multiplied out, decoded and masked, in the types and the tensors of the source.
//!
//! A tensor that nothing was done to comes out with the same bytes. A tensor that was rewritten has the number type it
//! had in the source; FP8 is the exception, whose rewritten tensors become bfloat16 because values off its coarse grid
//! would be rounded once more. Weights that were codes in the source get the type of their scales.

use brevity_model::{
    Code, CodeForm, Config, Dtype, Expr, Floats, Form, Leaf, LeafForm, Model, Role, Slot, Source, Stage, Weight,
};

use crate::error::Error;
use crate::format::{Format, forms, halves, plain_config};
use crate::gather::{Frame, StageView, Whole, carry_others, others, wholes};
use crate::tensor::{Tensor, TensorSpec, dtype_name};
use crate::unholdable::Why;

/// Plain floats in safetensors files.
#[derive(Clone, Copy, Debug)]
pub struct Dense;

impl Format for Dense {
    fn name(&self) -> &'static str {
        "dense"
    }

    fn about(&self) -> &'static str {
        "plain floats in safetensors files, everything decoded and multiplied out"
    }

    fn consumers(&self) -> &'static str {
        "transformers, vLLM, SGLang, candle, mistral.rs, llama.cpp (convert); everything that reads safetensors"
    }

    fn layout(&self, at: &StageView<'_>, forms: &Stage<Form>) -> Result<Vec<TensorSpec>, Error> {
        let tensors = wholes(self.name(), at, forms)?;
        no_new_bias(self.name(), at, &tensors)?;
        let own = |whole: &&Whole<'_, Form>| {
            let part = &whole.parts[0];
            whole.stored == part.site.tensor(part.slot) && !matches!(part.site.role, Role::Loose(_))
        };
        if let Some(whole) = tensors.iter().find(own) {
            // A part of a fused tensor that our own layout had to keep apart.
            return Err(Error::Unholdable { format: self.name(), site: whole.parts[0].site.clone(), why: Why::New });
        }
        let mut specs = tensors.iter().map(|whole| spec(self.name(), at, whole)).collect::<Result<Vec<_>, Error>>()?;
        specs.extend(others(self.name(), at)?);
        Ok(specs)
    }

    fn encode(&self, at: &StageView<'_>, weights: &Stage<Weight>) -> Result<Vec<Tensor>, Error> {
        let forms = forms(weights);
        let specs = wholes(self.name(), at, &forms)?;
        let mut tensors = Vec::new();
        for (whole, forms) in wholes(self.name(), at, weights)?.iter().zip(&specs) {
            tensors.push(floats(at, whole, spec(self.name(), at, forms)?, self.name())?);
        }
        tensors.extend(carry_others(self.name(), at)?);
        Ok(tensors)
    }

    fn held(&self, weight: Weight, source: &Form) -> Weight {
        let dtype = rewritten_dtype(source);
        match weight {
            Expr::Leaf(Leaf { code: Code::Float(ref floats), .. }) if floats.dtype() == dtype => weight,
            other => Weight::float(other.shape(), Floats::from_f32(other.to_f32(), dtype)),
        }
    }

    fn config(&self, source: &Config, model: &Model<Source>, forms: &Model<Form>) -> Result<Config, Error> {
        Ok(halves(plain_config(self.name(), source, model, forms)?, model))
    }
}

/// A weight with its factors multiplied out, as floats of the type that `source` has; a lone matrix is left as it is.
pub fn multiplied_out(weight: Weight, source: &Form) -> Weight {
    match weight {
        Expr::Leaf(_) => weight,
        product => Weight::float(product.shape(), Floats::from_f32(product.to_f32(), rewritten_dtype(source))),
    }
}

/// The form of [`multiplied_out`].
pub fn multiplied_out_form(form: Form, source: &Form) -> Form {
    match form {
        Expr::Leaf(_) => form,
        product => Form::float(product.shape(), rewritten_dtype(source)),
    }
}

/// Refuses biases that the source does not have, or that only our own files could hold: readers of its architecture
/// would not look for them.
pub(crate) fn no_new_bias<T>(format: &'static str, at: &StageView<'_>, wholes: &[Whole<'_, T>]) -> Result<(), Error> {
    let added = |whole: &&Whole<'_, T>| {
        let biases = || whole.parts.iter().filter(|part| part.slot == Slot::Bias);
        biases().any(|part| part.source.is_none())
            || biases().next().is_some() && at.container.is_some_and(|container| container.is_added(&whole.stored))
    };
    match wholes.iter().find(added).map(|whole| &whole.parts[0]) {
        Some(part) => Err(Error::Unholdable { format, site: part.site.clone(), why: Why::Bias }),
        None => Ok(()),
    }
}

/// The tensor that holds all parts as floats.
pub(crate) fn spec(format: &'static str, at: &StageView<'_>, whole: &Whole<'_, Form>) -> Result<TensorSpec, Error> {
    let frame = Frame::of(format, at.container, whole, Form::shape)?;
    Ok(TensorSpec::new(whole.tensor.clone(), float_type(at, whole), frame.shape))
}

/// The name of the type of the floats of a tensor.
fn float_type(at: &StageView<'_>, whole: &Whole<'_, Form>) -> &'static str {
    let untouched = whole.parts.iter().all(|part| part.source.is_some_and(|source| source.form == *part.item));
    let first = &whole.parts[0];
    let stored = first.source.map_or(first.item, |source| &source.form);
    if let Some(container) = at.container.filter(|_| untouched)
        && let Some(raw) = container.raw(&whole.stored)
        && container.parts(&whole.stored) == [whole.stored.as_str()]
        // Types that are loaded as another one.
        && matches!(raw.dtype, "F64" | "F8_E5M2")
    {
        return raw.dtype;
    }
    match dense_dtype(stored) {
        Dtype::F8E4m3 if !untouched => "BF16",
        dtype => dtype_name(dtype),
    }
}

/// The number type of a weight when it is floats: that of its first leaf that has one.
pub(crate) fn dense_dtype(form: &Form) -> Dtype {
    let of_leaf = |leaf: &LeafForm| match &leaf.code {
        CodeForm::Float(dtype) | CodeForm::Codebook { dtype, .. } => Some(*dtype),
        CodeForm::Grid { scale_dtype, .. } => Some(*scale_dtype),
        CodeForm::Blocks(_) => Some(Dtype::F16),
        CodeForm::Diagonal | CodeForm::Permutation | CodeForm::Hadamard => None,
    };
    form.leaves().iter().find_map(|(_, leaf)| of_leaf(leaf)).unwrap_or(Dtype::F32)
}

/// The number type of a weight that was rewritten and is floats.
pub(crate) fn rewritten_dtype(source: &Form) -> Dtype {
    match dense_dtype(source) {
        Dtype::F8E4m3 => Dtype::Bf16,
        dtype => dtype,
    }
}

/// All parts as floats in one tensor.
pub(crate) fn floats(
    at: &StageView<'_>,
    whole: &Whole<'_, Weight>,
    spec: TensorSpec,
    format: &'static str,
) -> Result<Tensor, Error> {
    let frame = Frame::of(format, at.container, whole, Weight::shape)?;
    let columns = frame.matrix[1];
    if let "F64" | "F8_E5M2" = spec.dtype {
        return odd_type(at, whole, spec, &frame);
    }
    let dtype = match spec.dtype {
        "F32" => Dtype::F32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::Bf16,
        _ => Dtype::F8E4m3,
    };
    let parts = whole.parts.iter().map(|part| bytes_of(part.item, dtype)).collect();
    let data = frame.place_bytes(dtype.size_bytes(), columns, parts);
    Ok(spec.with(data))
}

/// The little-endian bytes of a weight as floats of a type.
pub(crate) fn bytes_of(weight: &Weight, dtype: Dtype) -> Vec<u8> {
    if let Expr::Leaf(Leaf { code: Code::Float(floats), mask: None, .. }) = weight
        && floats.dtype() == dtype
    {
        return raw_floats(floats).to_vec();
    }
    raw_floats(&Floats::from_f32(weight.to_f32(), dtype)).to_vec()
}

/// The bytes of floats as they are stored.
pub(crate) fn raw_floats(floats: &Floats) -> &[u8] {
    match floats {
        Floats::F32(v) => bytemuck::cast_slice(v),
        Floats::F16(v) => bytemuck::cast_slice(v),
        Floats::Bf16(v) => bytemuck::cast_slice(v),
        Floats::F8E4m3(v) => v,
    }
}

/// A tensor of a type that is loaded as another one: its own bytes if the weight is still what they say.
fn odd_type(at: &StageView<'_>, whole: &Whole<'_, Weight>, spec: TensorSpec, frame: &Frame) -> Result<Tensor, Error> {
    let parts = whole.parts.iter().map(|part| part.item.to_f32()).collect();
    let values = frame.place::<f32>(frame.matrix[1], parts);
    if let Some(container) = at.container {
        let original = container.load(&whole.stored)?;
        let same = original.to_f32().iter().map(|x| x.to_bits()).eq(values.iter().map(|x| x.to_bits()));
        if let (true, Some(raw)) = (same, container.raw(&whole.stored)) {
            return Ok(spec.with(raw.bytes.to_vec()));
        }
    }
    let data = match spec.dtype {
        "F64" => values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect(),
        _ => {
            let mut bits = vec![0; values.len()];
            brevity_kernels::cast::f32_to_e5m2(&values, &mut bits);
            bits
        }
    };
    Ok(spec.with(data))
}
