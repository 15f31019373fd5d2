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
/// Payloads that arrive are shown as text, JSON or MessagePack when they are that, else as hex. Errors
/// are one line on the standard error output; the exit code is 1 then, and 2 when the command line is
/// wrong.
#[derive(Debug, Parser)]
#[command(name = "busrt", bin_name = "busrt ADDRESS", version, override_usage = USAGE, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Args {
    /// The broker: a socket's path, or host:port
    #[arg(value_name = "ADDRESS", required_unless_present = "completions", value_parser = address)]
    address: Option<String>,

    #[command(subcommand)]
    command: Option<Command>,

    /// The name to register [default: cli.HOST.PID]
    #[arg(short = 'n', long, value_name = "NAME", global = true, help_heading = "Connection")]
    name: Option<String>,

    /// Seconds to wait for the broker and for replies; fractions are fine
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds, global = true, help_heading = "Connection")]
    pub(crate) timeout: Duration,

    /// The bytes that one read takes from the socket at most [default: 65536]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(256..=1 << 30), global = true, help_heading = "Connection")]
    pub(crate) buf_size: Option<u32>,

    /// How long to poll for an answer before sleeping, at most 1000; 0: never [default: 0]
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u64).range(..=1000), global = true, help_heading = "Connection")]
    pub(crate) busy_poll: Option<u64>,

    /// Sent frames that may wait for the socket [default: 8192]
    #[arg(long, value_name = "FRAMES", value_parser = clap::value_parser!(u32).range(1..), global = true, help_heading = "Connection")]
    pub(crate) queue_size: Option<u32>,

    /// Print payloads alone: JSON compact, bytes raw; log nothing
    #[arg(short = 's', long, global = true, help_heading = "Output")]
    pub(crate) silent: bool,

    /// Print JSON: one document per command, or one per line for what is listened to
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) json: bool,

    /// Log everything to the standard error output
    #[arg(short = 'v', long, global = true, help_heading = "Output")]
    pub(crate) verbose: bool,

    /// Print a completion script for this shell, and nothing else
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
    /// Ask the broker about itself
    #[command(subcommand)]
    Broker(BrokerCommand),

    /// Show what arrives: messages, broadcasts, and publications of the topics asked for
    ///
    /// Runs until Ctrl-C, and fails when the connection ends.
    #[command(after_help = LISTEN_EXAMPLES)]
    Listen(Topics),

    /// Send a message to one client, or a broadcast to many
    #[command(after_help = SEND_EXAMPLES)]
    Send(Message),

    /// Publish to all clients that are subscribed to a topic
    #[command(after_help = PUBLISH_EXAMPLES)]
    Publish(Publication),

    /// Call methods of other clients, or see what is called
    #[command(subcommand)]
    Rpc(RpcCommand),

    /// Measure throughput and latency of the broker
    ///
    /// Without --rate in a closed loop, where each worker begins its next operation when the last one is
    /// over: how fast it can be. With --rate in an open loop, where messages are due at fixed times
    /// whatever the broker does and their latency counts from then: how long they take under that load.
    ///
    /// In a closed loop, one of seven operations without an acknowledgement is timed: the clock would be a good
    /// part of what they cost. All others are, each of them.
    ///
    /// Each worker has a client of its own, named after --name: NAME-1 and so on; in the open loop that
    /// sends, and NAME-1-r receives.
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
    /// All clients but this one
    #[command(name = "client.list")]
    ClientList {
        /// The order of the clients
        #[arg(long, value_name = "COLUMN", default_value = "name")]
        sort: Sort,
    },
    /// Its author and version
    Info,
    /// Its counters since its start
    Stats,
    /// Checks that it answers
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

    /// Topics to leave out of these, as masks
    #[arg(long, value_name = "TOPIC", num_args = 1..)]
    pub(crate) exclude: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Message {
    /// The client's name; with * or ? it is a mask, and a broadcast is sent
    pub(crate) target: String,

    /// The payload; read from the standard input when left out
    #[arg(allow_negative_numbers = true)]
    pub(crate) payload: Option<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Publication {
    /// The topic
    pub(crate) topic: String,

    /// The payload; read from the standard input when left out
    #[arg(allow_negative_numbers = true)]
    pub(crate) payload: Option<OsString>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RpcCommand {
    /// Show calls, notifications and frames that arrive; calls are answered with nothing
    ///
    /// Runs until Ctrl-C, and fails when the connection ends.
    Listen(Topics),
    /// Send a notification
    Notify(Notification),
    /// Call a method and wait for no reply
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
    /// The client's name
    pub(crate) target: String,

    /// The payload; read from the standard input when left out
    #[arg(allow_negative_numbers = true)]
    pub(crate) payload: Option<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Call {
    /// The client's name
    pub(crate) target: String,

    /// The method's name
    pub(crate) method: String,

    /// key=value words, sent as a MessagePack map: true, false and numbers become such, all else is text.
    /// A single - sends what the standard input holds, as it is. Without any, nothing is sent
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) params: Vec<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Load {
    /// Clients that work at the same time
    #[arg(short = 'w', long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) workers: u32,

    /// The length of payloads in bytes; from 8 on those that are timed carry the time they were sent
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = clap::value_parser!(u32).range(0..=1 << 30))]
    pub(crate) payload_size: u32,

    /// Operations per stage, of all workers together [default: 1000000; with --rate as many as are due in
    /// 10 seconds]
    #[arg(short = 'i', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    iters: Option<u64>,

    /// Only these stages, in the order of the list here, whatever the order given [default: all]
    #[arg(long, value_name = "STAGE,...", value_delimiter = ',', conflicts_with = "rate")]
    pub(crate) stages: Vec<StageKind>,

    /// Messages per second, of all workers together: latency is measured at this rate, and nothing else
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000), help_heading = "Open loop")]
    pub(crate) rate: Option<u64>,

    /// How long messages are sent at the rate [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "rate", conflicts_with = "iters", help_heading = "Open loop")]
    seconds: Option<Duration>,

    /// The operation and QoS of a message, and the end of its latency
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
    /// Not acknowledged: to the receiver
    Realtime,
    /// To the broker's acknowledgement
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
    /// Operations per stage of a closed loop.
    pub(crate) fn iters(&self) -> u64 {
        self.iters.unwrap_or(1_000_000)
    }

    /// Messages of an open loop of that rate.
    pub(crate) fn messages(&self, rate: u64) -> u64 {
        let seconds = self.seconds.unwrap_or(Duration::from_secs(10)).as_secs_f64();
        self.iters.unwrap_or((seconds * rate as f64).round() as u64).max(1)
    }
}

impl Args {
    /// The command.
    pub(crate) fn what(&self) -> Result<&Command, Failure> {
        self.command.as_ref().ok_or_else(|| {
            usage(
                ErrorKind::MissingSubcommand,
                "a command is missing: broker, listen, send, publish, rpc or benchmark",
            )
        })
    }

    /// The address of the broker.
    pub(crate) fn address(&self) -> &str {
        self.address.as_deref().unwrap_or_default()
    }

    /// The name to register.
    pub(crate) fn name(&self) -> String {
        let default =
            || format!("cli.{}.{}", gethostname::gethostname().to_string_lossy(), std::process::id());
        self.name.clone().unwrap_or_else(default)
    }
}

/// The command line is wrong in a way that its parser does not see.
pub(crate) fn usage(kind: ErrorKind, what: &str) -> Failure {
    Failure::Usage(Args::command().error(kind, what))
}

fn address(text: &str) -> Result<String, String> {
    text.parse::<Address>().map(|_| text.to_owned()).map_err(|e| e.context().to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.parse().map_err(|_| "a number of seconds is wanted, such as 5 or 0.5".to_owned())?;
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
    fn reads_what_scripts_in_the_field_pass() {
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
