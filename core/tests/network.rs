//! A network, between two network namespaces, that fails silently. Creating namespaces needs privileges; without
//! them, the test prints a message and is skipped.
#![cfg(all(target_os = "linux", feature = "server", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::QoS;
use busrt::client::{Client, Config, Event, Reconnect};
use common::{PATIENCE, next};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A namespace with a cable to it. Both are removed when the value is dropped.
struct Net {
    namespace: String,
    cable: String,
    inside: String,
}

fn ip(line: &str) -> Result<(), String> {
    let output = Command::new("ip").args(line.split(' ')).output().map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

impl Net {
    fn make() -> Result<Net, String> {
        let id = std::process::id();
        let (subnet, last) = (id / 60 % 250, id % 60 * 4);
        let net = Net {
            namespace: format!("busrt{id}"),
            cable: format!("bus{id}"),
            inside: format!("10.213.{subnet}.{}", last + 2),
        };
        let Net { namespace, cable, inside } = &net;
        ip(&format!("netns add {namespace}"))?;
        ip(&format!("link add {cable} type veth peer name {cable}b"))?;
        ip(&format!("link set {cable}b netns {namespace}"))?;
        ip(&format!("addr add 10.213.{subnet}.{}/30 dev {cable}", last + 1))?;
        ip(&format!("link set {cable} up"))?;
        ip(&format!("-n {namespace} addr add {inside}/30 dev {cable}b"))?;
        ip(&format!("-n {namespace} link set {cable}b up"))?;
        Ok(net)
    }

    fn plug(&self, state: &str) {
        ip(&format!("-n {} link set {}b {state}", self.namespace, self.cable)).unwrap();
    }

    fn start(&self, program: &str, args: &[&str]) -> Killed {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]).args(args);
        Killed(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // Errors mean that the interface or the namespace was never created.
        let _ = ip(&format!("link del {}", self.cable));
        let _ = ip(&format!("netns del {}", self.namespace));
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_fails_silently() {
    let net = match Net::make() {
        Ok(net) => net,
        Err(why) => return eprintln!("SKIPPED: no network namespaces here: {why}"),
    };
    let address = format!("{}:9924", net.inside);
    let busrtd = env!("CARGO_BIN_EXE_busrtd");
    let _broker = net.start(busrtd, &["-B", &address, "-t", "1"]);
    let reconnect = Reconnect::new().delays(Duration::from_millis(10), Duration::from_millis(200));
    let config =
        Config::new(&address, "a").timeout(Duration::from_secs(1)).silence(Duration::from_millis(800));
    let config = config.ping_interval(Duration::from_millis(200)).reconnect(reconnect);
    let started = std::time::Instant::now();
    let client = loop {
        match Client::connect(&config).await {
            Ok(client) => break client,
            Err(e) => assert!(started.elapsed() < PATIENCE, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let mut frames = client.frames().unwrap();
    let mut events = client.events();
    client.subscribe("t", QoS::Processed).await.unwrap();
    assert_eq!(events.recv().await, Some(Event::Connected));
    net.plug("down");
    let ended = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap();
    assert!(matches!(ended, Some(Event::Disconnected { .. })), "{ended:?}");
    net.plug("up");
    // The broker may still hold the dead connection, and with it the name.
    let back = async { while events.recv().await.unwrap() != Event::Connected {} };
    tokio::time::timeout(PATIENCE, back).await.unwrap();
    client.publish("t", "x", QoS::Processed).await.unwrap();
    assert_eq!(next(&mut frames).await.topic(), Some("t"));
}
