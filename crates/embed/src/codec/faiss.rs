//! Index files that faiss opens: codes and vectors as they are, without training or adding anything there.
//!
//! | codec | index | opened by |
//! |---|---|---|
//! | [`Int8`] | `IndexScalarQuantizer`, `QT_8bit` | `read_index` |
//! | [`Sign`] | `IndexBinaryFlat` | `read_index_binary` |
//! | [`Product`] | `IndexPQ`, with a rotation behind a linear `VectorTransform` | `read_index` |
//! | vectors | `IndexFlat` | `read_index` |
//!
//! All but the binary index rank by the inner product. The layout is that of faiss 1.15; its fields have been the same for
//! years. Numbers are little-endian.

use std::io::{self, Write};
use std::path::Path;

use super::file::write_whole;
use super::{Codec, Codes, Int8, Product, Vectors};
#[cfg(doc)]
use super::{Recurrent, Sign};
use crate::codec::error::{Error, Result};

/// `METRIC_INNER_PRODUCT`.
const INNER_PRODUCT: i32 = 0;
/// `METRIC_L2`, which binary indexes have without using it.
const L2: i32 = 1;
/// Two fields of every header that nothing reads.
const UNUSED: i64 = 1 << 20;

/// Writes codes as an index of faiss.
///
/// faiss encodes queries of `Int8` and `Product` indexes itself. A binary index is asked with codes: those that
/// [`Codec::encode`] makes of the queries.
///
/// # Errors
/// [`Error::Faiss`] for [`Recurrent`] codes of more than one plane, which faiss has no index for; [`Error::Codec`];
/// [`Error::File`].
pub fn write_faiss(codec: &Codec, codes: &Codes, path: &Path) -> Result<()> {
    codec.expect(codes)?;
    match codec {
        Codec::Int8(codec) => write_whole(path, |file| scalar(file, codec, codes)),
        Codec::Product(codec) => write_whole(path, |file| product(file, codec, codes)),
        Codec::Sign(_) => write_whole(path, |file| binary(file, codes)),
        Codec::Recurrent(recurrent) if recurrent.planes == 1 => write_whole(path, |file| binary(file, codes)),
        Codec::Recurrent(recurrent) => Err(Error::Faiss { codec: codec.kind(), planes: recurrent.planes }),
    }
}

/// Writes vectors as a flat index of faiss by inner product.
///
/// # Errors
/// [`Error::File`].
pub fn write_faiss_flat(vectors: Vectors<'_>, path: &Path) -> Result<()> {
    write_whole(path, |file| flat(file, vectors))
}

fn flat(file: &mut impl Write, vectors: Vectors<'_>) -> io::Result<()> {
    header(file, b"IxFI", vectors.width(), vectors.rows())?;
    floats(file, vectors.values())
}

fn scalar(file: &mut impl Write, codec: &Int8, codes: &Codes) -> io::Result<()> {
    let width = codec.low.len();
    header(file, b"IxSQ", width, codes.rows())?;
    put(file, 0i32.to_le_bytes())?; // QT_8bit
    put(file, 0i32.to_le_bytes())?; // ranges from minimum to maximum
    put(file, 0f32.to_le_bytes())?; // widened by nothing
    count(file, width)?;
    count(file, codes.row_bytes())?;
    // where ranges begin, then how wide they are
    let wide: Vec<f32> = codec.low.iter().zip(&codec.high).map(|(low, high)| high - low).collect();
    floats(file, &[&codec.low[..], &wide].concat())?;
    bytes(file, codes.bytes())
}

fn product(file: &mut impl Write, codec: &Product, codes: &Codes) -> io::Result<()> {
    if let Some(rotation) = &codec.rotation {
        header(file, b"IxPT", codec.width, codes.rows())?;
        put(file, 1i32.to_le_bytes())?; // one transform in front
        file.write_all(b"LTra")?;
        put(file, [0])?; // without a bias
        floats(file, rotation)?;
        floats(file, &[])?;
        put(file, (codec.width as i32).to_le_bytes())?; // from
        put(file, (codec.width as i32).to_le_bytes())?; // to
        put(file, [1])?; // trained
    }
    header(file, b"IxPq", codec.width, codes.rows())?;
    for size in [codec.width, codec.parts, codec.bits] {
        count(file, size)?;
    }
    floats(file, &codec.centroids)?;
    bytes(file, codes.bytes())?;
    put(file, 0i32.to_le_bytes())?; // ST_PQ: by tables
    put(file, [0])?; // signs are not kept
    // the threshold of a filter that is off, as faiss sets it
    put(file, (codec.parts as i32 * codec.bits as i32 + 1).to_le_bytes())
}

fn binary(file: &mut impl Write, codes: &Codes) -> io::Result<()> {
    file.write_all(b"IBxF")?;
    // bits that fill the last byte are equal in all codes
    put(file, (8 * codes.row_bytes() as i32).to_le_bytes())?;
    put(file, (codes.row_bytes() as i32).to_le_bytes())?;
    put(file, (codes.rows() as i64).to_le_bytes())?;
    put(file, [1])?; // trained
    put(file, L2.to_le_bytes())?;
    bytes(file, codes.bytes())
}

fn header(file: &mut impl Write, name: &[u8; 4], width: usize, rows: usize) -> io::Result<()> {
    file.write_all(name)?;
    put(file, (width as i32).to_le_bytes())?;
    put(file, (rows as i64).to_le_bytes())?;
    put(file, UNUSED.to_le_bytes())?;
    put(file, UNUSED.to_le_bytes())?;
    put(file, [1])?; // trained
    put(file, INNER_PRODUCT.to_le_bytes())
}

fn put<const N: usize>(file: &mut impl Write, bytes: [u8; N]) -> io::Result<()> {
    file.write_all(&bytes)
}

fn count(file: &mut impl Write, count: usize) -> io::Result<()> {
    put(file, (count as u64).to_le_bytes())
}

fn bytes(file: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    count(file, bytes.len())?;
    file.write_all(bytes)
}

fn floats(file: &mut impl Write, numbers: &[f32]) -> io::Result<()> {
    count(file, numbers.len())?;
    numbers.iter().try_for_each(|x| file.write_all(&x.to_le_bytes()))
}
