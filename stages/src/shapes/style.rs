//! How an object is shown.

/// How an object is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A plain coloured object before its scene: the training distribution.
    Photo,
    /// A dark outline on paper, no scene.
    Sketch,
    /// A bright object on black, no scene.
    Negative,
    /// A checkered object with a dark outline before a scene.
    Paint,
}

impl Style {
    /// The name in samples' meta.
    pub fn name(self) -> &'static str {
        match self {
            Self::Photo => "photo",
            Self::Sketch => "sketch",
            Self::Negative => "negative",
            Self::Paint => "paint",
        }
    }
}

/// Where the object is and what hides it. Lengths are in pixels.
pub(super) struct Pose {
    pub(super) radius: f64,
    pub(super) centre: [f64; 2],
    pub(super) angle: f64,
    /// Centre and half sides of the occluder.
    pub(super) occluder: Option<([f64; 2], [f64; 2])>,
    pub(super) opacity: f64,
}
