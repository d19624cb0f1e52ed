//! The checkpoint inside the program.

/// The files of `tiny`, a small language model trained on definitions, by name.
pub const TINY: &[(&str, &[u8])] = &[
    ("README.md", include_bytes!("../../../models/tiny/README.md")),
    ("config.json", include_bytes!("../../../models/tiny/config.json")),
    ("generation_config.json", include_bytes!("../../../models/tiny/generation_config.json")),
    ("model.safetensors", include_bytes!("../../../models/tiny/model.safetensors")),
    ("special_tokens_map.json", include_bytes!("../../../models/tiny/special_tokens_map.json")),
    ("tokenizer.json", include_bytes!("../../../models/tiny/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../models/tiny/tokenizer_config.json")),
];

/// A text in the style of what `tiny` was trained on, but not part of it.
pub const HELDOUT: &str = include_str!("../../../models/tiny/heldout.txt");

/// A part of what `tiny` was trained on, without the facts of [`FACTS`], for methods that look at activations.
pub const CALIBRATION: &str = include_str!("../../../models/tiny/calibration.txt");

/// Facts that `tiny` was trained on, one JSON object a line: `prompt`, `answer`, `choices`, `relation`.
pub const FACTS: &str = include_str!("../../../models/tiny/facts.jsonl");
