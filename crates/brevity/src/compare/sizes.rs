//! Where the bytes of a checkpoint are.

use brevity_eval::report::Parts;
use brevity_formats::Checkpoint;
use brevity_model::{Place, Role};

/// Bytes by part, as stored; what is no weight, such as headers and padding, is `other`.
pub(super) fn parts(checkpoint: &Checkpoint) -> Parts {
    let mut parts = Parts::default();
    for (site, _, source) in checkpoint.model().weights() {
        let bytes = source.form.bits() / 8;
        let name = site.role.as_str();
        let is_norm =
            name.contains("norm") || name.ends_with("before") || name.ends_with("after") || name.ends_with("sum");
        let part = match (&site.place, &site.role) {
            (_, Role::Loose(_)) => &mut parts.other,
            _ if is_norm => &mut parts.norms,
            (Place::Embed, _) => &mut parts.embedding,
            (Place::Head, _) => &mut parts.head,
            _ if name.starts_with("attn.") => &mut parts.attention,
            _ if name.starts_with("mlp.") => &mut parts.mlp,
            _ => &mut parts.other,
        };
        *part += bytes;
    }
    parts.other += checkpoint.size_bytes().saturating_sub(parts.total());
    parts
}
