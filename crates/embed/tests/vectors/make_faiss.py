#!/usr/bin/env python3
"""Makes small indexes with faiss, to compare files byte by byte.

    python3 make_faiss.py > faiss.json        # faiss-cpu 1.15.1

Every case has the numbers that the codec is made of and the vectors that were added, as little-endian singles, and the
file that faiss writes. Numbers are quarters, so that every sum is exact.
"""
import json

import faiss
import numpy as np

rng = np.random.default_rng(7)


def quarters(*shape):
    return rng.integers(-40, 40, size=shape).astype(np.float32) / 4


def written(index):
    return bytes(faiss.serialize_index(index)).hex()


def of(x):
    return np.ascontiguousarray(x, dtype="<f4").tobytes().hex()


x = quarters(6, 8)
cases = []

flat = faiss.IndexFlatIP(8)
flat.add(x)
cases.append({"index": "flat", "vectors": of(x), "file": written(flat)})

scalar = faiss.IndexScalarQuantizer(8, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
scalar.train(x)
scalar.add(x)
cases.append({"index": "int8", "vectors": of(x), "file": written(scalar)})

binary = faiss.IndexBinaryFlat(8)
binary.add(np.packbits(x > 0, axis=1))
cases.append({"index": "sign", "vectors": of(x), "file": bytes(faiss.serialize_index_binary(binary)).hex()})

for bits in (8, 3):
    for rotated in (False, True):
        product = faiss.IndexPQ(8, 2, bits, faiss.METRIC_INNER_PRODUCT)
        centroids = quarters(2, 1 << bits, 4)
        faiss.copy_array_to_vector(centroids.ravel(), product.pq.centroids)
        product.is_trained = True
        index, rotation = product, None
        if rotated:
            # a permutation with signs is a rotation without rounding
            rotation = np.zeros((8, 8), dtype=np.float32)
            rotation[np.arange(8), rng.permutation(8)] = rng.choice([-1, 1], size=8)
            turn = faiss.OPQMatrix(8, 2)
            faiss.copy_array_to_vector(rotation.ravel(), turn.A)
            turn.is_trained = True
            index = faiss.IndexPreTransform(turn, product)
            index.is_trained = True
        index.add(x)
        cases.append({"index": "product", "parts": 2, "bits": bits, "vectors": of(x), "centroids": of(centroids),
                      "rotation": None if rotation is None else of(rotation), "file": written(index)})

lines = ",\n".join(json.dumps(case) for case in cases)
print('{"producer": "faiss %s", "cases": [\n%s\n]}' % (faiss.__version__, lines))
