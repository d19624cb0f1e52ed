//! The numbers: matmul, attention, norms, grids, factorizations and packed forms, each with a scalar definition.
//!
//! Every function takes slices in and slices out. Weights are always `[out, in]`, row-major; activations are
//! `[tokens, features]`. The only SIMD and `unsafe` code of the toolkit lives here. Each kernel has a plain
//! twin (`*_scalar`) that *is* its definition; the fast one is chosen at run time by CPU feature and tested
//! against it. Results never depend on the number of threads: work is cut into fixed pieces and sums are
//! added in a fixed order.
//!
//! Slices of the wrong length are broken invariants of the caller and panic; what depends on data or settings
//! (a group size, a factorization that does not converge) is an [`Error`].
//!
//! ```text
//! cpu         features() -> &'static Features (Display)   describe() -> String
//!
//! matmul      Dims { m, k, n }
//!             linear_f32(Dims, x[m,k], w[n,k], bias: Option<[n]>, y[m,n])        y = x wᵀ + bias
//!             matmul_f32(Dims, a[m,k], b[k,n], c[m,n])                           c = a b
//!             matmul_nt_f32(Dims, a[m,k], b[n,k], c[m,n])                        c = a bᵀ
//!             matmul_tn_f32(Dims, a[k,m], b[k,n], c[m,n])                        c = aᵀ b
//!             PackedBf16::{from_f32, from_bf16}(w, outputs, inputs)  .outputs() .inputs() .size_bytes() .to_f32()
//!             Rows::{F32(&[f32]), Bf16(&[bf16])}   RowsMut::{F32(&mut [f32]), Bf16(&mut [bf16])}
//!             linear_bf16(m, Rows, &PackedBf16, bias: Option<&[f32]>, RowsMut)   bf16 operands, f32 sums
//!
//! bag         sum_rows_f32(table, width, rows, factors: Option<&[f32]>, out)   sum_rows_i8(..)      sums of rows of a table
//! attention   Reach::{Causal, Both, Window(n), Around(n)}   Bias { values [heads, 2 reach + 1], reach }
//!             Spec { kv_of: &[u16], kv_heads, qk_dim, v_dim, scale, reach, softcap: Option<f32>, bias: Option<Bias> }
//!             Tokens { batch, queries, keys, key_lengths: Option<&[usize]> }     queries are the last positions
//!             attend_by(Compute, &Spec, &Tokens, [q, k, v], out)           attend or attend_bf16
//!             attend_beside(&Spec, Compute, lengths, [q, k, v], out)       sequences one behind the other
//!             attend(&Spec, &Tokens, q, k, v, out)         f32        [batch, tokens, heads * dim] everywhere
//!             attend_bf16(&Spec, &Tokens, q, k, v, out)    f32 rows, bf16 products, f32 sums
//!
//! norm        rms_norm(x, gain, offset, eps, out)          gain is `offset + gain`: 0 plain, 1 for Gemma
//!             layer_norm(x, gain, bias: Option<&[f32]>, eps, out)
//! rope        Layout::{Half, Pairs}   Rope { layout, heads, head_dim, positions, cos, sin, pairs }  tables [positions, rot/2]
//!             rotate(&Rope, tokens, first, x, out)   rotate_in_place(&Rope, tokens, first, x)
//! activation  Act::{Silu, Gelu, GeluTanh, Relu, QuickGelu, Identity}   Act::eval(x)
//!             apply(Act, x, out)   apply_mul(Act, gate, up, out)   exp/tanh/erf(x, out)
//!
//! softmax     softmax(x, cols, out)   log_softmax(x, cols, out)   log_sum_exp(row) -> f64
//!             nll(logits, vocab, targets: &[u32], out: &mut [f64])
//!             argmax(logits, vocab, out: &mut [u32])
//!             top_k(row, k) -> TopK { ids, log_probs, tail_mass }
//!             kl(p_logits, q_logits, vocab, out: &mut [f64])
//!
//! cast        f32_to_bf16  bf16_to_f32  f32_to_f16  f16_to_f32  f32_to_e4m3  e4m3_to_f32  f32_to_e5m2  e5m2_to_f32
//!             count_non_finite(&[f32]) -> usize
//!
//! grid        Group::{Size(n), Row, Tensor}   Range::{MinMax, Mse}   ScaleType::{F32, F16, Bf16}
//!             Spec { bits, group, symmetric, range, scale, ragged }
//!             Scales { scales: Vec<f32>, zeros: Option<Vec<u8>> }     zeros are unsigned; none if symmetric
//!             fit(&Spec, w, [rows, cols], keep: Option<&[bool]>) -> Result<Scales>
//!             encode(&Spec, &Scales, w, [rows, cols], keep, codes: &mut [u8]) -> Result<()>
//!             decode(&Spec, &Scales, codes, [rows, cols], out: &mut [f32]) -> Result<()>
//!             Levels::new(values, ScaleType)   .fit(..) .encode(..) .decode(..)   tables such as NF4
//! bits        words(codes, bits)   pack_rows / unpack_rows(.., rows, cols, bits)   pack_columns / unpack_columns
//!
//! packed      PackedGrid::new(&grid::Spec, &Scales, codes, [rows, cols]) -> Result   PackedGrid::from_levels(..)
//!             .linear(m, x: &[f32], bias, y: &mut [f32], Panel::{F32, Bf16})   .to_f32()  .size_bytes()
//!
//! popcount    BitPlanes::new(packed [rows, planes, ceil(dims / 8)], rows, planes, dims)   .rows() .size_bytes()
//!             .dots(query [planes, ceil(dims / 8)], first, out: &mut [i32])       vectors of 1 to 4 bits, exact
//!
//! nearest     nearest(points [n, dims], dims, centroids [count, dims], nearest: &mut [u32], distances: &mut [f32])
//!
//! gram        Gram::new(n)   .add(rows, Rows [rows, n], Compute)   .merge(&Gram)         Σ xᵀx, f64 totals
//!             .size() .diagonal() .trace() .is_finite() .to_f64() .to_f32()   Gram::bytes(n)
//!             .ordered_f64(&[u32], out) .ordered_f32(..)   .quadratic(rows, d[rows, n], compute) -> f64   tr(D G Dᵀ)
//!             Cross::new(n)  .add(rows, a, b, Compute)   .merge(&Cross)               Σ aᵀb, f64 totals
//!             .size() .as_f64() .to_f32()   .inner(rows, a, b) -> f64   tr(A C Bᵀ)   Cross::bytes(n)
//!
//! linalg      svd_f32(a, [rows, cols]) -> Result<Svd<f32>>   svd_f64   Svd { u, s, vt }
//!             eigen_f64(a[n,n], n) -> Result<Eigen>   Eigen { values, vectors }       largest first, vectors as rows
//!             randomized_svd_f32(a, [rows, cols], rank, seed) -> Result<Svd<f32>>   randomized_svd_f64
//!             InverseFactor::new(&Gram, order: Option<&[u32]>, damp) -> Result   (H + damp I)⁻¹ = Uᵀ U
//!             solver_f32(a[n,n], n) -> Result<Solver<f32>>   solver_f64   .solve(x: &mut [m,n])       x = x a⁻¹   .log_determinant()
//!             matmul_f64(Dims, a[m,k], b[k,n]) -> [m,n]
//! columns     Columns { factor, grid: Option<Grid { spec, fit }>, prune: Option<Prune>, block }
//!             .solve(w: &mut [f32], [rows, cols], keep: Option<&[bool]>) -> Result<Solved>
//!             Solved { codes, scales, keep, loss }   Fit::{Static(&Scales), Dynamic}
//!             Prune::{Share(f64), Pattern { removed, of }}
//!
//! ops         the same over candle tensors, differentiable and device-agnostic when asked to be
//!             Compute::{F32, Bf16}
//!             Prepared::{F32(Tensor), Bf16(Arc<PackedBf16>), Grid(Arc<PackedGrid>, Compute)}
//!             Prepared::dense(&Tensor [out, in], Compute)   .shape() -> [out, in]   .dense_tensor(&Device)
//!             linear(&Tensor [.., in], &Prepared, bias: Option<&Tensor>) -> Tensor [.., out]
//!             attention(&attention::Spec, Compute, q, k, v, key_lengths: Option<&[usize]>)
//!             attention_beside(&attention::Spec, Compute, [q, k, v], lengths: &[usize])     [1, rows, heads * dim]
//!                 q [batch, queries, heads * dim] or without batch; k, v likewise
//!             rms_norm(x, gain, offset: f32, eps: f32)   layer_norm(x, gain, bias: Option<&Tensor>, eps: f32)
//!             rope(x, rope::Layout, heads, cos: &Tensor, sin: &Tensor, first)
//!             act(Act, x)   act_mul(Act, gate, up)   softmax(x)   log_softmax(x)   add(a, b)
//! ```
#![allow(
    clippy::needless_range_loop,
    reason = "the registers of a tile are numbered, and several arrays share the number"
)]

pub mod activation;
pub mod attention;
pub mod bag;
pub mod bits;
pub mod cast;
pub mod columns;
pub mod cpu;
pub mod gram;
pub mod grid;
pub mod linalg;
pub mod matmul;
pub mod nearest;
pub mod norm;
pub mod ops;
pub mod packed;
pub mod popcount;
pub mod rope;
pub mod softmax;

mod buffer;
mod error;
mod math;
mod parallel;

pub use error::Error;
