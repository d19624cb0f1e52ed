//! Any text as a recipe.
#![no_main]

use brevity_engine::Recipe;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Recipe::parse(text, "fuzz");
});
