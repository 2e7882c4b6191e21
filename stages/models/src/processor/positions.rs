//! M-RoPE: a position in time, height and width for each token.

use dcsft_vlm::error::VlmError;

/// transformers' `get_rope_index`, for text and images.
///
/// `ids` are the tokens, images as runs of `image_token`, one run for each of `grids` (time, height and width in
/// patches; `merge x merge` patches are one token). A text token has the same position three times, one past the
/// largest before it. An image's tokens start there too and count rows and columns, the time staying at the start.
/// Gives the positions and the next one.
///
/// # Errors
/// [`VlmError::Config`] where the runs do not fit the grids.
pub fn mrope(
    ids: &[u32],
    image_token: u32,
    grids: &[[usize; 3]],
    merge: usize,
) -> Result<([Vec<u32>; 3], u32), VlmError> {
    let mut positions: [Vec<u32>; 3] = Default::default();
    let mut next = 0;
    let mut grids = grids.iter();
    let mut at = 0;
    while let Some(&id) = ids.get(at) {
        if id != image_token {
            positions.iter_mut().for_each(|axis| axis.push(next));
            next += 1;
            at += 1;
            continue;
        }
        let &[time, height, width] = grids
            .next()
            .ok_or_else(|| misfit("more images than grids"))?;
        let (rows, columns) = (height / merge, width / merge);
        let end = at + time * rows * columns;
        if end == at
            || ids
                .get(at..end)
                .is_none_or(|run| run.iter().any(|&id| id != image_token))
        {
            return Err(misfit("an image with fewer tokens than its grid has"));
        }
        for frame in 0..time {
            for row in 0..rows {
                for column in 0..columns {
                    for (axis, offset) in positions.iter_mut().zip([frame, row, column]) {
                        axis.push(next + offset as u32);
                    }
                }
            }
        }
        next += time.max(rows).max(columns) as u32;
        at = end;
    }
    match grids.next() {
        None => Ok((positions, next)),
        Some(_) => Err(misfit("more grids than images")),
    }
}

fn misfit(problem: &str) -> VlmError {
    VlmError::Config(format!("the tokens do not fit the images: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::mrope;

    #[test]
    fn an_image_counts_rows_and_columns_from_where_it_starts() {
        let ids = [1, 9, 9, 9, 9, 9, 9, 2, 3];
        let (positions, next) = mrope(&ids, 9, &[[1, 4, 6]], 2).unwrap();
        assert_eq!(positions[0], [0, 1, 1, 1, 1, 1, 1, 4, 5]);
        assert_eq!(positions[1], [0, 1, 1, 1, 2, 2, 2, 4, 5]);
        assert_eq!(positions[2], [0, 1, 2, 3, 1, 2, 3, 4, 5]);
        assert_eq!(next, 6);
    }

    #[test]
    fn tokens_that_do_not_fit_the_grids_are_refused() {
        assert!(mrope(&[9, 9, 1], 9, &[[1, 4, 6]], 2).is_err());
        assert!(mrope(&[9, 1], 9, &[], 2).is_err());
        assert!(mrope(&[1], 9, &[[1, 2, 2]], 2).is_err());
        assert!(mrope(&[9; 3], 9, &[[1, 2, 2], [1, 2, 2]], 2).is_err());
    }
}
