#!/usr/bin/env python3
"""Cuts what sentence-transformers pools out of a larger collection of vectors.

    python3 cut_pooling.py COLLECTION.json > pooling.json

The collection was made with sentence-transformers 6.2.0: states `[texts, tokens, width]` of which the mask says which tokens
are real, and the vector of each text by each mode.
"""
import json
import sys

pooling = json.load(open(sys.argv[1]))["pooling"]
cut = lambda entry: {"shape": entry["shape"], "values": entry["values"]}
print(json.dumps({name: cut(entry) for name, entry in pooling.items()}))
