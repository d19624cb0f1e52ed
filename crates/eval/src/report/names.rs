//! The figures that are known by name: what people call them, how they are read, and what they mean.

use crate::report::model::{Kind, Unit};

/// A figure that is known.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its name, as measures, gates and JSON have it.
    pub name: &'static str,
    /// As people call it.
    pub label: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// How it is read, if it is one of two models.
    pub kind: Option<Kind>,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// What it means, in a sentence or two.
    pub about: &'static str,
}

/// The figures that are known. Tasks bring their own names; the metrics among these are what tasks often report.
pub const KNOWN: &[Known] = &[
    alone(
        "perplexity",
        "perplexity",
        Unit::Number,
        false,
        "How surprised the model is by a text: e to the mean negative log-likelihood of the next token. Lower is better; only \
         values on the same text, cut in the same way, can be compared.",
    ),
    alone(
        "perplexity.llama.cpp",
        "perplexity (llama.cpp)",
        Unit::Number,
        false,
        "Perplexity over the second half of each window, as llama.cpp's tool counts it.",
    ),
    alone("nll", "negative log-likelihood", Unit::Nats, false, "The mean of which perplexity is the exponential."),
    alone(
        "nll.llama.cpp",
        "negative log-likelihood (llama.cpp)",
        Unit::Nats,
        false,
        "The mean of which llama.cpp's perplexity is the exponential.",
    ),
    alone(
        "bits_per_byte",
        "bits per byte",
        Unit::Bits,
        false,
        "The same likelihood for each byte of the text, which can be compared between vocabularies.",
    ),
    pair(
        "perplexity_ratio",
        "perplexity, ratio",
        Unit::Number,
        Kind::Ratio,
        "Perplexity after divided by perplexity before, from the same predictions of both models, so that its interval is much \
         narrower than those of the two perplexities.",
    ),
    pair(
        "nll_change",
        "change of log-likelihood",
        Unit::Nats,
        Kind::Change,
        "How much likelihood of the true next token was lost, prediction by prediction.",
    ),
    pair(
        "kl_mean",
        "KL divergence, mean",
        Unit::Nats,
        Kind::Distance,
        "How far predictions have moved from those of the reference, over the whole vocabulary. It needs no right answers, and \
         sees changes that perplexity averages away.",
    ),
    pair(
        "kl_median",
        "KL divergence, median",
        Unit::Nats,
        Kind::Distance,
        "The divergence that half of all predictions stay under.",
    ),
    pair(
        "kl_p99",
        "KL divergence, 99th percentile",
        Unit::Nats,
        Kind::Distance,
        "The divergence that all but one in a hundred predictions stay under: the bad cases.",
    ),
    pair(
        "kl_reverse",
        "KL divergence, reversed",
        Unit::Nats,
        Kind::Distance,
        "The divergence seen from the compressed model: large where it believes in what the reference rules out.",
    ),
    pair(
        "kl_bound",
        "KL divergence, at most more",
        Unit::Nats,
        Kind::Distance,
        "How much the divergence may be larger, because of the reference only its likeliest tokens were kept.",
    ),
    agreement(
        "top1_agreement",
        "same likeliest token",
        "The share of positions at which both models find the same next token most likely.",
    ),
    alone(
        "acc",
        "accuracy",
        Unit::Share,
        true,
        "The share of questions for which the right answer is the likeliest, as it stands.",
    ),
    alone(
        "acc_norm",
        "accuracy, by length",
        Unit::Share,
        true,
        "The share of questions for which the right answer is the likeliest for each of its characters, so that long answers are \
         not at a disadvantage.",
    ),
    alone(
        "exact_match",
        "exact match",
        Unit::Share,
        true,
        "The share of written answers that equal an accepted one, letter case, punctuation and articles aside.",
    ),
    alone(
        "acc_bytes",
        "accuracy, by bytes",
        Unit::Share,
        true,
        "The share of questions for which the right answer is the likeliest for each of its bytes.",
    ),
    alone(
        "log_prob",
        "log-probability",
        Unit::Nats,
        true,
        "The mean log-probability of the right answer; it sees a fact fade before it is forgotten.",
    ),
    alone(
        "contains",
        "answer contained",
        Unit::Share,
        true,
        "The share of written answers that contain an accepted one.",
    ),
    alone(
        "spearman",
        "rank correlation",
        Unit::Number,
        true,
        "Whether the cosines of the vectors of two sentences order pairs as people do: Spearman's correlation of cosines with their \
         judgements.",
    ),
    alone(
        "ndcg_at_10",
        "nDCG@10",
        Unit::Number,
        true,
        "How near to the top relevant documents stand among the ten nearest: discounted cumulative gain, of what is possible.",
    ),
    alone(
        "mrr_at_10",
        "MRR@10",
        Unit::Number,
        true,
        "One over the rank of the first relevant document among the ten nearest.",
    ),
    alone(
        "recall_at_100",
        "recall@100",
        Unit::Number,
        true,
        "The share of relevant documents among the hundred nearest.",
    ),
    agreement(
        "relative_cosine",
        "relative representations, cosine",
        "Runs of 32 tokens are described by how alike they are to some anchors; the mean cosine of the two descriptions, means \
         subtracted. It can be compared between models of different width.",
    ),
    agreement(
        "relative_overlap",
        "relative representations, neighbours",
        "How many of the ten nearest runs of tokens are the same, of those of either, by these descriptions.",
    ),
    agreement(
        "neighbour_overlap",
        "same nearest neighbours",
        "How many of the ten nearest runs of tokens are the same, of those of either, in each model's own space.",
    ),
    alone("f1", "token F1", Unit::Share, true, "How many words a written answer shares with the right one."),
    alone(
        "rougeL",
        "ROUGE-L",
        Unit::Share,
        true,
        "The longest common sequence of words of a written text and a given one, as a share of both.",
    ),
];

/// A figure of one model.
const fn alone(
    name: &'static str,
    label: &'static str,
    unit: Unit,
    higher_is_better: bool,
    about: &'static str,
) -> Known {
    Known { name, label, unit, kind: None, higher_is_better, about }
}

/// A figure of two models of which less is better.
const fn pair(name: &'static str, label: &'static str, unit: Unit, kind: Kind, about: &'static str) -> Known {
    Known { name, label, unit, kind: Some(kind), higher_is_better: false, about }
}

/// A share at which two models agree.
const fn agreement(name: &'static str, label: &'static str, about: &'static str) -> Known {
    Known { name, label, unit: Unit::Share, kind: Some(Kind::Agreement), higher_is_better: true, about }
}

/// What is known under this name.
pub fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// A figure as people call it: its label, or its name with blanks.
pub fn label(name: &str) -> String {
    find(name).map_or_else(|| name.replace('_', " "), |known| known.label.to_owned())
}
