//! The MLP: gate and up from their tensors or from one.

use super::Builder;
use super::parts::{fits, join, one, wrong};
use crate::error::Error;
use crate::site::{Place, Role, Site};
use crate::source::{Source, View};
use crate::tree::{Activation, Linear, Mlp};

impl Builder<'_> {
    pub(super) fn mlp(&mut self, place: Place, under: &str) -> Result<Mlp<Source>, Error> {
        let names = &self.d.mlp;
        let site = |role| Site::new(place, role);
        let hidden = Some(self.hidden);
        let (gate, up) = match (&names.gate_up, &names.up) {
            (Some(both), _) => {
                let [gate, up] = self.gate_up(place, &join(under, both))?;
                (Some(gate), up)
            }
            (None, Some(up)) => {
                let gate = match &names.gate {
                    Some(name) => {
                        let view = self.view(None);
                        Some(self.linear(site(Role::Gate), &join(under, name), view, [None, hidden])?)
                    }
                    None => None,
                };
                let view = self.view(None);
                (gate, self.linear(site(Role::Up), &join(under, up), view, [None, hidden])?)
            }
            (None, None) => unreachable!("a description names up or gate_up, checked when it is read"),
        };
        let ffn = up.weight.form.shape()[0];
        if let Some(gate) = &gate {
            fits(&site(Role::Gate), &gate.weight, [Some(ffn), hidden])?;
        }
        let view = self.view(None);
        let down = self.linear(site(Role::Down), &join(under, &names.down), view, [self.written(), Some(ffn)])?;
        let behind = down.weight.form.shape()[0];
        Ok(Mlp {
            before: self.block_norm(place, Role::MlpBefore, under, &names.before)?,
            gate,
            up,
            down,
            act: self.activation()?,
            after: self.block_norm(place, Role::MlpAfter, under, &names.after)?,
            sum: self.block_norm(place, Role::MlpSum, under, &names.sum)?,
            shortcut: self.shortcut(place, Role::MlpShortcut, behind)?,
        })
    }

    /// Gate and up, which lie one above the other in one tensor.
    fn gate_up(&mut self, place: Place, name: &str) -> Result<[Linear<Source>; 2], Error> {
        let mut ranges = [None, None];
        if let Some(whole) = self.fused_form(name) {
            let rows = whole.shape()[0];
            if !rows.is_multiple_of(2) {
                let source = Source { tensor: format!("{name}.weight"), form: whole, view: View::whole() };
                return Err(wrong(&Site::new(place, Role::Gate), &source, "an even number of rows".into()));
            }
            ranges = [one(0..rows / 2), one(rows / 2..rows)];
        }
        let expected = [None, Some(self.hidden)];
        let [gate, up] = ranges.map(|rows| self.view(rows));
        Ok([
            self.linear(Site::new(place, Role::Gate), name, gate, expected)?,
            self.linear(Site::new(place, Role::Up), name, up, expected)?,
        ])
    }

    /// The nonlinearity, by any of the names that configurations use.
    fn activation(&self) -> Result<Activation, Error> {
        let found = self.look.needed_setting(&self.d.mlp.act)?;
        Ok(match found.word()? {
            "silu" | "swish" => Activation::Silu,
            "gelu" | "gelu_python" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_tanh" | "gelu_accurate" => Activation::GeluTanh,
            "quick_gelu" => Activation::QuickGelu,
            "relu" => Activation::Relu,
            _ => {
                return Err(self
                    .look
                    .unsupported(&found, "known are silu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu"));
            }
        })
    }
}
