//! What a worker is told of a stage's params.

use std::path::Path;

use serde_json::Value;

use crate::stage::Params;
use crate::study::Node;

/// A node's params with relative paths of files made absolute: a worker knows no spec to be relative to.
pub(crate) fn params_with_paths(node: &Node, root: &Path) -> Params {
    if node.files.is_empty() {
        return node.params.clone();
    }
    let mut params = node.params.value();
    for file in node.files.iter() {
        match file.field.find_mut(&mut params) {
            Some(Value::String(path)) => absolute(path, root),
            Some(Value::Array(paths)) => {
                for path in paths {
                    if let Value::String(path) = path {
                        absolute(path, root);
                    }
                }
            }
            _ => {}
        }
    }
    Params::of(&params)
}

fn absolute(path: &mut String, root: &Path) {
    *path = root.join(&*path).to_string_lossy().into_owned();
}
