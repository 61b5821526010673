//! Where the shared library may lie.

use std::path::{Path, PathBuf};

/// A place where the library was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What kind of place: `beside the program`, `in a system library folder`, `in a Python package`.
    pub place: &'static str,
    /// The folder.
    pub folder: PathBuf,
    /// The library in it, if there is one.
    pub library: Option<PathBuf>,
}

const SYSTEM: [&str; 7] = [
    "/usr/local/lib",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/opt/onnxruntime/lib",
    "/opt/homebrew/lib",
];

/// The usual places, in the order they are looked at. Nothing is loaded, and no program is started.
pub(crate) fn candidates() -> Vec<Candidate> {
    let mut places: Vec<(&'static str, PathBuf)> = Vec::new();
    if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        places.push(("beside the program", folder.to_owned()));
    }
    for variable in ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
        let paths = std::env::var_os(variable).unwrap_or_default();
        let folders = std::env::split_paths(&paths).filter(|folder| folder.is_absolute());
        places.extend(folders.map(|folder| ("on the library path", folder)));
    }
    places.extend(SYSTEM.map(|folder| ("in a system library folder", PathBuf::from(folder))));
    if let Some(folder) = python_package() {
        places.push(("in a Python package", folder));
    }
    places
        .into_iter()
        .map(|(place, folder)| Candidate { place, library: library_at(&folder), folder })
        .collect()
}

/// The folder of the package `onnxruntime` of the first `python3` on `PATH`, a virtual environment's included.
fn python_package() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folder = std::env::split_paths(&path).find(|folder| folder.join("python3").is_file())?;
    let lib = folder.parent()?.join("lib");
    let versions = std::fs::read_dir(lib).ok()?;
    let mut packages: Vec<PathBuf> = versions
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with("python3")))
        .flat_map(|entry| ["site-packages", "dist-packages"].map(|kind| entry.path().join(kind)))
        .map(|packages| packages.join("onnxruntime").join("capi"))
        .filter(|package| package.is_dir())
        .collect();
    packages.sort();
    packages.pop()
}

/// The library at `path`, or in the folder `path`: the plain name before those with a version, the newest of which
/// wins.
pub(super) fn library_at(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return std::fs::canonicalize(path).ok();
    }
    let mut found: Vec<(bool, Vec<u32>, PathBuf)> = std::fs::read_dir(path)
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name();
            let name = name.to_str()?;
            is_library(name).then(|| (version_in(name).is_none(), numbers(name), entry.path()))
        })
        .filter(|(.., path)| path.is_file())
        .collect();
    found.sort();
    found.pop().and_then(|(.., path)| std::fs::canonicalize(path).ok())
}

fn is_library(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("lib").unwrap_or(name).strip_prefix("onnxruntime") else {
        return false;
    };
    // Not `_providers_shared` and the like.
    rest.starts_with('.') && (rest.ends_with(".dylib") || rest.ends_with(".dll") || rest.starts_with(".so"))
}

fn numbers(name: &str) -> Vec<u32> {
    version_in(name).unwrap_or_default().split('.').filter_map(|part| part.parse().ok()).collect()
}

/// `1.32.0` in `libonnxruntime.so.1.32.0`.
pub(super) fn version_in(name: &str) -> Option<&str> {
    let begin = name.find(|c: char| c.is_ascii_digit())?;
    let rest = &name[begin..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let version = rest[..end].trim_end_matches('.');
    version.contains('.').then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_plain_name_then_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(library_at(folder.path()), None);
        let touch = |name: &str| std::fs::write(folder.path().join(name), b"").unwrap();
        touch("libonnxruntime_providers_shared.so");
        assert_eq!(library_at(folder.path()), None);
        touch("libonnxruntime.so.1.9.0");
        touch("libonnxruntime.so.1.32.0");
        let name = |path: Option<PathBuf>| path.unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(name(library_at(folder.path())), "libonnxruntime.so.1.32.0");
        touch("libonnxruntime.so");
        assert_eq!(name(library_at(folder.path())), "libonnxruntime.so");
    }

    #[test]
    fn reads_the_version_from_a_name() {
        assert_eq!(version_in("libonnxruntime.so.1.32.0"), Some("1.32.0"));
        assert_eq!(version_in("libonnxruntime.1.32.0.dylib"), Some("1.32.0"));
        assert_eq!(version_in("libonnxruntime.so"), None);
        assert_eq!(version_in("onnxruntime.dll"), None);
    }
}
