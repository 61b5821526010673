//! The whole network beside what was decided, for the share of samples that is looked at closely.

use ndarray::ArrayView2;

use super::{InferError, Inference, best, failed};

/// What the whole network says of a sample, and how sure every exit on the way is of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Whole {
    /// The network's class.
    pub class: u32,
    /// The margin at each exit, whether the sample left before it or not; none where the policy is off.
    pub margins: Vec<Option<f64>>,
}

impl Inference {
    /// Multiply-accumulates of the bare network, for one sample.
    pub fn network_macs(&self) -> u64 {
        self.cost.network.get()
    }

    /// Runs the whole network on preprocessed samples, one per row, and asks every exit of the policy on the way.
    ///
    /// # Errors
    /// See [`InferError`].
    pub fn whole(&self, x: ArrayView2<'_, f32>) -> Result<Vec<Whole>, InferError> {
        let none = Whole { class: 0, margins: vec![None; self.spec.exits.len()] };
        let mut wholes = vec![none; x.nrows()];
        if wholes.is_empty() {
            return Ok(wholes);
        }
        let mut scratch = self.scratch();
        let mut lane = self.segments.lane().map_err(failed)?;
        lane.begin(x).map_err(failed)?;
        for (segment, e) in self.cuts.iter().enumerate() {
            lane.run().map_err(failed)?;
            let Some(rule) = self.policy.exits[*e].as_ref().map(|rule| rule.rule) else { continue };
            for (row, whole) in wholes.iter_mut().enumerate() {
                let decision = self.ask((*e, segment), rule, lane.row(row), &mut scratch.asking)?;
                whole.margins[*e] = Some(decision.margin);
            }
        }
        lane.run().map_err(failed)?;
        for (row, whole) in wholes.iter_mut().enumerate() {
            scratch.scores.clear();
            scratch.scores.extend(lane.row(row).iter().map(|v| f64::from(*v)));
            whole.class = best(&scratch.scores);
        }
        self.put_back(scratch);
        Ok(wholes)
    }
}
