#!/usr/bin/env python3
"""Cuts the block types that candle reads out of a larger collection of vectors.

    python3 cut_gguf_blocks.py COLLECTION.json > gguf_blocks.json

The collection was made with ggml 0.25 (llama-cpp-python 0.3.36): `bytes` are blocks that ggml encoded, without
importance weights, and `values` what it decodes them to, as little-endian singles. Blocks of a constant have the one
value they decode to instead.
"""
import json
import struct
import sys

READABLE = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
cases = []
for case in json.load(open(sys.argv[1]))["cases"]:
    if case["type"] not in READABLE or case.get("imatrix"):
        continue
    cut = {"type": case["type"], "type_id": case["type_id"], "shape": [case["rows"], case["cols"]],
           "bytes": case["expected_bytes_hex"]}
    if "dequantized" in case:
        cut["values"] = case["dequantized"]["data_hex"]
    else:
        cut["constant"] = struct.pack("<f", case["dequantized_first"]).hex()
    cases.append(cut)
print("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]")
