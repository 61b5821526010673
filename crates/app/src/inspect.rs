//! `exeunt inspect`: where a network can be left.

use std::path::Path;

use exeunt_coordinator::Home;
use exeunt_exits::Pool;
use exeunt_network::Network;
use serde::Serialize;

use crate::cli::InspectArgs;
use crate::failure::BadInput;
use crate::place::{self, Placed, Wanted};
use crate::show::{grid, right, shape};

#[derive(Serialize)]
struct Inspected<'a> {
    file: &'a Path,
    hash: String,
    bytes: usize,
    opset: i64,
    input: Tensor<'a>,
    output: Tensor<'a>,
    macs: u64,
    uncounted_ops: &'a [String],
    taps: Vec<TapRow<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    placed: Option<Placed>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    shape: &'a [usize],
}

#[derive(Serialize)]
struct TapRow<'a> {
    name: &'a str,
    op: &'a str,
    shape: &'a [usize],
    macs_until: u64,
    cost: f64,
    block_end: bool,
}

pub(crate) fn inspect(home: &Home, arguments: &InspectArgs) -> anyhow::Result<()> {
    let (model, json) = (arguments.model.as_path(), arguments.output.json);
    let network = Network::load(model)?;
    let placed = arguments.place.map(|exits| placed(home, arguments, &network, exits)).transpose()?;
    if let Some(placed) = &placed
        && !json
    {
        crate::out::write(format_args!("{}", placed.explain()), "");
        return Ok(());
    }
    let total = network.macs();
    let row =
        |tap: &'_ exeunt_network::Tap| -> (u64, f64) { (tap.macs_until.get(), tap.macs_until.ratio(total)) };
    let inspected = Inspected {
        file: model,
        hash: network.hash().to_string(),
        bytes: network.bytes().len(),
        opset: network.opset(),
        input: Tensor { name: &network.input().name, shape: &network.input().shape },
        output: Tensor { name: &network.output().name, shape: &network.output().shape },
        macs: total.get(),
        uncounted_ops: network.uncounted_ops(),
        taps: network
            .taps()
            .iter()
            .map(|tap| TapRow {
                name: &tap.name,
                op: &tap.op,
                shape: &tap.shape,
                macs_until: row(tap).0,
                cost: row(tap).1,
                block_end: tap.block_end,
            })
            .collect(),
        placed,
    };
    if json {
        crate::out!("{}", serde_json::to_string_pretty(&inspected)?);
        return Ok(());
    }
    crate::out!("{}", model.display());
    crate::out!("  BLAKE3  {}", inspected.hash);
    crate::out!("  input   {} {}", inspected.input.name, shape(inspected.input.shape));
    crate::out!("  output  {} {}", inspected.output.name, shape(inspected.output.shape));
    crate::out!(
        "  opset   {}, {} bytes, {} multiply-accumulates per sample",
        inspected.opset,
        inspected.bytes,
        inspected.macs
    );
    if !inspected.uncounted_ops.is_empty() {
        crate::out!("  not counted as multiply-accumulates: {}", inspected.uncounted_ops.join(", "));
    }
    crate::out!("\n{} places to leave; * ends a block\n", inspected.taps.len());
    let mut table = grid(&["", "tap", "operator", "shape", "MACs until", "cost"]);
    for tap in &inspected.taps {
        let mark = if tap.block_end { "*" } else { "" };
        let (macs, cost) = (tap.macs_until.to_string(), format!("{:.3}", tap.cost));
        table.add_row([mark, tap.name, tap.op, &shape(tap.shape), &macs, &cost]);
    }
    right(&mut table, &[4, 5]);
    crate::out!("{table}");
    Ok(())
}

fn placed(home: &Home, arguments: &InspectArgs, network: &Network, exits: u8) -> anyhow::Result<Placed> {
    if !(0.0..=100.0).contains(&arguments.max_drop) {
        let found = arguments.max_drop;
        return Err(BadInput(format!("--max-drop: found {found}, expected 0 to 100 points")).into());
    }
    let known = match &arguments.run {
        Some(run) => {
            let from_run = place::from_run(home, run, network, arguments.max_drop);
            Some(crate::runtime()?.block_on(from_run)?)
        }
        None => None,
    };
    let of_run = known.as_ref().and_then(|(_, spec)| spec.exits.first()).map(|exit| exit.pool);
    let wanted = Wanted {
        exits: usize::from(exits),
        pool: arguments.pool.map(Pool::Grid).or(of_run).unwrap_or(Pool::Grid(4)),
        classes: network.output().shape.iter().product(),
    };
    let engine = arguments.engine.choose(None).map_err(|error| BadInput(error.to_string()))?;
    place::choose(network, engine.engine(), wanted, known.as_ref().map(|(known, _)| known))
}
