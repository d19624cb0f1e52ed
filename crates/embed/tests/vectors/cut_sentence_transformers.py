#!/usr/bin/env python3
"""Cuts what sentence-transformers makes of a few vectors out of a larger collection.

    python3 cut_sentence_transformers.py COLLECTION.json > sentence_transformers.json

The collection was made with sentence-transformers 6.2.0: `quantize_embeddings` of six vectors in each precision, with the
ranges of the vectors themselves or of nine others. Tensors are little-endian, row-major.
"""
import json
import sys

collection = json.load(open(sys.argv[1]))


def cut(tensor):
    return {key: tensor[key] for key in ("dtype", "shape", "data_hex")}


cases = []
for case in collection["quantize_cases"]:
    vectors = case.get("input_override", collection["embeddings"])
    ranges = collection["calibration_embeddings"] if case.get("calibrated") else vectors
    cases.append({"precision": case["precision"], "vectors": cut(vectors), "ranges_of": cut(ranges),
                  "expected": cut(case["expected"])})
lines = ",\n".join(json.dumps(case) for case in cases)
print('{"producer": %s, "cases": [\n%s\n]}' % (json.dumps(collection["producer"]), lines))
