//! What an independent implementation made of three networks (NumPy over ONNX Runtime, `golden/make_reference.py` of
//! the reference folder), reproduced from the stored pixels by this project's own run files: its readers, its
//! preprocessing, the network cut at the exits, integer accumulators, fitted heads, tallies of policies.
//!
//! Every image goes through its network once; each of the tests compares everything there is about one network.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use exeunt_coordinator::RunPlan;
use exeunt_data::{Dataset, Preprocess, Reader, picked_one_in};
use exeunt_exits::{
    Decision, ExitRule, FitOptions, Heads, OutcomesBuilder, Policy, Prior, Rule, TallyShape, TallyView,
    fit_heads,
};
use exeunt_network::Tract;
use exeunt_node::Model;
use exeunt_protocol::spec::PartSpec;
use exeunt_simulate::Plan;
use exeunt_stats::{
    ExitShape, Floors, MomentsAccumulator, MomentsShape, MomentsView, RangeCounter, RangeLayout, Scale,
    SpreadAccumulator, SpreadShape, scales_for,
};
use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate, s};
use ndarray_npy::NpzReader;
use serde::Deserialize;

/// Images that go through the network, and rows that go into an accumulator, at a time.
const BATCH: usize = 50;

/// Levels by which a pixel may differ from libjpeg's, which decoded the records. Measured: 5 at
/// most, in 12,000 images.
const DECODERS_DIFFER: u8 = 5;

#[derive(Deserialize)]
struct Golden {
    train: usize,
    test: usize,
    macs_total: u64,
    macs_until: Vec<u64>,
    network_accuracy: f64,
    class_means_accuracy: Vec<f64>,
    whitened_accuracy: Vec<f64>,
    points: Vec<Point>,
    classes: Vec<String>,
    shrinkage: f64,
}

/// A policy with thresholds, and what it scored.
#[derive(Deserialize)]
struct Point {
    rule: Rule,
    thresholds: Vec<f64>,
    exits: Vec<u64>,
    accuracy: f64,
    network_cost: f64,
}

type Arrays = NpzReader<File>;
/// Pooled activations per exit, and the network's outputs.
type Made = (Vec<Array2<f32>>, Array2<f32>);

fn reference() -> PathBuf {
    PathBuf::from(std::env::var("EXEUNT_REFERENCE").expect("EXEUNT_REFERENCE names the reference's folder"))
}

fn golden(network: &str) -> (Golden, Arrays) {
    let folder = reference().join("golden").join(network);
    let summary = std::fs::read_to_string(folder.join("reference.json")).unwrap();
    let arrays = NpzReader::new(File::open(folder.join("reference.npz")).unwrap()).unwrap();
    (serde_json::from_str(&summary).unwrap(), arrays)
}

/// A run file of the project with a network of the reference, ready to run.
struct Run {
    plan: Plan,
    context: RunPlan,
    model: Model,
}

impl Run {
    fn open(config: &str, network: &str, data: &Path) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(config);
        let network = reference().join("models").join(format!("{network}.onnx"));
        let plan = Plan::read(&path, Some(&network), Some(data)).unwrap();
        let context = RunPlan::new(&plan.file, &plan.network).unwrap();
        let model = Model::load(context.spec.clone(), &plan.network, &Tract).unwrap();
        Self { plan, context, model }
    }

    /// The statistics part, and the calibration and evaluation parts together, in stored order: the reference has one
    /// test split.
    fn samples(&self) -> [Dataset; 2] {
        let spec = &self.context.spec;
        let mut reader = Reader::new(&self.plan.data, &spec.data, spec.seed, &spec.classes);
        let [statistics, calibration, evaluation] = reader.all().unwrap();
        let test = reader.part(&PartSpec { share: None, ..spec.data.calibration.clone() }).unwrap();
        assert_eq!(test.len(), calibration.len() + evaluation.len(), "the two parts are the test split");
        [statistics, test]
    }

    /// Passes these samples through the network, on all processors.
    fn pass(&self, samples: &Dataset, indices: &[usize]) -> Features {
        let preprocess = Preprocess::new(&self.context.spec.input).unwrap();
        let shape = &self.plan.network.input().shape;
        let batch = |indices: &[usize]| {
            let mut flat = Vec::new();
            for i in indices {
                let image = samples.load(*i).unwrap();
                preprocess.append(&image, shape, &samples.name(*i), &mut flat).unwrap();
            }
            let x = ArrayView2::from_shape((indices.len(), flat.len() / indices.len()), &flat).unwrap();
            self.model.features(x).unwrap()
        };
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let share = indices.len().div_ceil(threads);
        let made: Vec<Made> = std::thread::scope(|scope| {
            let work = |share: &[usize]| share.chunks(BATCH).map(batch).collect::<Vec<_>>();
            let threads: Vec<_> =
                indices.chunks(share).map(|share| scope.spawn(move || work(share))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let join = |of: &dyn Fn(&Made) -> ArrayView2<'_, f32>| {
            let views: Vec<_> = made.iter().map(of).collect();
            concatenate(Axis(0), &views).unwrap()
        };
        Features {
            labels: indices.iter().map(|i| samples.labels()[*i]).collect(),
            pooled: (0..self.context.spec.exits.len())
                .map(|e| join(&|(pooled, _)| pooled[e].view()))
                .collect(),
            logits: join(&|(_, logits)| logits.view()),
        }
    }
}

/// What the network made of some samples.
struct Features {
    labels: Vec<u32>,
    /// Per exit, `samples × dim`.
    pooled: Vec<Array2<f32>>,
    /// `samples × classes`.
    logits: Array2<f32>,
}

impl Features {
    fn batches(&self) -> impl Iterator<Item = (&[u32], Vec<ArrayView2<'_, f32>>, ArrayView2<'_, f32>)> {
        let n = self.labels.len();
        (0..n).step_by(BATCH).map(move |from| {
            let rows = from..(from + BATCH).min(n);
            let pooled = self.pooled.iter().map(|z| z.slice(s![rows.clone(), ..])).collect();
            (&self.labels[rows.clone()], pooled, self.logits.slice(s![rows, ..]))
        })
    }

    fn network_accuracy(&self) -> f64 {
        let right = self.logits.outer_iter().zip(&self.labels).filter(|(logits, label)| {
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            best == **label as usize
        });
        right.count() as f64 / self.labels.len() as f64
    }
}

/// Fails with everything there is to know when a number is too far off.
#[track_caller]
fn close(what: &str, found: f64, expected: f64, tolerance: f64) {
    let off = (found - expected).abs();
    assert!(off <= tolerance, "{what}: found {found}, expected {expected} within {tolerance:e}");
}

#[track_caller]
fn all_close(what: &str, found: ArrayView2<'_, f32>, expected: &Array2<f32>, tolerance: f32) {
    assert_eq!(found.dim(), expected.dim(), "{what}");
    let off = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    let worst = off.fold(0.0, |worst: f32, off| if off.is_nan() { f32::INFINITY } else { worst.max(off) });
    println!("{what}: off by at most {worst:e}");
    assert!(worst <= tolerance, "{what}: off by {worst:e}, expected at most {tolerance:e}");
}

/// Merged moments of the statistics part, and the heads fitted to them.
struct Fitted {
    heads: Heads,
    scales: Vec<Scale>,
    /// Per exit, `classes × dim`.
    means: Vec<Array2<f64>>,
    counts: Vec<u64>,
}

fn fit(run: &Run, dataset: &Dataset, features: &Features) -> Fitted {
    let spec = &run.context.spec;
    let (classes, exits) = (spec.classes.len(), spec.exits.len());
    let floors = Floors { min_count: spec.floors.min_count, second_factor: spec.floors.second_factor };

    let one_in = (dataset.len() as u64 / run.context.context.range_samples).max(1);
    let picked: Vec<usize> =
        (0..dataset.len()).filter(|i| picked_one_in(dataset.hash(*i), spec.seed, one_in)).collect();
    assert!(picked.len() < dataset.len(), "scales come from a part of the samples");
    let looked_at: Vec<_> = features.pooled.iter().map(|z| z.select(Axis(0), &picked)).collect();
    let mut range = RangeCounter::new(exits);
    range.add(&looked_at.iter().map(Array2::view).collect::<Vec<_>>()).unwrap();
    let scales = scales_for(&RangeLayout { exits }, &range.finish()).unwrap();

    let exits_of = spec.exits.iter().map(|exit| ExitShape { dim: exit.dim, second: true }).collect();
    let shape = MomentsShape { classes, exits: exits_of };
    let counts = dataset.class_counts(classes);
    let mut moments = MomentsAccumulator::new(shape.clone(), scales.clone(), &counts, &floors).unwrap();
    for (labels, pooled, _) in features.batches() {
        moments.add(labels, &pooled).unwrap();
    }
    let table = moments.finish().unwrap();
    let view = MomentsView::new(&shape, &table).unwrap();
    assert_eq!((view.excluded().total(), view.withheld_classes()), (0, 0));
    let options = FitOptions {
        shrinkage: run.context.context.shrinkage,
        prior: if run.context.context.prior { Prior::Counts } else { Prior::Uniform },
        second_factor: floors.second_factor,
    };
    let heads = fit_heads(&shape, &table, &scales, &options).unwrap();

    let spread_shape = SpreadShape { classes, exits };
    let mut spread =
        SpreadAccumulator::new(spread_shape, scales.clone(), heads.means(), heads.present()).unwrap();
    for (_, pooled, _) in features.batches() {
        spread.add(&pooled).unwrap();
    }
    let heads = heads.with_spreads(&spread.finish(&floors).unwrap(), &scales, &vec![true; exits]).unwrap();
    for e in 1..exits {
        assert_eq!(view.count(e), view.count(0));
    }
    let means = scales.iter().enumerate().map(|(e, scale)| view.means(e, scale)).collect();
    Fitted { heads, means, counts: view.count(0), scales }
}

fn reproduces(config: &str, network: &str, data: &str) {
    let (golden, mut arrays) = golden(network);
    let run = Run::open(config, network, &reference().join("data").join(data));
    let spec = &run.context.spec;
    assert_eq!(spec.classes, golden.classes);
    assert_eq!(run.context.context.shrinkage, golden.shrinkage);
    let macs: Vec<u64> = run.context.context.cost.until.iter().map(|macs| macs.get()).collect();
    assert_eq!(macs, golden.macs_until, "multiply-accumulates up to each exit");
    assert_eq!(run.plan.network.macs().get(), golden.macs_total, "multiply-accumulates in all");

    let [train_set, test_set] = run.samples();
    assert_eq!([train_set.len(), test_set.len()], [golden.train, golden.test]);
    let train = run.pass(&train_set, &(0..train_set.len()).collect::<Vec<_>>());
    let test = run.pass(&test_set, &(0..test_set.len()).collect::<Vec<_>>());
    activations_are_the_same(&test, &mut arrays);
    let fitted = fit(&run, &train_set, &train);
    statistics_are_the_same(&fitted, &train, &mut arrays);
    predictions_agree(&fitted.heads, &test, &mut arrays);
    accuracies_are_the_same(&run, &fitted.heads, &test, &golden);
}

fn activations_are_the_same(test: &Features, arrays: &mut Arrays) {
    let logits: Array2<f32> = arrays.by_name("logits").unwrap();
    assert_eq!(logits.nrows(), 32);
    all_close("logits", test.logits.slice(s![..32, ..]), &logits, 1e-3);
    for (e, z) in test.pooled.iter().enumerate() {
        let expected: Array2<f32> = arrays.by_name(&format!("z{e}")).unwrap();
        all_close(&format!("exit {e}, pooled activations"), z.slice(s![..32, ..]), &expected, 1e-3);
    }
    let labels: Array1<i16> = arrays.by_name("labels").unwrap();
    assert!(
        labels.iter().map(|label| i64::from(*label)).eq(test.labels.iter().map(|label| i64::from(*label)))
    );
}

fn statistics_are_the_same(fitted: &Fitted, train: &Features, arrays: &mut Arrays) {
    let counts: Array1<i64> = arrays.by_name("counts").unwrap();
    assert!(
        counts.iter().map(|n| *n as u64).eq(fitted.counts.iter().copied()),
        "{counts} {:?}",
        fitted.counts
    );
    for (e, (means, z)) in fitted.means.iter().zip(&train.pooled).enumerate() {
        let expected: Array2<f32> = arrays.by_name(&format!("mean{e}")).unwrap();
        assert_eq!(means.dim(), expected.dim());
        // The exit's standard deviation: that of its coordinates, taken together.
        let z = z.mapv(f64::from);
        let deviation = z.var_axis(Axis(0), 0.0).mean().unwrap().sqrt();
        let off = means.iter().zip(&expected).map(|(found, expected)| (found - f64::from(*expected)).abs());
        let worst = off.fold(0.0, f64::max) / deviation;
        println!("exit {e}, class means: off by at most {worst:e} standard deviations");
        assert!(worst <= 1e-4, "exit {e}: a class mean is off by {worst:e} standard deviations");

        let expected: Array1<f64> = arrays.by_name(&format!("spread{e}")).unwrap();
        let spreads = fitted.heads.exits()[e].spreads().unwrap();
        assert_eq!(spreads.len(), expected.len());
        for (k, (found, expected)) in spreads.iter().zip(&expected).enumerate() {
            close(&format!("exit {e}, spread of class {k}"), *found, *expected, 1e-4 * expected);
        }
    }
    assert_eq!(fitted.scales.len(), fitted.means.len());
}

fn predictions_agree(heads: &Heads, test: &Features, arrays: &mut Arrays) {
    let n = test.labels.len();
    for (rule, name) in [(Rule::ClassMeans, "prediction"), (Rule::Whitened, "whitened_prediction")] {
        let expected: Array2<i16> = arrays.by_name(name).unwrap();
        assert_eq!(expected.dim(), (n, heads.len()));
        for (e, z) in test.pooled.iter().enumerate() {
            let mut decisions = vec![Decision { class: 0, margin: 0.0 }; n];
            heads.decide_batch(e, rule, z.view(), &mut decisions).unwrap();
            let same = decisions.iter().zip(expected.column(e));
            let same =
                same.filter(|(found, expected)| i64::from(found.class) == i64::from(**expected)).count();
            println!("exit {e}, {rule}: {same} of {n} predictions agree");
            assert!(same as f64 >= 0.995 * n as f64, "exit {e}, {rule}: {same} of {n} predictions agree");
        }
    }
}

fn accuracies_are_the_same(run: &Run, heads: &Heads, test: &Features, golden: &Golden) {
    let exits = heads.len();
    let rules: Vec<Vec<Rule>> = run.context.spec.exits.iter().map(|exit| exit.rules.clone()).collect();
    let mut outcomes = OutcomesBuilder::new(&rules);
    for (labels, pooled, logits) in test.batches() {
        outcomes.add(heads, labels, &pooled, logits).unwrap();
    }
    let listed =
        [(Rule::ClassMeans, &golden.class_means_accuracy), (Rule::Whitened, &golden.whitened_accuracy)];
    let mut policies = Vec::new();
    let mut expected = Vec::new();
    for (rule, accuracies) in listed {
        assert_eq!(accuracies.len(), exits);
        for (e, accuracy) in accuracies.iter().enumerate() {
            policies.push(Policy::static_cut(exits, e, rule));
            expected.push((format!("exit {e}, {rule}"), *accuracy, None));
        }
    }
    assert!(!golden.points.is_empty());
    for point in &golden.points {
        let at = |threshold: &f64| Some(ExitRule::new(point.rule, *threshold));
        policies.push(Policy { exits: point.thresholds.iter().map(at).collect() });
        let what = format!("{} at cost {:.3}", point.rule, point.network_cost);
        expected.push((what, point.accuracy, Some(point)));
    }
    let table = outcomes.finish().tally(&policies).unwrap();
    let view = TallyView::new(TallyShape { policies: policies.len(), exits }, &table).unwrap();
    assert_eq!(view.samples(), test.labels.len() as u64);
    let network = view.network_accuracy().unwrap();
    println!("network: {network}, expected {}", golden.network_accuracy);
    close("accuracy of the network", network, golden.network_accuracy, 0.003);
    let macs: Vec<u64> = golden.macs_until.iter().copied().chain([golden.macs_total]).collect();
    for (tally, (what, accuracy, point)) in view.policies().zip(expected) {
        let n = tally.samples() as f64;
        let found = tally.right_total() as f64 / n;
        println!("{what}: accuracy {found:.4}, expected {accuracy:.4}");
        close(&format!("accuracy of {what}"), found, accuracy, 0.003);
        let Some(point) = point else { continue };
        let shares = tally.left().iter().zip(&point.exits);
        let worst = shares.map(|(found, expected)| found.abs_diff(*expected)).max().unwrap_or(0);
        println!("{what}: at most {worst} of {n} samples more or fewer leave at an exit");
        assert!(worst as f64 <= 0.003 * n, "{what}: {worst} of {n} samples leave elsewhere");
        let spent: u64 = tally.left().iter().zip(&macs).map(|(left, macs)| left * macs).sum();
        let cost = spent as f64 / golden.macs_total as f64 / n;
        close(&format!("cost of {what}"), cost, point.network_cost, 0.003);
    }
}

#[test]
#[ignore = "needs EXEUNT_REFERENCE"]
fn resnet20_on_cifar10() {
    reproduces("cifar10-resnet20-binary.toml", "cifar10_resnet20", "cifar10-binary");
}

#[test]
#[ignore = "needs EXEUNT_REFERENCE"]
fn mobilenetv3_small_on_kmnist() {
    reproduces("kmnist-mobilenetv3-small.toml", "kmnist_mobilenetv3_small", "kmnist");
}

#[test]
#[ignore = "needs EXEUNT_REFERENCE"]
fn efficientnet_b0_on_kmnist() {
    reproduces("kmnist-efficientnet-b0.toml", "kmnist_efficientnet_b0", "kmnist");
}

/// Every fifth file of the JPEG copy was decoded into the binary one, which was shuffled: each finds its record.
#[test]
#[ignore = "needs EXEUNT_REFERENCE"]
fn decoding_the_jpeg_copy_of_cifar10() {
    let folder = tempfile::tempdir().unwrap();
    let archive = reference().join("data/cifar10-jpg.tar.xz");
    let unpacked = Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(folder.path()).output();
    let unpacked = unpacked.expect("unpacking the JPEG copy needs the commands tar and xz");
    let said = String::from_utf8_lossy(&unpacked.stderr);
    assert!(unpacked.status.success(), "tar cannot unpack {}: {said}", archive.display());

    let jpeg = Run::open("cifar10-resnet20.toml", "cifar10_resnet20", folder.path());
    let binary_folder = reference().join("data/cifar10-binary");
    let binary = Run::open("cifar10-resnet20-binary.toml", "cifar10_resnet20", &binary_folder);
    let (golden, _) = golden("cifar10_resnet20");
    for (jpegs, records) in jpeg.samples().iter().zip(&binary.samples()) {
        let fifth: Vec<usize> = (0..jpegs.len()).step_by(5).collect();
        assert_eq!(fifth.len(), records.len());
        each_is_a_record(jpegs, &fifth, records);
        if fifth.len() == golden.test {
            let accuracy = jpeg.pass(jpegs, &fifth).network_accuracy();
            println!("network on the JPEG copy: {accuracy}, expected {}", golden.network_accuracy);
            close("accuracy of the network", accuracy, golden.network_accuracy, 0.005);
        }
    }
}

/// Every decoded image lies near exactly one record of its class, and no two of the same.
fn each_is_a_record(jpegs: &Dataset, fifth: &[usize], records: &Dataset) {
    let stored: Vec<Vec<u8>> = (0..records.len()).map(|i| records.load(i).unwrap().pixels).collect();
    let mut free = vec![true; records.len()];
    let (mut worst, mut within_3) = (0, 0);
    for i in fifth {
        let image = jpegs.load(*i).unwrap();
        assert_eq!([image.height, image.width, image.channels], [32, 32, 3]);
        let near = |r: &usize| {
            records.labels()[*r] == jpegs.labels()[*i]
                && stored[*r].iter().zip(&image.pixels).all(|(a, b)| a.abs_diff(*b) <= DECODERS_DIFFER)
        };
        let found: Vec<usize> = (0..records.len()).filter(near).collect();
        let [record] = found[..] else {
            panic!(
                "{}: found {} records within {DECODERS_DIFFER} levels, expected 1",
                jpegs.name(*i),
                found.len()
            );
        };
        assert!(std::mem::replace(&mut free[record], false), "{}: its record is taken", jpegs.name(*i));
        let off = stored[record].iter().zip(&image.pixels).map(|(a, b)| a.abs_diff(*b));
        let off = off.max().unwrap_or(0);
        within_3 += usize::from(off <= 3);
        worst = worst.max(off);
    }
    println!("{} images, {within_3} within 3 levels, off by at most {worst}", fifth.len());
    assert!(within_3 * 100 >= 95 * fifth.len(), "{within_3} of {} images within 3 levels", fifth.len());
}
