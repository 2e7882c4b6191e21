//! Two arms compared at matched in-distribution accuracy.
//!
//! A learning rate or a number of steps trades in-distribution accuracy (ID) for accuracy out of distribution
//! (OOD), so arms compared at one setting of each may differ only in how far they went. Each arm is therefore taken
//! over all its settings: `frontier(x)` is the best OOD among its settings that reach ID `x` or more. The difference
//! of two frontiers, averaged over the ID range that both arms reach, says which arm pays less OOD for the same ID.

/// Accuracy of one setting of an arm, in one unit for both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// In distribution.
    pub id: f64,
    /// Out of distribution.
    pub ood: f64,
}

/// How two arms compare where both reach the same ID.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matched {
    /// Mean of `frontier(a) - frontier(b)` over the common range of ID.
    pub difference: f64,
    /// Where the common range begins and ends.
    pub range: [f64; 2],
}

/// The best OOD among `points` that reach `id` or more; none reaches it: `None`.
pub fn frontier(points: &[Point], id: f64) -> Option<f64> {
    points
        .iter()
        .filter(|point| point.id >= id)
        .map(|point| point.ood)
        .reduce(f64::max)
}

/// Compares `a` with `b` over the range of ID from the higher of their lowest settings to the lower of their
/// highest. Exact, since frontiers are step functions. `None` where an arm has no settings or the ranges do not
/// meet; a range of one point compares there.
pub fn matched(a: &[Point], b: &[Point]) -> Option<Matched> {
    let bound = |points: &[Point], pick: fn(f64, f64) -> f64| {
        points.iter().map(|point| point.id).reduce(pick)
    };
    let low = f64::max(bound(a, f64::min)?, bound(b, f64::min)?);
    let high = f64::min(bound(a, f64::max)?, bound(b, f64::max)?);
    let gap = |id: f64| Some(frontier(a, id)? - frontier(b, id)?);
    if low > high {
        return None;
    }
    // Frontiers change only at settings' IDs, and are constant from one (exclusive) to the next (inclusive).
    let mut steps: Vec<f64> = a
        .iter()
        .chain(b)
        .map(|point| point.id)
        .filter(|id| (low..=high).contains(id))
        .collect();
    steps.sort_by(f64::total_cmp);
    let mut sum = 0.0;
    for pair in steps.windows(2) {
        sum += (pair[1] - pair[0]) * gap(pair[1])?;
    }
    let difference = if high > low {
        sum / (high - low)
    } else {
        gap(low)?
    };
    Some(Matched {
        difference,
        range: [low, high],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(pairs: &[(f64, f64)]) -> Vec<Point> {
        pairs.iter().map(|&(id, ood)| Point { id, ood }).collect()
    }

    #[test]
    fn an_arm_that_pays_two_points_less_at_every_id_is_two_points_ahead() {
        let a = points(&[(70.0, 60.0), (80.0, 50.0)]);
        let b = points(&[(70.0, 58.0), (80.0, 48.0)]);
        let result = matched(&a, &b).unwrap();
        assert!((result.difference - 2.0).abs() < 1e-12, "{result:?}");
        assert_eq!(result.range, [70.0, 80.0]);
    }

    #[test]
    fn an_arm_that_merely_went_further_is_not_behind() {
        let gentle = points(&[(70.0, 60.0), (80.0, 55.0)]);
        let further = points(&[(80.0, 55.0), (90.0, 40.0)]);
        assert_eq!(matched(&gentle, &further).unwrap().difference, 0.0);
    }

    #[test]
    fn a_setting_that_loses_on_both_sides_does_not_count() {
        let a = points(&[(70.0, 60.0), (80.0, 50.0)]);
        let with_bad = points(&[(70.0, 60.0), (75.0, 20.0), (80.0, 50.0)]);
        assert_eq!(matched(&a, &with_bad).unwrap().difference, 0.0);
    }

    #[test]
    fn the_average_is_weighted_by_the_range_of_id() {
        // Over (70, 72] a is ahead by 10, over (72, 80] by 0.
        let a = points(&[(70.0, 60.0), (72.0, 60.0), (80.0, 50.0)]);
        let b = points(&[(70.0, 50.0), (80.0, 50.0)]);
        assert!((matched(&a, &b).unwrap().difference - 2.0).abs() < 1e-12);
    }

    #[test]
    fn arms_that_share_no_range_are_not_compared() {
        assert_eq!(
            matched(&points(&[(60.0, 50.0)]), &points(&[(80.0, 50.0)])),
            None
        );
        assert_eq!(matched(&[], &points(&[(80.0, 50.0)])), None);
    }
}
