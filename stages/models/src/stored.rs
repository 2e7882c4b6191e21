//! Weights written as safetensors, one tensor in memory at a time.

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::Path;

use burn::tensor::DType;
use dcsft_tensor::host;
use dcsft_tensor::params::Param;
use dcsft_vlm::error::VlmError;
use half::bf16;
use safetensors::tensor::{Dtype, View};

use crate::checkpoint::{Layout, transposed};
use crate::folder::fault;

/// A weight as it will stand in a file; its values are read from the device when they are written.
pub(crate) struct Stored<'a> {
    pub(crate) name: String,
    pub(crate) param: &'a Param,
    pub(crate) layout: Layout,
    /// The shape in the file, where it is not what the layout says.
    pub(crate) shape: Option<Vec<usize>>,
    pub(crate) dtype: DType,
}

impl Stored<'_> {
    fn file_shape(&self) -> Vec<usize> {
        let [rows, columns] = self.param.value.dims();
        match (&self.shape, self.layout) {
            (Some(shape), _) => shape.clone(),
            (None, Layout::Plain) => vec![rows, columns],
            (None, Layout::Linear) => vec![columns, rows],
            (None, Layout::Vector) => vec![rows * columns],
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let numbers: usize = self.param.value.dims().iter().product();
        numbers * if self.dtype == DType::BF16 { 2 } else { 4 }
    }
}

/// [`View`] of a stored weight, whose shape must live as long as it.
struct Lazy<'a> {
    stored: &'a Stored<'a>,
    shape: Vec<usize>,
    /// Why a weight could not be had of its device: a view itself cannot say so.
    failure: &'a RefCell<Option<VlmError>>,
}

impl View for &Lazy<'_> {
    fn dtype(&self) -> Dtype {
        match self.stored.dtype {
            DType::BF16 => Dtype::BF16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = &self.stored.param.value;
        let mut values = match host::values(tensor.clone()) {
            Ok(values) => values,
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error.into());
                vec![0.0; tensor.dims().iter().product()]
            }
        };
        if self.stored.layout == Layout::Linear {
            values = transposed(&values, tensor.dims()[1]);
        }
        let bytes: Vec<u8> = match self.stored.dtype {
            DType::BF16 => values
                .iter()
                .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
                .collect(),
            _ => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        };
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.stored.bytes()
    }
}

/// Who reads a file besides this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Transformers and PEFT, which ask for the framework that wrote it.
    Transformers,
    /// Nobody.
    Own,
}

/// Writes one file. It gets its name when it is whole.
///
/// # Errors
/// [`VlmError::Weights`] with the path, or [`VlmError::Device`].
pub(crate) fn write_file(
    path: &Path,
    stored: Vec<Stored<'_>>,
    dialect: Dialect,
) -> Result<(), VlmError> {
    let failure = RefCell::new(None);
    let lazy: Vec<Lazy> = stored
        .iter()
        .map(|stored| Lazy {
            stored,
            shape: stored.file_shape(),
            failure: &failure,
        })
        .collect();
    let views = lazy.iter().map(|lazy| (lazy.stored.name.as_str(), lazy));
    let metadata = match dialect {
        Dialect::Transformers => Some([("format".to_owned(), "pt".to_owned())].into()),
        Dialect::Own => None,
    };
    safetensors::serialize_to_file(views, metadata, path)
        .map_err(|error| fault(path, error.to_string()))?;
    match failure.take() {
        None => Ok(()),
        Some(error) => {
            // What stands there is not the model.
            let _ = std::fs::remove_file(path);
            Err(error)
        }
    }
}
