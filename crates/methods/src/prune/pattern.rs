//! Patterns `n:m`: `n` of every `m` consecutive inputs are removed.

/// Reads `n:m` with `0 < n < m`.
pub(super) fn parse(text: &str) -> Option<(usize, usize)> {
    let (removed, of) = text.split_once(':')?;
    let (removed, of) = (removed.parse().ok()?, of.parse().ok()?);
    (0 < removed && removed < of).then_some((removed, of))
}

/// What to note of a row of so many columns, if a pattern leaves some of them dense.
pub(super) fn tail(columns: usize, of: usize) -> Option<String> {
    (!columns.is_multiple_of(of)).then(|| format!("the last {} of {columns} inputs stay dense", columns % of))
}
