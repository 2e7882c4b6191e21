//! ms-swift's grounding form: `<ref-object>` and `<bbox>` in the texts stand for the entries of `objects`.

use super::cell::Cell;
use super::drops::{DropReason, Dropped};
use crate::data::Frame;

const REFERENCE: &str = "<ref-object>";
const BOX: &str = "<bbox>";

/// Whether a text has places that `objects` has to fill.
pub(super) fn has_places(text: &str) -> bool {
    text.contains(REFERENCE) || text.contains(BOX)
}

/// Fills `texts`, one after the other, as ms-swift does for Qwen2.5-VL: a name as it is, a box as `[x1, y1, x2, y2]`.
/// Gives the frame that the boxes stand in, if there are any.
pub(super) fn fill<'t>(
    texts: impl IntoIterator<Item = &'t mut String>,
    objects: Option<Cell>,
) -> Result<Option<Frame>, Dropped> {
    let objects = match objects {
        Some(Cell::Text(text)) => super::json::nested(&text),
        other => other,
    };
    let Some(objects @ Cell::Record(_)) = objects else {
        return Err(wrong(format!(
            "the text has {REFERENCE} or {BOX}, and there is no `objects` of `ref` and `bbox` to fill it in"
        )));
    };
    let names = list(&objects, "ref")?;
    let boxes = list(&objects, "bbox")?;
    let image_of_all = list(&objects, "image_id")?;
    if image_of_all
        .iter()
        .any(|id| *id != Cell::Number("0".into()))
    {
        return Err(wrong(
            "`objects.image_id` names another image than the first",
        ));
    }
    let frame = match objects.get("bbox_type") {
        None | Some(Cell::Null) => Frame::Original,
        Some(Cell::Text(kind)) if kind == "real" => Frame::Original,
        Some(Cell::Text(kind)) if kind == "norm1" => Frame::Unit,
        Some(other) => {
            let kind = other.as_text().unwrap_or(other.kind());
            return Err(wrong(format!(
                "`objects.bbox_type` is {kind:?}; known are `real` and `norm1`"
            )));
        }
    };
    let mut names = Places::new(
        REFERENCE,
        "ref",
        names.iter().map(name).collect::<Result<_, _>>()?,
    );
    let mut boxes = Places::new(
        BOX,
        "bbox",
        boxes.iter().map(sides).collect::<Result<_, _>>()?,
    );
    for text in texts {
        names.fill(text);
        boxes.fill(text);
    }
    names.check()?;
    boxes.check()?;
    Ok((!boxes.values.is_empty()).then_some(frame))
}

/// The places of one kind, in the order of the texts.
struct Places {
    mark: &'static str,
    field: &'static str,
    values: Vec<String>,
    places: usize,
}

impl Places {
    fn new(mark: &'static str, field: &'static str, values: Vec<String>) -> Self {
        Self {
            mark,
            field,
            values,
            places: 0,
        }
    }

    fn fill(&mut self, text: &mut String) {
        let mut parts = text.split(self.mark);
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let value = self.values.get(self.places);
            filled.push_str(value.map_or(self.mark, String::as_str));
            filled.push_str(part);
            self.places += 1;
        }
        *text = filled;
    }

    fn check(&self) -> Result<(), Dropped> {
        if self.places == self.values.len() {
            return Ok(());
        }
        Err(wrong(format!(
            "the texts have {} {}, and `objects.{}` has {} entries",
            self.places,
            self.mark,
            self.field,
            self.values.len()
        )))
    }
}

fn list<'a>(objects: &'a Cell, name: &str) -> Result<&'a [Cell], Dropped> {
    match objects.get(name) {
        None | Some(Cell::Null) => Ok(&[]),
        Some(Cell::List(items)) => Ok(items),
        Some(other) => Err(wrong(format!(
            "`objects.{name}` is {}, not a list",
            other.kind()
        ))),
    }
}

fn name(cell: &Cell) -> Result<String, Dropped> {
    let text = cell.as_text().map(str::to_owned);
    text.ok_or_else(|| {
        wrong(format!(
            "an entry of `objects.ref` is {}, not a text",
            cell.kind()
        ))
    })
}

fn sides(cell: &Cell) -> Result<String, Dropped> {
    let sides: Option<Vec<&str>> = match cell {
        Cell::List(sides) => sides
            .iter()
            .map(|side| match side {
                Cell::Number(text) => Some(text.as_str()),
                _ => None,
            })
            .collect(),
        _ => None,
    };
    match sides.as_deref() {
        Some(sides @ [_, _, _, _]) => Ok(format!("[{}]", sides.join(", "))),
        _ => Err(wrong(
            "an entry of `objects.bbox` is no box of four numbers [x1, y1, x2, y2]",
        )),
    }
}

fn wrong(detail: impl Into<String>) -> Dropped {
    Dropped::new(DropReason::Layout, detail)
}
