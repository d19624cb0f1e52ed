#!/usr/bin/env python3
"""Encoders and static tables beside their peers: the same model, the same texts, in turns in one run.

    python3 benches/embeddings.py MODEL_DIR DATA [--rounds 5] [--only scores speed static rust cuts int4] [--out RESULTS.json]

MODEL_DIR is a sentence encoder (all-MiniLM-L6-v2), DATA holds `sts/stsbenchmark/sts-{dev,test}.csv` and `retrieval/scifact`. Needs
sentence-transformers and model2vec with its `distill` extra. Build brevity with `cargo build --release`.

`rust` puts model2vec-rs beside our library, which it builds with cargo from crates.io (some minutes; `--build` keeps that in a folder);
it needs `cargo build --release --workspace --examples`.

Printed are scores on the STS benchmark and on SciFact (whole vectors, prefixes, principal axes), vectors beside those of
sentence-transformers, throughput on the first 1,000 sentences of the benchmark, static tables beside model2vec's, an encoder cut to 3
blocks and 128 dimensions before and after what recovers it, and one of 4 bits.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from common import ROOT, run

#: What runs in a process of its own, so that a peer's threads and memory are its own.
CHILD = r"""
import json, sys, time
kind, model, texts, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
lines = open(texts, encoding="utf-8").read().split("\n")[:-1]
if kind == "sentence-transformers":
    from sentence_transformers import SentenceTransformer
    encoder = SentenceTransformer(model, device="cpu")
else:
    from model2vec import StaticModel
    encoder = StaticModel.from_pretrained(model)
encoder.encode(lines[:64])
for line in sys.stdin:
    began = time.perf_counter()
    vectors = encoder.encode(lines)
    print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)
import numpy
numpy.save(sys.argv[5], numpy.asarray(vectors, dtype="float32"))
"""


def sentences(path, count):
    """The first sentences of pairs of the STS benchmark, one after the other."""
    rows = [line.split("\t") for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()]
    found = [text.strip() for row in rows if len(row) >= 7 for text in row[5:7]]
    return found[:count]


#: The same with the peer in Rust; vectors are written as they lie.
RUST = r"""
use std::io::{BufRead, Write};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let text = std::fs::read_to_string(&args[2]).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let model = model2vec_rs::model::StaticModel::from_pretrained(&args[1], None, None, None).unwrap();
    model.encode(&lines[..64]);
    let mut vectors = Vec::new();
    for _ in std::io::stdin().lock().lines() {
        let began = std::time::Instant::now();
        vectors = model.encode(&lines);
        println!("{{\"seconds\": {}}}", began.elapsed().as_secs_f64());
        std::io::stdout().flush().unwrap();
    }
    std::fs::write(&args[3], vectors.concat().iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
}
"""


def built(folder):
    """The program of `RUST`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "src").mkdir(exist_ok=True)
    (folder / "src/main.rs").write_text(RUST)
    (folder / "Cargo.toml").write_text('[package]\nname = "peer"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n'
                                       '[dependencies]\nmodel2vec-rs = "0.4"\n')
    run(["cargo", "build", "-q", "--release", "--manifest-path", folder / "Cargo.toml", "--target-dir", folder / "target"])
    return folder / "target/release/peer"


def least_cosine(ours, theirs):
    """The least cosine of vectors, row by row."""
    import numpy

    lengths = numpy.linalg.norm(ours, axis=1) * numpy.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(1) / numpy.maximum(lengths, 1e-12)).min())


def said(kind, rates, cosine):
    """Prints and returns what came out of turns, `[rate of the peer, rate of brevity]` each."""
    result = {"peer": statistics.median(rate[0] for rate in rates), "brevity": statistics.median(rate[1] for rate in rates),
              "ratio": statistics.median(rate[1] / rate[0] for rate in rates), "least_cosine": cosine}
    print(f"{kind:22} {result['peer']:9.0f} texts/s, brevity {result['brevity']:9.0f}, {result['ratio']:.2f} times; least cosine {cosine:.6f}")
    return result


def started(command):
    return subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def seconds_of(child):
    """How long a child takes for its texts."""
    child.stdin.write("\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())["seconds"]


def race_in_memory(args, model, texts, scratch):
    """Texts a second of model2vec-rs and of the library, both warm in memory, in turns of 50 calls."""
    import numpy

    own, theirs, count = scratch / "own-rust.npy", scratch / "theirs.f32", sum(1 for _ in open(texts, encoding="utf-8"))
    peer = started([built(args.build or scratch / "peer"), model, texts, theirs])
    ours = started([ROOT / "target/release/examples/encode_speed", model, texts])
    rates = [[count / statistics.median(seconds_of(child) for _ in range(50)) for child in (peer, ours)] for _ in range(args.rounds)]
    for child in (peer, ours):
        child.stdin.close()
        child.wait()
    run([args.brevity, "embed", model, "--input", texts, "--out", own, "--dtype", "f32"])
    a = numpy.load(own)
    return said("model2vec-rs", rates, least_cosine(a, numpy.fromfile(theirs, dtype="<f4").reshape(a.shape)))


def race(args, kind, peer_model, own_model, texts, scratch):
    """Texts a second of the peer and of brevity, in turns, and the least cosine of their vectors."""
    import numpy

    own, theirs = scratch / f"own-{kind}.npy", scratch / f"{kind}.npy"
    child = started([sys.executable, "-c", CHILD, kind, peer_model, texts, args.rounds, theirs])
    count = sum(1 for _ in open(texts, encoding="utf-8"))
    rates = []
    for _ in range(args.rounds):
        peer = count / seconds_of(child)
        report = json.loads(run([args.brevity, "embed", own_model, "--input", texts, "--out", own, "--json", "--dtype", "f32"])[2])
        rates.append([peer, report["texts_per_second"]])
    child.stdin.close()
    child.wait()
    return said(kind, rates, least_cosine(numpy.load(own), numpy.load(theirs)))


def scores(args, model, *more):
    """What `brevity eval` says of a model."""
    data = pathlib.Path(args.data)
    asked = ["--sts", data / "sts/stsbenchmark/sts-test.csv", "--retrieval", data / "retrieval/scifact"]
    return json.loads(run([args.brevity, "eval", model, *asked, "--dtype", "f32", *more, "--json"])[2])


def main_scores(report):
    results = report["results"]
    return results["sts-test"]["spearman,none"], results["scifact"]["ndcg_at_10,none"]


def cut_scores(args, data, scratch, train):
    """STS of the first 3 blocks with 128 dimensions: cut, fitted, and trained beside the whole encoder. Raw texts are all they see."""
    half, tuned = scratch / "half", scratch / "tuned"
    sts = ["--sts", data / "sts/stsbenchmark/sts-test.csv", "--dtype", "f32", "--json"]
    score = lambda model, *more: json.loads(run([args.brevity, "eval", model, *sts, *more])[2])
    whole = score(args.model, "--cuts", "384,128")["cuts"][0]
    plain, full = whole["values"][whole["layers"].index(3)][whole["dims"].index(128)], whole["values"][-1][whole["dims"].index(384)]
    fitted = run([args.brevity, "compress", args.model, "--recipe", "encoder-half", "--text", train, "--out", half, "--compare", "none"])[0]
    trained = run([args.brevity, "tune", half, "--teacher", args.model, "--texts", train, "--out", tuned, *args.tune.split()])[0]
    found = {"whole": full, "cut": plain}
    for name, model, seconds in [("fitted", half, fitted), ("fitted and trained", tuned, fitted + trained)]:
        value = score(model)["results"]["sts-test"]["spearman,none"]
        found[name] = {"spearman": value, "recovered": (value - plain) / (full - plain), "seconds": seconds}
        print(f"3 blocks, 128 dimensions, {name:20} STS-B {value:.4f} (cut {plain:.4f}, whole {full:.4f}): "
              f"{100 * found[name]['recovered']:.0f} % of the loss recovered in {seconds:.0f} s")
    return found


def int4(args, data, scratch, train):
    """STS and size of the encoder with 4-bit linear layers."""
    out = scratch / "int4"
    seconds = run([args.brevity, "compress", args.model, "--recipe", "encoder-int4", "--text", train, "--out", out, "--compare", "none"])[0]
    report = json.loads(run([args.brevity, "eval", out, "--sts", data / "sts/stsbenchmark/sts-test.csv", "--dtype", "f32", "--json"])[2])
    size = lambda folder: sum(file.stat().st_size for file in pathlib.Path(folder).glob("*.safetensors"))
    found = {"spearman": report["results"]["sts-test"]["spearman,none"], "share": size(out) / size(args.model), "seconds": seconds}
    print(f"encoder-int4: STS-B {found['spearman']:.4f}, {100 * found['share']:.1f} % of the bytes, {seconds:.0f} s")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=["scores", "speed", "static", "cuts", "int4"])
    parser.add_argument("--build", type=pathlib.Path)
    parser.add_argument("--tune", default="--steps 2000", help="what `brevity tune` is told")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    data, found = pathlib.Path(args.data), {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        texts = scratch / "sentences.txt"
        texts.write_text("".join(f"{text}\n" for text in sentences(data / "sts/stsbenchmark/sts-test.csv", 1000)), encoding="utf-8")
        train = scratch / "train.txt"
        train.write_text("".join(f"{text}\n" for text in sentences(data / "sts/stsbenchmark/sts-train.csv", 8000)), encoding="utf-8")
        if "scores" in args.only:
            # Axes are those of the sentences of the benchmark's training split, or of every third document of SciFact.
            documents = scratch / "documents.txt"
            corpus = (data / "retrieval/scifact/corpus.jsonl").read_text(encoding="utf-8").splitlines()[::3]
            documents.write_text("".join(" ".join(f"{row.get('title', '')} {row['text']}".split()) + "\n" for row in map(json.loads, corpus)), encoding="utf-8")
            ways = {"prefix": [], "axes of sentences": ["--pca", train], "half whitened": ["--pca", train, "--whiten", 0.5],
                    "axes of documents": ["--pca", documents], "half whitened (documents)": ["--pca", documents, "--whiten", 0.5]}
            for way, more in ways.items():
                report = scores(args, args.model, "--cuts", "384,256,192,128,64,32", *more)
                if not more:
                    found["whole"] = main_scores(report)
                    print("STS-B {:.4f}, SciFact nDCG@10 {:.4f}".format(*found["whole"]))
                for cuts in report["cuts"]:
                    values = cuts["values"][-1]
                    found.setdefault(cuts["task"], {"dims": cuts["dims"]})[way] = values
                    print(f"{cuts['task']:10} {way:26}", ", ".join(f"{d}: {value:.4f}" for d, value in zip(cuts["dims"], values)), flush=True)
        if "speed" in args.only:
            found["encoder"] = race(args, "sentence-transformers", args.model, args.model, texts, scratch)
        if "static" in args.only:
            from model2vec.distill import distill

            theirs, own = scratch / "model2vec", scratch / "own"
            began = time.perf_counter()
            distill(args.model, pca_dims=256).save_pretrained(theirs)
            print(f"model2vec distils in {time.perf_counter() - began:.1f} s")
            seconds, _, _ = run([args.brevity, "distill", args.model, "--out", own, "--dims", 256, "--json"])
            print(f"brevity distils in {seconds:.1f} s")
            found["static"] = {"model2vec": main_scores(scores(args, theirs)), "brevity": main_scores(scores(args, own))}
            for name, (sts, ndcg) in found["static"].items():
                print(f"static table of {name}: STS-B {sts:.4f}, SciFact nDCG@10 {ndcg:.4f}")
            long = scratch / "long.txt"
            long.write_text(texts.read_text(encoding="utf-8") * 50, encoding="utf-8")
            found["static"]["speed"] = race(args, "model2vec", own, own, long, scratch)
        if "rust" in args.only:
            own = scratch / "for-rust"
            run([args.brevity, "distill", args.model, "--out", own, "--dims", 256, "--json"])
            found["rust"] = race_in_memory(args, own, texts, scratch)
        if "cuts" in args.only:
            found["cuts"] = cut_scores(args, data, scratch, train)
        if "int4" in args.only:
            found["int4"] = int4(args, data, scratch, train)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
