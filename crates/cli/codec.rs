//! `brevity codec`: vectors to codes of a few bits.

use brevity::embed::Vectors;
use brevity::embed::codec::{self, Codec, Settings, Turn, recall, write_faiss};
use serde_json::json;

use crate::args::{self, Axes, CodecKind};
use crate::compare::writable;
use crate::failure::Usage;
use crate::{machine, print, units};

/// How many of the nearest a codec is judged by, and for how many vectors.
const NEAREST: usize = 10;
const JUDGED: usize = 512;

pub fn run(args: &args::Codec) -> anyhow::Result<()> {
    machine::use_what_is_allowed(&args.machine)?;
    refuse_stray(args)?;
    for path in [&args.out, &args.codes, &args.faiss].into_iter().flatten() {
        writable(path)?;
    }
    let vectors = Vectors::read_npy(&args.vectors)?;
    let vectors = codec::Vectors::new(&vectors.values, vectors.width)?;
    let codec = match (&args.codec, args.kind) {
        (Some(path), _) => Codec::read(path)?,
        (None, Some(kind)) => Codec::fit(vectors, &settings(args, kind, vectors.width()), args.seed)?,
        (None, None) => unreachable!("clap asks for one of them"),
    };
    let codes = codec.encode(vectors)?;
    if let Some(path) = &args.out {
        codec.write(path)?;
    }
    if let Some(path) = &args.codes {
        codes.write(path)?;
    }
    if let Some(path) = &args.faiss {
        write_faiss(&codec, &codes, path)?;
    }
    let found = recall(&codec, &codes, vectors, NEAREST, JUDGED)?;
    let before = 4 * vectors.values().len();
    if args.json {
        let report = json!({
            "kind": codec.kind(), "codec": codec.digest().to_string(), "vectors": codes.rows(), "dims": vectors.width(),
            "bytes_of_a_vector": codes.row_bytes(), "size_bytes": codes.size_bytes(), "size_bytes_before": before,
            "recall": found.map(|found| json!({
                "k": found.k, "queries": found.queries, "codes": found.codes, "rescored": found.rescored,
            })),
        });
        return print::line(&serde_json::to_string_pretty(&report)?);
    }
    print::line(&format!(
        "{} vectors of {} dimensions, {} codes of {} bytes: {} -> {}",
        codes.rows(),
        vectors.width(),
        codec.kind(),
        codes.row_bytes(),
        units::bytes(before as u64),
        units::bytes(codes.size_bytes() as u64)
    ))?;
    match found {
        None => Ok(()),
        Some(found) => print::line(&format!(
            "of the {} nearest of {} vectors codes find {:.1} %, with a second look by vectors {:.1} %",
            found.k,
            found.queries,
            100.0 * found.codes,
            100.0 * found.rescored
        )),
    }
}

/// Refuses settings that the kind of codec does not have; a codec that was fitted has none.
fn refuse_stray(args: &args::Codec) -> anyhow::Result<()> {
    let kind = args.kind;
    let turned = matches!(kind, Some(CodecKind::Sign | CodecKind::Recurrent));
    let parted = matches!(kind, Some(CodecKind::Product | CodecKind::Opq));
    let given = [
        ("--dims", args.dims.is_some(), turned),
        ("--axes", args.axes.is_some(), turned),
        ("--centre", args.centre, turned),
        ("--parts", args.parts.is_some(), parted),
        ("--bits", args.bits.is_some(), parted || kind == Some(CodecKind::Recurrent)),
    ];
    match given.into_iter().find(|(_, given, known)| *given && !known) {
        None => Ok(()),
        Some((flag, ..)) => {
            let what = match kind {
                Some(_) => format!("`{flag}` is no setting of this kind of codec"),
                None => format!("`{flag}` is said when a codec is fitted"),
            };
            Err(Usage { what, hint: Some("`brevity codec --help` says what goes with what".into()) }.into())
        }
    }
}

fn settings(args: &args::Codec, kind: CodecKind, width: usize) -> Settings {
    let turn = match args.axes {
        Some(Axes::None) => Turn::None,
        Some(Axes::Random) => Turn::Random,
        Some(Axes::Learned) | None => Turn::Learned,
    };
    let (dims, centre) = (args.dims, args.centre);
    match kind {
        CodecKind::Int8 => Settings::Int8,
        CodecKind::Sign => Settings::Sign { dims, turn, centre },
        CodecKind::Recurrent => Settings::Recurrent { dims, steps: args.bits.unwrap_or(2) - 1, turn, centre },
        CodecKind::Product | CodecKind::Opq => Settings::Product {
            parts: args.parts.unwrap_or(width / 8),
            bits: args.bits.unwrap_or(8),
            rotate: kind == CodecKind::Opq,
        },
    }
}
