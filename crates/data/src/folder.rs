//! Image folders: a folder per class, image files inside.

use std::fs;
use std::path::{Path, PathBuf};

use crate::DataError;

/// Endings of files that are taken as images; others are passed over.
const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];

/// Every image below `folder` with its class, in the order of class and file names. Names that begin with a dot are
/// passed over. Folders are matched with `classes` by name; where the classes are mere numbers, in sorted order.
pub(crate) fn list(folder: &Path, classes: &[String]) -> Result<Vec<(PathBuf, u64)>, DataError> {
    let folders = entries(folder)?.into_iter().filter(|path| path.is_dir()).collect::<Vec<_>>();
    if folders.is_empty() {
        return Err(DataError::Empty { path: folder.to_owned(), expected: "folder per class" });
    }
    let numbered = classes.iter().enumerate().all(|(k, name)| *name == k.to_string());
    let named = |path: &Path| classes.iter().position(|class| *class == name(path));
    let by_order = numbered && folders.iter().any(|path| named(path).is_none());
    let mut files = Vec::new();
    for (position, path) in folders.iter().enumerate() {
        let class = if by_order { (position < classes.len()).then_some(position) } else { named(path) };
        let class = class.ok_or_else(|| DataError::Class {
            path: path.clone(),
            found: name(path),
            nearest: nearest(&name(path), classes),
        })?;
        let images = entries(path)?.into_iter().filter(|path| path.is_file() && is_image(path));
        files.extend(images.map(|path| (path, class as u64)));
    }
    if files.is_empty() {
        return Err(DataError::Empty {
            path: folder.to_owned(),
            expected: "JPEG or PNG file in its class folders",
        });
    }
    Ok(files)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let failed = |source| DataError::File { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !name(&path).starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    ENDINGS.contains(&ending.as_str())
}

fn nearest(found: &str, classes: &[String]) -> Option<String> {
    let likeness = |class: &&String| strsim::jaro_winkler(found, class);
    let best = classes.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) > 0.7).then(|| best.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(folder: &Path, files: &[&str]) {
        for file in files {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
    }

    #[test]
    fn classes_are_matched_by_name_or_by_order() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), &["dog/b.JPG", "dog/a.png", "cat/c.jpeg", "cat/notes.txt", ".git/x.png"]);
        let classes = ["dog".to_owned(), "cat".to_owned()];
        let listed = list(folder.path(), &classes).unwrap();
        let shown: Vec<_> = listed.iter().map(|(path, class)| (name(path), *class)).collect();
        assert_eq!(shown, [("c.jpeg".to_owned(), 1), ("a.png".to_owned(), 0), ("b.JPG".to_owned(), 0)]);
        let numbers = ["0".to_owned(), "1".to_owned()];
        assert_eq!(list(folder.path(), &numbers).unwrap()[0].1, 0, "cat comes first in order");
    }

    #[test]
    fn unknown_classes_and_empty_folders_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let classes = ["truck".to_owned(), "ship".to_owned()];
        let error = list(folder.path(), &classes).unwrap_err().to_string();
        assert!(error.contains("found no folder per class"), "{error}");
        make(folder.path(), &["truk/a.png"]);
        let error = list(folder.path(), &classes).unwrap_err().to_string();
        assert!(error.ends_with("no class is called 'truk'; did you mean 'truck'?"), "{error}");
        assert!(list(&folder.path().join("nowhere"), &classes).is_err());
    }
}
