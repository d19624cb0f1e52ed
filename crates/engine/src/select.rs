//! Selectors: which matrices of a model a step of a recipe is for.

use std::fmt;

use brevity_model::Site;

/// Picks sites by place, role or pattern.
///
/// A selector matches a site if it equals the name of the site or a leading part of it (`blocks`, `blocks.12`,
/// `blocks.12.attn`, `embed.tokens`, `head`, `loose`), or its role inside the blocks or a leading part of that
/// (`attn`, `mlp`, `attn.q`, `mlp.down`). `*` stands for any run of characters, `?` for one, and `blocks.0-3`
/// for a range of blocks, both ends included. A tensor that no description claims is also matched by its name in
/// the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    text: String,
    /// The range of places, if there is one; `text` without it is in `pattern` with the number as `#`.
    range: Option<(u32, u32)>,
    pattern: Vec<char>,
}

/// A text that is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a selector: {why}")]
pub struct BadSelector {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Selector {
    /// Reads a selector.
    pub fn parse(text: &str) -> Result<Self, BadSelector> {
        let wrong = |why| BadSelector { text: text.to_owned(), why };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if text.chars().any(char::is_whitespace) {
            return Err(wrong("it has a space in it; write several selectors as a list"));
        }
        let mut parts: Vec<&str> = text.split('.').collect();
        let named = matches!(parts[0], "blocks" | "loose");
        if named && parts.iter().any(|part| part.is_empty()) {
            return Err(wrong("it has two dots in a row, or one at an end"));
        }
        let mut range = None;
        if parts[0] == "blocks" && parts.len() > 1 && !parts[1].contains(['*', '?']) {
            let number = |n: &str| n.parse::<u32>();
            let (first, last) = match parts[1].split_once('-') {
                Some((first, last)) => (number(first), number(last)),
                None => (number(parts[1]), number(parts[1])),
            };
            let (Ok(first), Ok(last)) = (first, last) else {
                return Err(wrong("behind `blocks.` stands a number, a range such as `0-3`, or `*`"));
            };
            if first > last {
                return Err(wrong("the range ends before it begins"));
            }
            range = Some((first, last));
            parts[1] = "#";
        }
        Ok(Selector { text: text.to_owned(), range, pattern: parts.join(".").chars().collect() })
    }

    /// Whether it picks a site.
    pub fn matches(&self, site: &Site) -> bool {
        let full = site.to_string();
        let role = || site.role.as_str().to_owned();
        let numbered = match (&self.range, site.place) {
            (Some((first, last)), brevity_model::Place::Block(n)) if (*first..=*last).contains(&n) => {
                return self.matches_start(&format!("blocks.#.{}", site.role));
            }
            (Some(_), _) => return false,
            (None, place) => place,
        };
        self.matches_start(&full)
            || matches!(numbered, brevity_model::Place::Block(_) | brevity_model::Place::Loose(_))
                && self.matches_start(&role())
    }

    /// Whether it matches `name` or a part of it that ends in front of a dot.
    fn matches_start(&self, name: &str) -> bool {
        let ends = name.match_indices('.').map(|(at, _)| at).chain([name.len()]);
        ends.into_iter().any(|end| glob(&self.pattern, &name[..end].chars().collect::<Vec<_>>()))
    }
}

/// Whether `pattern` with `*` and `?` matches all of `name`.
fn glob(pattern: &[char], name: &[char]) -> bool {
    // Greedy with one point to come back to: behind the last star, one character further each time.
    let (mut p, mut n) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                back = Some((p + 1, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match &mut back {
                Some((star, from)) => {
                    *from += 1;
                    (p, n) = (*star, *from);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_pick_by_place_role_range_and_pattern() {
        for (selector, site, picked) in [
            ("blocks", "blocks.3.attn.q", true),
            ("blocks", "embed.tokens", false),
            ("blocks.3", "blocks.3.mlp.up", true),
            ("blocks.3", "blocks.30.mlp.up", false),
            ("blocks.0-3", "blocks.3.mlp.up", true),
            ("blocks.0-3", "blocks.4.mlp.up", false),
            ("blocks.0-3.mlp", "blocks.2.mlp.up", true),
            ("blocks.0-3.mlp", "blocks.2.attn.q", false),
            ("blocks.12.attn.q", "blocks.12.attn.q", true),
            ("attn", "blocks.0.attn.o", true),
            ("attn", "blocks.0.mlp.up", false),
            ("attn.q", "blocks.0.attn.q", true),
            ("mlp.down", "blocks.7.mlp.down", true),
            ("embed", "embed.tokens", true),
            ("embed.tokens", "embed.tokens", true),
            ("tokens", "embed.tokens", false),
            ("head", "head.out", true),
            ("head.out", "head.out", true),
            ("loose", "loose.0.unet.down.weight", true),
            ("unet.down", "loose.0.unet.down.weight", true),
            ("*", "head.out", true),
            ("*.down", "blocks.7.mlp.down", true),
            ("attn.?", "blocks.7.attn.v", true),
            ("blocks.*.attn", "blocks.7.attn.v", true),
            ("blocks.*5.attn", "blocks.15.attn.v", true),
            ("blocks.*5.attn", "blocks.16.attn.v", false),
        ] {
            let site: Site = site.parse().unwrap();
            assert_eq!(Selector::parse(selector).unwrap().matches(&site), picked, "{selector} on {site}");
        }
    }

    #[test]
    fn what_is_not_a_selector_is_refused() {
        for text in ["", "attn mlp", "blocks.5-2", "blocks.x-3", "blocks.first", "blocks..attn", "blocks."] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }
}
