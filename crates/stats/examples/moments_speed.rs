//! How long class sums and second moments take per sample, on one core:
//! `cargo run --release -p exeunt-stats --example moments_speed -- [D] [samples]`.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock; the crate does not")]

use std::time::Instant;

use exeunt_stats::{ExitShape, Floors, MomentsAccumulator, MomentsShape, Scale, packed};
use ndarray::Array2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let dim = arguments.next().transpose()?.unwrap_or(1024);
    let samples = arguments.next().transpose()?.unwrap_or(4096);
    let z = Array2::from_shape_fn((64, dim), |(i, j)| ((i * 31 + j * 17) % 101) as f32 / 30.0 - 1.0);
    let labels: Vec<u32> = (0..64).map(|i| i % 10).collect();
    println!("D = {dim}, {samples} samples");
    for second in [false, true] {
        let shape = MomentsShape { classes: 10, exits: vec![ExitShape { dim, second }] };
        let mut accumulator =
            MomentsAccumulator::new(shape, vec![Scale::default()], &[samples as u64; 10], &Floors::OFF)?;
        let start = Instant::now();
        for _ in 0..samples.div_ceil(labels.len()) {
            accumulator.add(&labels, &[z.view()])?;
        }
        let table = accumulator.finish()?;
        let micros = start.elapsed().as_secs_f64() * 1e6 / samples as f64;
        let work = if second { (dim * (dim + 1) / 2) as f64 / micros / 1e3 } else { 0.0 };
        println!("second moments {second:5}: {micros:8.2} us per sample, {work:5.1} useful GMAC/s");

        let start = Instant::now();
        let bytes = packed::encode(table.cells());
        let encode = start.elapsed();
        let start = Instant::now();
        packed::decode(&bytes, table.len())?;
        let decode = start.elapsed();
        let share = bytes.len() as f64 / (8 * table.len()) as f64;
        println!("  packed {} cells to {share:.2} in {encode:.1?}, unpacked in {decode:.1?}", table.len());
    }
    Ok(())
}
