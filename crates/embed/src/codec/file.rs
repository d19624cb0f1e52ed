//! Files of codecs and of codes: safetensors, with a description in the metadata.
//!
//! Both are written beside their place and renamed, so a file is whole or not there. A codec's description has its kind,
//! width, settings and digest; the digest is made again when it is read, so that a changed bit is noticed. Codes have the
//! digest of their codec and one of their own.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::axes::Axes;
use super::codes::{Codes, Digest};
use super::sign::MOST_DIMS;
use super::{Codec, Int8, Product, Recurrent, Sign};
use crate::codec::error::{Error, Result};

/// The key of the description of a codec.
const CODEC: &str = "brevity.codec";
/// The key of the description of codes.
const CODES: &str = "brevity.codes";
/// The version of both.
const VERSION: u32 = 1;

/// What a codec is made of.
pub(super) struct Parts<'a> {
    /// Its sizes beside the width.
    pub(super) sizes: Vec<(&'static str, usize)>,
    /// Its numbers.
    pub(super) tensors: Vec<(&'static str, &'a [f32])>,
}

#[derive(Serialize, Deserialize)]
struct CodecDescription {
    version: u32,
    kind: String,
    width: usize,
    settings: BTreeMap<String, usize>,
    hash: String,
}

#[derive(Serialize, Deserialize)]
struct CodesDescription {
    version: u32,
    codec: String,
    hash: String,
}

impl Codec {
    pub(super) fn parts(&self) -> Parts<'_> {
        match self {
            Codec::Int8(codec) => Parts { sizes: vec![], tensors: vec![("low", &codec.low), ("high", &codec.high)] },
            Codec::Sign(codec) => Parts {
                sizes: vec![("dims", codec.dims())],
                tensors: with_axes(&codec.axes, std::slice::from_ref(&codec.scale)),
            },
            Codec::Recurrent(codec) => Parts {
                sizes: vec![("dims", codec.dims()), ("planes", codec.planes)],
                tensors: with_axes(&codec.axes, std::slice::from_ref(&codec.scale)),
            },
            Codec::Product(codec) => Parts {
                sizes: vec![("parts", codec.parts), ("bits", codec.bits)],
                tensors: [("centroids", &codec.centroids[..])]
                    .into_iter()
                    .chain(codec.rotation.as_deref().map(|rotation| ("rotation", rotation)))
                    .collect(),
            },
        }
    }

    /// Writes the codec to a file.
    ///
    /// # Errors
    /// [`Error::File`]. Whatever was at `path` stays as it was.
    pub fn write(&self, path: &Path) -> Result<()> {
        let Parts { sizes, tensors } = self.parts();
        let description = CodecDescription {
            version: VERSION,
            kind: self.kind().to_owned(),
            width: self.width(),
            settings: sizes.into_iter().map(|(name, size)| (name.to_owned(), size)).collect(),
            hash: self.digest().to_string(),
        };
        let bytes: Vec<(&str, Vec<u8>)> = tensors
            .into_iter()
            .map(|(name, numbers)| (name, numbers.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let views = bytes.iter().map(|(name, bytes)| (*name, floats(bytes))).collect();
        write_views(path, views, CODEC, &description)
    }

    /// Reads a codec from a file.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Damaged`] if it is cut short, changed, of a later version, or something else.
    pub fn read(path: &Path) -> Result<Codec> {
        let bytes = std::fs::read(path).map_err(|source| Error::File { act: "read", path: path.to_owned(), source })?;
        let damaged = |why: String| Error::Damaged { path: path.to_owned(), what: "a codec", why };
        let (description, tensors) = open::<CodecDescription>(&bytes, CODEC).map_err(damaged)?;
        let numbers = |name: &str| -> Option<Vec<f32>> {
            let view = tensors.tensor(name).ok().filter(|view| view.dtype() == Dtype::F32)?;
            Some(view.data().chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect())
        };
        let codec = made(&description, numbers).map_err(damaged)?;
        if codec.digest().to_string() != description.hash {
            return Err(damaged("its numbers are not those that were written".into()));
        }
        Ok(codec)
    }
}

/// Little-endian numbers as a tensor.
fn floats(bytes: &[u8]) -> TensorView<'_> {
    TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes).expect("numbers are whole")
}

fn with_axes<'a>(axes: &'a Option<Axes>, scale: &'a [f32]) -> Vec<(&'static str, &'a [f32])> {
    let mut tensors = vec![("scale", scale)];
    if let Some(axes) = axes {
        tensors.extend([("mean", &axes.mean[..]), ("axes", &axes.axes[..])]);
    }
    tensors
}

/// A codec of its description and numbers, or what is wrong with them.
fn made(description: &CodecDescription, numbers: impl Fn(&str) -> Option<Vec<f32>>) -> Result<Codec, String> {
    let width = description.width;
    let size = |name: &str, low: usize, high: usize| match description.settings.get(name) {
        Some(&size) if (low..=high).contains(&size) => Ok(size),
        Some(size) => Err(format!("its `{name}` is {size}, not {low} to {high}")),
        None => Err(format!("its description has no `{name}`")),
    };
    let tensor = |name: &str, count: Option<usize>| match numbers(name) {
        None => Err(format!("it has no numbers `{name}`")),
        Some(found) if Some(found.len()) != count => Err(format!("`{name}` has {} numbers", found.len())),
        Some(found) if found.iter().any(|x| !x.is_finite()) => Err(format!("`{name}` holds NaN or infinity")),
        Some(found) => Ok(found),
    };
    if width == 0 {
        return Err("its width is zero".into());
    }
    let turned = |dims: usize| -> Result<(Option<Axes>, f32), String> {
        let scale = tensor("scale", Some(1))?[0];
        if scale <= 0.0 {
            return Err("its scale is not positive".into());
        }
        if numbers("axes").is_none() {
            return if dims == width { Ok((None, scale)) } else { Err("it has no numbers `axes`".into()) };
        }
        let axes = Axes { mean: tensor("mean", Some(width))?, axes: tensor("axes", dims.checked_mul(width))? };
        Ok((Some(axes), scale))
    };
    Ok(match description.kind.as_str() {
        "int8" => Codec::Int8(Int8 { low: tensor("low", Some(width))?, high: tensor("high", Some(width))? }),
        "sign" => {
            let (axes, scale) = turned(size("dims", 1, MOST_DIMS)?)?;
            Codec::Sign(Sign { width, axes, scale })
        }
        "recurrent" => {
            let planes = size("planes", 1, brevity_kernels::popcount::PLANES)?;
            let (axes, scale) = turned(size("dims", 1, MOST_DIMS)?)?;
            Codec::Recurrent(Recurrent { width, axes, scale, planes })
        }
        "product" => {
            let (parts, bits) = (size("parts", 1, width)?, size("bits", 1, 8)?);
            if !width.is_multiple_of(parts) {
                return Err(format!("its {parts} parts do not divide {width}"));
            }
            let rotation = match numbers("rotation") {
                None => None,
                Some(_) => Some(tensor("rotation", width.checked_mul(width))?),
            };
            let centroids = tensor("centroids", width.checked_mul(1 << bits))?;
            Codec::Product(Product { width, parts, bits, rotation, centroids })
        }
        kind => return Err(format!("there is no codec `{kind}`")),
    })
}

impl Codes {
    /// Writes the codes to a file.
    ///
    /// # Errors
    /// [`Error::File`]. Whatever was at `path` stays as it was.
    pub fn write(&self, path: &Path) -> Result<()> {
        let hash = blake3::hash(self.bytes()).to_hex().to_string();
        let description = CodesDescription { version: VERSION, codec: self.codec().to_string(), hash };
        let view = TensorView::new(Dtype::U8, vec![self.rows(), self.row_bytes()], self.bytes())
            .expect("codes are whole rows");
        write_views(path, vec![("codes", view)], CODES, &description)
    }

    /// Reads codes from a file.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Damaged`].
    pub fn read(path: &Path) -> Result<Codes> {
        let bytes = std::fs::read(path).map_err(|source| Error::File { act: "read", path: path.to_owned(), source })?;
        let damaged = |why: &str| Error::Damaged { path: path.to_owned(), what: "codes", why: why.to_owned() };
        let (description, tensors) = open::<CodesDescription>(&bytes, CODES).map_err(|why| damaged(&why))?;
        let view = tensors.tensor("codes").map_err(|_| damaged("it has no tensor `codes`"))?;
        let row_bytes = match view.shape()[..] {
            [_, row_bytes] if row_bytes > 0 && view.dtype() == Dtype::U8 => row_bytes,
            _ => return Err(damaged("`codes` are not rows of bytes")),
        };
        if blake3::hash(view.data()).to_hex().as_str() != description.hash {
            return Err(damaged("its codes are not those that were written"));
        }
        let codec = Digest::parse(&description.codec).ok_or_else(|| damaged("it does not name its codec"))?;
        Ok(Codes::new(codec, row_bytes, view.data().to_vec()))
    }
}

/// The description and tensors of a file, or what is wrong with it.
fn open<'a, D: for<'d> Deserialize<'d>>(bytes: &'a [u8], key: &str) -> Result<(D, SafeTensors<'a>), String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let text = header.metadata().as_ref().and_then(|metadata| metadata.get(key));
    let text = text.ok_or_else(|| format!("its metadata have no `{key}`"))?;
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let bad = |error: serde_json::Error| format!("`{key}` of its metadata: {error}");
    let Versioned { version } = serde_json::from_str(text).map_err(bad)?;
    if version != VERSION {
        return Err(format!("it is of version {version}, and {VERSION} is known"));
    }
    let description = serde_json::from_str(text).map_err(bad)?;
    Ok((description, SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?))
}

fn write_views(path: &Path, views: Vec<(&str, TensorView<'_>)>, key: &str, of: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(of).expect("descriptions are plain data");
    let metadata = HashMap::from([(key.to_owned(), text)]);
    let bytes = safetensors::serialize(views, Some(metadata)).expect("views have the bytes that their shapes need");
    write_whole(path, |file| file.write_all(&bytes))
}

/// Writes a file beside its place and renames it.
pub(super) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<std::fs::File>) -> std::io::Result<()>,
) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial: PathBuf = path.with_file_name(name);
    let done = std::fs::File::create(&partial).and_then(|file| {
        let mut file = BufWriter::new(file);
        write(&mut file)?;
        file.into_inner().map_err(|error| error.into_error())?.sync_all()?;
        std::fs::rename(&partial, path)
    });
    done.map_err(|source| {
        // what is half written is of no use; if it cannot be removed, either, the first error says more
        let _ = std::fs::remove_file(&partial);
        Error::File { act: "write", path: path.to_owned(), source }
    })
}
