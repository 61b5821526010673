//! `exeunt export`: a run's network, exits and policy as one ONNX model to take away.

use std::path::Path;

use anyhow::Context as _;
use exeunt_coordinator::OperatorClient;
use exeunt_exits::{CostModel, ExitHead, ExitRule, Heads, Policy, Pool, Rule, Unavailable};
use exeunt_network::{BuiltInExit, ExportError, Network, Scores};
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse};
use exeunt_protocol::spec::RunSpec;
use exeunt_protocol::{PolicyVersion, RunId};
use exeunt_stats::Macs;
use ndarray::{Array2, Axis};

use crate::cli::ExportArgs;
use crate::failure::BadInput;
use crate::remote::{run_id, show_run, unexpected};

/// Everything that goes into the model.
struct Takeaway {
    run: RunId,
    version: PolicyVersion,
    spec: RunSpec,
    network: Network,
    heads: Heads,
    policy: Policy,
}

/// Which exits are built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those that the policy uses.
    Used,
    /// Every exit that has a rule. One that the policy does not use lets no sample leave until its threshold is
    /// lowered.
    All,
}

pub(crate) async fn export(client: &OperatorClient, arguments: &ExportArgs) -> anyhow::Result<()> {
    let takeaway = fetch(client, arguments.run.as_deref()).await?;
    let which = if arguments.all_exits { Which::All } else { Which::Used };
    let (exits, model) = takeaway.model(which)?;
    write(&arguments.onnx, &model)?;

    if arguments.output.json {
        let exits: Vec<_> = exits
            .iter()
            .map(|exit| {
                serde_json::json!({ "number": exit.number, "tap": exit.tap, "threshold": exit.threshold_name() })
            })
            .collect();
        let about = serde_json::json!({
            "file": arguments.onnx,
            "bytes": model.len(),
            "run": takeaway.run,
            "policy_version": takeaway.version,
            "exits": exits,
        });
        crate::out!("{about}");
        return Ok(());
    }
    crate::out!(
        "wrote {}: policy {} of {}, {} of {} exits, {} bytes, one sample at a time",
        arguments.onnx.display(),
        takeaway.version.0,
        takeaway.run,
        exits.len(),
        takeaway.spec.exits.len(),
        model.len()
    );
    Ok(())
}

/// The whole file or none: a runtime may be waiting for it.
fn write(path: &Path, model: &[u8]) -> anyhow::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, model).with_context(|| Path::new(&part).display().to_string())?;
    std::fs::rename(&part, path).with_context(|| path.display().to_string())
}

async fn fetch(client: &OperatorClient, run: Option<&str>) -> anyhow::Result<Takeaway> {
    let report = show_run(client, run_id(run)?).await?;
    let run = report.status.run;
    let Some(policy) = report.status.policies.into_iter().next_back() else {
        let what = format!("{run} has no policy yet; set one with `exeunt policy set {run}`");
        return Err(BadInput(what).into());
    };
    let request = OperatorRequest::Snapshot { run: Some(run.clone()) };
    let OperatorResponse::Snapshot(names) = client.ask(&request).await? else { return Err(unexpected()) };
    let spec = serde_json::from_slice(&client.blob(names.spec).await?).context("the run's specification")?;
    let network = Network::from_bytes(client.blob(names.network).await?)?;
    let heads = Heads::decode(&client.blob(names.heads).await?).context("the snapshot")?;
    Ok(Takeaway { run, version: policy.version, spec, network, heads, policy: policy.policy })
}

impl Takeaway {
    fn model(&self, which: Which) -> Result<(Vec<BuiltInExit>, Vec<u8>), ExportError> {
        let policy = self.effective(which);
        let parts = policy.exits.iter().zip(self.heads.exits()).zip(&self.spec.exits).enumerate();
        let exits: Vec<BuiltInExit> = parts
            .filter_map(|(e, ((used, head), plan))| {
                let used = used.as_ref()?;
                Some(BuiltInExit {
                    number: number(e),
                    tap: plan.tap.clone(),
                    grid: match plan.pool {
                        Pool::Grid(cells) => Some(usize::from(cells)),
                        Pool::Full => None,
                    },
                    classes: present(head).map(|k| u32::try_from(k).unwrap_or(u32::MAX)).collect(),
                    scores: scores(head, used.rule).ok()?,
                    threshold: used.threshold,
                })
            })
            .collect();
        let model = self.network.with_exits(&exits, &self.metadata(&policy))?;
        Ok((exits, model))
    }

    /// The policy that is built in, with a rule at every exit that is.
    fn effective(&self, which: Which) -> Policy {
        let spare = |head: &ExitHead| {
            // The whitened rule is the better one wherever there is one (METHOD, "Measured").
            let rule =
                [Rule::Whitened, Rule::ClassMeans].into_iter().find(|rule| head.available(*rule).is_ok());
            rule.map(|rule| ExitRule::new(rule, f64::INFINITY))
        };
        let exits = self.policy.exits.iter().zip(self.heads.exits());
        let exits = exits.map(|(used, head)| match which {
            Which::Used => *used,
            Which::All => used.or_else(|| spare(head)),
        });
        Policy { exits: exits.collect() }
    }

    /// What the model's properties say; lists are JSON.
    fn metadata(&self, policy: &Policy) -> Vec<(String, String)> {
        let used: Vec<usize> = (0..policy.exits.len()).filter(|e| policy.exits[*e].is_some()).collect();
        let exits = || used.iter().map(|e| (*e, &self.spec.exits[*e]));
        let cost = self.cost();
        let costs: Vec<f64> =
            used.iter().copied().chain([policy.exits.len()]).map(|e| cost.cost(policy, e)).collect();
        let rules: Vec<Rule> = policy.exits.iter().flatten().map(|used| used.rule).collect();
        let list = |value: serde_json::Value| value.to_string();
        [
            ("run", self.run.to_string()),
            ("policy_version", self.version.0.to_string()),
            ("network", self.spec.network.to_string()),
            ("classes", list(serde_json::json!(self.spec.classes))),
            ("exits", list(exits().map(|(e, _)| number(e)).collect())),
            ("taps", list(exits().map(|(_, exit)| exit.tap.as_str()).collect())),
            ("rules", list(serde_json::json!(rules))),
            // Shares of the bare network's multiply-accumulates, the last for a sample that leaves nowhere.
            ("costs", list(serde_json::json!(costs))),
            ("input", list(serde_json::json!(self.spec.input))),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    fn cost(&self) -> CostModel {
        let until = |tap: &str| self.network.tap(tap).map_or(Macs::ZERO, |tap| tap.macs_until);
        let classes = self.spec.classes.len();
        CostModel {
            network: self.network.macs(),
            until: self.spec.exits.iter().map(|exit| until(&exit.tap)).collect(),
            head: self.spec.exits.iter().map(|exit| Macs::new((classes * exit.dim) as u64)).collect(),
        }
    }
}

/// Exits are numbered from 1 where people see them; 0 is the whole network.
fn number(exit: usize) -> u32 {
    u32::try_from(exit).unwrap_or(u32::MAX).saturating_add(1)
}

/// The classes that have a mean.
fn present(head: &ExitHead) -> impl Iterator<Item = usize> + '_ {
    head.present().iter().enumerate().filter_map(|(class, present)| present.then_some(class))
}

/// The numbers of `rule` for the classes that have a mean.
fn scores(head: &ExitHead, rule: Rule) -> Result<Scores, &Unavailable> {
    let rows: Vec<usize> = present(head).collect();
    let matrix = |all: ndarray::ArrayView2<'_, f32>| -> Array2<f32> { all.select(Axis(0), &rows) };
    let numbers = |all: &[f64]| rows.iter().map(|row| all[*row]).collect();
    Ok(match rule {
        Rule::ClassMeans => {
            Scores::Distances { means: matrix(head.means()), spreads: numbers(head.spreads()?) }
        }
        Rule::Whitened => {
            let linear = head.whitened()?;
            Scores::Linear { weights: matrix(linear.weights()), bias: numbers(linear.bias()) }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use exeunt_data::{Preprocess, Reader};
    use exeunt_exits::PolicyRequest;
    use exeunt_network::Tract;
    use exeunt_node::{Inference, Verdict};
    use exeunt_simulate::{LocalFederation, Plan};
    use ndarray::Array2;
    use prost::Message as _;
    use tract_onnx::pb;
    use tract_onnx::prelude::{InferenceModelExt as _, IntoRunnable as _, Tensor, TypedSimplePlan, tvec};

    use super::*;

    /// What the model made of one sample.
    struct Made {
        class: u32,
        exit: Option<usize>,
        margin: f64,
    }

    fn load(model: &[u8]) -> Arc<TypedSimplePlan> {
        let model = pb::ModelProto::decode(model).unwrap();
        tract_onnx::onnx()
            .parse(&model, None)
            .unwrap()
            .model
            .into_optimized()
            .unwrap()
            .into_runnable()
            .unwrap()
    }

    fn run(plan: &Arc<TypedSimplePlan>, shape: &[usize], sample: &[f32]) -> Made {
        let shape: Vec<usize> = std::iter::once(1).chain(shape.iter().copied()).collect();
        let made = plan.run(tvec!(Tensor::from_shape(&shape, sample).unwrap().into())).unwrap();
        let number = |i: usize| made[i].cast_to::<f64>().unwrap().to_plain_array_view::<f64>().unwrap()[0];
        let exit = (number(2) as usize).checked_sub(1);
        Made { class: number(1) as u32, exit, margin: number(3) }
    }

    /// The samples of a part, preprocessed, one per row.
    fn samples(plan: &Plan, spec: &RunSpec, shape: &[usize]) -> Array2<f32> {
        let mut reader = Reader::new(&plan.data, &spec.data, spec.seed, &spec.classes);
        let samples = reader.part(&spec.data.evaluation).unwrap();
        let preprocess = Preprocess::new(&spec.input).unwrap();
        let mut flat = Vec::new();
        for i in 0..samples.len() {
            preprocess.append(&samples.load(i).unwrap(), shape, &samples.name(i), &mut flat).unwrap();
        }
        Array2::from_shape_vec((samples.len(), shape.iter().product()), flat).unwrap()
    }

    fn assert_alike(model: &[u8], shape: &[usize], x: &Array2<f32>, expected: &[Verdict]) -> Vec<usize> {
        let plan = load(model);
        let mut exits = Vec::new();
        for (i, (sample, verdict)) in x.rows().into_iter().zip(expected).enumerate() {
            let made = run(&plan, shape, sample.as_slice().unwrap());
            assert_eq!((made.class, made.exit), (verdict.class, verdict.exit), "sample {i}");
            let distance = (made.margin - verdict.margin).abs();
            assert!(
                distance < 1e-3 * (1.0 + verdict.margin.abs()),
                "sample {i}: {} {}",
                made.margin,
                verdict.margin
            );
            exits.push(made.exit.map_or(0, |e| e + 1));
        }
        exits
    }

    /// A real run on the digits, and for every policy: the model decides as exeunt's own inference does, on every
    /// evaluation sample.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_model_decides_as_the_node_does() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/digits.toml");
        let mut plan = Plan::read(&file, None, None).unwrap();
        plan.file.federation.quorum = 1;
        plan.file.method.search_rounds = 2;
        plan.file.exits.named_mut()[0].pool = Some(Pool::Grid(3));
        plan.file.exits.named_mut()[5].pool = Some(Pool::Full);
        let folder = tempfile::tempdir().unwrap();
        let federation = LocalFederation::start(folder.path()).await.unwrap();
        let place = federation.join(&plan, 2).await.unwrap().remove(0);
        let node = tokio::spawn(exeunt_node::run(exeunt_node::Home::new(place.home), std::future::pending()));
        let run = federation.start_run(&plan).await.unwrap();
        federation.wait(&run, |_| {}).await.unwrap();
        let client = federation.operator();

        let missing = fetch(client, Some(run.as_str())).await.map(|_| ()).unwrap_err();
        assert!(missing.to_string().contains("exeunt policy set digits-1"), "{missing}");

        let rule = |e: usize| if e.is_multiple_of(2) { Rule::Whitened } else { Rule::ClassMeans };
        // Class means are less sure of themselves than the whitened rule (METHOD, "Three facts").
        let thresholds = [None, Some(-1.9), Some(10.0), None, Some(15.0), Some(-1.8), Some(20.0), Some(-1.7)];
        let mixed = thresholds.iter().enumerate().map(|(e, t)| t.map(|t| ExitRule::new(rule(e), t)));
        let everyone =
            thresholds.iter().enumerate().map(|(e, _)| (e == 3).then(|| ExitRule::everyone(rule(e))));
        let wishes = [
            PolicyRequest::Fraction(0.3),
            PolicyRequest::Thresholds(Policy { exits: mixed.collect() }),
            PolicyRequest::Thresholds(Policy { exits: everyone.collect() }),
            PolicyRequest::Thresholds(Policy::off(8)),
        ];
        let mut taken = Vec::new();
        for wish in wishes {
            client.ask(&OperatorRequest::SetPolicy { run: None, wish, node: None }).await.unwrap();
            let takeaway = fetch(client, None).await.unwrap();
            let network = &takeaway.network;
            let shape = &network.input().shape;
            let heads = Arc::new(takeaway.heads.clone());
            let inference = Inference::new(
                takeaway.spec.clone(),
                network.clone(),
                &Tract,
                heads,
                takeaway.policy.clone(),
            )
            .unwrap();
            let x = samples(&plan, &takeaway.spec, shape);
            let expected = inference.run(x.view()).unwrap();
            let version = takeaway.version.0;
            // What the policy leaves off changes nothing; once is enough, with a policy that leaves exits off.
            let which = if version == 2 { &[Which::Used, Which::All][..] } else { &[Which::Used] };
            for &which in which {
                let (exits, model) = takeaway.model(which).unwrap();
                let used = takeaway.policy.exits.iter().flatten().count();
                assert_eq!(exits.len(), if which == Which::All { 8 } else { used });
                taken = assert_alike(&model, shape, &x, &expected);
                if version == 2 {
                    let different: std::collections::BTreeSet<_> = taken.iter().collect();
                    assert!(different.contains(&2) && different.len() > 2, "{different:?}");
                }
            }
        }
        assert!(taken.iter().all(|exit| *exit == 0), "the last policy has no exits");
        node.abort();
        federation.stop().await.unwrap();
    }
}
