//! `brevity search`: the nearest codes of vectors.

use brevity::embed::Vectors;
use brevity::embed::codec::{self, Codec, Codes, DEPTH, Fine, Index};
use serde_json::json;

use crate::args::Search;
use crate::failure::Usage;
use crate::table::table;
use crate::{machine, print};

pub fn run(args: &Search) -> anyhow::Result<()> {
    machine::use_what_is_allowed(&args.machine)?;
    let (codec, codes) = (Codec::read(&args.codec)?, Codes::read(&args.codes)?);
    let queries = Vectors::read_npy(&args.queries)?;
    let queries = codec::Vectors::new(&queries.values, queries.width)?;
    let texts = args.texts.as_deref().map(crate::embed::texts).transpose()?;
    if let Some(texts) = texts.as_ref().filter(|texts| texts.len() != codes.rows()) {
        let what = format!("{} texts for {} codes", texts.len(), codes.rows());
        return Err(Usage { what, hint: Some("give the texts that the codes were made of".into()) }.into());
    }
    let index = Index::new(&codec, &codes)?;
    let found = match &args.rescore {
        None => index.search(queries, args.k)?,
        Some(path) => {
            let vectors = Vectors::read_npy(path)?;
            let vectors = codec::Vectors::new(&vectors.values, vectors.width)?;
            index.rescored(queries, args.k, DEPTH, Fine::Vectors(vectors))?
        }
    };
    let text = |row: usize| texts.as_ref().map(|texts| texts[row].as_str());
    if args.json {
        for (query, hits) in found.iter().enumerate() {
            let hits: Vec<_> = hits
                .iter()
                .map(|hit| match text(hit.row) {
                    Some(text) => json!({"row": hit.row, "score": hit.score, "text": text}),
                    None => json!({"row": hit.row, "score": hit.score}),
                })
                .collect();
            print::line(&json!({"query": query, "hits": hits}).to_string())?;
        }
        return Ok(());
    }
    let rows = found.iter().enumerate().flat_map(|(query, hits)| {
        hits.iter().enumerate().map(move |(n, hit)| {
            let mut row = vec![if n == 0 { query.to_string() } else { String::new() }];
            row.extend([hit.row.to_string(), format!("{:.4}", hit.score)]);
            row.extend(text(hit.row).map(str::to_owned));
            row
        })
    });
    let header: &[&str] = if texts.is_some() { &["query", "row", "score", "text"] } else { &["query", "row", "score"] };
    print::line(&table(header, &[0, 1, 2], rows))
}
