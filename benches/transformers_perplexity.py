#!/usr/bin/env python3
"""Perplexity of a model directory by transformers in f32, and the share of zeros in its linear layers, as one line of JSON.

    python3 benches/transformers_perplexity.py MODEL_DIR WIKI_RAW [--tokenizer DIR] [--windows 20] [--length 2048]

Compressed checkpoints are decompressed when they are read. Needs torch, transformers and compressed-tensors.
"""
import argparse
import json

import torch

from common import load, perplexity, share_of_zeros, wikitext, windows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--tokenizer", default=None, help="another directory to take the tokenizer from")
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load(args.model)
    ids = windows(args.tokenizer or args.model, wikitext(args.text), args.windows, args.length)
    print(json.dumps({"perplexity": perplexity(model, ids), "zeros": share_of_zeros(model)}))


if __name__ == "__main__":
    main()
