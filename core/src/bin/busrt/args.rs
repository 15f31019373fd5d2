//! The command line of `busrt`.

use crate::failure::Failure;
use crate::stage::StageKind;
use busrt::transport::Address;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::ffi::OsString;
use std::time::Duration;

/// The client for BUS/RT, a message bus for the programs on one machine and its local network.
///
/// Received payloads are shown as text, JSON or MessagePack if they have that format, otherwise as hex. An error is
/// one line on the standard error output. The exit code is 1 after an error, and 2 if the command line is invalid.
#[derive(Debug, Parser)]
#[command(name = "busrt", bin_name = "busrt ADDRESS", version, override_usage = USAGE, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Args {
    /// Address of the broker: the path of a UNIX socket, or host:port
    #[arg(value_name = "ADDRESS", required_unless_present = "completions", value_parser = address)]
    address: Option<String>,

    #[command(subcommand)]
    command: Option<Command>,

    /// Name to register [default: cli.HOST.PID]
    #[arg(short = 'n', long, value_name = "NAME", global = true, help_heading = "Connection")]
    name: Option<String>,

    /// Seconds to wait for the broker and for replies; may have a fraction
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds, global = true, help_heading = "Connection")]
    pub(crate) timeout: Duration,

    /// Maximum number of bytes that one read takes from the socket [default: 65536]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(256..=1 << 30), global = true, help_heading = "Connection")]
    pub(crate) buf_size: Option<u32>,

    /// Microseconds to poll for an answer before sleeping, at most 1000; 0: never poll [default: 0]
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u64).range(..=1000), global = true, help_heading = "Connection")]
    pub(crate) busy_poll: Option<u64>,

    /// Number of sent frames that may wait for the socket [default: 8192]
    #[arg(long, value_name = "FRAMES", value_parser = clap::value_parser!(u32).range(1..), global = true, help_heading = "Connection")]
    pub(crate) queue_size: Option<u32>,

    /// Print only payloads: JSON in compact form, bytes unchanged; log nothing
    #[arg(short = 's', long, global = true, help_heading = "Output")]
    pub(crate) silent: bool,

    /// Print JSON: one document per command, or one per line and received frame
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) json: bool,

    /// Log everything to the standard error output
    #[arg(short = 'v', long, global = true, help_heading = "Output")]
    pub(crate) verbose: bool,

    /// Print a completion script for this shell and exit
    #[arg(long, value_name = "SHELL", help_heading = "Other")]
    pub(crate) completions: Option<Shell>,
}

const USAGE: &str = "\
busrt ADDRESS [OPTIONS] COMMAND
       busrt --completions SHELL";

const EXAMPLES: &str = "\
Examples:
  busrt /tmp/busrt.sock broker client.list                      who is on the bus
  busrt /tmp/busrt.sock listen -t 'plant/#'                     watch topics
  busrt /tmp/busrt.sock publish plant/temperature 21.5
  busrt /tmp/busrt.sock send plant.logger hello                 to one client
  busrt /tmp/busrt.sock send 'plant.*' hello                    to all that match
  busrt localhost:9924 rpc call plant.db get id=5 deep=true     call a method
  busrt localhost:9924 -s rpc call plant.db dump > dump.bin     the result alone, as it is
  busrt localhost:9924 --json listen -t '#' | jq .topic         for programs
  busrt /tmp/busrt.sock benchmark -w 4 -i 100000                how fast it is here";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Query the broker
    #[command(subcommand)]
    Broker(BrokerCommand),

    /// Show received frames: messages, broadcasts, and publications on the given topics
    ///
    /// Runs until Ctrl-C, and fails when the connection ends.
    #[command(after_help = LISTEN_EXAMPLES)]
    Listen(Topics),

    /// Send a message to one client, or a broadcast to several
    #[command(after_help = SEND_EXAMPLES)]
    Send(Message),

    /// Publish to all clients that are subscribed to a topic
    #[command(after_help = PUBLISH_EXAMPLES)]
    Publish(Publication),

    /// Call methods of other clients, or show received calls
    #[command(subcommand)]
    Rpc(RpcCommand),

    /// Measure throughput and latency of the broker
    ///
    /// Without --rate, it runs a closed loop: each worker begins its next operation when the last one is complete.
    /// This measures the maximum throughput. With --rate, it runs an open loop: messages are due at fixed times,
    /// independent of the broker, and their latency counts from these times. This measures the latency under that
    /// load.
    ///
    /// In a closed loop, only one in seven operations without an acknowledgement is timed, because reading the clock
    /// would be a large part of their cost. All other operations are timed.
    ///
    /// Each worker has its own client, named after --name: NAME-1 and so on. In an open loop this client sends, and
    /// NAME-1-r receives.
    #[command(after_help = BENCHMARK_EXAMPLES)]
    Benchmark(Load),
}

const LISTEN_EXAMPLES: &str = "\
Topics: + is any one level, # at the end one level or more.

Examples:
  busrt /tmp/busrt.sock listen -t 'plant/#' '+/state' --exclude 'plant/debug/#'
  busrt /tmp/busrt.sock -n me listen                    only what is sent to this client by name";

const SEND_EXAMPLES: &str = "\
Examples:
  busrt /tmp/busrt.sock send plant.logger 'hello there'
  busrt /tmp/busrt.sock send 'plant.?.state' ping       ? is any one part of a name, * one or more
  busrt /tmp/busrt.sock send plant.camera < image.png";

const PUBLISH_EXAMPLES: &str = "\
Examples:
  busrt /tmp/busrt.sock publish plant/temperature 21.5
  echo '{\"on\": true}' | busrt /tmp/busrt.sock publish plant/state";

const BENCHMARK_EXAMPLES: &str = "\
Examples:
  busrt /tmp/busrt.sock benchmark -w 4 -i 100000        every stage, one after another
  busrt /tmp/busrt.sock benchmark --rate 10000          latency at 10,000 messages a second";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(crate) enum BrokerCommand {
    /// List all clients except this one
    #[command(name = "client.list")]
    ClientList {
        /// Order of the clients
        #[arg(long, value_name = "COLUMN", default_value = "name")]
        sort: Sort,
    },
    /// Show author and version
    Info,
    /// Show the counters since the start
    Stats,
    /// Check that the broker answers
    Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// By name
    Name,
    /// Most frames sent to the broker first
    Sent,
    /// Most frames received from the broker first
    Received,
    /// Longest queue first
    Queue,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Topics {
    /// Topics to subscribe to, as masks
    #[arg(short = 't', long = "topics", alias = "topic", value_name = "TOPIC", num_args = 1..)]
    pub(crate) topics: Vec<String>,

    /// Topics to exclude from these, as masks
    #[arg(long, value_name = "TOPIC", num_args = 1..)]
    pub(crate) exclude: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Message {
    /// Name of the client; with * or ? it is a mask, and a broadcast is sent
    pub(crate) target: String,

    /// Payload; read from the standard input if it is left out
    #[arg(allow_negative_numbers = true)]
    pub(crate) payload: Option<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Publication {
    /// Topic of the publication
    pub(crate) topic: String,

    /// Payload; read from the standard input if it is left out
    #[arg(allow_negative_numbers = true)]
    pub(crate) payload: Option<OsString>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RpcCommand {
    /// Show received calls, notifications and frames; calls are answered with an empty result
    ///
    /// Runs until Ctrl-C, and fails when the connection ends.
    Listen(Topics),
    /// Send a notification
    Notify(Notification),
    /// Call a method without waiting for a reply
    Call0(Call),
    /// Call a method and show its result
    #[command(after_help = CALL_EXAMPLES)]
    Call(Call),
}

const CALL_EXAMPLES: &str = "\
Examples:
  busrt /tmp/busrt.sock rpc call .broker test
  busrt /tmp/busrt.sock rpc call plant.db get id=5 deep=true name='a b'
  busrt /tmp/busrt.sock -s rpc call plant.db restore - < dump.bin > answer.bin";

#[derive(Debug, clap::Args)]
pub(crate) struct Notification {
    /// Name of the client
    pub(crate) target: String,

    /// Payload; read from the standard input if it is left out
    #[arg(allow_negative_numbers = true)]
    pub(crate) payload: Option<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Call {
    /// Name of the client
    pub(crate) target: String,

    /// Name of the method
    pub(crate) method: String,

    /// Parameters as key=value words, sent as a MessagePack map: true, false and numbers get these types, all other
    /// values are text. A single - sends the content of the standard input unchanged. Without words, the parameters
    /// are empty
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) params: Vec<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Load {
    /// Number of clients that work at the same time
    #[arg(short = 'w', long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) workers: u32,

    /// Length of payloads in bytes; timed payloads of 8 bytes or more carry the time of sending
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = clap::value_parser!(u32).range(0..=1 << 30))]
    pub(crate) payload_size: u32,

    /// Number of operations per stage, of all workers together [default: 1000000; with --rate: the messages of 10
    /// seconds]
    #[arg(short = 'i', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    iters: Option<u64>,

    /// Run only these stages, in the order of this list [default: all]
    #[arg(long, value_name = "STAGE,...", value_delimiter = ',', conflicts_with = "rate")]
    pub(crate) stages: Vec<StageKind>,

    /// Messages per second, of all workers together: measure only the latency at this rate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000), help_heading = "Open loop")]
    pub(crate) rate: Option<u64>,

    /// Seconds for which messages are sent at the rate [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "rate", conflicts_with = "iters", help_heading = "Open loop")]
    seconds: Option<Duration>,

    /// Operation and QoS of a message, which also determine the end of its latency
    #[arg(
        long,
        value_name = "QOS",
        default_value = "realtime",
        requires = "rate",
        help_heading = "Open loop"
    )]
    pub(crate) qos: OpenQos,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OpenQos {
    /// Not acknowledged: latency until the receiver gets the message
    Realtime,
    /// Latency until the broker's acknowledgement
    Processed,
}

impl OpenQos {
    pub(crate) fn name(self) -> &'static str {
        match self {
            OpenQos::Realtime => "realtime",
            OpenQos::Processed => "processed",
        }
    }
}

impl Load {
    /// Returns the operations per stage of a closed loop.
    pub(crate) fn iters(&self) -> u64 {
        self.iters.unwrap_or(1_000_000)
    }

    /// Returns the messages of an open loop of that rate.
    pub(crate) fn messages(&self, rate: u64) -> u64 {
        let seconds = self.seconds.unwrap_or(Duration::from_secs(10)).as_secs_f64();
        self.iters.unwrap_or((seconds * rate as f64).round() as u64).max(1)
    }
}

impl Args {
    /// Returns the command.
    pub(crate) fn what(&self) -> Result<&Command, Failure> {
        self.command.as_ref().ok_or_else(|| {
            usage(
                ErrorKind::MissingSubcommand,
                "a command is missing: broker, listen, send, publish, rpc or benchmark",
            )
        })
    }

    /// Returns the address of the broker.
    pub(crate) fn address(&self) -> &str {
        self.address.as_deref().unwrap_or_default()
    }

    /// Returns the name to register.
    pub(crate) fn name(&self) -> String {
        let default =
            || format!("cli.{}.{}", gethostname::gethostname().to_string_lossy(), std::process::id());
        self.name.clone().unwrap_or_else(default)
    }
}

/// Returns the failure for an invalid command line that the parser accepts.
pub(crate) fn usage(kind: ErrorKind, what: &str) -> Failure {
    Failure::Usage(Args::command().error(kind, what))
}

fn address(text: &str) -> Result<String, String> {
    text.parse::<Address>().map(|_| text.to_owned()).map_err(|e| e.context().to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.parse().map_err(|_| "expected a number of seconds, such as 5 or 0.5".to_owned())?;
    if seconds < 0.001 {
        return Err("at least 0.001 s".into());
    }
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn accepts_the_options_of_existing_scripts() {
        let args =
            parse("busrt /b.sock -n me --buf-size 8192 --queue-size 7 --timeout 0.5 -v -s listen -t a b -t c --exclude d e")
                .unwrap();
        assert_eq!(
            (args.address(), args.name().as_str(), args.timeout),
            ("/b.sock", "me", Duration::from_millis(500))
        );
        assert_eq!(
            (args.buf_size, args.queue_size, args.verbose, args.silent),
            (Some(8192), Some(7), true, true)
        );
        let Ok(Command::Listen(what)) = args.what() else { panic!() };
        assert_eq!(
            (&what.topics[..], &what.exclude[..]),
            (&["a", "b", "c"].map(String::from)[..], &["d", "e"].map(String::from)[..])
        );

        let args = parse("busrt localhost:1 rpc call t m a=1 --json b=x=y").unwrap();
        let Ok(Command::Rpc(RpcCommand::Call(call))) = args.what() else { panic!() };
        assert_eq!((&*call.target, &*call.method, args.json), ("t", "m", true));
        assert_eq!(call.params, ["a=1", "b=x=y"]);

        let args = parse("busrt localhost:1 benchmark").unwrap();
        let Ok(Command::Benchmark(load)) = args.what() else { panic!() };
        assert_eq!((load.workers, load.payload_size, load.iters()), (1, 100, 1_000_000));
        for (line, messages) in [("", 20_000), ("--seconds 0.5", 1000), ("-i 7", 7), ("--seconds 0.001", 2)] {
            let args = parse(&format!("busrt localhost:1 benchmark --rate 2000 {line}")).unwrap();
            let Ok(Command::Benchmark(load)) = args.what() else { panic!() };
            assert_eq!((load.rate, load.qos, load.messages(2000)), (Some(2000), OpenQos::Realtime, messages));
        }

        for line in [
            "broker client.list",
            "broker info",
            "rpc call0 t m -",
            "send t -5",
            "publish t",
            "rpc listen -t x",
        ] {
            parse(&format!("busrt /b.sock {line}")).unwrap();
        }
        assert!(parse("busrt --completions bash").is_ok());
    }

    #[test]
    fn the_name_is_of_this_process() {
        let name = parse("busrt /b.sock listen").unwrap().name();
        assert!(name.starts_with("cli.") && name.ends_with(&format!(".{}", std::process::id())), "{name}");
    }

    #[test]
    fn refuses_nonsense() {
        for line in [
            "",
            "listen",
            "nowhere listen",
            "/b listen x",
            "/b send",
            "/b rpc call t",
            "/b --timeout 0 listen",
            "/b benchmark -w 0",
            "/b benchmark -i 0",
            "/b benchmark --rate 0",
            "/b benchmark --seconds 1",
            "/b benchmark --qos processed",
            "/b benchmark --rate 1 --qos no",
            "/b benchmark --rate 1 --seconds 1 -i 1",
            "/b broker",
            "/b frobnicate",
            "--completions tcsh",
        ] {
            assert!(parse(&format!("busrt {line}")).is_err(), "{line}");
        }
        assert!(parse("busrt /b.sock").unwrap().what().is_err());
    }
}
