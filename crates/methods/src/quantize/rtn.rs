//! `quantize.rtn`: rounds every weight to the nearest point of a grid.

use brevity_kernels::grid;
use brevity_model::{Code, Form, Group, Leaf, LeafForm, Linear, Mask, Site, Weight};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::grid::{BITS, Clip, GROUP, GridSettings, RAGGED, SCALE_DTYPE, SYMMETRIC, Share, Whole, coded};
use crate::error::{Error, Result};
use crate::leaves::{check_finite, each_mut, floats};
use crate::method::{Cx, LinearMethod};
use crate::settings::{Setting, read};
use crate::{Entry, Kind, Parse};

const NAME: &str = "quantize.rtn";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Rounds every weight to the nearest point of a grid, one grid for each group of inputs",
    settings: SETTINGS,
    parse: Parse::Linear(|settings| Ok(Box::new(Rtn::parse(settings)?))),
    kind: Kind::Quantize,
};

pub(crate) const SETTINGS: &[Setting] = &[
    BITS,
    GROUP,
    SYMMETRIC,
    Setting {
        name: "range",
        about: "`min_max` to hold every weight, `mse` to clip the range where that leaves less error",
        default: "min_max",
    },
    SCALE_DTYPE,
    RAGGED,
];

/// Rounds every weight to the nearest point of a grid, one grid for each group of inputs.
///
/// For a group with scale `s` and zero point `z`, a weight `w` is stored as
/// `q = clamp(round(w / s) + z, 0, 2^bits - 1)` and read back as `s * (q - z)`. A symmetric grid has
/// `s = 2 absmax / (2^bits - 1)` and `z = 2^(bits - 1)`; a symmetric grid of one bit has the two levels `±s` with
/// `s` the mean magnitude, which is the least squares choice. Scales are rounded to the type they are stored in
/// before codes are computed with them. Removed entries do not stretch a range and read back as exactly zero.
/// A product, sum or train is quantized matrix by matrix; matrices that a rule gives stay as they are.
///
/// # Shapes
/// A weight is `[out, in]`, row-major; with groups of `g` inputs it gets `out * ceil(in / g)` scales.
///
/// # Cost
/// `O(out * in)`, a hundred times that with `range: mse`. Needs no calibration data.
///
/// # Errors
/// [`Error::Group`] if the group does not divide the inputs and `ragged` is `refuse`, [`Error::Coded`] if the
/// weight is coded already, [`Error::NotFinite`] if a weight is NaN or infinite.
///
/// # Source
/// Jacob et al. 2018, arXiv:1712.05877, equations 1 to 3; the clip search as in Frantar et al. 2022,
/// arXiv:2210.17323; one bit as in Rastegari et al. 2016, arXiv:1603.05279, equation 6.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rtn {
    /// The grid.
    #[serde(flatten)]
    pub grid: GridSettings,
    /// How the range of a group is chosen.
    pub range: Clip,
}

impl Default for Rtn {
    fn default() -> Self {
        Rtn { grid: GridSettings::default(), range: Clip::MinMax }
    }
}

/// Weights that are widened and coded at once: enough for all threads, little beside a matrix.
const PIECE: usize = 1 << 20;

impl Rtn {
    fn parse(settings: Value) -> Result<Self> {
        Self::read(NAME, settings)
    }

    /// From the settings of another method, which rounds on the way.
    pub(crate) fn read(method: &'static str, settings: Value) -> Result<Self> {
        let rtn: Rtn = read(method, SETTINGS, settings)?;
        rtn.grid.check(method, SETTINGS)?;
        Ok(rtn)
    }

    fn rewrite_leaf(&self, site: &Site, path: &str, leaf: &mut Leaf) -> Result<()> {
        let values = match &leaf.code {
            Code::Rule(_) => return Ok(()),
            Code::Float(values) => values,
            _ => return Err(coded(NAME, site, path, &LeafForm::of(leaf))),
        };
        let [rows, columns] = leaf.shape;
        let group = self.grid.group(site, path, columns)?;
        let scale_dtype = self.grid.scale_dtype(values.dtype());
        if rows * columns == 0 {
            leaf.code = Code::Grid(self.grid.empty(group, scale_dtype, leaf.shape));
            return Ok(());
        }
        let spec = self.grid.spec(group, scale_dtype, self.range);
        let mut codes = vec![0; rows * columns];
        let (mut scales, mut zeros) = (Vec::new(), (!self.grid.symmetric).then(Vec::new));
        // Rows are coded apart unless they share a scale, so that no whole matrix is ever widened.
        let at_once = match group {
            Group::Tensor => rows,
            _ => (PIECE / columns).max(1),
        };
        for (n, codes) in codes.chunks_mut(at_once * columns).enumerate() {
            let start = n * at_once * columns;
            let w = floats(values, start..start + codes.len());
            if brevity_kernels::cast::count_non_finite(&w) > 0 {
                check_finite(site, path, &values.to_f32())?;
            }
            let keep = leaf.mask.as_ref().map(|mask| keep(mask, start, codes.len()));
            let shape = [codes.len() / columns, columns];
            let fail = |source| Error::Kernel { method: NAME, site: site.clone(), leaf: path.into(), source };
            let fitted = self.grid.fit(&spec, &w, shape, keep.as_deref()).map_err(fail)?;
            if self.grid.is_sign() {
                codes.iter_mut().zip(&w).for_each(|(code, w)| *code = u8::from(*w >= 0.0));
            } else {
                grid::encode(&spec, &fitted, &w, shape, keep.as_deref(), codes).map_err(fail)?;
            }
            scales.extend(fitted.scales);
            if let (Some(zeros), Some(fitted)) = (&mut zeros, fitted.zeros) {
                zeros.extend(fitted);
            }
        }
        leaf.code = Code::Grid(self.grid.grid(group, scale_dtype, codes, grid::Scales { scales, zeros }));
        Ok(())
    }
}

impl LinearMethod for Rtn {
    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        self.grid.note(&layer.weight, &mut cx.notes);
        let site = cx.site;
        each_mut(&mut layer.weight, &mut |path, leaf| self.rewrite_leaf(site, path, leaf))
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        self.grid.predict(NAME, site, layer)
    }

    fn settings(&self) -> Value {
        serde_json::to_value(self).expect("numbers, words and flags are JSON")
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        // Widened weights and flags of one piece beside all codes and scales.
        let piece = |form: &LeafForm| match self.grid.group {
            Share::Whole(Whole::Tensor) => form.shape[0] * form.shape[1],
            _ => (form.shape[0] * form.shape[1]).min(PIECE + form.shape[1]),
        };
        let pieces = layer.weight.leaves().iter().map(|(_, form)| 5 * piece(form) as u64).max();
        self.grid.coded_bytes(&layer.weight) + pieces.unwrap_or(0)
    }
}

/// The flags of `count` entries from entry `start` on.
fn keep(mask: &Mask, start: usize, count: usize) -> Vec<bool> {
    (start..start + count).map(|i| mask.keeps(i)).collect()
}

#[cfg(test)]
mod tests;
