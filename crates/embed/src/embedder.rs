//! Whatever turns texts into vectors: an encoder or a static model.

use std::collections::BTreeMap;
use std::path::Path;

use brevity_formats::{Checkpoint, Open};

use crate::encoder::{Ask, Encoder, Load};
use crate::error::{Error, Result};
use crate::statics::{StaticModel, is_static, is_static_at};
use crate::vectors::Vectors;

/// What turns texts into vectors.
#[derive(Debug)]
pub enum Embedder {
    /// A transformer.
    Encoder(Box<Encoder>),
    /// A table.
    Static(Box<StaticModel>),
}

impl Embedder {
    /// Opens a directory, whatever it holds, and loads it.
    ///
    /// # Errors
    /// As [`Embedder::load`], or if the directory cannot be opened.
    pub fn open(path: &Path, load: &Load) -> Result<Embedder> {
        Embedder::load(&Checkpoint::open_with(path, Open { loose: is_static_at(path) })?, load)
    }

    /// Loads whatever a checkpoint holds. Of a static model, which has no layers and no pooling, `load` says nothing.
    ///
    /// # Errors
    /// As [`Encoder::load`] and [`StaticModel::read`].
    pub fn load(checkpoint: &Checkpoint, load: &Load) -> Result<Embedder> {
        Ok(match is_static(checkpoint.folder()) {
            true => match load.layers {
                Some(asked) if asked > 0 => return Err(Error::Layers { asked, layers: 0 }),
                _ => Embedder::Static(Box::new(StaticModel::read(checkpoint.folder())?)),
            },
            false => Embedder::Encoder(Box::new(Encoder::load(checkpoint, load)?)),
        })
    }

    /// Dimensions of the vectors.
    pub fn width(&self) -> usize {
        match self {
            Embedder::Encoder(encoder) => encoder.width(),
            Embedder::Static(model) => model.width(),
        }
    }

    /// Blocks of the model.
    pub fn layers(&self) -> usize {
        match self {
            Embedder::Encoder(encoder) => encoder.layers(),
            Embedder::Static(_) => 0,
        }
    }

    /// Whether vectors have length one.
    pub fn normalises(&self) -> bool {
        match self {
            Embedder::Encoder(encoder) => encoder.normalises(),
            Embedder::Static(model) => model.normalises(),
        }
    }

    /// What stands in front of texts of a kind, by the name of the kind.
    pub fn prompts(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        match self {
            Embedder::Encoder(encoder) => &encoder.modules().prompts,
            Embedder::Static(_) => &NONE,
        }
    }

    /// The vectors of texts behind each of some numbers of blocks, as [`Encoder::encode_layers`] has them.
    ///
    /// # Errors
    /// As [`Encoder::encode_layers`].
    pub fn encode_layers(
        &self,
        texts: &[&str],
        ask: &Ask<'_>,
        layers: &[usize],
        progress: &mut dyn FnMut(f64) -> bool,
        show: &mut dyn FnMut(usize, Vectors),
    ) -> Result<()> {
        match self {
            Embedder::Encoder(encoder) => encoder.encode_layers(texts, ask, layers, progress, show),
            Embedder::Static(model) => {
                if let Some(&asked) = layers.iter().find(|&&n| n > 0) {
                    return Err(Error::Layers { asked, layers: 0 });
                }
                if let Some(name) = ask.prompt {
                    return Err(Error::Prompt { name: name.to_owned(), known: Vec::new() });
                }
                if progress(0.0) {
                    let vectors = model.encode(texts, ask.dims)?;
                    layers.iter().for_each(|&layer| show(layer, vectors.clone()));
                }
                Ok(())
            }
        }
    }
}
