//! The words of the world.

/// Names of the objects, by class.
pub const OBJECTS: [&str; 16] = [
    "disk", "box", "tri", "plus", "ex", "ring", "gem", "star", "moon", "bow", "ell", "tee", "bars",
    "dots", "oval", "arch",
];

/// Names of the scenes. Scene `s` is the own scene of object `s`.
pub const SCENES: [&str; 16] = [
    "sky", "sea", "mud", "ash", "fog", "ice", "bog", "den", "fen", "gym", "hut", "inn", "kit",
    "lab", "oak", "pub",
];
