//! `broker`: queries about the broker.

use crate::args::{Args, BrokerCommand, Sort};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::payload::{AsJson, unpack};
use crate::table::Item;
use busrt::QoS;
use busrt::proto::op::BROKER_NAME;
use busrt::rpc::Caller;
use rmpv::Value;
use std::cmp::Reverse;

/// No header: the table has names on the left and values on the right.
const NO_HEADER: [&str; 0] = [];

pub(crate) async fn run(args: &Args, command: &BrokerCommand, out: &mut Output) -> Result<()> {
    let method = match command {
        BrokerCommand::ClientList { .. } => "client.list",
        BrokerCommand::Info => "info",
        BrokerCommand::Stats => "stats",
        BrokerCommand::Test => "test",
    };
    let client = crate::connection::connect(args).await?;
    let reply = Caller::new(client.clone()).call(BROKER_NAME, method, "", QoS::Processed).await?;
    client.disconnect().await;
    let unreadable = || Failure::Other(format!("the broker's answer to {method} is invalid"));
    let answer = unpack(reply.payload()).ok_or_else(unreadable)?;
    match command {
        BrokerCommand::ClientList { sort } => {
            let clients = clients(answer, client.name(), *sort).ok_or_else(unreadable)?;
            show_clients(clients, out)
        }
        BrokerCommand::Test => match get(&answer, "ok") {
            Some(Value::Boolean(true)) if out.is_for_people() => out.done(),
            Some(Value::Boolean(true)) => out.result(&AsJson(&answer), &NO_HEADER, Vec::new),
            _ => Err(Failure::Other("the broker reports a failure".into())),
        },
        BrokerCommand::Info | BrokerCommand::Stats => {
            let pairs = answer.as_map().ok_or_else(unreadable)?;
            out.result(&AsJson(&answer), &NO_HEADER, || {
                pairs.iter().map(|(key, value)| row(key, value)).collect()
            })
        }
    }
}

fn row(key: &Value, value: &Value) -> Vec<Item> {
    let mut row = vec![Item::value(key), Item::value(value)];
    if let (Some("uptime"), Some(seconds)) = (key.as_str(), value.as_u64()) {
        row.push(Item::text(duration(seconds)));
    }
    row
}

/// Formats a number of seconds for people.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h {minutes} min"),
    }
}

fn get<'a>(map: &'a Value, key: &str) -> Option<&'a Value> {
    map.as_map()?.iter().find(|(k, _)| k.as_str() == Some(key)).map(|(_, value)| value)
}

/// Returns the clients in the answer except the one of that name; `None` if the answer is invalid.
fn clients(answer: Value, own: &str, sort: Sort) -> Option<Vec<Value>> {
    let Value::Map(pairs) = answer else { return None };
    let list =
        pairs.into_iter().find_map(|(key, value)| (key.as_str() == Some("clients")).then_some(value))?;
    let Value::Array(mut clients) = list else { return None };
    if !clients.iter().all(Value::is_map) {
        return None;
    }
    let name = |client: &Value| get(client, "name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let count = |client: &Value, key| Reverse(get(client, key).and_then(Value::as_u64));
    clients.retain(|client| name(client) != own);
    clients.sort_by_key(name);
    // The frames that the broker reads are those that a client sends.
    match sort {
        Sort::Name => {}
        Sort::Sent => clients.sort_by_key(|client| count(client, "r_frames")),
        Sort::Received => clients.sort_by_key(|client| count(client, "w_frames")),
        Sort::Queue => clients.sort_by_key(|client| count(client, "queue")),
    }
    Some(clients)
}

/// Shows the clients. Every field is a column, since brokers may send more fields than this program knows.
fn show_clients(clients: Vec<Value>, out: &mut Output) -> Result<()> {
    let mut columns: Vec<String> = vec![];
    for (key, _) in clients.iter().filter_map(Value::as_map).flatten() {
        if let Some(key) = key.as_str().filter(|key| !columns.iter().any(|column| column == key)) {
            columns.push(key.to_owned());
        }
    }
    columns.sort_by_key(|column| column != "name");
    let rows = |clients: &[Value]| {
        let cell = |client, column| Item::value(get(client, column).unwrap_or(&Value::Nil));
        clients.iter().map(|client| columns.iter().map(|column| cell(client, column)).collect()).collect()
    };
    let list = Value::Map(vec![("clients".into(), Value::Array(clients))]);
    let all = get(&list, "clients").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let titles: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
    out.result(&AsJson(&list), &titles, || rows(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str, sent: u64) -> Value {
        Value::Map(vec![("name".into(), name.into()), ("r_frames".into(), sent.into())])
    }

    #[test]
    fn lists_others_in_order() {
        let list = || {
            Value::Map(vec![(
                "clients".into(),
                Value::Array(vec![client("b", 1), client("me", 0), client("a", 9)]),
            )])
        };
        assert_eq!(clients(list(), "me", Sort::Name).unwrap(), [client("a", 9), client("b", 1)]);
        assert_eq!(clients(list(), "a", Sort::Sent).unwrap(), [client("b", 1), client("me", 0)]);
        assert!(clients(Value::Nil, "me", Sort::Name).is_none());
        assert!(clients(Value::Map(vec![("clients".into(), 5.into())]), "me", Sort::Name).is_none());
    }

    #[test]
    fn durations() {
        for (seconds, text) in [(5, "5 s"), (65, "1 min 5 s"), (3700, "1 h 1 min"), (90_000, "1 d 1 h 0 min")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
