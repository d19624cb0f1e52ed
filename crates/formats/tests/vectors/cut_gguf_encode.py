#!/usr/bin/env python3
"""Cuts what ggml encodes out of a larger collection of vectors, for the types that are written here.

    python3 cut_gguf_encode.py COLLECTION.json > gguf_encode.json

The collection was made with ggml 0.25 (llama-cpp-python 0.3.36): `input` are weights as little-endian singles (or all
of them are `constant`), `bytes` what ggml makes of them without importance weights.
"""
import json
import sys

WRITTEN = {"Q4_0", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"}
cases = []
for case in json.load(open(sys.argv[1]))["cases"]:
    if case["type"] not in WRITTEN or case.get("imatrix"):
        continue
    cut = {"type": case["type"], "type_id": case["type_id"], "shape": [case["rows"], case["cols"]],
           "bytes": case["expected_bytes_hex"]}
    if "input" in case:
        cut["input"] = case["input"]["data_hex"]
    else:
        cut["constant"] = case["input_constant"]
    cases.append(cut)
print("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]")
