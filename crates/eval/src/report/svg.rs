//! Drawings as SVG: axes, lines, marks, text.
//!
//! Not the `plotters` crate: it writes colours into every element and knows no classes, so that a drawing could follow neither the
//! reader's dark mode nor print, and its marks have no titles to be read aloud or shown under the pointer. What we draw needs two
//! hundred lines. Colours, fonts and dashes are classes of `report.css`; series differ in shape and dash besides colour.

use std::fmt::Write as _;

/// The style of drawings; it knows light, dark and paper.
pub(super) const STYLE: &str = include_str!("report.css");

/// What is left free around a drawing that stands alone.
const EDGE: f64 = 16.0;

/// A drawing that grows element by element. Lengths are in CSS pixels at full size.
pub(super) struct Drawing {
    width: f64,
    height: f64,
    body: String,
}

/// Where a text is held.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Drawing {
    pub fn new(width: f64, height: f64) -> Self {
        Drawing { width, height, body: String::new() }
    }

    pub fn line(&mut self, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], class: &str) {
        self.element(format_args!(r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#));
    }

    /// Lines through points.
    pub fn path(&mut self, points: &[[f64; 2]], class: &str) {
        let points: Vec<String> = points.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        self.element(format_args!(r#"<polyline class="{class}" points="{}"/>"#, points.join(" ")));
    }

    /// A box with a title.
    pub fn rect(&mut self, [x, y]: [f64; 2], [width, height]: [f64; 2], class: &str, title: &str) {
        let title = titled(&minus(title));
        self.element(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}">{title}</rect>"#
        ));
    }

    /// The mark of a series, each with a shape of its own, with a title.
    pub fn mark(&mut self, series: usize, [x, y]: [f64; 2], class: &str, title: &str) {
        // Shapes of about equal area around the origin.
        const SHAPES: [&str; 6] = [
            "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
            "M-3.6,-3.6H3.6V3.6H-3.6Z",
            "M0,-5.2L5,0L0,5.2L-5,0Z",
            "M0,-5L5,3.8H-5Z",
            "M0,5L5,-3.8H-5Z",
            "M-1.5,-4.8H1.5V-1.5H4.8V1.5H1.5V4.8H-1.5V1.5H-4.8V-1.5H-1.5Z",
        ];
        let shape = SHAPES[series % SHAPES.len()];
        let title = titled(&minus(title));
        self.element(format_args!(
            r#"<path class="{class}" transform="translate({x:.1} {y:.1})" d="{shape}">{title}</path>"#
        ));
    }

    pub fn text(&mut self, [x, y]: [f64; 2], anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(&if class == "tick" { minus(text) } else { text.to_owned() });
        self.element(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    fn element(&mut self, element: std::fmt::Arguments<'_>) {
        self.body.write_fmt(element).expect("a string takes everything");
        self.body.push('\n');
    }

    /// The drawing, for a page that has [`STYLE`]. `id` is to be unlike any other on the page.
    pub fn finish(self, id: &str, title: &str, about: &str) -> String {
        self.wrapped(id, title, about, 0.0, "", "")
    }

    /// The drawing as part of a line of text, which says the same.
    pub fn decoration(self) -> String {
        let Drawing { width, height, body } = self;
        format!(
            "<svg class=\"plot\" aria-hidden=\"true\" width=\"{width}\" height=\"{height}\">{}</svg>",
            body.trim_end()
        )
    }

    /// The drawing as a file of its own.
    pub fn standalone(self, title: &str, about: &str) -> String {
        let style = format!(
            "<style>{STYLE}</style>\n<rect class=\"ground\" x=\"-{EDGE}\" y=\"-{EDGE}\" width=\"100%\" height=\"100%\"/>\n"
        );
        self.wrapped("drawing", title, about, EDGE, r#" xmlns="http://www.w3.org/2000/svg""#, &style)
    }

    fn wrapped(self, id: &str, title: &str, about: &str, edge: f64, space: &str, style: &str) -> String {
        let Drawing { width, height, body } = self;
        let (width, height) = (width + 2.0 * edge, height + 2.0 * edge);
        let (title, about) = (escaped(title), escaped(about));
        format!(
            "<svg{space} class=\"plot\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\" width=\"{width:.0}\" \
             height=\"{height:.0}\" viewBox=\"-{edge} -{edge} {width:.0} {height:.0}\">\n<title id=\"{id}-t\">{title}</title>\n\
             <desc id=\"{id}-d\">{about}</desc>\n{style}{body}</svg>\n"
        )
    }
}

/// A true minus sign in front of numbers, where a hyphen is not part of a name.
pub(super) fn minus(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let number = rest.peek().is_some_and(|next| next.is_ascii_digit() || *next == ' ');
        out.push(if c == '-' && number && matches!(before, ' ' | '[' | '(' | '\u{a0}') { '\u{2212}' } else { c });
        before = c;
    }
    out
}

fn titled(title: &str) -> String {
    if title.is_empty() { String::new() } else { format!("<title>{}</title>", escaped(title)) }
}

/// Text with the characters that mean something to XML written out. Control characters, which it cannot hold, are dropped.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Text of at most so many characters, the middle left out: names of models differ at their ends.
pub(super) fn shortened(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let tail = (most - 1) / 2;
    let head: String = text.chars().take(most - 1 - tail).collect();
    let tail: String = text.chars().skip(length - tail).collect();
    format!("{head}\u{2026}{tail}")
}

/// From values to places along a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
}

impl Axis {
    /// An axis that shows all values, with a little room to both sides, from place `from` to place `to`.
    pub fn around(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Axis {
        let (low, high) = range(values);
        let room = if high > low { 0.05 * (high - low) } else { 0.5 * high.abs().max(1e-3) };
        Axis { low: low - room, high: high + room, log: false, from, to }
    }

    /// The same, but by powers of ten if all values are positive and span more than one and a half of them.
    pub fn around_or_log(values: impl IntoIterator<Item = f64> + Clone, from: f64, to: f64) -> Axis {
        let (low, high) = range(values.clone());
        if low <= 0.0 || high / low < 30.0 {
            return Axis::around(values, from, to);
        }
        let room = (high / low).powf(0.05);
        Axis { low: low / room, high: high * room, log: true, from, to }
    }

    /// The axis with this value on it: zero, or the end of a bar.
    pub fn with(mut self, value: f64) -> Axis {
        self.low = self.low.min(value);
        self.high = self.high.max(value);
        self
    }

    /// Whether it goes by powers of ten.
    pub fn is_log(&self) -> bool {
        self.log
    }

    /// The place of a value, which is kept on the axis.
    pub fn at(&self, value: f64) -> f64 {
        let place = |value: f64| if self.log { value.max(f64::MIN_POSITIVE).log10() } else { value };
        let (low, high) = (place(self.low), place(self.high));
        let share = ((place(value) - low) / (high - low)).clamp(0.0, 1.0);
        self.from + share * (self.to - self.from)
    }

    /// About so many round values on the axis, with what is written at them.
    pub fn ticks(&self, about: usize) -> Vec<(f64, String)> {
        if self.log {
            let powers = self.low.log10().ceil() as i32..=self.high.log10().floor() as i32;
            let few = powers.clone().count() < 3;
            let factors: &[f64] = if few { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let all = (powers.start() - 1..=*powers.end()).flat_map(|p| factors.iter().map(move |f| f * 10f64.powi(p)));
            return all.filter(|v| (self.low..=self.high).contains(v)).map(|v| (v, plain(v, v))).collect();
        }
        let step = round_step((self.high - self.low) / about.max(1) as f64);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|n| (n as f64 * step, plain(n as f64 * step, step))).collect()
    }
}

fn range(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let finite = values.into_iter().filter(|v| v.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high { (0.0, 1.0) } else { (low, high) }
}

/// The next of 1, 2, 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= step * 0.9).unwrap_or(10.0);
    factor * power
}

/// A value with as many digits as a step needs; a small power of ten as such.
fn plain(value: f64, step: f64) -> String {
    if value == step && value < 0.9e-3 {
        let (power, digits) = (value.log10().round(), ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹']);
        let power: String =
            format!("{}", -power).chars().filter_map(|c| Some(digits[c.to_digit(10)? as usize])).collect();
        return format!("10⁻{power}");
    }
    let places = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let written = |axis: Axis, about| axis.ticks(about).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(written(Axis::around([0.0, 10.0], 0.0, 100.0), 5), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(written(Axis::around([-0.03, 0.011], 0.0, 100.0), 4), ["-0.02", "0.00"]);
        assert_eq!(written(Axis::around_or_log([1e-4, 0.5], 0.0, 100.0), 4), ["10⁻⁴", "0.001", "0.01", "0.1"]);
        assert_eq!(written(Axis::around_or_log([0.02, 0.9], 0.0, 1.0), 4), ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
    }

    #[test]
    fn places_stay_on_the_axis() {
        let axis = Axis::around([0.0, 1.0], 100.0, 0.0);
        assert!((axis.at(0.5) - 50.0).abs() < 1e-9);
        assert_eq!((axis.at(-9.0), axis.at(9.0)), (100.0, 0.0));
        assert!(Axis::around([f64::NAN], 0.0, 1.0).at(0.5).is_finite());
        assert!(Axis::around([3.0, 3.0], 0.0, 1.0).at(3.0) == 0.5);
        assert!(!Axis::around_or_log([0.0, 5.0], 0.0, 1.0).is_log());
    }

    #[test]
    fn a_minus_stands_in_front_of_numbers_only() {
        assert_eq!(
            minus("-1.2 points [-2.0, -0.4] of model-7b"),
            "\u{2212}1.2 points [\u{2212}2.0, \u{2212}0.4] of model-7b"
        );
    }

    #[test]
    fn text_is_escaped_and_long_names_keep_both_ends() {
        assert_eq!(escaped("<script>\"a'&\u{0}"), "&lt;script&gt;&quot;a&#39;&amp; ");
        assert_eq!(shortened("organisation/model-7b-gptq-int4", 13), "organi\u{2026}q-int4");
        assert_eq!(shortened("short", 13), "short");
    }
}
