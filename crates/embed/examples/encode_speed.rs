//! Encodes the same texts whenever a line comes in, and says how long that took: for timings beside programs that stay in memory.
//!
//! `target/release/examples/encode_speed MODEL TEXTS` (`cargo build --release --workspace --examples`); TEXTS has one on each line.
//! `benches/embeddings.py --only rust` runs it in turns with model2vec-rs.

use std::io::BufRead;
use std::time::Instant;

use brevity_embed::{Ask, Embedder, Load};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, file] = &args[..] else { return Err("usage: encode_speed MODEL TEXTS".into()) };
    let text = std::fs::read_to_string(file)?;
    let texts: Vec<&str> = text.lines().collect();
    let embedder = Embedder::open(model.as_ref(), &Load::default())?;
    let encode = |texts: &[&str]| {
        let mut count = 0;
        let layers = [embedder.layers()];
        embedder
            .encode_layers(texts, &Ask::default(), &layers, &mut |_| true, &mut |_, vectors| count = vectors.count())
            .map(|()| count)
    };
    encode(&texts[..texts.len().min(64)])?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let began = Instant::now();
        assert_eq!(encode(&texts)?, texts.len());
        println!("{{\"seconds\": {}}}", began.elapsed().as_secs_f64());
    }
    Ok(())
}
