//! How a sublayer makes up for units that were taken out of it: the settings that methods share, and its last matrix over
//! what is left.

use brevity_model::{Form, Linear, Site, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::block::BlockCx;
use crate::cut::{Way, cut, cut_form, doubles, float_dtype, matrix};
use crate::error::{Error, Result};
use crate::refit::{Compensate, Fitted, Refit, Ridge};
use crate::settings::{Setting, value_error};

pub(crate) const COMPENSATE: Setting = Setting {
    name: "compensate",
    about: "how what is left makes up for what goes: `none`, `mean` (the bias of the last matrix takes over the mean of \
            what it gave) or `least_squares` (the last matrix is fitted anew)",
    default: "least_squares",
};
pub(crate) const RIDGE: Setting = Setting {
    name: "ridge",
    about: "what is added to the mean square of each input for least squares, as a multiple of their mean, at least 0; or \
            `auto` to choose it on samples that were kept apart",
    default: "auto",
};
pub(crate) const CENTRE: Setting = Setting {
    name: "centre",
    about: "whether least squares fit a bias as well; where the matrix has none this makes one, which few formats hold",
    default: "where there is a bias",
};

/// The settings as they are written.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CompensationSettings {
    pub compensate: Option<Compensate>,
    pub ridge: Option<Ridge>,
    pub centre: Option<bool>,
}

/// How a method makes up for what it takes out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Compensation {
    pub how: Compensate,
    ridge: Ridge,
    /// As it is written; by default a bias is fitted where there is one.
    centre: Option<bool>,
}

impl Compensation {
    pub(crate) fn parse(method: &'static str, known: &[Setting], s: CompensationSettings) -> Result<Self> {
        if let Some(ridge) = s.ridge.filter(|ridge| !ridge.is_sound()) {
            return Err(value_error(method, known, "ridge", &json!(ridge)));
        }
        let how = s.compensate.unwrap_or_default();
        if how != Compensate::LeastSquares && (s.ridge.is_some() || s.centre.is_some()) {
            let wants = "`compensate: least_squares` with `ridge` or `centre`";
            return Err(Error::Settings { method, wants });
        }
        Ok(Compensation { how, ridge: s.ridge.unwrap_or_default(), centre: s.centre })
    }

    /// Adds the settings to those of a method.
    pub(crate) fn write(&self, settings: &mut Value) {
        settings["compensate"] = json!(self.how);
        if self.how == Compensate::LeastSquares {
            settings["ridge"] = json!(self.ridge);
            if let Some(centre) = self.centre {
                settings["centre"] = json!(centre);
            }
        }
    }

    pub(crate) fn ridge(&self) -> Ridge {
        self.ridge
    }

    /// Whether a bias is fitted beside a matrix with or without one.
    pub(crate) fn centre(&self, has_bias: bool) -> bool {
        match self.how {
            Compensate::None => false,
            Compensate::Mean => true,
            Compensate::LeastSquares => self.centre.unwrap_or(has_bias),
        }
    }

    /// How a matrix with or without a bias is fitted anew.
    pub(crate) fn refit(&self, has_bias: bool) -> Refit {
        Refit { how: self.how, ridge: self.ridge, centre: self.centre(has_bias) }
    }
}

/// Puts a fitted matrix, or the columns that stay, in the place of a layer, and says what it cost.
pub(crate) fn put(
    method: &'static str,
    site: &Site,
    layer: &mut Linear<Weight>,
    stay: &[usize],
    fitted: Option<Fitted>,
    refit: Refit,
    cx: &mut BlockCx<'_>,
) -> Result<()> {
    let rows = layer.weight.shape()[0];
    let dtype = float_dtype(method, site, &Form::of(&layer.weight))?;
    let shift = fitted.as_ref().and_then(|fitted| fitted.shift.clone());
    layer.weight = match (&fitted, refit.how) {
        (Some(fitted), Compensate::LeastSquares) => matrix([rows, stay.len()], &fitted.weight, dtype),
        (None, Compensate::LeastSquares) => {
            let some = cut(method, site, &layer.weight, Way::Columns, stay)?;
            matrix([rows, stay.len()], &doubles(site, &some)?, dtype)
        }
        _ => cut(method, site, &layer.weight, Way::Columns, stay)?,
    };
    if refit.centre {
        let mut bias = match &layer.bias {
            Some(bias) => doubles(site, bias)?,
            None => vec![0.0; rows],
        };
        bias.iter_mut().zip(shift.iter().flatten()).for_each(|(bias, shift)| *bias += shift);
        let dtype = match &layer.bias {
            Some(bias) => float_dtype(method, site, &Form::of(bias))?,
            None => dtype,
        };
        layer.bias = Some(matrix([1, rows], &bias, dtype));
    }
    if let Some(fitted) = fitted {
        cx.figures.push(("output_error".into(), fitted.error));
        if refit.how != Compensate::None {
            cx.figures.push(("plain_error".into(), fitted.plain_error));
        }
        cx.figures.extend(fitted.ridge.map(|ridge| ("ridge".into(), ridge)));
    }
    Ok(())
}

/// What [`put`] leaves of a form.
pub(crate) fn put_form(
    method: &'static str,
    site: &Site,
    layer: &mut Linear<Form>,
    count: usize,
    how: Compensate,
    centre: bool,
) -> Result<()> {
    let rows = layer.weight.shape()[0];
    let dtype = float_dtype(method, site, &layer.weight)?;
    layer.weight = match how {
        Compensate::LeastSquares => Form::float([rows, count], dtype),
        _ => cut_form(method, site, &layer.weight, Way::Columns, count)?,
    };
    if centre {
        let dtype = match &layer.bias {
            Some(bias) => float_dtype(method, site, bias)?,
            None => dtype,
        };
        layer.bias = Some(Form::float([1, rows], dtype));
    }
    Ok(())
}

/// Memory that scoring and fitting a matrix `[rows, n]` takes at most: second moments twice, parts of them and their
/// factor, the matrix in double precision three times.
pub(crate) fn refit_bytes(rows: usize, n: usize) -> u64 {
    let (rows, n) = (rows as u64, n as u64);
    8 * (5 * n * n + 4 * rows * n) + 4 * rows * n
}
