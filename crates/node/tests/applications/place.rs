//! A node's folder with a policy in force: the digits network that ships, and heads of seeded noise.

use std::fs;
use std::path::{Path, PathBuf};

use exeunt_coordinator::RunPlan;
use exeunt_exits::{ExitHead, ExitRule, Heads, LinearHead, Policy, Rule};
use exeunt_network::{EngineChoice, EngineSettings, EngineWish, Network};
use exeunt_node::serve::Ready;
use exeunt_node::{Home, PolicyInForce};
use exeunt_protocol::spec::RunFile;
use exeunt_stats::Digest;
use ndarray::Array2;
use tempfile::TempDir;

/// Numbers in −1..1 that are the same everywhere.
pub(crate) fn noise(seed: u64, rows: usize, columns: usize) -> Array2<f32> {
    let mut state = seed;
    Array2::from_shape_simple_fn((rows, columns), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    })
}

/// ONNX Runtime, from the library that EXEUNT_ONNXRUNTIME names.
pub(crate) fn onnx_runtime() -> EngineChoice {
    let path =
        std::env::var_os("EXEUNT_ONNXRUNTIME").expect("EXEUNT_ONNXRUNTIME names ONNX Runtime's library");
    let wish = EngineWish::OnnxRuntime;
    EngineSettings { wish, library: Some(path.into()), ..EngineSettings::default() }.choose().unwrap()
}

/// A node's folder.
pub(crate) struct Place {
    pub(crate) home: Home,
    pub(crate) version: u32,
    exits: usize,
    in_force: PolicyInForce,
    _folder: TempDir,
}

impl Place {
    /// A node of the digits that ship, on which version 1, with `threshold` at every exit, is in force.
    pub(crate) fn new(threshold: f64) -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let text = fs::read_to_string(repository.join("configs/digits.toml")).unwrap();
        Self::of(&repository.join("assets/digits_resnet.onnx"), &text, threshold)
    }

    /// The same of another network and run file.
    pub(crate) fn of(network: &Path, run_file: &str, threshold: f64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let network = Network::load(network).unwrap();
        let plan = RunPlan::new(&RunFile::parse(run_file, "run.toml").unwrap(), &network).unwrap();
        let classes = plan.spec.classes.len();
        let heads = plan.spec.exits.iter().enumerate().map(|(e, exit)| {
            let seed = e as u64 + 1;
            let linear = LinearHead::new(noise(seed, classes, exit.dim) * 3.0, vec![0.0; classes]).unwrap();
            let means = noise(seed + 50, classes, exit.dim);
            ExitHead::new(means, vec![true; classes]).unwrap().with_whitened(Ok(linear)).unwrap()
        });
        let heads = Heads::new(heads.collect());
        let exits = heads.len();
        let in_force = PolicyInForce {
            run: "digits-1".parse().unwrap(),
            version: 0,
            spec: put(&home, &plan.spec_bytes),
            network: put(&home, network.bytes()),
            policy: Digest::of(b""),
            heads: put(&home, &heads.encode()),
        };
        let mut place = Self { home, version: 0, exits, in_force, _folder: folder };
        place.set_policy(threshold);
        place
    }

    /// Puts the next version in force.
    pub(crate) fn set_policy(&mut self, threshold: f64) {
        self.put_in_force(&vec![Some(ExitRule::new(Rule::Whitened, threshold)); self.exits]);
    }

    /// Puts a version in force that uses no exit but the last.
    pub(crate) fn set_last_exit(&mut self, threshold: f64) {
        let mut exits = vec![None; self.exits];
        exits[self.exits - 1] = Some(ExitRule::new(Rule::Whitened, threshold));
        self.put_in_force(&exits);
    }

    fn put_in_force(&mut self, exits: &[Option<ExitRule>]) {
        let policy = Policy { exits: exits.to_vec() };
        let digest = put(&self.home, &serde_json::to_vec(&policy).unwrap());
        self.version += 1;
        self.in_force = PolicyInForce { version: self.version, policy: digest, ..self.in_force.clone() };
        self.home.save_policy(&self.in_force).unwrap();
    }

    /// Puts a version in force whose policy is not in the cache.
    pub(crate) fn set_lost_policy(&mut self) {
        self.version += 1;
        let policy = Digest::of(b"lost");
        self.in_force = PolicyInForce { version: self.version, policy, ..self.in_force.clone() };
        self.home.save_policy(&self.in_force).unwrap();
    }

    /// The policy in force, loaded as the library does it.
    pub(crate) fn ready(&self) -> Ready {
        self.ready_in(&EngineChoice::tract())
    }

    /// The same in another engine.
    pub(crate) fn ready_in(&self, engine: &EngineChoice) -> Ready {
        Ready::load(&self.home, self.in_force.clone(), engine, None).unwrap()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.root().join(name)
    }
}

fn put(home: &Home, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let folder = home.root().join("blobs");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(digest.to_string()), bytes).unwrap();
    digest
}
