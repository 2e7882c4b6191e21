//! Pass rates, the implicit filter and the gallery.

use dcsft_cache::Store;

use super::Results;
use crate::report::data::{GalleryBin, ImplicitFilter, PassRates};

pub(super) fn pass_rates(_: &Results<'_>) -> Option<PassRates> {
    None
}

pub(super) fn implicit_filter(_: &Results<'_>, _: &Store) -> Option<ImplicitFilter> {
    None
}

pub(super) fn gallery(_: &Results<'_>, _: &Store) -> Vec<GalleryBin> {
    Vec::new()
}
