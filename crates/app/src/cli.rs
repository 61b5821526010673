//! The command line: every command, its flags, and what they mean.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use exeunt_node::EngineOptions;

/// First argument with which this binary is `exeunt-node`: the demo's node processes need no second file.
pub(crate) const NODE_PROCESS: &str = "node-process";

/// Early exits for fleets of small devices, from sums and counts.
#[derive(Debug, Parser)]
#[command(
    name = "exeunt",
    version,
    after_help = "Exit codes: 0 done · 1 failed · 2 wrong usage or bad input · 3 coordinator not reachable · 4 refused, by the coordinator or because it is another than expected · 130 interrupted.\n\
                  Data goes to stdout, messages to stderr. Flags come before EXEUNT_… variables, and those before files."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Ask a coordinator elsewhere, in the window or by a command: the folder that `exeunt operator` made there, or its
    /// name below the configuration folder
    #[arg(long, global = true, value_name = "DIR_OR_NAME")]
    pub(crate) connect: Option<String>,
    /// Start the demo in the window, save pictures of every page here, and end
    #[arg(long, hide = true, value_name = "DIR")]
    pub(crate) screenshot: Option<PathBuf>,
    /// Without a command, the window opens
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Folder of the coordinator: its authority, keys and store
    #[arg(long, global = true, env = "EXEUNT_HOME", value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Log more (-v debug, -vv trace); EXEUNT_LOG takes a tracing filter
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Write log lines as JSON
    #[arg(long, global = true)]
    pub(crate) log_json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure time, side by side
    #[command(subcommand)]
    Bench(crate::bench::BenchCommand),
    /// Run the coordinator until stopped; makes the federation on first start
    Serve {
        /// Address to listen on (UDP)
        #[arg(long, env = "EXEUNT_LISTEN", default_value = "0.0.0.0:4711", value_name = "ADDR:PORT")]
        listen: SocketAddr,
        /// Address that join tokens tell nodes to use; repeat for several. Default: this machine's
        #[arg(long, env = "EXEUNT_ADVERTISE", value_name = "HOST:PORT", value_delimiter = ',')]
        advertise: Vec<String>,
        /// Let nodes that join take part only once they are approved (`exeunt node approve`)
        #[arg(long, env = "EXEUNT_APPROVE")]
        approve: bool,
    },
    /// Print a join token that works once
    Token {
        /// How long it is valid: seconds, or 15m, 2h, 7d
        #[arg(long, default_value = "1h", value_parser = duration)]
        valid: std::time::Duration,
        /// A note beside it
        #[arg(long, default_value = "")]
        label: String,
        /// The node takes part only once it is approved: --approve, or --approve=false against `serve --approve`
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        approve: Option<bool>,
        #[command(flatten)]
        output: Json,
    },
    /// Make a folder with which another machine can operate this coordinator; run it beside the coordinator
    Operator {
        /// Who will use it; the name stands in its certificate
        name: String,
        /// Folder to make. Copy it to the other machine, keep it as safe as a key, and use `--home DIR` or
        /// `--connect DIR` there
        #[arg(long, short, value_name = "DIR")]
        out: PathBuf,
    },
    /// Nodes of the federation
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Runs: start, list, show, stop
    Run {
        #[command(subcommand)]
        command: RunCommand,
    },
    /// Policies: which samples leave where
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Snapshots: merged class means
    Snapshot {
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Write a run's network with its exits and the policy in force as one ONNX model, for any ONNX Runtime
    Export(ExportArgs),
    /// List the places where a network can be left; choose the best ones by measured time
    Inspect(InspectArgs),
    /// Look whether everything works where the coordinator lives: engine, processor, clock, keys, disk, store
    Doctor {
        #[command(flatten)]
        engine: EngineOptions,
        #[command(flatten)]
        output: Json,
    },
    /// Copy everything a coordinator must not lose into a new folder: its store, keys and address; also while it runs
    Backup {
        /// Folder to make, to be kept as safe as a key; by default below the coordinator's own, in backups
        #[arg(value_name = "DIR")]
        to: Option<PathBuf>,
        #[command(flatten)]
        output: Json,
    },
    /// Put a backup back as the coordinator's folder, which must not be running
    Restore {
        /// The backup's folder
        #[arg(value_name = "DIR")]
        from: PathBuf,
        /// Where there is a coordinator already: move what is there into a folder beside
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        output: Json,
    },
    /// Run a whole federation on this machine
    Simulate(SimulateArgs),
    /// The whole job on what ships: a coordinator and 8 node processes on loopback
    Demo(DemoArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Every node: name, short id, state, software
    List {
        #[command(flatten)]
        output: Json,
    },
    /// One node: what it gave to a run, its policy, its inference, and what was noted of it
    Show {
        /// Its name, short id or id, as `node list` shows them
        node: String,
        /// Run id; the newest if none is given
        #[arg(long)]
        run: Option<String>,
        #[command(flatten)]
        output: Json,
    },
    /// What inference does at the nodes: exits taken, agreement, drift, what was saved
    Live {
        /// Run id; the newest if none is given
        run: Option<String>,
        #[command(flatten)]
        output: Json,
    },
    /// Let a node take part that waits for it; compare its short id first
    Approve {
        /// Its name, short id or id
        node: String,
    },
    /// Call a node something else; its id stays
    Rename {
        /// Its name, short id or id
        node: String,
        /// Its new name
        name: String,
    },
    /// Ask a node nothing more and count nothing new of it; it stays connected and keeps its policy
    Quarantine {
        /// Its name, short id or id
        node: String,
    },
    /// Let a quarantined node take part again
    Release {
        /// Its name, short id or id
        node: String,
    },
    /// Shut a node out for good; a live connection ends at once
    Revoke {
        /// Its name, short id or id, as `node list` shows them
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RunCommand {
    /// Start a run from a run file
    Start {
        /// Run file (configs/*.toml)
        file: PathBuf,
        /// Network instead of the one the run file names
        #[arg(long, value_name = "ONNX")]
        network: Option<PathBuf>,
        #[command(flatten)]
        engine: EngineOptions,
        #[command(flatten)]
        output: Json,
    },
    /// Every run
    List {
        #[command(flatten)]
        output: Json,
    },
    /// One run: exits, curve, nodes, and what is being waited for
    Show {
        /// Run id; the newest if none is given
        run: Option<String>,
        /// Come back only when the run is ready, has failed or was stopped
        #[arg(long)]
        wait: bool,
        /// Draw the trade-off curve
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
        #[command(flatten)]
        output: Json,
    },
    /// Take everything a node gave out of a run, exactly; what followed from it is asked again without it. Not to be
    /// undone
    Remove {
        /// The node's name, short id or id
        node: String,
        /// Run id; the newest if none is given
        #[arg(long)]
        run: Option<String>,
    },
    /// End a run; its tables stay
    Stop {
        /// Run id
        run: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Put a policy in force
    Set {
        /// Run id; the newest if none is given
        run: Option<String>,
        #[command(flatten)]
        wish: Wish,
        /// For this node alone, by its name, short id or id; it keeps it when the fleet gets another
        #[arg(long)]
        node: Option<String>,
        #[command(flatten)]
        output: Json,
    },
    /// Let a node infer with the fleet's policy again
    Clear {
        /// The node's name, short id or id
        node: String,
        /// Run id; the newest if none is given
        #[arg(long)]
        run: Option<String>,
    },
    /// Policies that were set or tried, those that have a name, and what is in force where
    List {
        /// Run id; the newest if none is given
        run: Option<String>,
        #[command(flatten)]
        output: Json,
    },
    /// Keep a policy under a name
    Save {
        /// The name; what had it before loses it
        name: String,
        /// Its version; the fleet's in force if none is given
        #[arg(long)]
        version: Option<u32>,
        /// Run id; the newest if none is given
        #[arg(long)]
        run: Option<String>,
    },
    /// Put a policy in force that was kept under a name
    Apply {
        /// The name
        name: String,
        /// For this node alone, by its name, short id or id
        #[arg(long)]
        node: Option<String>,
        /// Run id; the newest if none is given
        #[arg(long)]
        run: Option<String>,
        #[command(flatten)]
        output: Json,
    },
    /// Forget a policy's name
    Forget {
        /// The name
        name: String,
        /// Run id; the newest if none is given
        #[arg(long)]
        run: Option<String>,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Wish {
    /// At every exit the surest share of all samples leaves, such as 0.3
    #[arg(long, value_name = "SHARE")]
    pub(crate) fraction: Option<f64>,
    /// The cheapest policy that loses at most this many points of accuracy on the calibration part
    #[arg(long, value_name = "POINTS")]
    pub(crate) max_drop: Option<f64>,
    /// One entry per exit, comma-separated: `off`, or `RULE:MARGIN` such as whitened:3.5 or class-means:always
    #[arg(long, value_name = "LIST")]
    pub(crate) thresholds: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Every snapshot of a run: when, over whom, and why there is one
    List {
        /// Run id; the newest if none is given
        run: Option<String>,
        #[command(flatten)]
        output: Json,
    },
    /// What differs between two snapshots: nodes, samples, how far class means moved, accuracy at equal cost
    Diff {
        /// Version of the one, as `snapshot list` shows it
        from: u32,
        /// Version of the other
        to: u32,
        /// Run id; the newest if none is given
        #[arg(long)]
        run: Option<String>,
        #[command(flatten)]
        output: Json,
    },
    /// Write class means, spreads, whitened weights and counts as NumPy arrays
    Export {
        /// Run id; the newest if none is given
        run: Option<String>,
        /// File to write (.npz)
        #[arg(long, short, default_value = "snapshot.npz", value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// ONNX file
    pub(crate) model: PathBuf,
    /// Measure the network on this machine and choose this many exits that save most time, as `exits = { auto = N }`
    /// does in a run file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=exeunt_exits::MAX_PLACED as i64))]
    pub(crate) place: Option<u8>,
    /// With --place: what exits catch, from this run of the same network, rather than by depth alone
    #[arg(long, value_name = "RUN", requires = "place")]
    pub(crate) run: Option<String>,
    /// With --run: points of accuracy that an exit may lose on the calibration part
    #[arg(long, value_name = "POINTS", requires = "run", default_value_t = 1.0)]
    pub(crate) max_drop: f64,
    /// With --place: average maps to POOL×POOL; default: as the run's first exit, or 4
    #[arg(long, value_name = "POOL", requires = "place", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) pool: Option<u16>,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Run id; the newest if none is given
    pub(crate) run: Option<String>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub(crate) onnx: PathBuf,
    /// Build in the exits that the policy leaves off as well: no sample leaves there until the model's user lowers
    /// their threshold, but every sample pays for asking
    #[arg(long)]
    pub(crate) all_exits: bool,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// Run file (configs/*.toml)
    #[arg(required_unless_present = "faults")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) faults: FaultsArgs,
    /// Number of nodes
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) nodes: u32,
    /// How samples are dealt out: uniform, dirichlet(ALPHA), by-class(CLASSES PER NODE)
    #[arg(long, default_value = "uniform")]
    pub(crate) partition: String,
    /// Seeds the partition (default 0), or the one simulation with --faults
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Folder of the samples instead of the run file's `data.root`
    #[arg(long, env = "EXEUNT_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Network instead of the one the run file names
    #[arg(long, value_name = "ONNX")]
    pub(crate) network: Option<PathBuf>,
    /// Talk over real QUIC on loopback instead of handing messages over in memory
    #[arg(long)]
    pub(crate) sockets: bool,
    /// Switch every floor off, to compare splits of the same data
    #[arg(long)]
    pub(crate) no_floors: bool,
    /// Average maps to POOL×POOL instead of what the run file says
    #[arg(long, value_name = "POOL")]
    pub(crate) pool: Option<u16>,
    /// Threads to compute with; default: all cores
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    /// Draw the trade-off curve
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct FaultsArgs {
    /// Instead of a run file: made-up federations on a virtual clock, with lost messages, partitions, crashes, torn disks
    /// and jumping clocks; every promise is checked, and what breaks one is shortened
    #[arg(long, conflicts_with_all = ["file", "sockets", "svg"])]
    pub(crate) faults: bool,
    /// With --faults: which seeds, FIRST..END; without END, until --for is over. Default 0..1000
    #[arg(long, requires = "faults", value_name = "A..B", conflicts_with = "seed")]
    pub(crate) seeds: Option<Seeds>,
    /// With --faults: end after this time: seconds, or 3m, 2h
    #[arg(long = "for", requires = "faults", value_name = "TIME", value_parser = duration)]
    pub(crate) limit: Option<std::time::Duration>,
    /// With --faults: print what happened, event by event: of one seed, or of what broke a promise
    #[arg(long, requires = "faults")]
    pub(crate) trace: bool,
}

/// A range of seeds, `A..B` or `A..`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seeds {
    pub(crate) first: u64,
    pub(crate) end: Option<u64>,
}

impl std::str::FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("'{text}' is no range of seeds: expected FIRST..END or FIRST.., such as 0..1000");
        let number = |text: &str| text.parse::<u64>().map_err(|_error| wrong());
        let (first, end) = text.split_once("..").ok_or_else(wrong)?;
        let first = number(first)?;
        let end = if end.is_empty() { None } else { Some(number(end)?) };
        if end.is_some_and(|end| end <= first) { Err(wrong()) } else { Ok(Self { first, end }) }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// In the terminal, without a window; so also with --json or --svg, and where there is no display
    #[arg(long)]
    pub(crate) headless: bool,
    /// Number of node processes
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) nodes: u32,
    /// Draw the trade-off curve
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Json,
}

impl DemoArgs {
    /// Whether it is for somebody who looks: a script wants the terminal.
    pub(crate) fn wants_window(&self) -> bool {
        !self.headless && !self.output.json && self.svg.is_none()
    }
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Json {
    /// One JSON document on stdout instead of a table (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,
}

/// `90`, `90s`, `15m`, `2h`, `7d`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong =
        || format!("'{text}' is not a time: expected a number with s, m, h or d behind it, such as 2h");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_error| wrong())?;
    let unit = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number.checked_mul(unit).filter(|s| (1..=31_536_000).contains(s));
    seconds
        .map(std::time::Duration::from_secs)
        .ok_or_else(|| format!("'{text}': expected 1 second to 365 days"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn seeds_are_read_and_nonsense_is_refused() {
        assert_eq!("3..9".parse(), Ok(Seeds { first: 3, end: Some(9) }));
        assert_eq!("3..".parse(), Ok(Seeds { first: 3, end: None }));
        assert!("3".parse::<Seeds>().is_err() && "9..3".parse::<Seeds>().is_err());
        assert!("..3".parse::<Seeds>().is_err() && "a..b".parse::<Seeds>().is_err());
    }

    #[test]
    fn times_are_read_and_nonsense_is_refused() {
        assert_eq!(duration("2h").map(|d| d.as_secs()), Ok(7200));
        assert_eq!(duration("45").map(|d| d.as_secs()), Ok(45));
        assert!(duration("h").is_err() && duration("3w").is_err() && duration("0s").is_err());
        assert!(duration("99999999999999d").is_err());
    }
}
