//! Tensors that an ONNX file keeps in other files.
//!
//! A network is one piece of content with one hash, so external data is read once, from files beside
//! the model only, and put inside.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataLocation;

use crate::constants;
use crate::load::LoadError;

/// The first tensor of `model` that is kept elsewhere: its name and where.
pub(crate) fn first(model: &mut pb::ModelProto) -> Option<(String, String)> {
    each_tensor(model, &mut |tensor| {
        if is_external(tensor) {
            let location = entry(tensor, "location").unwrap_or_default();
            return Err((tensor.name.clone(), location.to_owned()));
        }
        Ok(())
    })
    .err()
}

/// Puts all external data of `model`, which was read from `path`, inside it. Whether there was any.
pub(crate) fn inline(model: &mut pb::ModelProto, path: &Path) -> Result<bool, LoadError> {
    let mut files = BTreeMap::new();
    let mut any = false;
    each_tensor(model, &mut |tensor| {
        if is_external(tensor) {
            any = true;
            read_into(tensor, path, &mut files)?;
        }
        Ok(())
    })?;
    Ok(any)
}

fn is_external(tensor: &pb::TensorProto) -> bool {
    tensor.data_location == Some(DataLocation::External as i32)
}

fn entry<'t>(tensor: &'t pb::TensorProto, key: &str) -> Option<&'t str> {
    tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
}

fn read_into(
    tensor: &mut pb::TensorProto,
    model: &Path,
    files: &mut BTreeMap<PathBuf, (File, u64)>,
) -> Result<(), LoadError> {
    let name = tensor.name.clone();
    let location = entry(tensor, "location").unwrap_or_default().to_owned();
    let damaged =
        |reason| LoadError::DamagedExternalData { tensor: name.clone(), location: location.clone(), reason };
    let number = |key: &str| match entry(tensor, key) {
        None => Ok(None),
        Some(text) => text
            .parse::<u64>()
            .map(Some)
            .map_err(|_parse| damaged(format!("its {key} is {text:?}, which is not a number of bytes"))),
    };

    let offset = number("offset")?.unwrap_or(0);
    let declared = number("length")?;
    let expected = constants::byte_len(tensor)
        .ok_or_else(|| damaged("its shape and type do not say how long it is".to_owned()))?;
    if let Some(found) = declared.filter(|found| *found != expected) {
        return Err(damaged(format!("found {found} bytes, expected {expected} for its shape")));
    }

    let beside = beside(model, &location).ok_or_else(|| LoadError::ExternalDataElsewhere {
        tensor: name.clone(),
        location: location.clone(),
    })?;
    let unreadable = |cause| LoadError::UnreadableExternalData { path: beside.clone(), cause };
    if !files.contains_key(&beside) {
        let file = File::open(&beside).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(damaged("it is not a regular file".to_owned()));
        }
        files.insert(beside.clone(), (file, metadata.len()));
    }
    let Some((file, size)) = files.get_mut(&beside) else {
        return Err(damaged("it could not be opened".to_owned()));
    };
    // Nothing is allocated before the file is known to be long enough.
    if offset.checked_add(expected).is_none_or(|end| end > *size) {
        return Err(damaged(format!("it ends at byte {size}, expected {expected} bytes from byte {offset}")));
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    file.take(expected).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 != expected {
        return Err(damaged(format!("found {} bytes, expected {expected}", bytes.len())));
    }

    tensor.raw_data = bytes;
    tensor.external_data.clear();
    tensor.data_location = None;
    Ok(())
}

/// The file `location` in the folder of `model`, or nothing if it could lie anywhere else: only a bare
/// file name will do, and following links must not lead out of the folder.
fn beside(model: &Path, location: &str) -> Option<PathBuf> {
    let mut components = Path::new(location).components();
    let (Some(Component::Normal(name)), None) = (components.next(), components.next()) else {
        return None;
    };
    let folder = match model.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let path = folder.join(name);
    // A file that is not there is reported as such when it is opened.
    let Ok(real) = path.canonicalize() else { return Some(path) };
    let folder = folder.canonicalize().ok()?;
    (real.parent() == Some(&folder)).then_some(real)
}

type Visitor<'v, E> = dyn FnMut(&mut pb::TensorProto) -> Result<(), E> + 'v;

fn each_tensor<E>(model: &mut pb::ModelProto, visit: &mut Visitor<'_, E>) -> Result<(), E> {
    if let Some(graph) = &mut model.graph {
        in_graph(graph, visit)?;
    }
    for function in &mut model.functions {
        for node in &mut function.node {
            in_node(node, visit)?;
        }
    }
    Ok(())
}

// The nesting is bounded: the protocol-buffer decoder stops at 100 levels.
fn in_graph<E>(graph: &mut pb::GraphProto, visit: &mut Visitor<'_, E>) -> Result<(), E> {
    for tensor in &mut graph.initializer {
        visit(tensor)?;
    }
    for sparse in &mut graph.sparse_initializer {
        in_sparse(sparse, visit)?;
    }
    for node in &mut graph.node {
        in_node(node, visit)?;
    }
    Ok(())
}

fn in_node<E>(node: &mut pb::NodeProto, visit: &mut Visitor<'_, E>) -> Result<(), E> {
    for attribute in &mut node.attribute {
        for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
            visit(tensor)?;
        }
        for sparse in attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors) {
            in_sparse(sparse, visit)?;
        }
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            in_graph(graph, visit)?;
        }
    }
    Ok(())
}

fn in_sparse<E>(sparse: &mut pb::SparseTensorProto, visit: &mut Visitor<'_, E>) -> Result<(), E> {
    for tensor in sparse.values.iter_mut().chain(&mut sparse.indices) {
        visit(tensor)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_name_lies_beside_the_model() {
        let model = Path::new("/somewhere/else/model.onnx");
        assert_eq!(beside(model, "model.data"), Some("/somewhere/else/model.data".into()));
        for escape in ["", ".", "..", "../model.data", "/etc/passwd", "folder/model.data"] {
            assert_eq!(beside(model, escape), None, "{escape:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_the_folder_is_not_beside_the_model() {
        let outside = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), b"secret").unwrap();
        std::fs::write(folder.path().join("weights"), b"weights").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), folder.path().join("out")).unwrap();
        std::os::unix::fs::symlink("weights", folder.path().join("in")).unwrap();
        let model = folder.path().join("model.onnx");
        assert_eq!(beside(&model, "out"), None);
        assert!(beside(&model, "in").is_some());
    }
}
