//! The numbers of blocks when some of them were dropped.

use brevity_model::{Model, Place, Stage};

/// Where the blocks of the source stand in the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renumber {
    /// What the names of tensors of blocks begin with, up to the number.
    prefix: String,
    /// For each block its new number; none if nothing is left of it.
    to: Vec<Option<u32>>,
}

impl Renumber {
    /// The new numbers of the blocks of a model whose result has these stages; `None` if all are kept.
    ///
    /// The name of a block ends with its number, as the descriptions of all architectures have it.
    pub fn of<A, B>(source: &Model<A>, result: &Model<B>) -> Option<Self> {
        let prefix = source.block_name.as_deref()?.split("{i}").next()?.to_owned();
        let mut next = 0;
        let mut number = |stage: &Stage<B>| match stage {
            Stage::Block(block) if block.attn.is_none() && block.mlp.is_none() => Some(None),
            Stage::Block(_) => {
                next += 1;
                Some(Some(next - 1))
            }
            _ => None,
        };
        let to: Vec<Option<u32>> = result.stages.iter().filter_map(&mut number).collect();
        to.contains(&None).then_some(Renumber { prefix, to })
    }

    /// Where a stage stands afterwards; none if it is dropped.
    pub fn place(&self, place: Place) -> Option<Place> {
        match place {
            Place::Block(n) => self.to.get(n as usize).copied().flatten().map(Place::Block),
            other => Some(other),
        }
    }

    /// Where a stage that is kept stands, whether or not some were dropped.
    pub fn moved(numbers: Option<&Renumber>, place: Place) -> Place {
        numbers.and_then(|numbers| numbers.place(place)).unwrap_or(place)
    }

    /// What a tensor is called afterwards; none if it belongs to a block that is dropped.
    pub fn name(&self, tensor: &str) -> Option<String> {
        let numbered = tensor.strip_prefix(&self.prefix).and_then(|rest| {
            let (number, rest) = rest.split_once('.')?;
            Some((number.parse::<usize>().ok()?, rest))
        });
        match numbered {
            Some((n, rest)) if n < self.to.len() => self.to[n].map(|to| format!("{}{to}.{rest}", self.prefix)),
            _ => Some(tensor.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_behind_a_dropped_one_move_up() {
        let numbers = Renumber { prefix: "model.layers.".into(), to: vec![Some(0), None, Some(1)] };
        assert_eq!(numbers.place(Place::Block(2)), Some(Place::Block(1)));
        assert_eq!(numbers.place(Place::Block(1)), None);
        assert_eq!(numbers.place(Place::Head), Some(Place::Head));
        assert_eq!(numbers.name("model.layers.2.mlp.up.weight").as_deref(), Some("model.layers.1.mlp.up.weight"));
        assert_eq!(numbers.name("model.layers.1.mlp.up.weight"), None);
        assert_eq!(numbers.name("model.layers.10.mlp.up.weight").as_deref(), Some("model.layers.10.mlp.up.weight"));
        assert_eq!(numbers.name("model.norm.weight").as_deref(), Some("model.norm.weight"));
    }
}
