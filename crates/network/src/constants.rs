//! Tensors that are part of the network: their size on disk, and their way back from the engine.

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::prelude::Datum as _;
use tract_onnx::prelude::{DatumType, TDim, Tensor};
use tract_onnx::tract_hir::internal::TractResult;

/// Bytes of the elements of `tensor` as its shape and type have it, `None` when they do not say.
pub(crate) fn byte_len(tensor: &pb::TensorProto) -> Option<u64> {
    let width = width(DataType::try_from(tensor.data_type).ok()?)?;
    tensor.dims.iter().try_fold(width, |product, dim| product.checked_mul(u64::try_from(*dim).ok()?))
}

/// Bytes per element, `None` where elements are packed or of no fixed size.
fn width(kind: DataType) -> Option<u64> {
    Some(match kind {
        DataType::Bool | DataType::Uint8 | DataType::Int8 => 1,
        DataType::Uint16 | DataType::Int16 | DataType::Float16 | DataType::Bfloat16 => 2,
        DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
        DataType::Double | DataType::Int64 | DataType::Uint64 => 8,
        _ => return None,
    })
}

/// `tensor`, worked out by the engine, as an ONNX tensor called `name`. `None` for a type that cannot
/// be a constant of a segment.
pub(crate) fn to_onnx(name: &str, tensor: &Tensor) -> TractResult<Option<pb::TensorProto>> {
    // The engine keeps shapes as symbolic integers; by now they are numbers.
    let tensor = if tensor.datum_type() == TDim::datum_type() {
        tensor.cast_to::<i64>()?
    } else {
        std::borrow::Cow::Borrowed(tensor)
    };
    let Some(kind) = onnx_type(tensor.datum_type()) else { return Ok(None) };
    let dims = tensor.shape().iter().map(|dim| i64::try_from(*dim)).collect::<Result<_, _>>()?;
    Ok(Some(pb::TensorProto {
        name: name.to_owned(),
        dims,
        data_type: kind as i32,
        raw_data: tensor.as_bytes().to_vec(),
        ..Default::default()
    }))
}

fn onnx_type(kind: DatumType) -> Option<DataType> {
    Some(match kind {
        DatumType::Bool => DataType::Bool,
        DatumType::U8 => DataType::Uint8,
        DatumType::U16 => DataType::Uint16,
        DatumType::U32 => DataType::Uint32,
        DatumType::U64 => DataType::Uint64,
        DatumType::I8 => DataType::Int8,
        DatumType::I16 => DataType::Int16,
        DatumType::I32 => DataType::Int32,
        DatumType::I64 => DataType::Int64,
        DatumType::F16 => DataType::Float16,
        DatumType::F32 => DataType::Float,
        DatumType::F64 => DataType::Double,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_overflows_has_no_size() {
        let tensor = |dims: &[i64]| pb::TensorProto {
            dims: dims.to_vec(),
            data_type: DataType::Float as i32,
            ..Default::default()
        };
        assert_eq!(byte_len(&tensor(&[])), Some(4));
        assert_eq!(byte_len(&tensor(&[2, 3])), Some(24));
        assert_eq!(byte_len(&tensor(&[i64::MAX, 2])), None);
        assert_eq!(byte_len(&tensor(&[-1])), None);
    }

    #[test]
    fn constants_survive_the_way_back() {
        let shape = tract_onnx::prelude::tensor1(&[TDim::from(1), TDim::from(64)]);
        let proto = to_onnx("shape", &shape).unwrap().unwrap();
        assert_eq!(proto.data_type, DataType::Int64 as i32);
        assert_eq!(proto.dims, [2]);
        assert_eq!(proto.raw_data, [1_i64.to_le_bytes(), 64_i64.to_le_bytes()].concat());
    }
}
