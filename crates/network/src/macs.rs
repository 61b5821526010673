//! Multiply-accumulates per node (METHOD, "Words": cost).

use std::collections::BTreeMap;

use exeunt_stats::Macs;
use tract_onnx::pb;

use crate::facts::Fact;

/// Operators that do much arithmetic and have no formula here.
const UNCOUNTED: [&str; 12] = [
    "Attention",
    "ConvInteger",
    "DFT",
    "DeformConv",
    "Einsum",
    "GRU",
    "LSTM",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "RNN",
    "STFT",
];

/// Whether `operator` does much arithmetic that [`of`] cannot count.
pub(crate) fn is_uncounted(operator: &str) -> bool {
    UNCOUNTED.contains(&operator)
}

/// The multiply-accumulates of `node` for one sample: convolutions and matrix products. Everything
/// else counts as nothing, biases included.
pub(crate) fn of(node: &pb::NodeProto, facts: &BTreeMap<String, Fact>) -> Macs {
    count(node, facts).map_or(Macs::ZERO, Macs::new)
}

fn count(node: &pb::NodeProto, facts: &BTreeMap<String, Fact>) -> Option<u64> {
    let shape = |name: &str| facts.get(name).map(|fact| fact.shape.as_slice());
    let input = |index: usize| shape(node.input.get(index)?);
    let output = || shape(node.output.first()?);
    match node.op_type.as_str() {
        // Each output element sums over the kernel and the input channels of its group, which is what
        // the weights [out, in / groups, kernel…] have after their first axis; a transposed convolution
        // spreads each input element over [in, out / groups, kernel…] likewise.
        "Conv" => Some(product(output()?).saturating_mul(product(input(1)?.get(1..)?))),
        "ConvTranspose" => Some(product(input(0)?).saturating_mul(product(input(1)?.get(1..)?))),
        "Gemm" => {
            let transposed = node.attribute.iter().any(|a| a.name == "transA" && a.i != 0);
            let inner = *input(0)?.get(usize::from(!transposed))?;
            Some(product(output()?).saturating_mul(inner as u64))
        }
        "MatMul" => Some(product(output()?).saturating_mul(*input(0)?.last()? as u64)),
        _ => None,
    }
}

fn product(dims: &[usize]) -> u64 {
    dims.iter().fold(1, |product, dim| product.saturating_mul(*dim as u64))
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::DatumType;

    use super::*;

    fn macs(operator: &str, shapes: &[&[usize]], transposed: bool) -> u64 {
        let name = |index: usize| format!("v{index}");
        let facts = shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| {
                let fact = Fact { kind: DatumType::F32, shape: shape.to_vec(), constant: None };
                (name(index), fact)
            })
            .collect();
        let node = pb::NodeProto {
            op_type: operator.to_owned(),
            output: vec![name(0)],
            input: (1..shapes.len()).map(name).collect(),
            attribute: vec![pb::AttributeProto {
                name: "transA".to_owned(),
                i: transposed.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        of(&node, &facts).get()
    }

    #[test]
    fn counts_convolutions_and_products() {
        // Output first, then the inputs.
        assert_eq!(macs("Conv", &[&[1, 16, 8, 8], &[1, 3, 8, 8], &[16, 3, 3, 3]], false), 1024 * 27);
        assert_eq!(macs("Conv", &[&[1, 16, 8, 8], &[1, 16, 8, 8], &[16, 1, 3, 3]], false), 1024 * 9);
        assert_eq!(macs("ConvTranspose", &[&[1, 4, 8, 8], &[1, 8, 4, 4], &[8, 4, 2, 2]], false), 128 * 16);
        assert_eq!(macs("Gemm", &[&[1, 10], &[1, 64], &[10, 64]], false), 640);
        assert_eq!(macs("Gemm", &[&[1, 10], &[64, 1], &[64, 10]], true), 640);
        assert_eq!(macs("MatMul", &[&[1, 12, 7, 7], &[1, 12, 7, 5], &[1, 12, 5, 7]], false), 12 * 49 * 5);
        assert_eq!(macs("Relu", &[&[1, 16, 8, 8], &[1, 16, 8, 8]], false), 0);
    }
}
