//! What a model can be asked in words, and what it answers. Tasks make the questions, models answer them, tasks grade the
//! answers; none of the three knows the others.

/// A question for a model, in text.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// How likely is each continuation behind its own context?
    Weigh(Vec<Pair>),
    /// What does the model write behind the prompt, the likeliest token each time?
    Write {
        /// The text to continue.
        prompt: String,
        /// When to stop at the latest.
        limit: Length,
        /// Texts that end the answer; it is cut in front of the first.
        until: Vec<String>,
    },
}

/// A continuation behind a context. The two are tokenized together and split behind the tokens of the context.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// What stands in front.
    pub context: String,
    /// What is weighed, with the blank that separates it.
    pub continuation: String,
}

/// How many tokens an answer may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many.
    Tokens(usize),
    /// So many that prompt and answer together are so many times as long as the prompt.
    TotalTimesPrompt(usize),
}

/// What a model answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// One for each pair that was asked for.
    Weights(Vec<Weighed>),
    /// What was written.
    Text(Written),
}

/// How likely a continuation is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighed {
    /// Sum of the log-probabilities of its tokens, in nats.
    pub log_prob: f64,
    /// How many tokens it has.
    pub tokens: usize,
    /// Whether each of its tokens is the likeliest at its place.
    pub greedy: bool,
}

/// A text that a model wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The text, without the prompt, cut in front of what ended it.
    pub text: String,
    /// How many tokens were written.
    pub tokens: usize,
    /// Whether something of `until`, or the end of the text, ended it, rather than the limit.
    pub ended: bool,
}
