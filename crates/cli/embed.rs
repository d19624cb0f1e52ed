//! `brevity embed`: texts to vectors.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use brevity::embed::{Ask, Embedder, Load, Vectors};
use brevity::eval::{Error as EvalError, Observer};
use serde::Serialize;

use crate::args::Embed;
use crate::compare::{writable, write_whole};
use crate::failure::Usage;
use crate::progress::Progress;
use crate::{machine, print};

/// What a file of vectors is.
#[derive(Clone, Copy)]
enum Kind {
    Npy,
    Lines,
}

pub fn run(args: &Embed) -> anyhow::Result<()> {
    machine::use_what_is_allowed(&args.machine)?;
    let out = args.out.as_deref().map(|path| Ok::<_, anyhow::Error>((path, kind(path)?))).transpose()?;
    let texts = texts(&args.input)?;
    let checkpoint = crate::open(&args.model, false)?;
    machine::resident(&args.machine, &checkpoint)?;
    let load = Load {
        compute: Some(machine::compute(&args.machine, &checkpoint)),
        layers: args.layers,
        pooling: args.pooling,
        max_tokens: args.max_tokens,
        temperature: None,
    };
    let encoder = Embedder::load(&checkpoint, &load)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let ask = Ask { prompt: args.prompt.as_deref(), dims: args.dims };
    let (started, mut found) = (Instant::now(), None);
    let mut progress = Progress::new("embedding", 1000);
    let mut hear = |share: f64| {
        progress.progress(share);
        !progress.cancelled()
    };
    encoder.encode_layers(&texts, &ask, &[encoder.layers()], &mut hear, &mut |_, vectors| found = Some(vectors))?;
    drop(progress);
    let vectors = found.ok_or(EvalError::Cancelled)?;
    let seconds = started.elapsed().as_secs_f64();
    if let Some((path, kind)) = out {
        write_whole(path, &bytes(kind, &vectors)?)?;
    }
    if args.json {
        let report = Report {
            model: &args.model,
            count: vectors.count(),
            dims: vectors.width,
            layers: encoder.layers(),
            normalised: encoder.normalises(),
            seconds,
            texts_per_second: texts.len() as f64 / seconds,
            vectors: out.is_none().then(|| vectors.values.chunks(vectors.width.max(1)).collect()),
        };
        return print::line(&serde_json::to_string(&report)?);
    }
    match out {
        None => print::bytes(&bytes(Kind::Lines, &vectors)?),
        Some((path, _)) => print::line(&format!(
            "{} vectors of {} dimensions in `{}`, {:.0} texts/s",
            vectors.count(),
            vectors.width,
            path.display(),
            texts.len() as f64 / seconds
        )),
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    count: usize,
    dims: usize,
    layers: usize,
    normalised: bool,
    seconds: f64,
    texts_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    vectors: Option<Vec<&'a [f32]>>,
}

/// The texts of an input.
pub fn texts(input: &str) -> anyhow::Result<Vec<String>> {
    if input.starts_with("jsonl:") {
        return Ok(brevity::eval::Text::fields(input)?);
    }
    let text = match input {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|source| Usage {
                what: format!("cannot read the texts: {source}"),
                hint: Some("they are UTF-8, one on each line".into()),
            })?;
            text
        }
        path => brevity::eval::Text::load(path)?.text,
    };
    // A line is a text, an empty one too: vectors stand in the same rows as their texts.
    Ok(text.lines().map(str::to_owned).collect())
}

fn kind(path: &Path) -> anyhow::Result<Kind> {
    writable(path)?;
    match path.extension().and_then(|end| end.to_str()) {
        Some("npy") => Ok(Kind::Npy),
        Some("jsonl") => Ok(Kind::Lines),
        _ => {
            let what = format!("`{}` does not say by its ending what to write", path.display());
            Err(Usage { what, hint: Some("the endings are `.npy` and `.jsonl`".into()) }.into())
        }
    }
}

/// The bytes of a file of vectors.
fn bytes(kind: Kind, vectors: &Vectors) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match kind {
        Kind::Npy => vectors.write_npy(&mut bytes)?,
        Kind::Lines => write_lines(vectors, &mut bytes)?,
    }
    Ok(bytes)
}

/// One list a line.
fn write_lines(vectors: &Vectors, out: &mut dyn Write) -> std::io::Result<()> {
    for row in vectors.values.chunks(vectors.width.max(1)) {
        serde_json::to_writer(&mut *out, row)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
