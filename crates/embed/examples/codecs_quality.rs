//! What codecs leave of a retrieval: nDCG@10 from codes, alone and with a second look by int8, beside that of the vectors, and
//! the squared error of what is read back, relative to the squares of the vectors.
//!
//! `cargo run --release -p brevity-embed --example codecs_quality DATA EMBEDDINGS [SEED]`
//!
//! DATA is a folder in the layout of BEIR (`corpus.jsonl`, `queries.jsonl`, `qrels/test.tsv`), EMBEDDINGS a safetensors
//! file with `corpus` and `queries`, F32 `[rows, width]` in the order of these files. Codecs are fitted to the corpus.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use brevity_embed::codec::{Codec, DEPTH, Fine, Hit, Index, Settings, Turn, Vectors, search_vectors};
use brevity_eval::retrieval::{Judgements, read_corpus, read_judgements, read_queries, score};
use safetensors::SafeTensors;

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [data, file, ..] = &args[..] else { return Err("usage: codecs_quality DATA EMBEDDINGS [SEED]".into()) };
    let seed = args.get(2).map_or(Ok(0), |text| text.parse())?;
    let data = Path::new(data);
    let documents: Vec<String> = read_corpus(&data.join("corpus.jsonl"))?.into_iter().map(|one| one.id).collect();
    let asked: Vec<String> = read_queries(&data.join("queries.jsonl"))?.into_iter().map(|one| one.id).collect();
    let judgements = read_judgements(&data.join("qrels/test.tsv"))?;
    let bytes = std::fs::read(file)?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let (corpus, width) = floats(&tensors, "corpus")?;
    let (queries, _) = floats(&tensors, "queries")?;
    let (corpus, queries) = (Vectors::new(&corpus, width)?, Vectors::new(&queries, width)?);
    assert_eq!((corpus.rows(), queries.rows()), (documents.len(), asked.len()), "a vector for each text");

    let measured = |rows: Vec<Vec<usize>>| ndcg(&rows, &documents, &asked, &judgements);
    let float = measured(rows(search_vectors(corpus, queries, 10)?));
    println!("{} documents, {} judged queries, width {width}, seed {seed}", corpus.rows(), judgements.len());
    println!(
        "{:<46} {:>5} {:>8} {:>7} {:>10} {:>7} {:>7} {:>7}",
        "codec", "bytes", "nDCG@10", "share", "with int8", "share", "error", "fit, s"
    );
    println!("{:<46} {:>5} {float:>8.4}", "f32", 4 * width);

    let int8 = Codec::fit(corpus, &Settings::Int8, seed)?;
    let fine = int8.encode(corpus)?;
    for (name, settings) in table(width) {
        let start = Instant::now();
        let codec = Codec::fit(corpus, &settings, seed)?;
        let seconds = start.elapsed().as_secs_f64();
        let codes = codec.encode(corpus)?;
        let index = Index::new(&codec, &codes)?;
        let alone = measured(rows(index.search(queries, 10)?));
        let again = measured(rows(index.rescored(queries, 10, DEPTH, Fine::Codes(&int8, &fine))?));
        let lost = squares(corpus.values().iter().zip(&codec.decode(&codes)?).map(|(a, b)| a - b))
            / squares(corpus.values().iter().copied());
        println!(
            "{name:<46} {:>5} {alone:>8.4} {:>6.1}% {again:>10.4} {:>6.1}% {lost:>7.4} {seconds:>7.1}",
            codec.row_bytes(),
            100.0 * alone / float,
            100.0 * again / float,
        );
    }
    Ok(())
}

fn squares(numbers: impl Iterator<Item = f32>) -> f64 {
    numbers.map(|x| f64::from(x) * f64::from(x)).sum()
}

/// Codecs by falling size, those of equal size side by side.
fn table(width: usize) -> Vec<(String, Settings)> {
    let mut all = vec![("int8".to_owned(), Settings::Int8)];
    for bits in [2 * width, width, width / 2, width / 4] {
        if bits == width {
            all.push(("sign".into(), Settings::Sign { dims: None, turn: Turn::None, centre: false }));
        }
        for (turn, centre) in
            [(Turn::Random, false), (Turn::Random, true), (Turn::Learned, false), (Turn::Learned, true)]
        {
            let how = format!("{turn:?}{}", if centre { ", centred" } else { "" }).to_lowercase();
            all.push((format!("sign, {bits} axes, {how}"), Settings::Sign { dims: Some(bits), turn, centre }));
            for steps in [1, 2, 3].into_iter().filter(|steps| bits % (steps + 1) == 0) {
                let dims = Some(bits / (steps + 1));
                let name = format!("recurrent, {} axes of {} bits, {how}", bits / (steps + 1), steps + 1);
                all.push((name, Settings::Recurrent { dims, steps, turn, centre }));
            }
        }
        for rotate in [false, true] {
            let name = format!("{}, {} parts of 8 bits", if rotate { "opq" } else { "product" }, bits / 8);
            all.push((name, Settings::Product { parts: bits / 8, bits: 8, rotate }));
        }
    }
    all
}

fn rows(hits: Vec<Vec<Hit>>) -> Vec<Vec<usize>> {
    hits.into_iter().map(|hits| hits.into_iter().map(|hit| hit.row).collect()).collect()
}

fn ndcg(found: &[Vec<usize>], documents: &[String], asked: &[String], judgements: &Judgements) -> f64 {
    let named = |rows: &Vec<usize>| rows.iter().map(|&row| documents[row].as_str()).collect::<Vec<_>>();
    let ranked: HashMap<&str, Vec<&str>> = asked.iter().map(String::as_str).zip(found.iter().map(named)).collect();
    let each = score(&ranked, judgements, 10, 10).expect("queries are judged").ndcg;
    each.iter().sum::<f64>() / each.len() as f64
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Result<(Vec<f32>, usize), Failed> {
    let view = tensors.tensor(name)?;
    let [_, width] = view.shape()[..] else { return Err(format!("`{name}` is no matrix").into()) };
    let values = view.data().chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect();
    Ok((values, width))
}
