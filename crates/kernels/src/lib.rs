//! The numbers: matmul, attention, norms, factorizations and packed forms, each with a scalar definition
