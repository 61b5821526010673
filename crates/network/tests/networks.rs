//! Trained networks, cut at every tap they list: the one that ships with the demo, and those of the reference folder.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]

use std::path::{Path, PathBuf};

use exeunt_network::{Engine, Network, OnnxRuntime, Segments, Tract};
use ndarray::{Array2, Axis, concatenate, s};

/// Images that nobody would take: enough that any neighbour would show.
fn images(network: &Network, samples: usize) -> Array2<f32> {
    Array2::from_shape_fn((samples, network.input().len()), |(i, j)| {
        let place = (i * 7919 + j * 104_729) % 1009;
        (place as f32 / 504.5 - 1.0) * (1.0 + i as f32 / 4.0)
    })
}

fn largest_difference(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

fn check(path: &Path, engine: &dyn Engine) {
    let file = std::fs::read(path).unwrap();
    let network = Network::load(path).unwrap();
    let name = path.file_name().unwrap().display();
    let names: Vec<&str> = network.taps().iter().map(|tap| tap.name.as_str()).collect();
    assert!(names.len() >= 20, "{name}: {} taps", names.len());
    let x = images(&network, 6);
    let whole = Segments::prepare(engine, &network, &[]).unwrap();
    let logits = whole.run_segment(0, x.view()).unwrap();
    let magnitude = logits.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    assert!(magnitude > 0.0 && magnitude.is_finite(), "{name}: outputs up to {magnitude}");

    // One cut at every tap: segments in sequence are the network.
    let all = Segments::prepare(engine, &network, &names).unwrap();
    assert_eq!(all.len(), names.len() + 1);
    let mut activations: Vec<Array2<f32>> = Vec::new();
    let cut = all.run_all(x.view(), &mut |_exit, maps| activations.push(maps.to_owned())).unwrap();
    let off = largest_difference(&cut, &logits) / magnitude;
    assert!(off < 1e-4, "{name}: in {} segments, off by {off:e}", all.len());
    let macs: u64 = network.cut(&names).unwrap().iter().map(|segment| segment.macs().get()).sum();
    assert_eq!(macs, network.macs().get(), "{name}: segments do the network's work");

    // Every tap alone.
    let mut worst = off;
    for (tap, activations) in network.taps().iter().zip(&activations) {
        assert_eq!(activations.ncols(), tap.shape.iter().product::<usize>(), "{name}: {}", tap.name);
        let halves = network.cut(&[tap.name.as_str()]).unwrap();
        let [first, second] = halves.as_slice() else { panic!("{name}: one cut makes two segments") };
        assert_eq!(first.macs(), tap.macs_until, "{name}: {}", tap.name);
        assert_eq!(first.macs() + second.macs(), network.macs(), "{name}: {}", tap.name);
        let halves = Segments::prepare(engine, &network, &[tap.name.as_str()]).unwrap();
        let made = halves.run_segment(1, activations.view()).unwrap();
        let off = largest_difference(&made, &logits) / magnitude;
        assert!(off < 1e-4, "{name}: cut at {}, off by {off:e}", tap.name);
        worst = worst.max(off);
    }

    neighbours_do_not_matter(&all, &x, &activations, &cut);
    println!("{name}: {} taps, outputs off by at most {worst:e} of the largest", names.len());
    assert_eq!(std::fs::read(path).unwrap(), file, "{name}: the file was written to");
}

/// Alone, in twos, in another order, and from several threads at once: the same bits.
fn neighbours_do_not_matter(
    segments: &Segments,
    x: &Array2<f32>,
    maps: &[Array2<f32>],
    logits: &Array2<f32>,
) {
    let run = |rows: &[usize]| {
        let mut made = Vec::new();
        let x = x.select(Axis(0), rows);
        let logits = segments.run_all(x.view(), &mut |_exit, maps| made.push(maps.to_owned())).unwrap();
        made.push(logits);
        made
    };
    let expected = |tap: usize| if tap < maps.len() { &maps[tap] } else { logits };
    let groupings: [&[&[usize]]; 3] =
        [&[&[0], &[1], &[2], &[3], &[4], &[5]], &[&[5, 1], &[4, 0], &[3, 2]], &[&[3, 0, 5, 2, 4, 1]]];
    std::thread::scope(|scope| {
        for grouping in groupings {
            scope.spawn(move || {
                for rows in grouping {
                    for (tap, made) in run(rows).iter().enumerate() {
                        for (row, made) in rows.iter().zip(made.outer_iter()) {
                            let same = expected(tap).row(*row).iter().zip(made).all(bits_are_equal);
                            assert!(same, "value {tap} of sample {row} depends on its batch {rows:?}");
                        }
                    }
                }
            });
        }
    });
}

fn bits_are_equal((a, b): (&f32, &f32)) -> bool {
    a.to_bits() == b.to_bits()
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/digits_resnet.onnx")
}

#[test]
fn the_network_that_ships_can_be_cut_anywhere() {
    check(&shipped(), &Tract);
}

/// Real batches are larger than the six above, and their size is no multiple of anything.
#[test]
fn a_sample_is_the_same_in_a_batch_of_any_size() {
    any_batch(&Tract);
}

fn any_batch(engine: &dyn Engine) {
    let network = Network::load(&shipped()).unwrap();
    let taps: Vec<&str> = network.taps().iter().map(|tap| tap.name.as_str()).step_by(5).collect();
    let segments = Segments::prepare(engine, &network, &taps).unwrap();
    let x = images(&network, 67);
    let whole = segments.run_all(x.view(), &mut |_exit, _maps| {}).unwrap();
    for size in [1, 2, 3, 7, 16, 33, 66] {
        let parts: Vec<Array2<f32>> = (0..67)
            .step_by(size)
            .map(|from| {
                let part = x.slice(s![from..(from + size).min(67), ..]);
                segments.run_all(part, &mut |_exit, _maps| {}).unwrap()
            })
            .collect();
        let views: Vec<_> = parts.iter().map(Array2::view).collect();
        let parts = concatenate(Axis(0), &views).unwrap();
        assert!(parts.iter().zip(&whole).all(bits_are_equal), "batches of {size}");
    }
}

/// The library that EXEUNT_ONNXRUNTIME names. A process loads it once, whichever test is first.
fn onnx_runtime() -> OnnxRuntime {
    let path = std::env::var("EXEUNT_ONNXRUNTIME").expect("EXEUNT_ONNXRUNTIME names ONNX Runtime's library");
    OnnxRuntime::load(path.as_ref(), 1).unwrap()
}

#[test]
#[ignore = "needs EXEUNT_ONNXRUNTIME"]
fn onnx_runtime_cuts_anywhere() {
    check(&shipped(), &onnx_runtime());
}

#[test]
#[ignore = "needs EXEUNT_ONNXRUNTIME"]
fn onnx_runtime_gives_a_sample_the_same_bits_in_a_batch_of_any_size() {
    any_batch(&onnx_runtime());
}

#[test]
#[ignore = "needs EXEUNT_ONNXRUNTIME"]
fn onnx_runtime_agrees_with_tract() {
    let network = Network::load(&shipped()).unwrap();
    let x = images(&network, 9);
    let run = |engine: &dyn Engine| {
        let segments = Segments::prepare_fast(engine, &network, &[]).unwrap();
        segments.run_segment(0, x.view()).unwrap()
    };
    let (ours, theirs) = (run(&Tract), run(&onnx_runtime()));
    let magnitude = ours.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let off = largest_difference(&ours, &theirs) / magnitude;
    assert!(off < 1e-5, "off by {off:e} of the largest output");
}

/// Samples that leave between segments take nothing of the others with them.
fn some_leave(engine: &dyn Engine) {
    let network = Network::load(&shipped()).unwrap();
    let taps: Vec<&str> = network.taps().iter().map(|tap| tap.name.as_str()).step_by(6).take(3).collect();
    let segments = Segments::prepare_fast(engine, &network, &taps).unwrap();
    let x = images(&network, 9);
    let alone: Vec<Array2<f32>> =
        x.axis_chunks_iter(Axis(0), 1).map(|row| segments.run_all(row, &mut |_, _| {}).unwrap()).collect();
    // Rows of those that are on their way, behind each segment: all, some, one.
    for kept in [[&[1_usize, 4, 8][..], &[0, 1, 2], &[2]], [&[0, 1, 2, 3, 4, 5, 6, 7, 8], &[0, 8], &[1]]] {
        let mut lane = segments.lane().unwrap();
        lane.begin(x.view()).unwrap();
        let mut samples: Vec<usize> = (0..9).collect();
        for rows in kept {
            lane.run().unwrap();
            lane.keep(rows);
            samples = rows.iter().map(|row| samples[*row]).collect();
            assert_eq!(lane.rows(), samples.len());
        }
        lane.run().unwrap();
        for (row, sample) in samples.iter().enumerate() {
            let expected = alone[*sample].row(0);
            let magnitude = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            let apart = lane.row(row).iter().zip(expected).map(|(a, b)| (a - b).abs());
            let off = apart.fold(0.0, f32::max) / magnitude;
            assert!(off < 1e-5, "sample {sample} of those kept by {kept:?}: off by {off:e}");
        }
    }
}

#[test]
fn those_that_stay_are_what_they_are_alone() {
    some_leave(&Tract);
}

#[test]
#[ignore = "needs EXEUNT_ONNXRUNTIME"]
fn onnx_runtime_leaves_those_that_stay_what_they_are_alone() {
    some_leave(&onnx_runtime());
}

fn of_the_reference(name: &str) {
    let root = std::env::var("EXEUNT_REFERENCE").expect("EXEUNT_REFERENCE names the reference's folder");
    check(&PathBuf::from(root).join("models").join(name), &Tract);
}

#[test]
#[ignore = "needs EXEUNT_REFERENCE"]
fn resnet20_can_be_cut_anywhere() {
    of_the_reference("cifar10_resnet20.onnx");
}

#[test]
#[ignore = "needs EXEUNT_REFERENCE"]
fn mobilenetv3_small_can_be_cut_anywhere() {
    of_the_reference("kmnist_mobilenetv3_small.onnx");
}

#[test]
#[ignore = "needs EXEUNT_REFERENCE"]
fn efficientnet_b0_can_be_cut_anywhere() {
    of_the_reference("kmnist_efficientnet_b0.onnx");
}

#[test]
#[ignore = "needs EXEUNT_REFERENCE"]
fn no_network_of_the_reference_is_left_out() {
    let root = std::env::var("EXEUNT_REFERENCE").expect("EXEUNT_REFERENCE names the reference's folder");
    let mut names: Vec<String> = std::fs::read_dir(PathBuf::from(root).join("models"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".onnx"))
        .collect();
    names.sort();
    let tested = ["cifar10_resnet20.onnx", "kmnist_efficientnet_b0.onnx", "kmnist_mobilenetv3_small.onnx"];
    assert_eq!(names, tested);
}

/// Reports say which engine made the activations; a version that lags behind would be a lie.
#[test]
fn the_engine_says_the_version_that_is_locked() {
    let lock =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock")).unwrap();
    let locked: Vec<&str> = lock
        .split("[[package]]")
        .filter(|package| package.contains("\nname = \"tract-onnx\"\n"))
        .filter_map(|package| package.split("version = \"").nth(1)?.split('"').next())
        .collect();
    assert_eq!(locked, [Tract.version()]);
}
