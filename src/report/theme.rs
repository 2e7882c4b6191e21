//! Colours. The arm and bin colours are Okabe and Ito's (2008) palette, which readers with colour-blindness
//! can tell apart; see <https://jfly.uni-koeln.de/color/>.

/// What a mark is, by role: the theme says which colour that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ink {
    /// Behind everything.
    Paper,
    /// Titles, values.
    Text,
    /// Text on a coloured mark.
    OnColour,
    /// Labels, captions.
    Muted,
    /// Grid lines.
    Grid,
    /// Boxes' inside.
    Panel,
    /// Blue: easy+medium.
    Blue,
    /// Green: easy.
    Green,
    /// Orange: medium.
    Orange,
    /// Vermilion: hard.
    Vermilion,
    /// Purple: GRPO.
    Purple,
    /// Sky blue: further series.
    Sky,
    /// Grey: all, controls.
    Grey,
}

impl Ink {
    /// All, for the style sheet.
    pub(crate) const ALL: [Self; 13] = [
        Self::Paper,
        Self::Text,
        Self::OnColour,
        Self::Muted,
        Self::Grid,
        Self::Panel,
        Self::Blue,
        Self::Green,
        Self::Orange,
        Self::Vermilion,
        Self::Purple,
        Self::Sky,
        Self::Grey,
    ];

    /// Name of its variable in the style sheet.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Paper => "--paper",
            Self::Text => "--text",
            Self::OnColour => "--on-colour",
            Self::Muted => "--muted",
            Self::Grid => "--grid",
            Self::Panel => "--panel",
            Self::Blue => "--blue",
            Self::Green => "--green",
            Self::Orange => "--orange",
            Self::Vermilion => "--vermilion",
            Self::Purple => "--purple",
            Self::Sky => "--sky",
            Self::Grey => "--grey",
        }
    }

    /// Its colour on a light page.
    pub(crate) fn light(self) -> &'static str {
        match self {
            Self::Paper => "#ffffff",
            Self::Text => "#1b1f24",
            Self::OnColour => "#14171b",
            Self::Muted => "#59636e",
            Self::Grid => "#dfe3e8",
            Self::Panel => "#f6f8fa",
            Self::Blue => "#0072b2",
            Self::Green => "#009e73",
            Self::Orange => "#e69f00",
            Self::Vermilion => "#d55e00",
            Self::Purple => "#b1599a",
            Self::Sky => "#56b4e9",
            Self::Grey => "#858d96",
        }
    }

    /// Its colour on a dark page.
    pub(crate) fn dark(self) -> &'static str {
        match self {
            Self::Paper => "#14171b",
            Self::Text => "#e8ebee",
            Self::OnColour => "#14171b",
            Self::Muted => "#9aa4ae",
            Self::Grid => "#2e343b",
            Self::Panel => "#1c2126",
            Self::Blue => "#4aa5dc",
            Self::Green => "#1fb98c",
            Self::Orange => "#e9ad2b",
            Self::Vermilion => "#ec7a2c",
            Self::Purple => "#d58bc0",
            Self::Sky => "#86cdf5",
            Self::Grey => "#8b949e",
        }
    }
}

/// Where a figure is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theme {
    /// A file of its own: light colours on white, written out.
    File,
    /// Inside the page: colours are variables of its style sheet, so that they follow light and dark.
    Page,
}

impl Theme {
    /// The text of a colour attribute.
    pub(crate) fn colour(self, ink: Ink) -> String {
        match self {
            Self::File => ink.light().to_owned(),
            Self::Page => format!("var({})", ink.variable()),
        }
    }
}

/// The colour of an arm or bin, by name; any other takes the `index`-th further colour.
pub(crate) fn ink_of(name: &str, index: usize) -> Ink {
    let last = name.rsplit('/').next().unwrap_or(name);
    let base = last.split([' ', '[']).next().unwrap_or(last);
    match base {
        "easy" => Ink::Green,
        "medium" => Ink::Orange,
        "hard" => Ink::Vermilion,
        "easy+medium" => Ink::Blue,
        "grpo" => Ink::Purple,
        "all" | "cold_start" | "base" => Ink::Grey,
        _ if base.starts_with("random") => Ink::Grey,
        _ => [
            Ink::Sky,
            Ink::Blue,
            Ink::Orange,
            Ink::Green,
            Ink::Purple,
            Ink::Vermilion,
        ][index % 6],
    }
}
