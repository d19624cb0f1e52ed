//! The survey for `scope: global`: an exact cut through the magnitudes of all layers, in bounded memory.
//!
//! The bits of a magnitude are sorted by radix: the first pass counts their upper 16 bits, the second the lower
//! 15 of those that share the upper ones of the cut (it is left out if no lower bit is ever set, as in bf16).
//! The last pass counts, matrix by matrix, the entries that lie exactly on the cut, so that ties can go in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use brevity_model::{Linear, Mask, Site, Weight};

use super::{Cut, Magnitude, NAME, Rule, Scope, Ties};
use crate::error::{Error, Result};
use crate::leaves::{check_finite, is_rule_leaf};
use crate::method::{LinearMethod, Survey};
use crate::prune::select::{bits, share};
use crate::seen::Seen;

const LOW: u32 = 15;

pub(super) struct GlobalCut {
    sparsity: f64,
    pass: Pass,
    /// Counts of the digit that the pass looks at.
    counts: Vec<u64>,
    /// Whether a bit of the lower digit is set anywhere.
    low_bits: bool,
    /// Entries, and those of them that are removed already.
    total: u64,
    removed: u64,
    /// How many entries at or above the cut's digit so far still have to go.
    remaining: u64,
    cut: u32,
    ties: BTreeMap<(Site, String), Ties>,
    /// Matrices in the order in which they were looked at.
    order: Vec<(Site, String)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    High,
    Low,
    Ties,
}

impl GlobalCut {
    pub(super) fn new(sparsity: f64) -> Self {
        GlobalCut {
            sparsity,
            pass: Pass::High,
            counts: vec![0; 1 << 16],
            low_bits: false,
            total: 0,
            removed: 0,
            remaining: 0,
            cut: 0,
            ties: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    fn count(&mut self, site: &Site, path: &str, w: &[f32], mask: Option<&Mask>) -> Result<()> {
        let kept = |n: &usize| mask.is_none_or(|mask| mask.keeps(*n));
        let entries = (0..w.len()).filter(kept).map(|n| bits(w[n]));
        match self.pass {
            Pass::High => {
                check_finite(site, path, w)?;
                self.total += w.len() as u64;
                self.removed += mask.map_or(0, |mask| w.len() - mask.kept()) as u64;
                for b in entries {
                    self.counts[(b >> LOW) as usize] += 1;
                    self.low_bits |= b & ((1 << LOW) - 1) != 0;
                }
            }
            Pass::Low => entries.filter(|b| b >> LOW == self.cut >> LOW).for_each(|b| {
                self.counts[(b & ((1 << LOW) - 1)) as usize] += 1;
            }),
            Pass::Ties => {
                let mut ties = Ties::default();
                for b in entries {
                    ties.kept += 1;
                    ties.below += usize::from(b < self.cut);
                    ties.remove += usize::from(b == self.cut);
                }
                let key = (site.clone(), path.to_owned());
                self.order.push(key.clone());
                if self.ties.insert(key, ties).is_some() {
                    return Err(Error::Changed { method: NAME, site: site.clone() });
                }
            }
        }
        Ok(())
    }

    /// The digit in which the cut lies; `remaining` becomes what has to go inside it.
    fn digit(&mut self) -> u32 {
        for (digit, &count) in self.counts.iter().enumerate() {
            if count >= self.remaining {
                return digit as u32;
            }
            self.remaining -= count;
        }
        unreachable!("fewer entries go than there are")
    }
}

impl Survey for GlobalCut {
    fn look(&mut self, site: &Site, layer: &Linear<Weight>, _: &Seen) -> Result<()> {
        for (path, leaf) in layer.weight.leaves() {
            if !is_rule_leaf(leaf) {
                self.count(site, &path, &leaf.to_f32(), leaf.mask.as_ref())?;
            }
        }
        Ok(())
    }

    fn next_pass(&mut self) -> bool {
        match self.pass {
            Pass::High => {
                self.remaining = (share(self.sparsity, self.total as usize) as u64).saturating_sub(self.removed);
                if self.remaining == 0 {
                    // Nothing lies below zero bits, and no tie goes.
                    self.pass = Pass::Ties;
                    return true;
                }
                self.cut = self.digit() << LOW;
                self.pass = if self.low_bits { Pass::Low } else { Pass::Ties };
                self.counts.fill(0);
                true
            }
            Pass::Low => {
                self.cut |= self.digit();
                self.pass = Pass::Ties;
                true
            }
            Pass::Ties => {
                for key in &self.order {
                    let ties = self.ties.get_mut(key).expect("every matrix in the order has its ties");
                    ties.remove = ties.remove.min(self.remaining as usize);
                    self.remaining -= ties.remove as u64;
                }
                false
            }
        }
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn LinearMethod>> {
        let rule = Rule::Share { sparsity: self.sparsity, scope: Scope::Global };
        Ok(Box::new(Magnitude { cut: Some(Arc::new(Cut { bits: self.cut, ties: self.ties })), ..Magnitude::new(rule) }))
    }
}
