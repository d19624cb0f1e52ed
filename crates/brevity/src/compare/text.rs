//! What a text says about two models: predictions, hidden states, what is found alike.

use brevity_eval::layers::{LayerCurve, Layers};
use brevity_eval::report::{self, Difference, Measured};
use brevity_eval::representation::{Choice, Representation, Samples};
use brevity_eval::{
    Comparison, HiddenMeasure, MEASURES, Observer, Options, Protocol, Score, Windows, compare_with, make,
};
use brevity_formats::Checkpoint;
use brevity_model::Stages;

use super::{Found, Questions};

/// What a text says about two models.
pub(super) struct OnText {
    comparison: Comparison,
    layers: Option<LayerCurve>,
    representation: Option<Representation>,
}

impl OnText {
    /// Runs both models through the text, side by side.
    pub(super) fn of(
        models: [&Checkpoint; 2],
        windows: &Windows,
        questions: &Questions,
        options: &Options,
        observer: &mut dyn Observer,
    ) -> brevity_eval::Result<OnText> {
        let pair: [&dyn Stages; 2] = models.map(|model| model as &dyn Stages);
        let ((mut first, mut together), (mut second, _)) = (make(MEASURES), make(MEASURES));
        let mut layers = questions.layers.then(|| Layers::new(pair, windows));
        let mut samples = questions.representations.then(|| Samples::new(windows));
        let mut hidden: Vec<&mut dyn HiddenMeasure> = Vec::new();
        hidden.extend(layers.as_mut().map(|measure| measure as &mut dyn HiddenMeasure));
        hidden.extend(samples.as_mut().map(|measure| measure as &mut dyn HiddenMeasure));
        let comparison =
            compare_with(pair, windows, [&mut first, &mut second], &mut together, &mut hidden, options, observer)?;
        Ok(OnText {
            comparison,
            layers: layers.map(|layers| layers.report()).transpose()?,
            // A text may be too short to tell.
            representation: samples.and_then(|samples| samples.report(&Choice::default()).ok()),
        })
    }

    /// Puts what was found about model `n` into a report.
    pub(super) fn into_report(self, found: &mut Found, n: usize, windows: &Windows) {
        let count = Some(windows.windows.len() as u64);
        let measured = |scores: &[Score]| scores.iter().map(|score| Measured::of(score, count)).collect::<Vec<_>>();
        if n == 0 {
            found.report.reference.scores = measured(&self.comparison.before);
        }
        let other = &mut found.report.others[n];
        other.model.scores = measured(&self.comparison.after);
        other.differences = self.comparison.scores.iter().map(|score| Difference::of(score, count)).collect();
        if let Some(curve) = &self.layers {
            other.layers = curve
                .points
                .iter()
                .map(|point| report::Layer {
                    place: point.place.clone(),
                    relative_error: point.relative_error.map(|e| e.value),
                    cosine: point.cosine.map(|e| e.value),
                    cka: point.cka.map(|e| e.value),
                })
                .collect();
        }
        if let Some(alike) = &self.representation {
            let centred = &alike.centred;
            for (name, estimate) in [
                ("relative_cosine", centred.relative_cosine),
                ("relative_overlap", centred.relative_overlap),
                ("neighbour_overlap", centred.overlap),
            ] {
                let score = Score {
                    name: name.to_owned(),
                    text: windows.text.clone(),
                    window: windows.length,
                    value: estimate.value,
                    error: estimate.error,
                    interval: None,
                };
                other.differences.push(Difference::of(&score, Some(alike.samples as u64)));
            }
        }
        found.texts.push(self.comparison);
    }
}

/// What was run, in a sentence.
pub(super) fn method(windows: &Windows) -> String {
    let count = windows.windows.len();
    let plural = if count == 1 { "" } else { "s" };
    let what = match windows.protocol {
        Protocol::Window => String::new(),
        protocol => format!(", scored as {} does", protocol.as_str()),
    };
    let most = if windows.documents.is_empty() { "" } else { "at most " };
    format!("Text: {count} window{plural} of {most}{} tokens of `{}`{what}.", windows.length, windows.text)
}
