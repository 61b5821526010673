//! `exeunt snapshot export`: class means and what belongs to them, as NumPy arrays.

use std::fs::File;
use std::path::Path;

use anyhow::Context as _;
use exeunt_exits::Heads;
use exeunt_protocol::operator::SnapshotNames;
use ndarray::{Array1, Array2};
use ndarray_npy::NpzWriter;

/// Writes `meanE`, `presentE`, `countE`, and where there are any `spreadE`, `weightsE`, `biasE`, for every exit `E` from
/// 0; beside it, as `FILE.json`, the names of taps and classes and the hashes.
pub(crate) fn write(path: &Path, names: &SnapshotNames, heads: &Heads) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut archive = NpzWriter::new_compressed(file);
    for (e, exit) in heads.exits().iter().enumerate() {
        archive.add_array(format!("mean{e}"), &exit.means())?;
        archive.add_array(format!("present{e}"), &Array1::from(exit.present().to_vec()))?;
        let counts = names.counts.get(e).cloned().unwrap_or_default();
        archive.add_array(format!("count{e}"), &Array1::from(counts))?;
        if let Ok(spreads) = exit.spreads() {
            archive.add_array(format!("spread{e}"), &Array1::from(spreads.to_vec()))?;
        }
        if let Ok(linear) = exit.whitened() {
            let weights: Array2<f32> = linear.weights().to_owned();
            archive.add_array(format!("weights{e}"), &weights)?;
            archive.add_array(format!("bias{e}"), &Array1::from(linear.bias().to_vec()))?;
        }
    }
    archive.finish()?;
    let beside = path.with_extension("json");
    let about = serde_json::json!({
        "run": names.run,
        "taps": names.taps,
        "classes": names.classes,
        "network": names.network,
        "heads": names.heads,
        "digest": names.digest,
    });
    std::fs::write(&beside, serde_json::to_vec_pretty(&about)?).with_context(|| beside.display().to_string())
}
