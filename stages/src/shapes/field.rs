//! Shapes as fields: a function that is negative inside, zero on the outline and positive outside, and there
//! about the distance to the outline. `u` runs right and `v` down; an object fills about -1..1.

/// Turns `u + v` and `u - v` into lengths; four digits, as the recipe has it.
#[expect(
    clippy::approx_constant,
    reason = "the recipe's own digits decide bytes"
)]
const DIAGONAL: f64 = 0.7071;

/// The field of object `class` at `(u, v)`.
pub(super) fn field(class: usize, u: f64, v: f64) -> f64 {
    let (au, av) = (u.abs(), v.abs());
    let r = length(u, v);
    match class {
        0 => r - 0.85,
        1 => au.max(av) - 0.75,
        2 => (0.86 * au - 0.51 * (v + 0.9)).max(v - 0.7),
        3 => cross(au, av, 0.27, 0.9),
        4 => cross(
            DIAGONAL * (u + v).abs(),
            DIAGONAL * (u - v).abs(),
            0.27,
            0.95,
        ),
        5 => (r - 0.65).abs() - 0.2,
        6 => DIAGONAL * (au + av - 1.0),
        7 => 0.7 * (r - (0.6 + 0.3 * libm::cos(5.0 * libm::atan2(u, -v)))),
        8 => (r - 0.85).max(0.7 - length(u - 0.45, v)),
        9 => (0.8 * (av - 0.75 * au - 0.08)).max(au - 0.85),
        10 => bar(u + 0.5, 0.27, v, 0.85).min(bar(v - 0.58, 0.27, u, 0.77)),
        11 => bar(u, 0.25, v, 0.85).min(bar(v + 0.6, 0.25, u, 0.8)),
        12 => ((v + 0.62).abs().min(av).min((v - 0.62).abs()) - 0.19).max(au - 0.8),
        13 => length(au - 0.52, v) - 0.36,
        14 => 0.42 * (length(u / 0.95, v / 0.42) - 1.0),
        _ => (au.max(av) - 0.8).max(-(au - 0.38).max(-0.3 - v)),
    }
}

/// Euclidean length. IEEE square roots are exact, so the bits are the same everywhere.
fn length(x: f64, y: f64) -> f64 {
    (x * x + y * y).sqrt()
}

/// A box of half sides `thick` and `long` around the origin of `(across, along)`.
fn bar(across: f64, thick: f64, along: f64, long: f64) -> f64 {
    (across.abs() - thick).max(along.abs() - long)
}

/// Two crossing bars.
fn cross(a: f64, b: f64, thick: f64, long: f64) -> f64 {
    bar(a, thick, b, long).min(bar(b, thick, a, long))
}
