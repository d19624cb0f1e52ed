#!/usr/bin/env python3
"""Cuts what model2vec encodes out of a larger collection of vectors.

    python3 cut_static.py COLLECTION.json > static.json

The collection was made with model2vec 0.10.0: a table, factors for tokens, texts with their vectors, the table as whole numbers.
"""
import json
import sys

vectors = json.load(open(sys.argv[1]))
cut = lambda entry: {"shape": entry["shape"], "values": entry["values"]}
quantized = vectors["vocab_quantized"]
print(json.dumps({
    "vocab": vectors["vocab"], "table": cut(vectors["vectors"]), "weights": cut(vectors["weights"]),
    "int8": cut(vectors["int8_table"]),
    "cases": [{"normalize": case["normalize"], "texts": case["texts"], "vectors": cut(case["embeddings"])} for case in vectors["cases"]],
    "clustered": {"table": cut(quantized["vectors"]), **{k: cut(v) if isinstance(v, dict) else v for k, v in quantized.items() if k != "vectors"}},
}))
