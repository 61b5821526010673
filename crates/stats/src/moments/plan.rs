//! What a node will answer, decided from its class counts before the network runs.

use crate::{Floors, MomentsShape, SetupError};

/// Which classes a node withholds and at which exits it sends second moments (DESIGN, "What may leave a
/// node").
///
/// Products of a withheld class cannot be taken out of a second moment afterwards, so this is decided
/// up front. Labels are known without the network; so this is also what an operator can be shown of a
/// query before it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MomentsPlan {
    withheld: Vec<bool>,
    second: Vec<bool>,
    samples: u64,
}

impl MomentsPlan {
    /// The plan of a node with so many samples of each class.
    ///
    /// # Errors
    /// When there is not one count per class.
    pub fn new(shape: &MomentsShape, class_counts: &[u64], floors: &Floors) -> Result<Self, SetupError> {
        SetupError::length("class counts", class_counts.len(), shape.classes)?;
        let withheld: Vec<bool> = class_counts.iter().map(|n| floors.withholds(*n)).collect();
        let kept = class_counts.iter().zip(&withheld).filter(|(_, withheld)| !**withheld);
        let samples = kept.fold(0_u64, |samples, (n, _)| samples.saturating_add(*n));
        let second = shape
            .exits
            .iter()
            .map(|exit| exit.second && samples > 0 && floors.allows_second(samples, exit.dim))
            .collect();
        Ok(Self { withheld, second, samples })
    }

    /// Per class: whether its samples are skipped.
    pub fn withheld(&self) -> &[bool] {
        &self.withheld
    }

    /// How many classes are withheld.
    pub fn withheld_classes(&self) -> usize {
        self.withheld.iter().filter(|withheld| **withheld).count()
    }

    /// Per exit: whether second moments are sent.
    pub fn second(&self) -> &[bool] {
        &self.second
    }

    /// Samples of the classes that are not withheld.
    pub fn samples(&self) -> u64 {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ExitShape;

    #[test]
    fn floors_decide_before_the_network_runs() {
        let exit = |dim, second| ExitShape { dim, second };
        let shape = MomentsShape { classes: 4, exits: vec![exit(10, true), exit(11, true), exit(1, false)] };
        let plan = MomentsPlan::new(&shape, &[10, 9, 0, 10], &Floors::default()).unwrap();
        assert_eq!(plan.withheld(), [false, true, false, false]);
        assert_eq!((plan.withheld_classes(), plan.samples()), (1, 20));
        assert_eq!(plan.second(), [true, false, false]);
        assert_eq!(
            MomentsPlan::new(&shape, &[1; 3], &Floors::OFF),
            Err(SetupError::Length { what: "class counts", found: 3, expected: 4 })
        );
    }

    #[test]
    fn a_node_without_samples_sends_no_products() {
        let shape = MomentsShape { classes: 1, exits: vec![ExitShape { dim: 2, second: true }] };
        assert_eq!(MomentsPlan::new(&shape, &[0], &Floors::OFF).unwrap().second(), [false]);
    }
}
