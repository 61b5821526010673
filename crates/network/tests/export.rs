//! One model to take away decides as its parts do.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use exeunt_network::{
    BuiltInExit, CutError, ExportError, MAX_BUILT_IN_EXITS, Network, Scores, Segments, Tract,
};
use ndarray::{Array2, ArrayView1, Axis};
use prost::Message as _;
use tract_onnx::pb;
use tract_onnx::prelude::{InferenceModelExt as _, IntoRunnable as _, Tensor, TypedSimplePlan, tvec};

const CLASSES: usize = 10;
const TAPS: [&str; 4] = [
    "/stage1/stage1.0/relu_1/Relu_output_0",
    "/stage2/stage2.0/relu_1/Relu_output_0",
    "/stage2/stage2.2/relu_1/Relu_output_0",
    "/stage3/stage3.1/relu_1/Relu_output_0",
];

fn digits() -> Network {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/digits_resnet.onnx");
    Network::load(&path).unwrap()
}

/// Numbers in −1..1 that are the same everywhere.
fn noise(seed: u64, rows: usize, columns: usize) -> Array2<f32> {
    let mut state = seed;
    Array2::from_shape_simple_fn((rows, columns), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    })
}

fn linear(number: u32, tap: &str, grid: Option<usize>, dim: usize, classes: &[u32]) -> BuiltInExit {
    let weights = noise(u64::from(number), classes.len(), dim) * 20.0;
    let bias = noise(99, 1, classes.len()).iter().map(|v| f64::from(*v)).collect();
    let scores = Scores::Linear { weights, bias };
    BuiltInExit { number, tap: tap.to_owned(), grid, classes: classes.to_vec(), scores, threshold: 0.0 }
}

fn distances(number: u32, tap: &str, grid: Option<usize>, dim: usize, classes: &[u32]) -> BuiltInExit {
    let means = noise(u64::from(number), classes.len(), dim).mapv(f32::abs);
    let spreads = (0..classes.len()).map(|k| 0.01 + k as f64 * 0.002).collect();
    let scores = Scores::Distances { means, spreads };
    BuiltInExit { number, tap: tap.to_owned(), grid, classes: classes.to_vec(), scores, threshold: 0.0 }
}

/// Both rules; a grid that divides the map, one that does not, one as fine as the map, the map in full; and an exit
/// where two classes have no mean.
fn exits() -> Vec<BuiltInExit> {
    let all: Vec<u32> = (0..10).collect();
    let some = [0, 1, 3, 4, 5, 6, 8, 9];
    vec![
        linear(1, TAPS[0], Some(3), 4 * 9, &all),
        distances(2, TAPS[1], Some(2), 12 * 4, &some),
        linear(4, TAPS[2], None, 12 * 16, &some),
        distances(5, TAPS[3], Some(2), 24 * 4, &all),
    ]
}

#[derive(Debug, PartialEq)]
struct Outcome {
    scores: Vec<f32>,
    class: i64,
    exit: i64,
    margin: f64,
}

fn plan(model: &[u8]) -> std::sync::Arc<TypedSimplePlan> {
    let model = pb::ModelProto::decode(model).unwrap();
    let model = tract_onnx::onnx().parse(&model, None).unwrap().model;
    model.into_optimized().unwrap().into_runnable().unwrap()
}

fn run(plan: &std::sync::Arc<TypedSimplePlan>, shape: &[usize], sample: ArrayView1<'_, f32>) -> Outcome {
    let shape: Vec<usize> = std::iter::once(1).chain(shape.iter().copied()).collect();
    let input = Tensor::from_shape(&shape, sample.as_slice().unwrap()).unwrap();
    let made = plan.run(tvec!(input.into())).unwrap();
    let first = |i: usize| made[i].cast_to::<f64>().unwrap().to_plain_array_view::<f64>().unwrap()[0];
    Outcome {
        scores: made[0].to_plain_array_view::<f32>().unwrap().iter().copied().collect(),
        class: first(1) as i64,
        exit: first(2) as i64,
        margin: made[3].to_plain_array_view::<f64>().unwrap()[0],
    }
}

/// Adaptive average pooling, straight from its definition.
fn pooled(map: ArrayView1<'_, f32>, shape: &[usize], grid: Option<usize>) -> Vec<f64> {
    let Some(p) = grid else { return map.iter().map(|v| f64::from(*v)).collect() };
    let (height, width) = (shape[1], shape[2]);
    let cell = |i: usize, n: usize| i * n / p..((i + 1) * n).div_ceil(p);
    let mut made = Vec::new();
    for channel in 0..shape[0] {
        for (i, j) in (0..p).flat_map(|i| (0..p).map(move |j| (i, j))) {
            let places = cell(i, height).flat_map(|r| cell(j, width).map(move |c| (r, c)));
            let values: Vec<f64> =
                places.map(|(r, c)| f64::from(map[(channel * height + r) * width + c])).collect();
            made.push(values.iter().sum::<f64>() / values.len() as f64);
        }
    }
    made
}

fn largest(values: &[f64]) -> usize {
    (0..values.len()).rev().max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap()
}

fn log_odds(scores: &[f64]) -> f64 {
    let best = largest(scores);
    let others = || (0..scores.len()).filter(|k| *k != best).map(|k| scores[k]);
    let second = others().fold(f64::NEG_INFINITY, f64::max);
    scores[best] - second - others().map(|s| (s - second).exp()).sum::<f64>().ln()
}

/// What an exit says of a map.
fn asked(exit: &BuiltInExit, map: ArrayView1<'_, f32>, shape: &[usize]) -> Outcome {
    let z = pooled(map, shape, exit.grid);
    let (scores, row) = match &exit.scores {
        Scores::Linear { weights, bias } => {
            let product =
                |w: ArrayView1<'_, f32>| z.iter().zip(w).map(|(z, w)| z * f64::from(*w)).sum::<f64>();
            let scores: Vec<f64> =
                weights.rows().into_iter().zip(bias).map(|(w, b)| product(w) + b).collect();
            let row = largest(&scores);
            (scores, row)
        }
        Scores::Distances { means, spreads } => {
            let distance = |m: ArrayView1<'_, f32>| {
                z.iter().zip(m).map(|(z, m)| (z - f64::from(*m)).powi(2)).sum::<f64>().sqrt()
            };
            let distances: Vec<f64> = means.rows().into_iter().map(distance).collect();
            let nearest = largest(&distances.iter().map(|d| -d).collect::<Vec<_>>());
            (distances.iter().zip(spreads).map(|(d, spread)| -d / spread).collect(), nearest)
        }
    };
    let mut all = vec![f32::NEG_INFINITY; CLASSES];
    for (class, score) in exit.classes.iter().zip(&scores) {
        all[*class as usize] = *score as f32;
    }
    let (class, exit) = (i64::from(exit.classes[row]), i64::from(exit.number));
    Outcome { scores: all, class, exit, margin: log_odds(&scores) }
}

/// What the network with `exits` should say of every sample, and the margins at every exit.
fn expected(network: &Network, exits: &[BuiltInExit], x: &Array2<f32>) -> (Vec<Outcome>, Vec<Vec<f64>>) {
    let taps: Vec<&str> = exits.iter().map(|exit| exit.tap.as_str()).collect();
    let segments = Segments::prepare(&Tract, network, &taps).unwrap();
    let mut outcomes: Vec<Option<Outcome>> = x.rows().into_iter().map(|_| None).collect();
    let mut margins = vec![Vec::new(); exits.len()];
    let logits = segments
        .run_all(x.view(), &mut |e, maps| {
            for (map, outcome) in maps.rows().into_iter().zip(&mut outcomes) {
                let said = asked(&exits[e], map, segments.tap_shape(e));
                margins[e].push(said.margin);
                if outcome.is_none() && said.margin > exits[e].threshold {
                    *outcome = Some(said);
                }
            }
        })
        .unwrap();
    let by_network = |logits: ArrayView1<'_, f32>| {
        let scores: Vec<f64> = logits.iter().map(|v| f64::from(*v)).collect();
        let (class, margin) = (largest(&scores) as i64, log_odds(&scores));
        Outcome { scores: logits.to_vec(), class, exit: 0, margin }
    };
    let outcomes = outcomes.into_iter().zip(logits.axis_iter(Axis(0)));
    (outcomes.map(|(left, logits)| left.unwrap_or_else(|| by_network(logits))).collect(), margins)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    // Between two samples, so that none lies on the threshold.
    (values[values.len() / 2] + values[values.len() / 2 - 1]) / 2.0
}

fn assert_alike(found: &Outcome, expected: &Outcome) {
    assert_eq!((found.class, found.exit), (expected.class, expected.exit), "{found:?} against {expected:?}");
    let close = |a: f64, b: f64| a == b || (a - b).abs() < 1e-4 * (1.0 + b.abs());
    assert!(close(found.margin, expected.margin), "margin {} against {}", found.margin, expected.margin);
    for (a, b) in found.scores.iter().zip(&expected.scores) {
        assert!(close(f64::from(*a), f64::from(*b)), "{found:?} against {expected:?}");
    }
}

#[test]
fn the_model_decides_as_its_parts_do() {
    let network = digits();
    let x = noise(7, 60, 64) * 2.0;
    let mut exits = exits();
    let (_, margins) = expected(&network, &exits, &x);
    for (exit, margins) in exits.iter_mut().zip(&margins) {
        exit.threshold = median(margins);
    }
    let (expected, _) = expected(&network, &exits, &x);
    let plan = plan(&network.with_exits(&exits, &[]).unwrap());
    let mut taken = [0; 6];
    for (sample, expected) in x.rows().into_iter().zip(&expected) {
        let found = run(&plan, &network.input().shape, sample);
        assert_alike(&found, expected);
        taken[usize::try_from(found.exit).unwrap()] += 1;
    }
    for exit in [0, 1, 2, 4, 5] {
        assert!(taken[exit] > 0, "nobody took exit {exit}: {taken:?}");
    }
}

#[test]
fn thresholds_of_infinity_let_all_leave_or_none() {
    let network = digits();
    let x = noise(8, 4, 64);
    let mut exits = exits();
    for (thresholds, exit) in [([f64::INFINITY; 4], 0), ([f64::INFINITY, f64::NEG_INFINITY, 0.0, 0.0], 2)] {
        for (exit, threshold) in exits.iter_mut().zip(thresholds) {
            exit.threshold = threshold;
        }
        let plan = plan(&network.with_exits(&exits, &[]).unwrap());
        let mut exits_taken = x.rows().into_iter().map(|row| run(&plan, &network.input().shape, row).exit);
        assert!(exits_taken.all(|taken| taken == exit));
    }
}

/// A network of three scores that hands on whatever it is given: what is not finite stays so up to its tap.
fn linear_network() -> Network {
    let floats = |name: &str, dims: &[i64], values: &[f32]| pb::TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: pb::tensor_proto::DataType::Float as i32,
        raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ..Default::default()
    };
    let node = |operator: &str, inputs: &[&str], output: &str| pb::NodeProto {
        op_type: operator.to_owned(),
        input: inputs.iter().map(|input| (*input).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    };
    let mut model = pb::ModelProto::decode(&**digits().bytes()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    graph.initializer = vec![floats("two", &[1], &[2.0]), floats("weights", &[64, 3], &[0.5; 192])];
    graph.node = vec![
        node("Mul", &["input", "two"], "tap"),
        node("Flatten", &["tap"], "flat"),
        node("MatMul", &["flat", "weights"], "logits"),
    ];
    Network::from_bytes(model.encode_to_vec()).unwrap()
}

#[test]
fn an_activation_that_is_not_finite_never_leaves() {
    let network = linear_network();
    let shape = &network.input().shape;
    // Where one score alone is infinite, too.
    let weights = ndarray::array![[1.0_f32], [-1.0], [-1.0]];
    let linear = Scores::Linear { weights, bias: vec![0.0; 3] };
    let means = ndarray::array![[1.0_f32], [0.5], [0.0]];
    for scores in [linear, Scores::Distances { means, spreads: vec![1.0; 3] }] {
        let exit = BuiltInExit {
            number: 1,
            tap: "tap".to_owned(),
            grid: Some(1),
            classes: vec![0, 1, 2],
            scores,
            threshold: f64::NEG_INFINITY,
        };
        let plan = plan(&network.with_exits(&[exit], &[]).unwrap());
        let mut x = noise(9, 1, 64);
        assert_eq!(run(&plan, shape, x.row(0)).exit, 1);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            x[[0, 20]] = bad;
            assert_eq!(run(&plan, shape, x.row(0)).exit, 0, "{bad}");
        }
    }
}

#[test]
fn without_exits_it_is_the_network() {
    let network = digits();
    let x = noise(3, 5, 64);
    let (expected, _) = expected(&network, &[], &x);
    let plan = plan(&network.with_exits(&[], &[]).unwrap());
    for (sample, expected) in x.rows().into_iter().zip(&expected) {
        assert_alike(&run(&plan, &network.input().shape, sample), expected);
    }
}

fn names(values: &[pb::ValueInfoProto]) -> Vec<&str> {
    values.iter().map(|value| value.name.as_str()).collect()
}

/// The graphs from the outermost one in.
fn nested(graph: &pb::GraphProto) -> Vec<&pb::GraphProto> {
    let mut found = vec![graph];
    while let Some(node) =
        found.last().and_then(|graph| graph.node.last()).filter(|node| node.op_type == "If")
    {
        let rest = node.attribute.iter().find(|attribute| attribute.name == "else_branch").unwrap();
        found.push(rest.g.as_ref().unwrap());
    }
    found
}

#[test]
fn the_model_says_what_goes_in_and_comes_out() {
    let network = digits();
    let metadata = [("run".to_owned(), "digits-1".to_owned())];
    let mut exits = exits();
    exits[2].threshold = 2.5;
    let model = pb::ModelProto::decode(&*network.with_exits(&exits, &metadata).unwrap()).unwrap();
    let properties: Vec<_> =
        model.metadata_props.iter().map(|entry| (entry.key.as_str(), entry.value.as_str())).collect();
    assert_eq!(properties, [("run", "digits-1"), ("batch", "1")]);
    assert_eq!(model.opset_import[0].version, network.opset());

    let graph = model.graph.as_ref().unwrap();
    assert_eq!(names(&graph.input), ["input", "threshold_1", "threshold_2", "threshold_4", "threshold_5"]);
    assert_eq!(names(&graph.output), ["scores", "class", "exit", "margin"]);
    let default = graph.initializer.iter().find(|tensor| tensor.name == "threshold_4").unwrap();
    assert_eq!(default.raw_data, 2.5_f64.to_le_bytes());

    let graphs = nested(graph);
    assert_eq!(graphs.len(), exits.len() + 1);
    let weights = |graph: &&pb::GraphProto| {
        graph.initializer.iter().filter(|tensor| !tensor.name.starts_with("exeunt/")).count()
    };
    // Every part of the network holds its own weights; the first also holds the thresholds.
    assert!(graphs.iter().all(|graph| weights(graph) > 0));
    let total: usize = graphs.iter().map(weights).sum();
    let original = pb::ModelProto::decode(&**network.bytes()).unwrap();
    assert_eq!(total, original.graph.unwrap().initializer.len() + exits.len());
}

#[test]
fn a_network_whose_values_are_called_as_ours_still_works() {
    let mut model = pb::ModelProto::decode(&**digits().bytes()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let rename = |name: &mut String| match name.as_str() {
        "logits" => "scores".clone_into(name),
        name_of_tap if name_of_tap == TAPS[0] => "class".clone_into(name),
        _ => {}
    };
    for node in &mut graph.node {
        node.input.iter_mut().chain(&mut node.output).for_each(rename);
    }
    graph.output.iter_mut().for_each(|output| rename(&mut output.name));
    let renamed = Network::from_bytes(model.encode_to_vec()).unwrap();

    let x = noise(5, 3, 64);
    let mut exits = exits();
    exits.iter_mut().for_each(|exit| exit.threshold = 1e9);
    let original = plan(&digits().with_exits(&exits, &[]).unwrap());
    "class".clone_into(&mut exits[0].tap);
    let found = plan(&renamed.with_exits(&exits, &[]).unwrap());
    for sample in x.rows() {
        let shape = &renamed.input().shape;
        assert_eq!(run(&found, shape, sample), run(&original, shape, sample));
    }
}

#[test]
fn an_input_that_needs_a_name_of_ours_is_refused() {
    let mut model = pb::ModelProto::decode(&**digits().bytes()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let rename = |name: &mut String| {
        if name == "input" {
            "margin".clone_into(name);
        }
    };
    graph.input.iter_mut().for_each(|input| rename(&mut input.name));
    graph.node.iter_mut().flat_map(|node| &mut node.input).for_each(rename);
    let network = Network::from_bytes(model.encode_to_vec()).unwrap();
    let refused = network.with_exits(&exits(), &[]).unwrap_err();
    assert_eq!(refused, ExportError::InputName { name: "margin".to_owned() });
}

#[test]
fn as_many_exits_as_can_be_decoded_and_no_more() {
    let network = digits();
    let exit = |(i, tap): (usize, &exeunt_network::Tap)| {
        let dim = tap.shape.iter().product();
        linear(u32::try_from(i).unwrap() + 1, &tap.name, None, dim, &[0, 1])
    };
    let exits: Vec<BuiltInExit> = network.taps().iter().enumerate().map(exit).collect();
    let fit = &exits[..MAX_BUILT_IN_EXITS.min(exits.len())];
    let model = pb::ModelProto::decode(&*network.with_exits(fit, &[]).unwrap()).unwrap();
    assert_eq!(nested(model.graph.as_ref().unwrap()).len(), fit.len() + 1);
    let many: Vec<BuiltInExit> = std::iter::repeat_n(exits[0].clone(), MAX_BUILT_IN_EXITS + 1).collect();
    // Whatever else is wrong with them.
    assert!(network.with_exits(&many, &[]).is_err());
}

#[test]
fn exits_that_do_not_fit_are_named() {
    let network = digits();
    let refused = |change: fn(&mut Vec<BuiltInExit>)| {
        let mut exits = exits();
        change(&mut exits);
        network.with_exits(&exits, &[]).unwrap_err()
    };
    assert_eq!(refused(|exits| exits[1].number = 1), ExportError::Number { found: 1, after: 1 });
    assert_eq!(refused(|exits| exits[3].classes.truncate(1)), ExportError::Classes { exit: 5, found: 1 });
    assert_eq!(
        refused(|exits| exits[0].classes[9] = 10),
        ExportError::Class { exit: 1, class: 10, classes: 10 }
    );
    assert_eq!(
        refused(|exits| exits[0].grid = Some(9)),
        ExportError::Grid { exit: 1, grid: 9, shape: vec![4, 8, 8] }
    );
    assert_eq!(
        refused(|exits| exits[0].grid = Some(4)),
        ExportError::Size { exit: 1, what: "weights", found: 36, expected: 64 }
    );
    assert_eq!(refused(|exits| exits[2].threshold = f64::NAN), ExportError::Threshold { exit: 4 });
    assert!(matches!(
        refused(|exits| exits[2].tap = "nowhere".to_owned()),
        ExportError::Cut(CutError::Unknown { .. })
    ));
}
