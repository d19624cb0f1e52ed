//! Every codec through the same tests, and the bad days.

use std::path::Path;

use chacha20::rand_core::SeedableRng;
use serde_json::Value;

use super::*;
use crate::random::normals;

const WIDTH: usize = 24;

fn some(rows: usize, seed: u64) -> Vec<f32> {
    let mut x = normals(&mut Random::seed_from_u64(seed), rows * WIDTH);
    x.iter_mut().enumerate().for_each(|(i, x)| *x /= 1.0 + (i % WIDTH) as f32 / 8.0);
    x
}

fn vectors(values: &[f32]) -> Vectors<'_> {
    Vectors::new(values, WIDTH).unwrap()
}

/// Every kind of codec, in several ways.
fn all() -> Vec<Settings> {
    let mut all = vec![Settings::Int8];
    for turn in [Turn::None, Turn::Random, Turn::Learned] {
        all.push(Settings::Sign { dims: None, turn, centre: turn == Turn::Learned });
        all.push(Settings::Recurrent { dims: None, steps: 1, turn, centre: false });
    }
    for dims in [13, 50] {
        all.push(Settings::Sign { dims: Some(dims), turn: Turn::Learned, centre: true });
        all.push(Settings::Recurrent { dims: Some(dims), steps: 2, turn: Turn::Random, centre: true });
    }
    for (bits, rotate) in [(8, false), (4, true), (5, false)] {
        all.push(Settings::Product { parts: 6, bits, rotate });
    }
    all
}

fn each(test: impl Fn(&Settings, &Codec, &[f32])) {
    let x = some(600, 1);
    for settings in all() {
        test(&settings, &Codec::fit(vectors(&x), &settings, 3).unwrap(), &x);
    }
}

#[test]
fn codes_have_the_size_that_was_said_and_lead_back_near_the_vectors() {
    each(|settings, codec, x| {
        let codes = codec.encode(vectors(x)).unwrap();
        assert_eq!((codes.rows(), codes.row_bytes()), (600, codec.row_bytes()), "{settings:?}");
        let back = codec.decode(&codes).unwrap();
        let lost: f32 = x.iter().zip(&back).map(|(a, b)| (a - b).powi(2)).sum();
        let all: f32 = x.iter().map(|a| a * a).sum();
        assert!(lost < 0.6 * all, "{settings:?}: {}", lost / all);
        // what is read back is encoded as it was, where the codes are not of fewer or more axes than dimensions
        if !matches!(settings, Settings::Sign { dims: Some(_), .. } | Settings::Recurrent { dims: Some(_), .. }) {
            let again = codec.encode(vectors(&back)).unwrap();
            let same = codes.bytes().iter().zip(again.bytes()).filter(|(a, b)| a == b).count();
            assert!(same * 1000 >= codes.size_bytes() * 999, "{settings:?}: {same} of {}", codes.size_bytes());
        }
    });
}

#[test]
fn the_same_seed_gives_the_same_codec_on_any_number_of_threads() {
    let x = some(600, 1);
    for settings in all() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let codec = Codec::fit(vectors(&x), &settings, 3).unwrap();
                let codes = codec.encode(vectors(&x)).unwrap();
                let found = Index::new(&codec, &codes).unwrap().search(vectors(&x[..5 * WIDTH]), 7).unwrap();
                (codec, codes, found)
            })
        };
        assert!(run(1) == run(3), "{settings:?}");
    }
}

#[test]
fn scores_of_bits_are_the_cosines_of_decoded_codes() {
    each(|settings, codec, x| {
        let Some((dims, planes)) = codec.planes() else { return };
        let codes = codec.encode(vectors(&x[..40 * WIDTH])).unwrap();
        let values = bits::unpack(codes.bytes(), dims, planes, 1.0);
        let row = |i: usize| &values[i * dims..][..dims];
        // products of odd multiples of 2^-u are exact in single precision
        let product = |i: usize, j: usize| row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum::<f32>();
        let laid = BitPlanes::new(codes.bytes(), 40, planes, dims);
        let scores = codec.score(&codes, &codes).unwrap();
        for i in 0..40 {
            let mut dots = vec![0; 40];
            laid.dots(codes.row(i), 0, &mut dots);
            for j in 0..40 {
                let unit = 0.25f32.powi(planes as i32 - 1);
                assert_eq!(dots[j] as f32 * unit, product(i, j), "{settings:?}: {i} {j}");
                let cosine = product(i, j) / (product(i, i) * product(j, j)).sqrt();
                assert!((scores[i * 40 + j] - cosine).abs() < 1e-5, "{settings:?}: {i} {j}");
            }
        }
    });
}

#[test]
fn search_finds_what_scores_best() {
    let queries = some(70, 5);
    each(|settings, codec, x| {
        let codes = codec.encode(vectors(x)).unwrap();
        let found = Index::new(codec, &codes).unwrap().search(vectors(&queries), 9).unwrap();
        // queries are encoded for bits, and stay as they are for others
        let scores = if codec.planes().is_some() {
            codec.score(&codec.encode(vectors(&queries)).unwrap(), &codes).unwrap()
        } else {
            let back = codec.decode(&codes).unwrap();
            let mut scores = vec![0.0; 70 * 600];
            matmul_nt_f32(Dims { m: 70, k: WIDTH, n: 600 }, &queries, &back, &mut scores);
            scores
        };
        for (q, hits) in found.iter().enumerate() {
            let scores = &scores[q * 600..][..600];
            assert_eq!(hits.len(), 9);
            assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
            assert!(hits.iter().all(|hit| (hit.score - scores[hit.row]).abs() < 1e-4), "{settings:?}");
            let missed = (0..600).filter(|row| !hits.iter().any(|hit| hit.row == *row));
            let best = missed.map(|row| scores[row]).fold(f32::MIN, f32::max);
            assert!(best <= hits[8].score + 1e-4, "{settings:?}");
        }
    });
}

#[test]
fn blocks_of_codes_are_searched_as_one() {
    // more rows than a block has, of few different vectors, so that most scores are equal
    let rows = 20_000;
    let values: Vec<f32> = (0..rows * 2).map(|i| ((i / 2 * 7 + i % 2) % 5) as f32 - 2.0).collect();
    let corpus = Vectors::new(&values, 2).unwrap();
    for settings in [Settings::Int8, Settings::Sign { dims: None, turn: Turn::None, centre: false }] {
        let codec = Codec::fit(corpus, &settings, 0).unwrap();
        let codes = codec.encode(corpus).unwrap();
        let index = Index::new(&codec, &codes).unwrap();
        let query = Vectors::new(&[1.0, 0.5], 2).unwrap();
        let all = index.search(query, rows).unwrap();
        assert_eq!(all[0].len(), rows);
        let in_order = |pair: &[Hit]| pair[0].score > pair[1].score || pair[0].row < pair[1].row;
        assert!(all[0].windows(2).all(in_order));
        assert_eq!(index.search(query, 50).unwrap()[0], all[0][..50]);
    }
}

#[test]
fn a_second_look_orders_candidates_by_the_finer_score() {
    let (x, queries) = (some(600, 1), some(3, 5));
    let sign = Codec::fit(vectors(&x), &Settings::Sign { dims: None, turn: Turn::None, centre: false }, 0).unwrap();
    let codes = sign.encode(vectors(&x)).unwrap();
    let index = Index::new(&sign, &codes).unwrap();
    let found = index.rescored(vectors(&queries), 5, DEPTH, Fine::Vectors(vectors(&x))).unwrap();
    let candidates = index.search(vectors(&queries), 5 * DEPTH).unwrap();
    for (q, hits) in found.iter().enumerate() {
        let product = |row: usize| axes::dot(&queries[q * WIDTH..][..WIDTH], vectors(&x).row(row));
        let mut best: Vec<f32> = candidates[q].iter().map(|hit| product(hit.row)).collect();
        best.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(hits.iter().map(|hit| hit.score).collect::<Vec<_>>(), best[..5]);
    }
    // of all rows as candidates, the finer codes alone decide
    let int8 = Codec::fit(vectors(&x), &Settings::Int8, 0).unwrap();
    let bytes = int8.encode(vectors(&x)).unwrap();
    let through = index.rescored(vectors(&queries), 5, 600, Fine::Codes(&int8, &bytes)).unwrap();
    let direct = Index::new(&int8, &bytes).unwrap().search(vectors(&queries), 5).unwrap();
    let rows = |hits: &[Vec<Hit>]| -> Vec<Vec<usize>> {
        hits.iter().map(|hits| hits.iter().map(|hit| hit.row).collect()).collect()
    };
    assert_eq!(rows(&through), rows(&direct));
    let error = index.rescored(vectors(&queries), 5, 2, Fine::Vectors(vectors(&x[WIDTH..]))).unwrap_err();
    assert_eq!(error.to_string(), "599 vectors to score again beside 600 codes");
}

#[test]
fn bytes_and_bits_are_those_of_sentence_transformers() {
    let file: Value = serde_json::from_str(include_str!("../../tests/vectors/sentence_transformers.json")).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 7);
    for case in cases {
        let (x, ranges) = (floats(&case["vectors"]["data_hex"]), floats(&case["ranges_of"]["data_hex"]));
        let width = case["vectors"]["shape"][1].as_u64().unwrap() as usize;
        let precision = case["precision"].as_str().unwrap();
        let settings = match precision {
            "int8" | "uint8" => Settings::Int8,
            _ => Settings::Sign { dims: None, turn: Turn::None, centre: false },
        };
        let codec = Codec::fit(Vectors::new(&ranges, width).unwrap(), &settings, 0).unwrap();
        let codes = codec.encode(Vectors::new(&x, width).unwrap()).unwrap();
        // those with a sign are 128 less
        let signed = matches!(precision, "int8" | "binary");
        let bytes: Vec<u8> = codes.bytes().iter().map(|b| if signed { b ^ 0x80 } else { *b }).collect();
        assert_eq!(bytes, hex(&case["expected"]["data_hex"]), "{precision}");
    }
}

#[test]
fn index_files_are_those_that_faiss_writes() {
    let file: Value = serde_json::from_str(include_str!("../../tests/vectors/faiss.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.faiss");
    for case in file["cases"].as_array().unwrap() {
        let x = floats(&case["vectors"]);
        let x = Vectors::new(&x, 8).unwrap();
        let codec = match case["index"].as_str().unwrap() {
            "flat" => {
                write_faiss_flat(x, &path).unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), hex(&case["file"]), "flat");
                continue;
            }
            "int8" => Codec::fit(x, &Settings::Int8, 0).unwrap(),
            "sign" => Codec::fit(x, &Settings::Sign { dims: None, turn: Turn::None, centre: false }, 0).unwrap(),
            _ => Codec::Product(Product {
                width: 8,
                parts: 2,
                bits: case["bits"].as_u64().unwrap() as usize,
                rotation: case["rotation"].is_string().then(|| floats(&case["rotation"])),
                centroids: floats(&case["centroids"]),
            }),
        };
        let codes = codec.encode(x).unwrap();
        write_faiss(&codec, &codes, &path).unwrap();
        let (mut written, mut want) = (std::fs::read(&path).unwrap(), hex(&case["file"]));
        if matches!(codec, Codec::Int8(_)) {
            // faiss divides by the range, sentence-transformers by the step: on a border that is one code more or less
            let [ours, theirs] = [&mut written, &mut want].map(|file| file.split_off(file.len() - codes.size_bytes()));
            assert!(ours.iter().zip(&theirs).all(|(a, b)| a.abs_diff(*b) <= 1), "{ours:?} {theirs:?}");
        }
        assert_eq!(written, want, "{} {}", case["index"], case["bits"]);
    }
}

#[test]
fn codes_without_an_index_in_faiss_are_refused() {
    let x = some(50, 1);
    let settings = Settings::Recurrent { dims: None, steps: 1, turn: Turn::Random, centre: false };
    let codec = Codec::fit(vectors(&x), &settings, 0).unwrap();
    let error = write_faiss(&codec, &codec.encode(vectors(&x)).unwrap(), Path::new("nowhere")).unwrap_err();
    assert_eq!(error.to_string(), "faiss has no index for recurrent codes of 2 bits");
}

#[test]
fn codecs_and_codes_are_read_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let (of_codec, of_codes) = (dir.path().join("codec.safetensors"), dir.path().join("codes.safetensors"));
    each(|settings, codec, x| {
        let codes = codec.encode(vectors(&x[..9 * WIDTH])).unwrap();
        codec.write(&of_codec).unwrap();
        codes.write(&of_codes).unwrap();
        assert_eq!(&Codec::read(&of_codec).unwrap(), codec, "{settings:?}");
        assert_eq!(Codes::read(&of_codes).unwrap(), codes, "{settings:?}");
    });
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing half written is left");
}

#[test]
fn a_damaged_or_truncated_codec_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.safetensors");
    let x = some(300, 1);
    for settings in [Settings::Int8, Settings::Product { parts: 4, bits: 3, rotate: true }, all().pop().unwrap()] {
        let codec = Codec::fit(vectors(&x), &settings, 0).unwrap();
        codec.encode(vectors(&x)).unwrap().write(&path).unwrap();
        let codes = std::fs::read(&path).unwrap();
        codec.write(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for (bytes, is_codec) in [(whole, true), (codes, false)] {
            let refused = |bytes: &[u8], what: &str| {
                std::fs::write(&path, bytes).unwrap();
                let error = if is_codec { Codec::read(&path).err() } else { Codes::read(&path).err() };
                assert!(matches!(error, Some(Error::Damaged { .. })), "{what}: {error:?}");
            };
            for length in [0, 1, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
                refused(&bytes[..length], &format!("{length} bytes"));
            }
            for at in (0..bytes.len()).step_by(bytes.len() / 150) {
                // padding behind the header may change without a meaning
                if bytes[at] != b' ' {
                    let mut changed = bytes.clone();
                    changed[at] ^= 0x41;
                    refused(&changed, &format!("byte {at} of {}", bytes.len()));
                }
            }
        }
    }
    let error = Codec::read(&dir.path().join("none")).unwrap_err();
    assert!(error.to_string().starts_with("cannot read `"), "{error}");
}

#[test]
fn codes_from_one_codec_scored_with_another_are_refused() {
    let (x, y) = (some(100, 1), some(100, 2));
    let one = Codec::fit(vectors(&x), &Settings::Int8, 0).unwrap();
    let two = Codec::fit(vectors(&y), &Settings::Int8, 0).unwrap();
    let (of_one, of_two) = (one.encode(vectors(&x)).unwrap(), two.encode(vectors(&x)).unwrap());
    let refused = |error: Error| {
        let says = format!(
            "the codes were made by the codec {}, not by this one, {}",
            two.digest().short(),
            one.digest().short()
        );
        assert_eq!(error.to_string(), says);
        assert!(error.hint().unwrap().contains("encode again"));
    };
    refused(one.score(&of_one, &of_two).unwrap_err());
    refused(one.decode(&of_two).unwrap_err());
    refused(Index::new(&one, &of_two).unwrap_err());
    refused(write_faiss(&one, &of_two, Path::new("nowhere")).unwrap_err());
    let index = Index::new(&two, &of_two).unwrap();
    refused(index.rescored(vectors(&x), 1, 4, Fine::Codes(&one, &of_two)).unwrap_err());
}

#[test]
fn vectors_of_another_width_are_refused() {
    let x = some(100, 1);
    let codec = Codec::fit(vectors(&x), &Settings::Int8, 0).unwrap();
    let codes = codec.encode(vectors(&x)).unwrap();
    let narrow = Vectors::new(&x, WIDTH / 2).unwrap();
    for error in [
        codec.encode(narrow).unwrap_err(),
        Index::new(&codec, &codes).unwrap().search(narrow, 3).unwrap_err(),
        Index::new(&codec, &codes).unwrap().rescored(narrow, 3, 4, Fine::Vectors(vectors(&x))).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "vectors of 12 dimensions, where 24 are expected");
    }
}

#[test]
fn an_empty_corpus_fits_nothing_and_holds_nothing() {
    let none = Vectors::new(&[], WIDTH).unwrap();
    each(|settings, codec, x| {
        assert!(matches!(Codec::fit(none, settings, 0), Err(Error::Empty)));
        let codes = codec.encode(none).unwrap();
        assert_eq!(codes.rows(), 0);
        assert!(codec.decode(&codes).unwrap().is_empty());
        assert!(codec.score(&codes, &codes).unwrap().is_empty());
        let index = Index::new(codec, &codes).unwrap();
        assert_eq!(index.search(vectors(&x[..2 * WIDTH]), 3).unwrap(), [vec![], vec![]]);
        assert!(index.search(none, 3).unwrap().is_empty());
    });
}

#[test]
fn bits_as_they_are_cannot_be_fewer_than_dimensions() {
    let x = some(30, 1);
    let settings = Settings::Sign { dims: Some(20), turn: Turn::None, centre: false };
    let error = Codec::fit(vectors(&x), &settings, 0).unwrap_err();
    assert_eq!(error.to_string(), "dimensions of codes of 20: it can be 24 to 24");
}

fn hex(text: &Value) -> Vec<u8> {
    let digits = text.as_str().unwrap().as_bytes().chunks_exact(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn floats(text: &Value) -> Vec<f32> {
    hex(text).chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect()
}
