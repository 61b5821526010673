use prost::Message;
use std::time::Instant;
use tract_onnx::pb::tensor_shape_proto::dimension::Value;
use tract_onnx::prelude::*;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let bytes = std::fs::read(path).unwrap();
    for batch in [1usize, 2, 4, 8, 32] {
        let mut m = tract_onnx::pb::ModelProto::decode(&*bytes).unwrap();
        let g = m.graph.as_mut().unwrap();
        g.value_info.clear();
        let t = match g.input[0].r#type.as_mut().unwrap().value.as_mut().unwrap() {
            tract_onnx::pb::type_proto::Value::TensorType(t) => t,
        };
        let dims = &mut t.shape.as_mut().unwrap().dim;
        dims[0].value = Some(Value::DimValue(batch as i64));
        let shape: Vec<usize> = dims
            .iter()
            .map(|d| match d.value {
                Some(Value::DimValue(v)) => v as usize,
                _ => panic!(),
            })
            .collect();
        let model = tract_onnx::onnx().parse(&m, None).unwrap().model;
        let plan = match model.into_optimized().and_then(|m| m.into_runnable()) {
            Ok(p) => p,
            Err(e) => {
                println!("{batch}: {e:?}");
                continue;
            }
        };
        let n: usize = shape.iter().product();
        let data: Vec<f32> = (0..n).map(|i| ((i * 7919 % 1000) as f32) / 500.0 - 1.0).collect();
        let mut state = plan.spawn().unwrap();
        let reps = 640 / batch;
        let mut best = f64::MAX;
        for _ in 0..5 {
            let t = Instant::now();
            for _ in 0..reps / 5 {
                let x = Tensor::from_shape(&shape, &data).unwrap();
                let _y = state.run(tvec!(x.into())).unwrap();
            }
            best = best.min(t.elapsed().as_secs_f64() / (reps / 5) as f64 / batch as f64);
        }
        println!("batch {batch}: {:.3} ms per sample", best * 1e3);
    }
}
