//! Margins and predictions of class means against the independent reference.
//!
//! The reference keeps the pooled activations of its first test samples only, so this covers the decision; fitting
//! and pooling are compared where the network runs.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]
#![expect(clippy::disallowed_methods, reason = "a test reads the reference from where it is told")]

use std::io::Cursor;
use std::path::PathBuf;

use exeunt_exits::{Decision, ExitHead, Rule};
use ndarray::{Array1, Array2, s};
use ndarray_npy::NpzReader;

type Npz = NpzReader<Cursor<Vec<u8>>>;

fn reference(network: &str) -> Npz {
    let root = std::env::var("EXEUNT_REFERENCE").expect("EXEUNT_REFERENCE names the reference's folder");
    let path = PathBuf::from(root).join("golden").join(network).join("reference.npz");
    NpzReader::new(Cursor::new(std::fs::read(path).unwrap())).unwrap()
}

fn decisions_are_those_of(network: &str, exits: usize) {
    let mut npz = reference(network);
    let margins: Array2<f64> = npz.by_name("margin").unwrap();
    let predictions: Array2<i16> = npz.by_name("prediction").unwrap();
    assert_eq!(margins.ncols(), exits);
    for e in 0..exits {
        let z: Array2<f32> = npz.by_name(&format!("z{e}")).unwrap();
        let means: Array2<f32> = npz.by_name(&format!("mean{e}")).unwrap();
        let spreads: Array1<f64> = npz.by_name(&format!("spread{e}")).unwrap();
        let present = vec![true; means.nrows()];
        let head = ExitHead::new(means, present).unwrap().with_spreads(Ok(spreads.to_vec())).unwrap();
        let mut decisions = vec![Decision { class: 0, margin: 0.0 }; z.nrows()];
        head.decide_batch(Rule::ClassMeans, z.view(), &mut decisions).unwrap();
        assert_eq!(decisions.len(), 32);
        let expected = margins.slice(s![..32, e]).into_iter().zip(predictions.slice(s![..32, e]));
        for (i, (found, (margin, class))) in decisions.iter().zip(expected).enumerate() {
            assert_eq!(i64::from(found.class), i64::from(*class), "exit {e}, sample {i}");
            assert!(
                (found.margin - margin).abs() < 1e-5,
                "exit {e}, sample {i}: {found:?}, expected {margin}"
            );
        }
    }
}

#[test]
#[ignore = "needs EXEUNT_REFERENCE"]
fn resnet20_on_cifar10() {
    decisions_are_those_of("cifar10_resnet20", 9);
}

#[test]
#[ignore = "needs EXEUNT_REFERENCE"]
fn mobilenetv3_small_on_kmnist() {
    decisions_are_those_of("kmnist_mobilenetv3_small", 7);
}

#[test]
#[ignore = "needs EXEUNT_REFERENCE"]
fn efficientnet_b0_on_kmnist() {
    decisions_are_those_of("kmnist_efficientnet_b0", 5);
}
