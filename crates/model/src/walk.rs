//! Walking the tree: every weight in one fixed order, with the site it belongs to.

use std::convert::Infallible;

use crate::form::Form;
use crate::site::{Place, Role, Site, Slot};
use crate::source::Source;
use crate::tree::{Attention, Block, Embed, Head, Linear, Loose, Mlp, Model, Norm, Stage};

/// What a walk calls on each weight: role, slot, weight.
type Visit<'f, W, U, E> = &'f mut dyn FnMut(Role, Slot, &W) -> Result<U, E>;
type VisitMut<'f, W, E> = &'f mut dyn FnMut(Role, Slot, &mut W) -> Result<(), E>;

impl<W> Linear<W> {
    fn map<U, E>(&self, role: Role, f: Visit<'_, W, U, E>) -> Result<Linear<U>, E> {
        let weight = f(role.clone(), Slot::Weight, &self.weight)?;
        let bias = self.bias.as_ref().map(|bias| f(role, Slot::Bias, bias)).transpose()?;
        Ok(Linear { weight, bias })
    }

    fn each_mut<E>(&mut self, role: Role, f: VisitMut<'_, W, E>) -> Result<(), E> {
        f(role.clone(), Slot::Weight, &mut self.weight)?;
        self.bias.iter_mut().try_for_each(|bias| f(role.clone(), Slot::Bias, bias))
    }
}

impl<W> Norm<W> {
    fn map<U, E>(&self, role: Role, f: Visit<'_, W, U, E>) -> Result<Norm<U>, E> {
        let gain = f(role.clone(), Slot::Weight, &self.gain)?;
        let bias = self.bias.as_ref().map(|bias| f(role, Slot::Bias, bias)).transpose()?;
        Ok(Norm { gain, bias, kind: self.kind, eps: self.eps })
    }

    fn each_mut<E>(&mut self, role: Role, f: VisitMut<'_, W, E>) -> Result<(), E> {
        f(role.clone(), Slot::Weight, &mut self.gain)?;
        self.bias.iter_mut().try_for_each(|bias| f(role.clone(), Slot::Bias, bias))
    }
}

/// Maps an optional part: `part!(self.gate, Role::Gate, f)`.
macro_rules! part {
    ($part:expr, $role:expr, $f:expr) => {
        $part.as_ref().map(|part| part.map($role, &mut *$f)).transpose()?
    };
}

/// Visits an optional part.
macro_rules! visit {
    ($part:expr, $role:expr, $f:expr) => {
        if let Some(part) = &mut $part {
            part.each_mut($role, &mut *$f)?;
        }
    };
}

impl<W> Embed<W> {
    fn map<U, E>(&self, f: Visit<'_, W, U, E>) -> Result<Embed<U>, E> {
        Ok(Embed {
            tokens: self.tokens.map(Role::Tokens, f)?,
            positions: self.positions.as_ref().map(|w| f(Role::Positions, Slot::Weight, w)).transpose()?,
            position_offset: self.position_offset,
            types: self.types.as_ref().map(|w| f(Role::Types, Slot::Weight, w)).transpose()?,
            relative: self.relative.as_ref().map(|w| f(Role::Relative, Slot::Weight, w)).transpose()?,
            project: part!(self.project, Role::EmbedProject, f),
            norm: part!(self.norm, Role::EmbedNorm, f),
            scale: self.scale,
        })
    }

    fn each_mut<E>(&mut self, f: VisitMut<'_, W, E>) -> Result<(), E> {
        self.tokens.each_mut(Role::Tokens, f)?;
        self.positions.iter_mut().try_for_each(|w| f(Role::Positions, Slot::Weight, w))?;
        self.types.iter_mut().try_for_each(|w| f(Role::Types, Slot::Weight, w))?;
        self.relative.iter_mut().try_for_each(|w| f(Role::Relative, Slot::Weight, w))?;
        visit!(self.project, Role::EmbedProject, f);
        visit!(self.norm, Role::EmbedNorm, f);
        Ok(())
    }
}

impl<W> Attention<W> {
    fn map<U, E>(&self, f: Visit<'_, W, U, E>) -> Result<Attention<U>, E> {
        Ok(Attention {
            before: part!(self.before, Role::AttnBefore, f),
            q: self.q.map(Role::Q, f)?,
            k: self.k.map(Role::K, f)?,
            v: self.v.map(Role::V, f)?,
            o: self.o.map(Role::O, f)?,
            q_norm: part!(self.q_norm, Role::QNorm, f),
            k_norm: part!(self.k_norm, Role::KNorm, f),
            after: part!(self.after, Role::AttnAfter, f),
            sum: part!(self.sum, Role::AttnSum, f),
            relative: self.relative.as_ref().map(|w| f(Role::AttnRelative, Slot::Weight, w)).transpose()?,
            shortcut: self.shortcut.as_ref().map(|w| f(Role::AttnShortcut, Slot::Weight, w)).transpose()?,
            heads: self.heads.clone(),
        })
    }

    fn each_mut<E>(&mut self, f: VisitMut<'_, W, E>) -> Result<(), E> {
        visit!(self.before, Role::AttnBefore, f);
        self.q.each_mut(Role::Q, f)?;
        self.k.each_mut(Role::K, f)?;
        self.v.each_mut(Role::V, f)?;
        self.o.each_mut(Role::O, f)?;
        visit!(self.q_norm, Role::QNorm, f);
        visit!(self.k_norm, Role::KNorm, f);
        visit!(self.after, Role::AttnAfter, f);
        visit!(self.sum, Role::AttnSum, f);
        self.relative.iter_mut().try_for_each(|w| f(Role::AttnRelative, Slot::Weight, w))?;
        self.shortcut.iter_mut().try_for_each(|w| f(Role::AttnShortcut, Slot::Weight, w))
    }
}

impl<W> Mlp<W> {
    fn map<U, E>(&self, f: Visit<'_, W, U, E>) -> Result<Mlp<U>, E> {
        Ok(Mlp {
            before: part!(self.before, Role::MlpBefore, f),
            gate: part!(self.gate, Role::Gate, f),
            up: self.up.map(Role::Up, f)?,
            down: self.down.map(Role::Down, f)?,
            act: self.act,
            after: part!(self.after, Role::MlpAfter, f),
            sum: part!(self.sum, Role::MlpSum, f),
            shortcut: self.shortcut.as_ref().map(|w| f(Role::MlpShortcut, Slot::Weight, w)).transpose()?,
        })
    }

    fn each_mut<E>(&mut self, f: VisitMut<'_, W, E>) -> Result<(), E> {
        visit!(self.before, Role::MlpBefore, f);
        visit!(self.gate, Role::Gate, f);
        self.up.each_mut(Role::Up, f)?;
        self.down.each_mut(Role::Down, f)?;
        visit!(self.after, Role::MlpAfter, f);
        visit!(self.sum, Role::MlpSum, f);
        self.shortcut.iter_mut().try_for_each(|w| f(Role::MlpShortcut, Slot::Weight, w))
    }
}

impl<W> Head<W> {
    fn map<U, E>(&self, f: Visit<'_, W, U, E>) -> Result<Head<U>, E> {
        Ok(Head {
            norm: part!(self.norm, Role::HeadNorm, f),
            project: part!(self.project, Role::HeadProject, f),
            out: part!(self.out, Role::Out, f),
            logits: self.logits,
            softcap: self.softcap,
        })
    }

    fn each_mut<E>(&mut self, f: VisitMut<'_, W, E>) -> Result<(), E> {
        visit!(self.norm, Role::HeadNorm, f);
        visit!(self.project, Role::HeadProject, f);
        visit!(self.out, Role::Out, f);
        Ok(())
    }
}

impl<W> Loose<W> {
    fn map<U, E>(&self, f: Visit<'_, W, U, E>) -> Result<Loose<U>, E> {
        let matrices = self
            .matrices
            .iter()
            .map(|(name, linear)| Ok((name.clone(), linear.map(Role::Loose(name.as_str().into()), f)?)));
        Ok(Loose { matrices: matrices.collect::<Result<_, E>>()?, others: self.others.clone() })
    }

    fn each_mut<E>(&mut self, f: VisitMut<'_, W, E>) -> Result<(), E> {
        self.matrices.iter_mut().try_for_each(|(name, linear)| linear.each_mut(Role::Loose(name.as_str().into()), f))
    }
}

impl<W> Stage<W> {
    /// The same stage over other weights; `f` gets role, slot and weight, in a fixed order.
    pub fn try_map<U, E>(&self, mut f: impl FnMut(Role, Slot, &W) -> Result<U, E>) -> Result<Stage<U>, E> {
        let f: Visit<'_, W, U, E> = &mut f;
        Ok(match self {
            Stage::Embed(embed) => Stage::Embed(embed.map(f)?),
            Stage::Block(block) => Stage::Block(Block {
                attn: block.attn.as_ref().map(|attn| attn.map(f)).transpose()?,
                mlp: block.mlp.as_ref().map(|mlp| mlp.map(f)).transpose()?,
                parallel: block.parallel,
            }),
            Stage::Head(head) => Stage::Head(head.map(f)?),
            Stage::Loose(loose) => Stage::Loose(loose.map(f)?),
        })
    }

    /// Calls `f` on every weight, in the order of [`Stage::try_map`], until it fails.
    pub fn try_for_each_mut<E>(&mut self, mut f: impl FnMut(Role, Slot, &mut W) -> Result<(), E>) -> Result<(), E> {
        let f: VisitMut<'_, W, E> = &mut f;
        match self {
            Stage::Embed(embed) => embed.each_mut(f),
            Stage::Block(block) => {
                block.attn.iter_mut().try_for_each(|attn| attn.each_mut(f))?;
                block.mlp.iter_mut().try_for_each(|mlp| mlp.each_mut(f))
            }
            Stage::Head(head) => head.each_mut(f),
            Stage::Loose(loose) => loose.each_mut(f),
        }
    }

    /// Every weight with its role and slot, in the order of [`Stage::try_map`], but for what the blocks only share:
    /// [`Attention::relative`], which is the embedding's.
    pub fn weights(&self) -> Vec<(Role, Slot, &W)> {
        // One walk serves all: collect addresses in order, with the tree borrowed for as long as they live.
        fn linear<'a, W>(role: Role, part: &'a Linear<W>, into: &mut Vec<(Role, Slot, &'a W)>) {
            into.push((role.clone(), Slot::Weight, &part.weight));
            into.extend(part.bias.iter().map(|bias| (role.clone(), Slot::Bias, bias)));
        }
        fn norm<'a, W>(role: Role, part: &'a Option<Norm<W>>, into: &mut Vec<(Role, Slot, &'a W)>) {
            if let Some(part) = part {
                into.push((role.clone(), Slot::Weight, &part.gain));
                into.extend(part.bias.iter().map(|bias| (role.clone(), Slot::Bias, bias)));
            }
        }
        let mut all = Vec::new();
        let into = &mut all;
        match self {
            Stage::Embed(embed) => {
                linear(Role::Tokens, &embed.tokens, into);
                into.extend(embed.positions.iter().map(|w| (Role::Positions, Slot::Weight, w)));
                into.extend(embed.types.iter().map(|w| (Role::Types, Slot::Weight, w)));
                into.extend(embed.relative.iter().map(|w| (Role::Relative, Slot::Weight, w)));
                embed.project.iter().for_each(|part| linear(Role::EmbedProject, part, into));
                norm(Role::EmbedNorm, &embed.norm, into);
            }
            Stage::Block(block) => {
                if let Some(attn) = &block.attn {
                    norm(Role::AttnBefore, &attn.before, into);
                    linear(Role::Q, &attn.q, into);
                    linear(Role::K, &attn.k, into);
                    linear(Role::V, &attn.v, into);
                    linear(Role::O, &attn.o, into);
                    norm(Role::QNorm, &attn.q_norm, into);
                    norm(Role::KNorm, &attn.k_norm, into);
                    norm(Role::AttnAfter, &attn.after, into);
                    norm(Role::AttnSum, &attn.sum, into);
                    into.extend(attn.shortcut.iter().map(|w| (Role::AttnShortcut, Slot::Weight, w)));
                }
                if let Some(mlp) = &block.mlp {
                    norm(Role::MlpBefore, &mlp.before, into);
                    mlp.gate.iter().for_each(|part| linear(Role::Gate, part, into));
                    linear(Role::Up, &mlp.up, into);
                    linear(Role::Down, &mlp.down, into);
                    norm(Role::MlpAfter, &mlp.after, into);
                    norm(Role::MlpSum, &mlp.sum, into);
                    into.extend(mlp.shortcut.iter().map(|w| (Role::MlpShortcut, Slot::Weight, w)));
                }
            }
            Stage::Head(head) => {
                norm(Role::HeadNorm, &head.norm, into);
                head.project.iter().for_each(|part| linear(Role::HeadProject, part, into));
                head.out.iter().for_each(|part| linear(Role::Out, part, into));
            }
            Stage::Loose(loose) => {
                loose.matrices.iter().for_each(|(name, part)| linear(Role::Loose(name.as_str().into()), part, into));
            }
        }
        all
    }

    /// The linear layers and tables that methods may rewrite, in the order of the forward pass, each with its role.
    pub fn linears_mut(&mut self) -> Vec<(Role, &mut Linear<W>)> {
        let mut all = Vec::new();
        match self {
            Stage::Embed(embed) => {
                all.push((Role::Tokens, &mut embed.tokens));
                all.extend(embed.project.iter_mut().map(|part| (Role::EmbedProject, part)));
            }
            Stage::Block(block) => {
                if let Some(attn) = &mut block.attn {
                    all.push((Role::Q, &mut attn.q));
                    all.push((Role::K, &mut attn.k));
                    all.push((Role::V, &mut attn.v));
                    all.push((Role::O, &mut attn.o));
                }
                if let Some(mlp) = &mut block.mlp {
                    all.extend(mlp.gate.iter_mut().map(|part| (Role::Gate, part)));
                    all.push((Role::Up, &mut mlp.up));
                    all.push((Role::Down, &mut mlp.down));
                }
            }
            Stage::Head(head) => {
                all.extend(head.project.iter_mut().map(|part| (Role::HeadProject, part)));
                all.extend(head.out.iter_mut().map(|part| (Role::Out, part)));
            }
            Stage::Loose(loose) => {
                all.extend(loose.matrices.iter_mut().map(|(name, part)| (Role::Loose(name.as_str().into()), part)));
            }
        }
        all
    }
}

impl<W> Model<W> {
    /// The place of stage `n`.
    pub fn place(&self, n: usize) -> Place {
        let same_kind = |stage: &&Stage<W>| std::mem::discriminant(*stage) == std::mem::discriminant(&self.stages[n]);
        let before = self.stages[..n].iter().filter(same_kind).count() as u32;
        match &self.stages[n] {
            Stage::Embed(_) => Place::Embed,
            Stage::Block(_) => Place::Block(before),
            Stage::Head(_) => Place::Head,
            Stage::Loose(_) => Place::Loose(before),
        }
    }

    /// The site of a role in stage `n`.
    pub fn site(&self, n: usize, role: Role) -> Site {
        Site::new(self.place(n), role)
    }

    /// Whether the logits come from the token table.
    pub fn is_tied(&self) -> bool {
        self.stages.iter().any(|stage| matches!(stage, Stage::Head(Head { out: None, logits: true, .. })))
    }

    /// Whether there are logits: encoders return hidden states.
    pub fn has_logits(&self) -> bool {
        self.stages.iter().any(|stage| matches!(stage, Stage::Head(Head { logits: true, .. })))
    }

    /// The same model over other weights; `f` gets site, slot and weight.
    pub fn try_map<U, E>(&self, mut f: impl FnMut(Site, Slot, &W) -> Result<U, E>) -> Result<Model<U>, E> {
        let stages = self.stages.iter().enumerate().map(|(n, stage)| {
            let place = self.place(n);
            stage.try_map(|role, slot, weight| f(Site::new(place, role), slot, weight))
        });
        Ok(Model {
            name: self.name.clone(),
            hidden: self.hidden,
            vocabulary: self.vocabulary,
            context: self.context,
            block_name: self.block_name.clone(),
            stages: stages.collect::<Result<_, E>>()?,
        })
    }

    /// Every weight with its site and slot, stage by stage.
    pub fn weights(&self) -> impl Iterator<Item = (Site, Slot, &W)> {
        self.stages.iter().enumerate().flat_map(|(n, stage)| {
            let place = self.place(n);
            stage.weights().into_iter().map(move |(role, slot, weight)| (Site::new(place, role), slot, weight))
        })
    }
}

impl Stage<Source> {
    /// How the weights of the stage are stored.
    pub fn forms(&self) -> Stage<Form> {
        self.try_map(|_, _, source| Ok::<_, Infallible>(source.form.clone())).unwrap_or_else(|never| match never {})
    }
}

impl Model<Source> {
    /// How the weights are stored.
    pub fn forms(&self) -> Model<Form> {
        self.try_map(|_, _, source| Ok::<_, Infallible>(source.form.clone())).unwrap_or_else(|never| match never {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Activation, NormKind};

    fn linear(name: &str, bias: bool) -> Linear<String> {
        Linear { weight: format!("{name}.w"), bias: bias.then(|| format!("{name}.b")) }
    }

    fn block() -> Stage<String> {
        Stage::Block(Block {
            attn: None,
            mlp: Some(Mlp {
                before: Some(Norm { gain: "n.w".into(), bias: None, kind: NormKind::Rms, eps: 1e-6 }),
                gate: Some(linear("gate", false)),
                up: linear("up", true),
                down: linear("down", true),
                act: Activation::Silu,
                after: None,
                sum: None,
                shortcut: None,
            }),
            parallel: false,
        })
    }

    #[test]
    fn all_walks_visit_the_same_weights_in_the_same_order() {
        let mut stage = block();
        let listed: Vec<String> = stage.weights().into_iter().map(|(_, _, w)| w.clone()).collect();
        assert_eq!(listed, ["n.w", "gate.w", "up.w", "up.b", "down.w", "down.b"]);
        let mut mapped = Vec::new();
        let copied = stage.try_map(|_, _, w| {
            mapped.push(w.clone());
            Ok::<_, ()>(w.clone())
        });
        assert_eq!(copied.as_ref(), Ok(&stage));
        assert_eq!(mapped, listed);
        let mut mutated = Vec::new();
        let visited = stage.try_for_each_mut(|_, _, w| {
            mutated.push(w.clone());
            Ok::<_, ()>(())
        });
        assert_eq!(visited, Ok(()));
        assert_eq!(mutated, listed);
        let linears: Vec<Role> = stage.linears_mut().into_iter().map(|(role, _)| role).collect();
        assert_eq!(linears, [Role::Gate, Role::Up, Role::Down]);
    }

    #[test]
    fn blocks_are_numbered_among_themselves() {
        let loose = || Stage::Loose(Loose { matrices: Default::default(), others: Vec::new() });
        let model = Model {
            name: "m".into(),
            hidden: 1,
            vocabulary: 1,
            context: None,
            block_name: None,
            stages: vec![block(), block(), loose()],
        };
        assert_eq!(model.site(1, Role::Up).to_string(), "blocks.1.mlp.up");
        assert_eq!(model.place(2), Place::Loose(0));
        assert_eq!(model.weights().count(), 12);
    }
}
