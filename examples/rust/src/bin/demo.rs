//! A broker and a few clients that use every feature once, and print what they do.

use busrt::broker::{Broker, Options};
use busrt::client::{Client, Config, Frames};
use busrt::cursor::{self, CursorMap};
use busrt::rpc::{Call, Handlers, Notification, Rpc, RpcError};
use busrt::{Frame, QoS};
use bytes::Bytes;
use std::error::Error;
use std::time::Duration;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn say(who: &str, what: impl std::fmt::Display) {
    println!("  {who:<18} {what}");
}

fn chapter(title: &str) {
    println!("\n{title}");
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

async fn hear(name: &str, frames: &mut Frames) -> Result<Frame> {
    let frame =
        tokio::time::timeout(Duration::from_secs(10), frames.recv()).await?.ok_or("the connection ended")?;
    let topic = frame.topic().map(|topic| format!(" {topic}")).unwrap_or_default();
    say(name, format!("<- {:?}{topic} from {}: {}", frame.kind(), frame.sender(), text(frame.payload())));
    Ok(frame)
}

/// Serves calls of the demonstration.
struct Plant {
    cursors: CursorMap,
}

fn pack(value: impl serde::Serialize) -> std::result::Result<Bytes, RpcError> {
    rmp_serde::to_vec(&value).map(Bytes::from).map_err(|e| RpcError::internal(e.to_string()))
}

impl Handlers for Plant {
    async fn on_call(&self, call: Call) -> std::result::Result<Bytes, RpcError> {
        if let Some(answer) = self.cursors.handle(call.method(), call.params()).await {
            return answer;
        }
        say(
            "plant.rpc",
            format!("<- call {}({}) from {}", call.method(), text(call.params()), call.sender()),
        );
        match call.method() {
            "upper" => Ok(text(call.params()).to_uppercase().into()),
            "history" => {
                let rows = ["valve opened", "pump started", "tank full"].into_iter().map(pack);
                let rows = rows.collect::<std::result::Result<Vec<_>, _>>()?;
                Ok(CursorMap::reply(self.cursors.add(cursor::from_iter(rows))))
            }
            _ => Err(RpcError::method_not_found()),
        }
    }

    async fn on_notification(&self, notification: Notification) {
        say(
            "plant.rpc",
            format!("<- notification from {}: {}", notification.sender(), text(notification.payload())),
        );
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let path = std::env::temp_dir().join(format!("busrt-demo-{}.sock", std::process::id()));
    let address = path.display().to_string();
    let broker = Broker::new(Options::default());
    broker.listen(&address).await?;
    println!("A broker listens on {address}.");
    let outcome = converse(&broker, &address).await;
    broker.shutdown().await;
    outcome?;
    println!("\nThe broker has shut down. That was everything.");
    Ok(())
}

async fn converse(broker: &Broker, address: &str) -> Result<()> {
    let connect = async |name: &str| Client::connect(&Config::new(address, name)).await;
    let operator = connect("operator").await?;
    let pump = connect("plant.pump").await?;
    // This client lives in the broker's process: it has no socket, but the same type.
    let valve = broker.client("plant.valve").await?;
    let (mut operator_frames, mut pump_frames, mut valve_frames) =
        (operator.frames()?, pump.frames()?, valve.frames()?);

    chapter("One to one: a message, acknowledged by the broker");
    say("operator", "-> plant.pump: start");
    operator.send("plant.pump", "start", QoS::Processed).await?;
    hear("plant.pump", &mut pump_frames).await?;
    say("operator", "-> plant.turbine: start");
    if let Err(e) = operator.send("plant.turbine", "start", QoS::Processed).await {
        say("operator", format!("!! {e}"));
    }

    chapter("One to many: a broadcast to all names that match plant.*");
    say("operator", "-> plant.*: attention");
    operator.broadcast("plant.*", "attention", QoS::Processed).await?;
    hear("plant.pump", &mut pump_frames).await?;
    hear("plant.valve", &mut valve_frames).await?;

    chapter("Publish and subscribe, with wildcards and exclusions");
    operator.subscribe(["plant/+/state", "alarm/#"].as_slice(), QoS::Processed).await?;
    operator.exclude("alarm/test", QoS::Processed).await?;
    say("operator", "subscribed to plant/+/state and alarm/#, but not alarm/test");
    for (topic, payload) in
        [("plant/pump/state", "running"), ("alarm/test", "ignore me"), ("alarm/pump/hot", "95 °C")]
    {
        say("plant.pump", format!("-> {topic}: {payload}"));
        pump.publish(topic, payload, QoS::Processed).await?;
    }
    hear("operator", &mut operator_frames).await?;
    hear("operator", &mut operator_frames).await?;

    chapter("RPC: calls, errors, notifications");
    let cursors = CursorMap::new(Duration::from_secs(30));
    let _server = Rpc::new(connect("plant.rpc").await?, Plant { cursors });
    let rpc = Rpc::new(connect("operator.rpc").await?, ());
    let reply = rpc.call("plant.rpc", "upper", "all good", QoS::Processed).await?;
    say("operator.rpc", format!("<- reply: {}", text(reply.payload())));
    if let Err(e) = rpc.call("plant.rpc", "explode", "", QoS::Processed).await {
        say("operator.rpc", format!("!! {e}"));
    }
    rpc.notify("plant.rpc", "shift ends", QoS::Processed).await?;
    let reply = rpc.call(".broker", "client.list", "", QoS::Processed).await?;
    let list: busrt::broker::ClientList = rmp_serde::from_slice(reply.payload())?;
    let names: Vec<_> = list.clients.iter().map(|client| client.name.as_str()).collect();
    say("operator.rpc", format!("<- .broker knows {}", names.join(", ")));

    chapter("A cursor: a long result, item by item");
    let mut rows = rpc.cursor("plant.rpc", "history", "").await?;
    while let Some(row) = rows.next().await? {
        let row: String = rmp_serde::from_slice(&row)?;
        say("operator.rpc", format!("<- next: {row}"));
    }
    say("operator.rpc", "<- the end");
    Ok(())
}
