//! The figures, each a pure function from data to SVG text; none where there is nothing to draw.

mod accuracy;
mod curves;
mod dag;
mod filter;
mod histogram;
mod parts;
mod times;

use super::data::ReportData;
use super::theme::Theme;

pub(crate) use parts::Figure;

/// Every figure that the data has something for, in the order of the page.
pub(crate) fn all(data: &ReportData, theme: Theme) -> Vec<Figure> {
    [
        accuracy::draw(data, theme),
        curves::draw(data, theme),
        times::draw(data, theme),
        histogram::draw(data, theme),
        filter::draw(data, theme),
        dag::draw(data, theme),
    ]
    .into_iter()
    .flatten()
    .collect()
}
