#!/usr/bin/env python3
"""Whether other tools open what is written of an encoder, and say the same of the same texts.

    python3 benches/check_encoders.py MODEL_DIR DATA

MODEL_DIR is a sentence encoder (all-MiniLM-L6-v2), DATA holds `sts/stsbenchmark/sts-{train,test}.csv`. Needs sentence-transformers,
model2vec and faiss-cpu. Build brevity with `cargo build --release`.

Every encoder and table is written by brevity, opened by sentence-transformers or model2vec, and both encode 200 sentences: the least
cosine must reach 0.9999. Indexes are opened by faiss, whose scores of the ten nearest must be ours.
"""
import argparse
import json
import pathlib
import tempfile

from common import ROOT, run
from embeddings import least_cosine, sentences

#: name -> the steps of a recipe and what stands beside them.
RECIPES = {
    "3 blocks, 128 fitted dimensions": "format: dense\nvectors: {dims: 128, turn: fit}\nsteps:\n  - prune.layers: {keep: 3}\n",
    "64 first dimensions": "format: dense\nvectors: {dims: 64}\n",
    "64 half whitened principal axes": "format: dense\nvectors: {dims: 64, turn: pca, whiten: 0.5}\n",
    "64 principal axes": "format: dense\nvectors: {dims: 64, turn: pca}\n",
    "a third of the channels": "format: dense\nsteps:\n  - prune.channels: {sparsity: 0.333, allocation: uniform}\n",
    "sharper attention": "format: dense\nsteps:\n  - adjust.temperature: {tau: 0.9}\n",
}

#: name -> what `brevity distill` is told, and who opens the result.
TABLES = {
    "table, f32": (["--type", "f32"], ["sentence-transformers", "model2vec"]),
    "table, f16": (["--type", "f16"], ["sentence-transformers", "model2vec"]),
    "table of the first layer": (["--from", "table"], ["sentence-transformers", "model2vec"]),
    "table, int8": (["--type", "int8"], ["model2vec"]),
    "table of 4096 shared rows": (["--clusters", "4096"], ["model2vec"]),
    "table of 4096 shared rows, int8": (["--clusters", "4096", "--type", "int8"], ["model2vec"]),
}

#: kind of codec -> what it is told.
CODECS = {
    "int8": [],
    "sign": [],
    "product": ["--parts", 48],
    "opq": ["--parts", 48],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    import faiss
    import numpy
    from model2vec import StaticModel
    from sentence_transformers import SentenceTransformer

    benchmark, failed = pathlib.Path(args.data) / "sts/stsbenchmark", []

    def verdict(name, good, figure):
        failed.extend([] if good else [name])
        print(f"{name:60} {figure}{'' if good else '  WRONG'}", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        lines = sentences(benchmark / "sts-test.csv", 200)
        texts, train = scratch / "texts.txt", scratch / "train.txt"
        texts.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        train.write_text("".join(f"{line}\n" for line in sentences(benchmark / "sts-train.csv", 2000)), encoding="utf-8")

        def ours(model):
            run([args.brevity, "embed", model, "--input", texts, "--out", scratch / "own.npy", "--dtype", "f32"])
            return numpy.load(scratch / "own.npy")

        def beside(name, path, readers):
            for reader in readers:
                encoder = SentenceTransformer(str(path), device="cpu") if reader == "sentence-transformers" else StaticModel.from_pretrained(path)
                cosine = least_cosine(ours(path), numpy.asarray(encoder.encode(lines), dtype="float32"))
                verdict(f"{name}, in {reader}", cosine >= 0.9999, f"least cosine {cosine:.6f}")

        run([args.brevity, "export", args.model, "--format", "dense", "--out", scratch / "dense"])
        beside("as it is", scratch / "dense", ["sentence-transformers"])
        for n, (name, recipe) in enumerate(RECIPES.items()):
            file, out = scratch / "recipe.yaml", scratch / f"encoder-{n}"
            file.write_text(recipe)
            run([args.brevity, "compress", args.model, "--recipe", file, "--text", train, "--samples", 32, "--length", 128, "--out", out, "--compare", "none"])
            beside(name, out, ["sentence-transformers"])
        tuned = scratch / "tuned"
        run([args.brevity, "tune", scratch / "encoder-0", "--teacher", args.model, "--texts", train, "--out", tuned, "--steps", 20])
        beside("3 blocks, 128 dimensions, trained for 20 steps", tuned, ["sentence-transformers"])
        for n, (name, (more, readers)) in enumerate(TABLES.items()):
            out = scratch / f"table-{n}"
            run([args.brevity, "distill", args.model, "--out", out, *more])
            beside(name, out, readers)

        corpus, codes, codec, index = (scratch / name for name in ("corpus.npy", "a.codes", "a.codec", "a.faiss"))
        run([args.brevity, "embed", args.model, "--input", train, "--out", corpus, "--dtype", "f32"])
        queries = ours(args.model)
        for kind, more in CODECS.items():
            run([args.brevity, "codec", corpus, "--kind", kind, *more, "--out", codec, "--codes", codes, "--faiss", index])
            found = run([args.brevity, "search", codes, "--codec", codec, "--queries", scratch / "own.npy", "--json"])[2]
            found = [json.loads(line)["hits"] for line in found.splitlines()]
            if kind == "sign":
                # A binary index is asked with codes.
                run([args.brevity, "codec", scratch / "own.npy", "--codec", codec, "--faiss", scratch / "queries.faiss"])
                asked = faiss.read_index_binary(str(scratch / "queries.faiss"))
                asked = faiss.vector_to_array(asked.xb).reshape(asked.ntotal, -1)
                bits = 8 * asked.shape[1]
                near = 1 - 2 * faiss.read_index_binary(str(index)).search(asked, 10)[0] / bits
            else:
                near = faiss.read_index(str(index)).search(queries, 10)[0]
            # Rows may differ, since of codes that are equally near either may come first; how near they are may not.
            far = numpy.abs(near - numpy.array([[hit["score"] for hit in hits] for hits in found])).max()
            verdict(f"{kind} codes, in faiss", far < 1e-5, f"scores of the 10 nearest within {far:.1e}")
    if failed:
        raise SystemExit(f"{len(failed)} wrong")


if __name__ == "__main__":
    main()
