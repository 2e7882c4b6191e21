//! Weights on disk: safetensors in PyTorch's layout, `[out, in]` for matrices and `[n]` for vectors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Tensor;
use dcsft_tensor::host::{self, CopyError};
use dcsft_vlm::error::VlmError;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// A matrix of 32-bit floats, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix {
    /// Rows and columns.
    pub(super) shape: [usize; 2],
    /// `rows * columns` values.
    pub(super) values: Vec<f32>,
}

impl Matrix {
    /// Copies a tensor from its device.
    ///
    /// # Errors
    /// [`CopyError`] where the device has failed.
    pub(super) fn from_tensor(tensor: &Tensor<2>) -> Result<Self, CopyError> {
        Ok(Self {
            shape: tensor.dims(),
            values: host::values(tensor.clone())?,
        })
    }

    /// Rows as columns.
    pub(super) fn transposed(&self) -> Self {
        let [rows, columns] = self.shape;
        let values =
            (0..columns).flat_map(|c| (0..rows).map(move |r| self.values[r * columns + c]));
        Self {
            shape: [columns, rows],
            values: values.collect(),
        }
    }
}

/// How a tensor lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As it is: `[rows, columns]`.
    Plain,
    /// A linear layer's weight: in memory `[in, out]`, in the file `[out, in]`.
    Linear,
    /// A vector: in memory `[1, n]`, in the file `[n]`.
    Vector,
}

/// Writes named tensors, sorted by name, so that equal weights give equal bytes.
///
/// # Errors
/// [`VlmError::Io`] with the path.
pub(super) fn write(
    path: &Path,
    tensors: &BTreeMap<String, (Matrix, Layout)>,
) -> Result<(), VlmError> {
    let stored: Vec<(&String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (matrix, layout))| {
            let transposed;
            let (shape, values) = match layout {
                Layout::Plain => (matrix.shape.to_vec(), &matrix.values),
                Layout::Vector => (vec![matrix.values.len()], &matrix.values),
                Layout::Linear => {
                    transposed = matrix.transposed();
                    (transposed.shape.to_vec(), &transposed.values)
                }
            };
            (
                name,
                shape,
                values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            )
        })
        .collect();
    let problem = |error: safetensors::SafeTensorError| VlmError::Weights {
        path: path.to_owned(),
        problem: error.to_string(),
    };
    let mut views = Vec::with_capacity(stored.len());
    for (name, shape, bytes) in &stored {
        views.push((
            name.as_str(),
            TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(problem)?,
        ));
    }
    let bytes = safetensors::serialize(views, None).map_err(problem)?;
    write_file(path, &bytes)
}

/// Named tensors read from a file; [`Weights::take`] them, then [`Weights::finish`].
pub(super) struct Weights<'a> {
    path: &'a Path,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl<'a> Weights<'a> {
    /// Reads all tensors of a file.
    ///
    /// # Errors
    /// [`VlmError::Io`] or [`VlmError::Weights`] with the path.
    pub(super) fn read(path: &'a Path) -> Result<Self, VlmError> {
        let bytes = read_file(path)?;
        let problem = |problem: String| VlmError::Weights {
            path: path.to_owned(),
            problem,
        };
        let file = SafeTensors::deserialize(&bytes).map_err(|error| problem(error.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(problem(format!(
                    "tensor {name} is {:?}, and must be F32",
                    view.dtype()
                )));
            }
            let floats = view
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes));
            tensors.insert(name.to_owned(), (view.shape().to_vec(), floats.collect()));
        }
        Ok(Self { path, tensors })
    }

    /// Takes a tensor that must have the in-memory shape `shape`.
    ///
    /// # Errors
    /// [`VlmError::Weights`] if it is missing or has another shape.
    pub(super) fn take(
        &mut self,
        name: &str,
        shape: [usize; 2],
        layout: Layout,
    ) -> Result<Matrix, VlmError> {
        let Some((found, values)) = self.tensors.remove(name) else {
            return Err(self.problem(format!("tensor {name} is missing")));
        };
        let expected = match layout {
            Layout::Plain => shape.to_vec(),
            Layout::Linear => vec![shape[1], shape[0]],
            Layout::Vector => vec![shape[1]],
        };
        if found != expected {
            return Err(self.problem(format!(
                "tensor {name} has the shape {found:?}, and the model's configuration needs {expected:?}"
            )));
        }
        Ok(match layout {
            Layout::Linear => Matrix {
                shape: [shape[1], shape[0]],
                values,
            }
            .transposed(),
            Layout::Plain | Layout::Vector => Matrix { shape, values },
        })
    }

    /// Says that every tensor has been taken.
    ///
    /// # Errors
    /// [`VlmError::Weights`] names one that the model has no use for.
    pub(super) fn finish(self) -> Result<(), VlmError> {
        match self.tensors.keys().next() {
            None => Ok(()),
            Some(name) => {
                Err(self.problem(format!("tensor {name} belongs to no layer of the model")))
            }
        }
    }

    fn problem(&self, problem: String) -> VlmError {
        VlmError::Weights {
            path: self.path.to_owned(),
            problem,
        }
    }
}

/// Reads a file, naming it in the error.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, VlmError> {
    fs::read(path).map_err(|source| VlmError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file, naming it in the error.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), VlmError> {
    fs::write(path, bytes).map_err(|source| VlmError::Io {
        path: path.to_owned(),
        source,
    })
}
