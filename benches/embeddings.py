#!/usr/bin/env python3
"""Encoders and static tables beside their peers: the same model, the same texts, in turns in one run.

    python3 benches/embeddings.py MODEL_DIR DATA [--rounds 5] [--out RESULTS.json]

MODEL_DIR is a sentence encoder (all-MiniLM-L6-v2), DATA holds `sts/stsbenchmark/sts-{dev,test}.csv` and `retrieval/scifact`. Needs
sentence-transformers and model2vec with its `distill` extra. Build brevity with `cargo build --release`.

Printed are scores on the STS benchmark and on SciFact (whole vectors, prefixes, principal axes), vectors beside those of
sentence-transformers, throughput on the first 1,000 sentences of the benchmark, and static tables beside model2vec's.
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


def race(args, kind, peer_model, own_model, texts, scratch):
    """Texts a second of the peer and of brevity, in turns, and the least cosine of their vectors."""
    import numpy

    own, theirs = scratch / f"own-{kind}.npy", scratch / f"{kind}.npy"
    child = subprocess.Popen([sys.executable, "-c", CHILD, kind, str(peer_model), str(texts), str(args.rounds), str(theirs)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    count = sum(1 for _ in open(texts, encoding="utf-8"))
    rates = {"peer": [], "brevity": []}
    for _ in range(args.rounds):
        child.stdin.write("\n")
        child.stdin.flush()
        rates["peer"].append(count / json.loads(child.stdout.readline())["seconds"])
        report = json.loads(run([args.brevity, "embed", own_model, "--input", texts, "--out", own, "--json", "--dtype", "f32"])[2])
        rates["brevity"].append(report["texts_per_second"])
    child.stdin.close()
    child.wait()
    a, b = numpy.load(own), numpy.load(theirs)
    cosines = (a * b).sum(1) / numpy.linalg.norm(a, axis=1) / numpy.maximum(numpy.linalg.norm(b, axis=1), 1e-12)
    ratios = [ours / peer for ours, peer in zip(rates["brevity"], rates["peer"])]
    result = {"peer": statistics.median(rates["peer"]), "brevity": statistics.median(rates["brevity"]),
              "ratio": statistics.median(ratios), "least_cosine": float(cosines.min())}
    print(f"{kind:22} {result['peer']:9.0f} texts/s, brevity {result['brevity']:9.0f}, {result['ratio']:.2f} times; least cosine {result['least_cosine']:.6f}")
    return result


def scores(args, model, *more):
    """What `brevity eval` says of a model."""
    data = pathlib.Path(args.data)
    asked = ["--sts", data / "sts/stsbenchmark/sts-test.csv", "--retrieval", data / "retrieval/scifact"]
    return json.loads(run([args.brevity, "eval", model, *asked, "--dtype", "f32", *more, "--json"])[2])


def main_scores(report):
    results = report["results"]
    return results["sts-test"]["spearman,none"], results["scifact"]["ndcg_at_10,none"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=["scores", "speed", "static"])
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    data, found = pathlib.Path(args.data), {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        texts = scratch / "sentences.txt"
        texts.write_text("".join(f"{text}\n" for text in sentences(data / "sts/stsbenchmark/sts-test.csv", 1000)), encoding="utf-8")
        if "scores" in args.only:
            train = scratch / "train.txt"
            train.write_text("".join(f"{text}\n" for text in sentences(data / "sts/stsbenchmark/sts-train.csv", 8000)), encoding="utf-8")
            dims = "384,256,192,128,64,32"
            plain = scores(args, args.model, "--cuts", dims)
            turned = scores(args, args.model, "--cuts", dims, "--pca", train)
            found["whole"] = main_scores(plain)
            print("STS-B {:.4f}, SciFact nDCG@10 {:.4f}".format(*found["whole"]))
            for one, other in zip(plain["cuts"], turned["cuts"]):
                task, last = one["task"], len(one["layers"]) - 1
                found[task] = {"dims": one["dims"], "prefix": one["values"][last], "pca": other["values"][last]}
                for d, a, b in zip(one["dims"], one["values"][last], other["values"][last]):
                    print(f"{task:10} {d:4} dimensions: prefix {a:.4f}, principal axes {b:.4f}")
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
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
