//! Files of PyTorch's older and newer exporter, with a fixed and a dynamic batch, in every supported operator set.

mod common;

use common::{Batch, CHANNELS, CLASSES, Exporter, INPUT, SIDE, definition, file, numbers, relative, taps};
use exeunt_network::{LoadError, Network, SUPPORTED_OPSETS, Segments, Tract};
use ndarray::Array2;

const KINDS: [(Exporter, Batch); 5] = [
    (Exporter::Older, Batch::Fixed(1)),
    (Exporter::Older, Batch::Fixed(4)),
    (Exporter::Older, Batch::Dynamic),
    (Exporter::Newer, Batch::Fixed(1)),
    (Exporter::Newer, Batch::Dynamic),
];

fn each(mut check: impl FnMut(Exporter, Batch, i64, Network)) {
    for opset in SUPPORTED_OPSETS {
        for (exporter, batch) in KINDS {
            let loaded = Network::from_bytes(file(exporter, batch, opset));
            let network =
                loaded.unwrap_or_else(|error| panic!("{exporter:?}, {batch:?}, opset {opset}: {error}"));
            check(exporter, batch, opset, network);
        }
    }
}

#[test]
fn the_supported_operator_sets_are_those_promised() {
    assert_eq!(SUPPORTED_OPSETS, 13..=20);
    for found in [12, 21] {
        let error = Network::from_bytes(file(Exporter::Older, Batch::Dynamic, found)).unwrap_err();
        assert!(matches!(error, LoadError::Opset { .. }), "{error}");
        assert_eq!(error.to_string(), format!("operator set {found}, expected 13 to 20"));
    }
}

#[test]
fn cut_points_shapes_and_macs_are_the_same_in_every_file() {
    let pixels = (SIDE * SIDE) as u64;
    let (stem, block, head) = (pixels * 4 * 2 * 9, pixels * 4 * 4 * 9, 12);
    each(|exporter, batch, opset, network| {
        let what = format!("{exporter:?}, {batch:?}, opset {opset}");
        assert_eq!(network.opset(), opset);
        assert_eq!(network.input().shape, INPUT, "{what}");
        assert_eq!(network.output().shape, [CLASSES], "{what}");
        let names: Vec<_> = network.taps().iter().map(|tap| tap.name.as_str()).collect();
        assert_eq!(names, taps(exporter, batch), "{what}");
        let macs: Vec<_> = network.taps().iter().map(|tap| tap.macs_until.get()).collect();
        let both = stem + block;
        assert_eq!(macs, [stem, stem, both, both, both, both], "{what}");
        assert_eq!(network.macs().get(), both + head, "{what}");
        let map = vec![CHANNELS, SIDE, SIDE];
        assert_eq!(network.taps()[2].shape, map, "{what}");
        assert_eq!(network.taps()[5].shape, [CHANNELS], "{what}");
        let ends: Vec<_> = network.taps().iter().map(|tap| tap.block_end).collect();
        assert_eq!(ends, [false, false, false, true, false, false], "{what}");
    });
}

#[test]
fn every_activation_is_what_the_network_means() {
    let samples = 3;
    let numbers = numbers(99, samples * INPUT.iter().product::<usize>());
    let x = Array2::from_shape_vec((samples, numbers.len() / samples), numbers).unwrap();
    each(|exporter, batch, opset, network| {
        let segments = Segments::prepare(&Tract, &network, &taps(exporter, batch)).unwrap();
        let mut seen = vec![Vec::new(); samples];
        let logits = segments
            .run_all(x.view(), &mut |_exit, maps| {
                maps.outer_iter().zip(&mut seen).for_each(|(map, seen)| seen.push(map.to_vec()));
            })
            .unwrap();
        for (i, mut seen) in seen.into_iter().enumerate() {
            seen.push(logits.row(i).to_vec());
            let expected = definition(x.row(i).as_slice().unwrap());
            assert_eq!(seen.len(), expected.len());
            for (tap, (found, expected)) in seen.iter().zip(&expected).enumerate() {
                let off = relative(found, expected);
                assert!(off < 1e-5, "{exporter:?}, {batch:?}, opset {opset}, value {tap}: off by {off:e}");
            }
        }
    });
}

/// A batch that is written into the graph cannot be made one; this must not go unnoticed.
#[test]
fn a_batch_that_is_built_in_is_refused() {
    let error = Network::from_bytes(file(Exporter::Newer, Batch::Fixed(4), 18)).unwrap_err();
    assert!(matches!(error, LoadError::Node { .. }), "{error}");
    let message = error.to_string();
    assert!(message.starts_with("node \"node_view\" (Reshape), with a batch of one: "), "{message}");
}
