//! A broker with access rules.

use busrt::broker::{AccessList, Broker, ClientAccess, Options};
use busrt::client::{Client, Config};
use busrt::{ErrorKind, QoS};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("/tmp/busrt.sock".into());
    let broker = Broker::new(Options::default());
    // Clients that the list does not name are refused. A rule covers the secondaries of its client.
    let pump = ClientAccess::none().publications(["plant/pump/#"]).messages(["plant.control"]);
    let control = ClientAccess::all().hosts(["127.0.0.0/8".parse()?, "10.1.0.0/16".parse()?]);
    let rules = AccessList::new().client("plant.pump", pump).client("plant.control", control);
    broker.set_access(Some(rules.clone())).await;
    broker.listen(&address).await?;

    let pump = Client::connect(&Config::new(&address, "plant.pump")).await?;
    pump.publish("plant/pump/state", "running", QoS::Processed).await?;
    let denied = pump.subscribe("plant/#", QoS::Processed).await;
    println!("the pump subscribes: {:?}", denied.map_err(|e| e.kind()));
    let unknown = Client::connect(&Config::new(&address, "plant.unknown")).await;
    assert!(matches!(unknown, Err(e) if e.kind() == ErrorKind::AccessDenied));

    // New rules apply to connected clients too.
    let reader = ClientAccess::none().subscriptions(["plant/#"]);
    broker.set_access(Some(rules.client("plant.pump", reader))).await;
    println!("the pump subscribes: {:?}", pump.subscribe("plant/#", QoS::Processed).await);
    let denied = pump.publish("plant/pump/state", "stopped", QoS::Processed).await;
    println!("the pump publishes: {:?}", denied.map_err(|e| e.kind()));
    broker.shutdown().await;
    Ok(())
}
