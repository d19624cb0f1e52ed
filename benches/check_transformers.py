#!/usr/bin/env python3
"""Compresses a model by recipes, opens each result with transformers, and compares the perplexities of both sides.

    python3 benches/check_transformers.py MODEL_DIR WIKI_RAW [--recipes int4 int4-asym int8] [--windows 20] [--length 2048]
    python3 benches/check_transformers.py MODEL_DIR WIKI_RAW --recipes gptq-int4 --text TEXT [--samples 16]

With `--text` the recipes are calibrated on it. transformers loads with `CompressedTensorsConfig(dequantize=True)` in f32;
no key may be missing or unexpected, its perplexity must be ours within 0.1 %, and of the weights of its linear layers at
least the reported share must be zero. Needs torch, transformers and compressed-tensors; build brevity with
`cargo build --release` first.
"""
import argparse
import pathlib
import tempfile

from common import ROOT, brevity_perplexity, compress, load, perplexity, share_of_zeros, wikitext, windows


def reported_zeros(report):
    """Share of zeros that brevity reports for the layers that its recipe touched."""
    sizes = [site["shape"][0] * site["shape"][1] for site in report["sites"]]
    return sum(site["sparsity"] * size for site, size in zip(report["sites"], sizes)) / sum(sizes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("wiki")
    parser.add_argument("--recipes", nargs="+", default=["int4", "int4-asym", "int8", "sparse50", "sparse-2-4", "sparse-2-4-int4"])
    parser.add_argument("--text", default=None, help="calibration text, for recipes that need one")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    ids = windows(args.model, wikitext(args.wiki), args.windows, args.length)
    worst = 0.0
    for recipe in args.recipes:
        with tempfile.TemporaryDirectory() as scratch:
            out = pathlib.Path(scratch) / pathlib.Path(recipe).stem
            _, _, report = compress(args.brevity, args.model, recipe, out, args.text, args.samples, args.length)
            ours = brevity_perplexity(args.brevity, out, args.wiki, args.windows, args.length, "f32")
            model = load(out)
            reference, zeros, reported = perplexity(model, ids), share_of_zeros(model), reported_zeros(report)
            worst = max(worst, abs(ours / reference - 1))
            print(f"{recipe:16} brevity {ours:10.4f}   transformers {reference:10.4f}   difference "
                  f"{100 * (ours / reference - 1):+.4f} %   zeros {100 * zeros:.2f} %, {100 * reported:.2f} % reported", flush=True)
            assert zeros >= reported - 1e-6, "fewer zeros than reported"
    assert worst <= 1e-3, "more than 0.1 % apart"


if __name__ == "__main__":
    main()
