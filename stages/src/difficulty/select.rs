//! Random subsets, each sample's place in them a function of seed, purpose and content ID alone.

use dcsft_tensor::rng::StreamKey;

/// `count` of `items` (index, content ID), in their order.
pub(super) fn choose(key: &StreamKey, items: &[(usize, &str)], count: usize) -> Vec<usize> {
    let mut ranked: Vec<(f64, usize)> = items
        .iter()
        .enumerate()
        .map(|(place, (_, id))| (key.clone().text(id).uniform(), place))
        .collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    ranked.truncate(count);
    let mut places: Vec<usize> = ranked.into_iter().map(|(_, place)| place).collect();
    places.sort_unstable();
    places.into_iter().map(|place| items[place].0).collect()
}

/// `share` of `count`, rounded to the nearest.
pub(super) fn share(share: f64, count: usize) -> usize {
    ((share * count as f64 + 0.5).floor() as usize).min(count)
}
