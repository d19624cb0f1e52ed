//! The tensors of a module.

use brevity_kernels::bits;
use brevity_model::{Code, CodeForm, Dtype, Expr, Floats, Form, Grid, Leaf, Role, Weight};

use super::scheme::{Scheme, Strategy};
use super::{CompressedTensors, Packing};
use crate::coded::clear;
use crate::dense::{self, raw_floats};
use crate::error::Error;
use crate::format::Format;
use crate::gather::{Frame, StageView, Whole};
use crate::tensor::{Tensor, TensorSpec, dtype_name};
use crate::unholdable::Why;

/// How a tensor of the source will be held.
pub(super) enum Held {
    /// As floats, like the source.
    Floats,
    /// As a quantized module.
    Module(Module),
}

/// A quantized module.
pub(super) struct Module {
    /// Its path in the model.
    pub name: String,
    pub scheme: Scheme,
    pub scale_dtype: Dtype,
}

impl CompressedTensors {
    /// How a tensor will be held, if it can be.
    pub(super) fn held(&self, whole: &Whole<'_, Form>) -> Result<Held, Error> {
        let mut module = None;
        for (n, part) in whole.parts.iter().enumerate() {
            let fail = |why| Err(Error::Unholdable { format: self.name(), site: part.site.clone(), why });
            let grid = match part.item {
                Expr::Product(_) => return fail(Why::Kind { what: "a product of two matrices" }),
                Expr::Sum(_) => return fail(Why::Kind { what: "a sum of two matrices" }),
                Expr::Train(_) => return fail(Why::Kind { what: "a tensor train" }),
                Expr::Leaf(leaf) => match &leaf.code {
                    CodeForm::Float(_) | CodeForm::Blocks(_) => None,
                    CodeForm::Grid { levels: None, scale_dtype, .. } => Some((leaf, *scale_dtype)),
                    CodeForm::Grid { .. } => return fail(Why::Kind { what: "codes for a table of levels" }),
                    CodeForm::Codebook { .. } => return fail(Why::Kind { what: "codes for a codebook" }),
                    CodeForm::Diagonal | CodeForm::Permutation | CodeForm::Hadamard => {
                        return fail(Why::Kind { what: "a rule" });
                    }
                },
            };
            let found = match grid {
                None => None,
                Some((leaf, scale_dtype)) => {
                    let scheme = Scheme::of(leaf).expect("it is a uniform grid");
                    let (widths, held) = self.packing.holds();
                    let columns = leaf.shape[1];
                    if !widths.contains(&scheme.bits) {
                        return fail(Why::Bits { bits: scheme.bits, held });
                    }
                    if let Strategy::Group(group) = scheme.strategy
                        && !columns.is_multiple_of(group)
                    {
                        return fail(Why::Ragged { columns, group });
                    }
                    if part.view.transposed {
                        return fail(Why::Transposed { tensor: whole.tensor.clone() });
                    }
                    if matches!(part.site.role, Role::Tokens | Role::Positions | Role::Types) {
                        return fail(Why::Table);
                    }
                    let Some(name) = whole.tensor.strip_suffix(".weight") else {
                        return fail(Why::Name { tensor: whole.tensor.clone() });
                    };
                    if scheme.strategy == Strategy::Tensor && whole.parts.len() > 1 {
                        return fail(Why::FusedScale { tensor: whole.tensor.clone() });
                    }
                    Some((name, scheme, scale_dtype))
                }
            };
            if n > 0 && found != module {
                return fail(Why::Fused { tensor: whole.tensor.clone() });
            }
            module = found;
        }
        Ok(match module {
            None => Held::Floats,
            Some((name, scheme, scale_dtype)) => Held::Module(Module { name: name.to_owned(), scheme, scale_dtype }),
        })
    }

    /// What [`CompressedTensors::tensors`] returns for weights of these forms.
    pub(super) fn specs(&self, at: &StageView<'_>, whole: &Whole<'_, Form>) -> Result<Vec<TensorSpec>, Error> {
        match self.held(whole)? {
            Held::Floats => Ok(vec![dense::spec(self.name(), at, whole)?]),
            Held::Module(module) => {
                let frame = Frame::of(self.name(), at.container, whole, Form::shape)?;
                Ok(self.module_specs(&module, frame.matrix))
            }
        }
    }

    /// Codes, scales, shape, zero points: in this order.
    fn module_specs(&self, module: &Module, matrix: [usize; 2]) -> Vec<TensorSpec> {
        let [out, inputs] = matrix;
        let Module { name, scheme, scale_dtype } = module;
        let bits = u32::from(scheme.bits);
        let packed = self.packing == Packing::Packed;
        let scales = scheme.strategy.shape(matrix);
        let tensor = |part: &str, dtype, shape: Vec<usize>| TensorSpec::new(format!("{name}.{part}"), dtype, shape);
        let mut specs = Vec::new();
        if packed {
            specs.push(tensor("weight_packed", "I32", vec![out, bits::words(inputs, bits)]));
            specs.push(tensor("weight_shape", "I64", vec![2]));
        } else {
            specs.push(tensor("weight", "I8", vec![out, inputs]));
        }
        specs.push(tensor("weight_scale", dtype_name(*scale_dtype), scales.clone()));
        if !scheme.symmetric {
            specs.push(match scales[..] {
                [rows, columns] if packed => tensor("weight_zero_point", "I32", vec![bits::words(rows, bits), columns]),
                _ => tensor("weight_zero_point", "I8", scales),
            });
        }
        specs
    }

    /// The tensors that hold a tensor of the source.
    pub(super) fn tensors(
        &self,
        at: &StageView<'_>,
        whole: &Whole<'_, Weight>,
        forms: &Whole<'_, Form>,
    ) -> Result<Vec<Tensor>, Error> {
        let Held::Module(module) = self.held(forms)? else {
            return Ok(vec![dense::floats(at, whole, dense::spec(self.name(), at, forms)?, self.name())?]);
        };
        let frame = Frame::of(self.name(), at.container, whole, Weight::shape)?;
        let [out, inputs] = frame.matrix;
        let scheme = module.scheme;
        let leaves: Vec<(&Leaf, &Grid)> = whole.parts.iter().filter_map(|part| grid_of(part.item)).collect();
        let codes = frame.place(inputs, leaves.iter().map(|(leaf, grid)| codes_with_zeros(leaf, grid)).collect());
        let [_, per_row] = scheme.strategy.scales(frame.matrix);
        let (scales, zeros) = if scheme.strategy == Strategy::Tensor {
            let (_, grid) = leaves[0];
            (grid.scales.clone(), grid.zeros.clone())
        } else {
            let zeros = leaves.iter().map(|(_, grid)| grid.zeros.clone()).collect::<Option<Vec<_>>>();
            let scales = leaves.iter().map(|(_, grid)| grid.scales.clone()).collect();
            (frame.place(per_row, scales), zeros.map(|zeros| frame.place(per_row, zeros)))
        };
        let bits = u32::from(scheme.bits);
        let packed = self.packing == Packing::Packed;
        let mut specs = self.module_specs(&module, frame.matrix).into_iter();
        let mut next = || specs.next().expect("specs are listed in the order of the tensors");
        let mut tensors = Vec::new();
        if packed {
            let words = bits::pack_rows(&codes, out, inputs, bits);
            tensors.push(next().with(bytemuck::cast_slice(&words).to_vec()));
            let shape = [out as i64, inputs as i64];
            tensors.push(next().with(bytemuck::cast_slice(&shape).to_vec()));
        } else {
            tensors.push(next().with(signed(codes, scheme.bits)));
        }
        tensors.push(next().with(raw_floats(&Floats::from_f32(scales, module.scale_dtype)).to_vec()));
        if let Some(zeros) = zeros {
            tensors.push(next().with(if packed && scheme.strategy != Strategy::Tensor {
                let words = bits::pack_columns(&zeros, out, per_row, bits);
                bytemuck::cast_slice(&words).to_vec()
            } else {
                signed(zeros, scheme.bits)
            }));
        }
        Ok(tensors)
    }
}

/// The leaf of a weight that is a lone grid.
fn grid_of(weight: &Weight) -> Option<(&Leaf, &Grid)> {
    match weight.as_leaf() {
        Some(leaf @ Leaf { code: Code::Grid(grid), .. }) => Some((leaf, grid)),
        _ => None,
    }
}

/// Codes that read as exactly zero where the mask removes entries.
fn codes_with_zeros(leaf: &Leaf, grid: &Grid) -> Vec<u8> {
    let mut codes = grid.codes.clone();
    if let Some(mask) = &leaf.mask {
        clear(grid, leaf.shape, mask, &mut codes);
    }
    codes
}

/// Unsigned codes as two's complement bytes around zero.
fn signed(mut codes: Vec<u8>, bits: u8) -> Vec<u8> {
    codes.iter_mut().for_each(|code| *code = code.wrapping_sub(1 << (bits - 1)));
    codes
}
