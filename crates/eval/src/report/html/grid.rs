//! Tables of a page.

use serde::Serialize;

use crate::report::svg::minus;

/// A table that is read without a script, and searched and sorted with one.
#[derive(Default, Serialize)]
pub(super) struct Grid {
    pub caption: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
    /// Whether it is long enough to be searched.
    pub search: bool,
    /// Whether the first cell of a row is its name.
    pub named: bool,
}

/// The head of a column.
#[derive(Serialize)]
pub(super) struct Column {
    pub name: String,
    /// Whether it holds numbers, which are set flush right.
    pub number: bool,
}

/// A cell.
#[derive(Default, Serialize)]
pub(super) struct Cell {
    pub text: String,
    /// What stands under it, smaller.
    pub small: String,
    /// What it is sorted by, if not by its text.
    pub sort: Option<f64>,
    /// A class of the style: `good`, `bad`, `faint`.
    pub class: &'static str,
    /// The length of a bar behind it, in percent.
    pub bar: Option<String>,
}

/// Rows in front of which a table is not searched.
const SHORT: usize = 12;

impl Grid {
    /// A table; names of columns that begin with `#` hold numbers.
    pub fn new(caption: impl Into<String>, columns: &[&str], rows: Vec<Vec<Cell>>) -> Self {
        let column = |name: &&str| match name.strip_prefix('#') {
            Some(name) => Column { name: name.into(), number: true },
            None => Column { name: (*name).into(), number: false },
        };
        let search = rows.len() > SHORT;
        Grid { caption: caption.into(), columns: columns.iter().map(column).collect(), rows, search, named: true }
    }

    /// A table that is seen as a whole, however long.
    pub fn unsearched(self) -> Self {
        Grid { search: false, ..self }
    }

    /// A table of which no cell names its row.
    pub fn unnamed(self) -> Self {
        Grid { named: false, ..self }
    }
}

/// A cell of text.
pub(super) fn text(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), ..Cell::default() }
}

/// A cell of a number, as it is written and as it is.
pub(super) fn number(text: impl AsRef<str>, value: f64) -> Cell {
    Cell { text: minus(text.as_ref()), sort: value.is_finite().then_some(value), ..Cell::default() }
}

/// A cell of a count.
pub(super) fn count(n: u64) -> Cell {
    number(n.to_string(), n as f64)
}

impl Cell {
    pub fn class(self, class: &'static str) -> Self {
        Cell { class, ..self }
    }

    pub fn small(self, small: impl AsRef<str>) -> Self {
        // A line may end in front of an interval, not inside it, nor inside what is short.
        let keep = |part: &str| {
            if part.contains(']') || part.len() < 20 { part.replace(' ', "\u{a0}") } else { part.to_owned() }
        };
        let parts: Vec<String> = minus(small.as_ref()).split(" [").map(keep).collect();
        Cell { small: parts.join(" ["), ..self }
    }

    /// A bar of this share of the cell.
    pub fn bar(self, share: f64) -> Self {
        let percent = 100.0 * share.clamp(0.0, 1.0);
        Cell { bar: percent.is_finite().then(|| format!("{percent:.1}")), ..self }
    }
}
