//! Weights as expressions: a leaf, a product of two, a sum of two, or a train of cores.

use serde::{Deserialize, Serialize};

use crate::train::Train;

/// An expression over leaves: what a weight is (`Expr<Leaf>`), or how it is stored (`Expr<LeafForm>`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expr<L> {
    /// One coded matrix.
    Leaf(L),
    /// `A B`, applied to activations as `A (B x)`.
    Product(Box<[Expr<L>; 2]>),
    /// `A + B`, applied to activations as `A x + B x`.
    Sum(Box<[Expr<L>; 2]>),
    /// A chain of cores, applied to activations core by core or multiplied out.
    Train(Box<Train<L>>),
}

/// Anything with rows and columns.
pub trait Shaped {
    /// `[rows, columns]`, which for a linear layer is `[out, in]`.
    fn shape(&self) -> [usize; 2];
}

impl<L: Shaped> Expr<L> {
    /// `[out, in]` of the matrix that the expression stands for.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Expr::Leaf(leaf) => leaf.shape(),
            Expr::Product(ab) => [ab[0].shape()[0], ab[1].shape()[1]],
            Expr::Sum(ab) => ab[0].shape(),
            Expr::Train(train) => train.shape,
        }
    }

    /// `A B`.
    ///
    /// # Panics
    /// If the inner dimensions differ.
    pub fn product(a: Self, b: Self) -> Self {
        assert_eq!(a.shape()[1], b.shape()[0], "the inner dimensions of a product agree");
        Expr::Product(Box::new([a, b]))
    }

    /// `A + B`.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn sum(a: Self, b: Self) -> Self {
        assert_eq!(a.shape(), b.shape(), "the terms of a sum have one shape");
        Expr::Sum(Box::new([a, b]))
    }

    /// The matrix of a train.
    ///
    /// # Panics
    /// If [`Train::fault`] has something to say.
    pub fn train(train: Train<L>) -> Self {
        assert_eq!(train.fault(), None, "the cores of a train meet");
        Expr::Train(Box::new(train))
    }
}

impl<L> Expr<L> {
    /// The leaf, if the expression is just one.
    pub fn as_leaf(&self) -> Option<&L> {
        match self {
            Expr::Leaf(leaf) => Some(leaf),
            _ => None,
        }
    }

    /// The operands of a product or sum, or the cores of a train, from left to right; none for a leaf.
    pub fn parts(&self) -> &[Expr<L>] {
        match self {
            Expr::Leaf(_) => &[],
            Expr::Product(ab) | Expr::Sum(ab) => &ab[..],
            Expr::Train(train) => &train.cores,
        }
    }

    /// The same, to be changed.
    pub fn parts_mut(&mut self) -> &mut [Expr<L>] {
        match self {
            Expr::Leaf(_) => &mut [],
            Expr::Product(ab) | Expr::Sum(ab) => &mut ab[..],
            Expr::Train(train) => &mut train.cores,
        }
    }

    /// Whether there is a train in the expression.
    pub fn has_train(&self) -> bool {
        matches!(self, Expr::Train(_)) || self.parts().iter().any(Expr::has_train)
    }

    /// The leaves from left to right, each with its path: empty for a lone leaf, `0` and `1` below a product or sum, the
    /// number of the core, from `0` on, below a train.
    pub fn leaves(&self) -> Vec<(String, &L)> {
        fn collect<'a, L>(expr: &'a Expr<L>, path: &str, into: &mut Vec<(String, &'a L)>) {
            match expr {
                Expr::Leaf(leaf) => into.push((path.to_owned(), leaf)),
                other => {
                    for (n, part) in other.parts().iter().enumerate() {
                        let path = if path.is_empty() { n.to_string() } else { format!("{path}.{n}") };
                        collect(part, &path, into);
                    }
                }
            }
        }
        let mut leaves = Vec::new();
        collect(self, "", &mut leaves);
        leaves
    }

    /// Calls `f` on each leaf from left to right, stopping at the first error.
    pub fn for_each_leaf_mut<E>(&mut self, f: &mut impl FnMut(&mut L) -> Result<(), E>) -> Result<(), E> {
        match self {
            Expr::Leaf(leaf) => f(leaf),
            other => other.parts_mut().iter_mut().try_for_each(|part| part.for_each_leaf_mut(f)),
        }
    }

    /// The same expression over other leaves; `f` also gets the path of the leaf as [`Expr::leaves`] names it.
    pub fn try_map<M, E>(&self, f: &mut impl FnMut(&str, &L) -> Result<M, E>) -> Result<Expr<M>, E> {
        fn go<L, M, E>(expr: &Expr<L>, path: &str, f: &mut impl FnMut(&str, &L) -> Result<M, E>) -> Result<Expr<M>, E> {
            let child = |n: usize| if path.is_empty() { n.to_string() } else { format!("{path}.{n}") };
            Ok(match expr {
                Expr::Leaf(leaf) => Expr::Leaf(f(path, leaf)?),
                Expr::Product(ab) => Expr::Product(Box::new([go(&ab[0], &child(0), f)?, go(&ab[1], &child(1), f)?])),
                Expr::Sum(ab) => Expr::Sum(Box::new([go(&ab[0], &child(0), f)?, go(&ab[1], &child(1), f)?])),
                Expr::Train(train) => {
                    let cores = train.cores.iter().enumerate().map(|(n, core)| go(core, &child(n), f));
                    let (rows, columns) = (train.rows.clone(), train.columns.clone());
                    let cores = cores.collect::<Result<_, E>>()?;
                    Expr::Train(Box::new(Train { shape: train.shape, rows, columns, cores }))
                }
            })
        }
        go(self, "", f)
    }
}
