//! Taking weights out of the tensors of a checkpoint, and checking that they fit.

use std::ops::Range;

use super::Builder;
use crate::description::Store;
use crate::error::Error;
use crate::form::Form;
use crate::site::{Place, Role, Site, Slot};
use crate::source::{Source, View};
use crate::tree::{Linear, Norm, NormKind};

impl Builder<'_> {
    /// The part of a tensor for a slot, if the tensor exists.
    pub(super) fn find(&mut self, site: &Site, slot: Slot, name: &str, view: View) -> Option<Source> {
        let source = self.tensors.source(site, slot, name, view)?;
        self.claimed.insert(source.tensor.clone());
        Some(source)
    }

    pub(super) fn must(&mut self, site: &Site, slot: Slot, name: &str, view: View) -> Result<Source, Error> {
        self.find(site, slot, name, view)
            .ok_or_else(|| Error::MissingTensor { site: site.clone(), tensor: name.to_owned() })
    }

    /// A linear layer or table of `[rows, columns]`, where `None` fits anything.
    pub(super) fn linear(
        &mut self,
        site: Site,
        name: &str,
        view: View,
        expected: [Option<usize>; 2],
    ) -> Result<Linear<Source>, Error> {
        let bias_view = View { transposed: false, rows: view.rows.clone() };
        let weight = self.must(&site, Slot::Weight, &format!("{name}.weight"), view)?;
        fits(&site, &weight, expected)?;
        let bias = self.find(&site, Slot::Bias, &format!("{name}.bias"), bias_view);
        if let Some(bias) = &bias {
            // Of the token table rows are looked up, so what is added to them is as wide as they are.
            let [rows, columns] = weight.form.shape();
            fits(&site, bias, [Some(1), Some(if site.role == Role::Tokens { columns } else { rows })])?;
        }
        Ok(Linear { weight, bias })
    }

    /// How a linear layer of a block lies in its tensor.
    pub(super) fn view(&self, rows: Option<Vec<Range<usize>>>) -> View {
        View { transposed: self.d.store == Store::InOut, rows }
    }

    /// The form of a tensor that holds several weights, rows being outputs.
    pub(super) fn fused_form(&self, name: &str) -> Option<Form> {
        let form = self.tensors.form(&format!("{name}.weight"))?;
        Some(self.view(None).form(&form, Slot::Weight))
    }

    /// A norm; older checkpoints call gain and bias `gamma` and `beta`.
    pub(super) fn norm(&mut self, site: Site, name: &str, width: Option<usize>) -> Result<Norm<Source>, Error> {
        let whole = View::whole;
        let gain = match self.find(&site, Slot::Weight, &format!("{name}.weight"), whole()) {
            Some(gain) => Some(gain),
            None => self.find(&site, Slot::Weight, &format!("{name}.gamma"), whole()),
        };
        let gain = gain.ok_or_else(|| Error::MissingTensor { site: site.clone(), tensor: format!("{name}.weight") })?;
        fits(&site, &gain, [Some(1), width])?;
        let bias = match self.d.norm {
            NormKind::Rms | NormKind::RmsPlusOne => None,
            NormKind::Layer => match self.find(&site, Slot::Bias, &format!("{name}.bias"), whole()) {
                Some(bias) => Some(bias),
                None => self.find(&site, Slot::Bias, &format!("{name}.beta"), whole()),
            },
        };
        if let Some(bias) = &bias {
            fits(&site, bias, [Some(1), Some(gain.form.shape()[1])])?;
        }
        let eps = self.look.needed(&self.d.keys.eps)?.number()? as f32;
        Ok(Norm { gain, bias, kind: self.d.norm, eps })
    }

    /// A norm of the residual stream, if the description has one.
    pub(super) fn block_norm(
        &mut self,
        place: Place,
        role: Role,
        under: &str,
        name: &Option<String>,
    ) -> Result<Option<Norm<Source>>, Error> {
        let Some(name) = name else { return Ok(None) };
        let width = Some(self.hidden);
        let mut norm = self.norm(Site::new(place, role), &join(under, name), width)?;
        if let Some(stream) = self.stream {
            (norm.kind, norm.eps) = (stream.norm, stream.eps);
        }
        Ok(Some(norm))
    }

    /// Rows of a matrix that writes to the residual stream: beside a shortcut, as many as that has.
    pub(super) fn written(&self) -> Option<usize> {
        self.stream.is_none().then_some(self.hidden)
    }

    /// What the residual stream is multiplied with beside a sublayer that writes so many entries; it exists if its tensor
    /// does.
    pub(super) fn shortcut(&mut self, place: Place, role: Role, rows: usize) -> Result<Option<Source>, Error> {
        let site = Site::new(place, role);
        let Some(weight) = self.find(&site, Slot::Weight, &site.tensor(Slot::Weight), View::whole()) else {
            return Ok(None);
        };
        fits(&site, &weight, [Some(rows), Some(self.hidden)])?;
        Ok(Some(weight))
    }

    /// A projection between the widths of table and blocks, which exists if its tensor does.
    pub(super) fn projection(
        &mut self,
        site: Site,
        name: &Option<String>,
        expected: [Option<usize>; 2],
    ) -> Result<Option<Linear<Source>>, Error> {
        let Some(name) = name else { return Ok(None) };
        let name = format!("{}{name}.weight", self.prefix);
        let Some(weight) = self.find(&site, Slot::Weight, &name, View::whole()) else { return Ok(None) };
        fits(&site, &weight, expected)?;
        Ok(Some(Linear { weight, bias: None }))
    }
}

/// `name` under a block, or under nothing.
pub(super) fn join(under: &str, name: &str) -> String {
    if under.is_empty() { name.to_owned() } else { format!("{under}.{name}") }
}

/// The rows of a part that lies in one piece.
pub(super) fn one(range: Range<usize>) -> Option<Vec<Range<usize>>> {
    Some(vec![range])
}

pub(super) fn fits(site: &Site, source: &Source, expected: [Option<usize>; 2]) -> Result<(), Error> {
    let shape = source.form.shape();
    if expected.iter().zip(shape).all(|(expected, got)| expected.is_none_or(|expected| expected == got)) {
        return Ok(());
    }
    let [rows, columns] = expected.map(|size| size.map_or("*".to_owned(), |size| size.to_string()));
    Err(wrong(site, source, format!("[{rows}, {columns}]")))
}

pub(super) fn wrong(site: &Site, source: &Source, expected: String) -> Error {
    Error::Shape { site: site.clone(), tensor: source.tensor.clone(), shape: source.form.shape(), expected }
}
