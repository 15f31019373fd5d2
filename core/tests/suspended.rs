//! A client's process that is suspended for a while, as by Ctrl-Z, a debugger, or a closed laptop. The test program
//! starts itself again as that process.
#![cfg(all(target_os = "linux", feature = "server", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::client::{Client, Config, Event, Reconnect, WhileDown};
use busrt::rpc::{Call, Caller, Handlers, Rpc, RpcError};
use busrt::{ErrorKind, QoS};
use bytes::Bytes;
use common::daemon::{Daemon, free_port};
use common::{PATIENCE, eventually};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// The variables that tell this program that it is to be a client, and of which broker.
const ADDRESS: &str = "BUSRT_SUSPENDED_ADDRESS";
const NAME: &str = "BUSRT_SUSPENDED_NAME";
/// The settings of the suspended client. Both together are less than the time for which it is suspended.
const SILENCE: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_secs(1);
const SUSPENDED: Duration = Duration::from_millis(1600);

/// Prints a line for the test. It begins with a mark, because the test runner prints other lines.
fn say(line: &str) {
    println!("\n> {line}");
}

#[tokio::test]
#[ignore = "the process that the others suspend"]
async fn client() {
    let (Ok(address), Ok(name)) = (std::env::var(ADDRESS), std::env::var(NAME)) else { return };
    // It ends with the program that started it.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut vec![]);
        std::process::exit(0);
    });
    let reconnect = Reconnect::new().delays(Duration::from_millis(10), Duration::from_millis(100));
    let config = Config::new(address, name).reconnect(reconnect).silence(SILENCE).timeout(TIMEOUT);
    let client = Client::connect(&config.ping_interval(Duration::from_millis(50))).await.unwrap();
    client
        .on_event(|event| match event {
            Event::Connected => say("connected"),
            Event::Disconnected { .. } => say("disconnected"),
            Event::Reconnecting { .. } => say("reconnecting"),
            event => say(&format!("{event:?}")),
        })
        .detach();
    let mut frames = client.frames().unwrap();
    client.subscribe("news/#", QoS::Processed).await.unwrap();
    client.exclude("news/not", QoS::Processed).await.unwrap();
    say("ready");
    while let Some(frame) = frames.recv().await {
        match (frame.topic(), frame.payload()) {
            (Some(".broker/warn"), _) => {}
            (None, b"ask") => {
                let (caller, asked) = (Caller::new(client.clone()), frame.sender().to_owned());
                tokio::spawn(async move {
                    let reply = caller.call_with_deadline(&asked, "ask", "", QoS::Processed, PATIENCE).await;
                    say(&format!("reply {:?}", reply.map(|reply| reply.payload().to_vec())));
                });
                tokio::spawn(always_ask(client.clone()));
            }
            (topic, payload) => {
                let number = u64::from_le_bytes(*payload.first_chunk().unwrap());
                say(&format!("{} {number}", topic.unwrap_or("message")));
            }
        }
    }
}

/// Always has an operation under way, also at the moment when the process is suspended.
async fn always_ask(client: Client) {
    loop {
        if let Err(e) = client.unsubscribe("nothing", QoS::Processed).await {
            say(&format!("failed: {e}"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The process that is suspended, and the lines that it has printed.
struct Program {
    child: Child,
    name: String,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Program {
    async fn start(address: &str, name: &str) -> Program {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "client", "--ignored", "--nocapture"]).env(ADDRESS, address).env(NAME, name);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (stdout, lines) = (child.stdout.take().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        std::thread::spawn({
            let lines = lines.clone();
            move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    lines.lock().extend(line.strip_prefix("> ").map(str::to_owned));
                }
            }
        });
        let program = Program { child, name: name.to_owned(), lines };
        eventually("it is on the bus", || program.count("ready") == 1).await;
        program
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Suspends it. Returns when all of its threads are stopped.
    async fn suspend(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        let stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        };
        eventually("it stands still", || std::fs::read_dir(&tasks).unwrap().all(stopped)).await;
    }

    fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// How many times it has printed that line.
    fn count(&self, what: &str) -> usize {
        self.lines.lock().iter().filter(|line| *line == what).count()
    }

    /// The numbers of the frames it got, in the order in which it got them.
    fn numbers(&self) -> Vec<u64> {
        let number = |line: &String| line.split_once(' ').and_then(|(_, number)| number.parse().ok());
        self.lines.lock().iter().filter_map(number).collect()
    }

    /// Returns whether it is connected, by the last line about its connection.
    fn is_connected(&self) -> bool {
        let of_connection = |line: &&String| line.ends_with("connect") || line.ends_with("connected");
        self.lines.lock().iter().rev().find(of_connection).is_some_and(|line| line == "connected")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // This ends a suspended process too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers a call only when the test permits it.
struct Gated {
    asked: Arc<Semaphore>,
    gate: Arc<Semaphore>,
}

impl Handlers for Gated {
    async fn on_call(&self, _: Call) -> Result<Bytes, RpcError> {
        self.asked.add_permits(1);
        self.gate.acquire().await.unwrap().forget();
        Ok(Bytes::from_static(b"!"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_suspension_loses_nothing() {
    // More than sockets hold, and less than what makes the broker disconnect it.
    const NUMBERS: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let port = format!("127.0.0.1:{}", free_port());
    let daemon = Daemon::start(&[path.clone(), port.clone()], &["-t", "60"]);
    let programs = [Program::start(&path, "local").await, Program::start(&port, "tcp").await];
    let (asked, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let config = Config::new(&path, "sender").timeout(PATIENCE);
    let handlers = Gated { asked: asked.clone(), gate: gate.clone() };
    let rpc = Rpc::new(Client::connect(&config).await.unwrap(), handlers);
    for program in &programs {
        rpc.client().send(&program.name, "ask", QoS::Processed).await.unwrap();
    }
    asked.acquire_many(2).await.unwrap().forget();
    // They wait for an answer, and probe whether the broker is alive: the answers come while they are suspended.
    daemon.signal(Signal::STOP);
    tokio::time::sleep(SILENCE * 2).await;
    for program in &programs {
        program.suspend().await;
    }
    daemon.signal(Signal::CONT);
    gate.add_permits(2);
    for number in 0..NUMBERS {
        let qos = if number % 2 == 0 { QoS::No } else { QoS::Processed };
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(1000, 7);
        if number % 3 == 0 {
            rpc.client().publish("news/all", payload, qos).await.unwrap();
            continue;
        }
        for program in &programs {
            rpc.client().send(&program.name, payload.clone(), qos).await.unwrap();
        }
    }
    // Longer than a client waits for a silent broker.
    tokio::time::sleep(SUSPENDED).await;
    assert!(programs.iter().all(|program| program.numbers().is_empty()), "it was not suspended");
    for program in &programs {
        program.resume();
    }
    for program in &programs {
        eventually("all of it arrives", || program.numbers().len() as u64 >= NUMBERS).await;
        assert!(program.numbers().into_iter().eq(0..NUMBERS), "{:?}", program.numbers());
        eventually("the call is answered", || program.count("reply Ok([33])") == 1).await;
    }
    // Enough time for it to give the connection up after all.
    tokio::time::sleep(SILENCE + TIMEOUT).await;
    for program in &programs {
        assert_eq!((program.count("connected"), program.count("disconnected")), (1, 0), "{}", program.name);
        let failed = program.lines.lock().iter().find(|line| line.starts_with("failed")).cloned();
        assert_eq!(failed, None, "{}", program.name);
        rpc.client().send(&program.name, NUMBERS.to_le_bytes().to_vec(), QoS::Processed).await.unwrap();
        eventually("it goes on", || program.numbers().last() == Some(&NUMBERS)).await;
    }
}

/// A broker with a short timeout, two programs that are suspended, and a client that is not.
struct Impatient {
    daemon: Daemon,
    path: String,
    programs: [Program; 2],
    sender: Client,
    number: u64,
    _dir: tempfile::TempDir,
}

impl Impatient {
    async fn start() -> Impatient {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        let port = format!("127.0.0.1:{}", free_port());
        let daemon = Daemon::start(&[path.clone(), port.clone()], &["-t", "0.4"]);
        let programs = [Program::start(&path, "local").await, Program::start(&port, "tcp").await];
        let config = Impatient::config(&path, "sender");
        let sender = Client::connect(&config).await.unwrap();
        Impatient { daemon, path, programs, sender, number: 0, _dir: dir }
    }

    /// The configuration of a client that reconnects if it is disconnected too, on a loaded machine.
    fn config(path: &str, name: &str) -> Config {
        let reconnect = Reconnect::new().delays(Duration::from_millis(10), Duration::from_millis(100));
        let config = Config::new(path, name).reconnect(reconnect).while_down(WhileDown::Wait(PATIENCE));
        config.timeout(PATIENCE).ping_interval(Duration::from_millis(50))
    }

    fn next(&mut self) -> Vec<u8> {
        self.number += 1;
        self.number.to_le_bytes().to_vec()
    }

    async fn suspend(&mut self) {
        for program in &self.programs {
            eventually("it is connected", || program.is_connected()).await;
            program.suspend().await;
        }
    }

    /// Waits until the broker has disconnected the suspended programs.
    async fn cut(&mut self) {
        let started = Instant::now();
        for index in 0..self.programs.len() {
            let name = self.programs[index].name.clone();
            loop {
                let payload = self.next();
                let result = self.sender.send(&name, payload, QoS::Processed).await;
                if result.is_err_and(|e| e.kind() == ErrorKind::NotRegistered) {
                    break;
                }
                assert!(started.elapsed() < PATIENCE, "the broker does not cut {name}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Waits until the programs have noticed that, are connected again, and have their subscriptions and exclusions.
    async fn are_back(&mut self) {
        for program in &self.programs {
            eventually("it notices", || program.count("disconnected") > 0).await;
            eventually("it comes back", || program.is_connected()).await;
        }
        let started = Instant::now();
        loop {
            for topic in ["news/not", "news/all"] {
                let payload = self.next();
                // This fails if the client itself was disconnected.
                let _ = self.sender.publish(topic, payload, QoS::Processed).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            let news = format!("news/all {}", self.number);
            if self.programs.iter().all(|program| program.count(&news) == 1) {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "they do not get the news");
        }
        for program in &self.programs {
            let excluded = program.lines.lock().iter().any(|line| line.starts_with("news/not"));
            assert!(!excluded, "{} gets what it excluded", program.name);
            // Frames that were under way when it was disconnected may have come or not.
            let numbers = program.numbers();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{}: {numbers:?}", program.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_long_suspension_it_reconnects() {
    let mut bus = Impatient::start().await;
    for _ in 0..2 {
        bus.suspend().await;
        bus.cut().await;
        bus.programs.iter().for_each(Program::resume);
        bus.are_back().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_is_killed_during_the_suspension() {
    let mut bus = Impatient::start().await;
    bus.suspend().await;
    bus.daemon.kill();
    bus.daemon.restart();
    bus.programs.iter().for_each(Program::resume);
    bus.are_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_client_takes_its_name() {
    let mut bus = Impatient::start().await;
    bus.suspend().await;
    bus.cut().await;
    let mut others = vec![];
    for program in &bus.programs {
        others.push(Client::connect(&Impatient::config(&bus.path, &program.name)).await.unwrap());
    }
    bus.programs.iter().for_each(Program::resume);
    for program in &bus.programs {
        eventually("it tries", || program.count("reconnecting") > 3).await;
        assert!(!program.is_connected());
    }
    for other in others {
        other.disconnect().await;
    }
    bus.are_back().await;
}
