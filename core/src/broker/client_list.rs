//! `client.list`: the clients, optionally those whose name matches a regular expression.
//!
//! Listing many clients, adding up their counters and compiling a filter take long. A dedicated thread does all of
//! this, one request at a time.

use super::core::Core;
use super::counters::{Counters, of_client};
use super::questions::{Failure, Question, Request};
use super::session::{ClientKind, Session};
use super::slow_receiver::ReceiverState;
use super::stats;
use crate::proto::op::BROKER_NAME;
use crate::proto::rpc;
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};

/// Maximum size of a compiled filter, in bytes.
const FILTER_BYTES: usize = 128 * 1024;
/// Maximum memory that matching may use, in bytes.
const MATCH_BYTES: usize = 256 * 1024;
/// Maximum length of a filter, in bytes.
const FILTER_LEN: usize = 1024;
/// Maximum nesting depth of groups in a filter.
const FILTER_NESTING: u32 = 32;
/// Maximum number of compiled filters that are kept.
const FILTERS: usize = 16;

/// The state of a client as a receiver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientState {
    /// The client keeps up, or is slow and makes its senders wait.
    #[default]
    Ok,
    /// The client was slow for longer than the hold time: publications and broadcasts that find its queue full are
    /// dropped.
    Lagging,
    /// The client has read nothing for the stall time: the policy for slow receivers applies.
    Stuck,
}

/// One client in the answer to `client.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    /// Name of the primary client.
    pub name: String,
    /// Kind of connection.
    pub kind: ClientKind,
    /// IP address of the peer; `None` if it is on this machine.
    pub source: Option<String>,
    /// The broker's address that the client connected to, as given to the broker; `None` for in-process clients,
    /// empty for connections that the program attached.
    pub port: Option<String>,
    /// Frames read from the client, without pings.
    pub r_frames: u64,
    /// Bytes of the bodies of these frames.
    pub r_bytes: u64,
    /// Frames queued for the client; an acknowledgement counts as one.
    pub w_frames: u64,
    /// Bytes of the bodies of these frames.
    pub w_bytes: u64,
    /// Frames that are now waiting in its queue.
    pub queue: usize,
    /// Number of instances: 1 plus its secondaries.
    pub instances: usize,
    /// Frames that were dropped because the client did not keep up.
    #[serde(default)]
    pub dropped: u64,
    /// Its state as a receiver.
    #[serde(default)]
    pub state: ClientState,
    /// Number of senders that now wait for the client.
    #[serde(default)]
    pub held_senders: usize,
}

/// The answer to `client.list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientList {
    /// Primary clients, sorted by name.
    pub clients: Vec<ClientInfo>,
}

/// Returns the primary clients whose name `accepts`, with the broker's own client, sorted by name.
pub(super) fn clients(core: &Core, accepts: impl Fn(&str) -> bool) -> ClientList {
    let mut clients: Vec<ClientInfo> = core
        .registry
        .clients()
        .filter(|session| !session.is_secondary() && accepts(session.name()))
        .map(|session| client_info(core, &session))
        .collect();
    if accepts(BROKER_NAME) {
        clients.push(broker_info(core));
    }
    clients.sort_by(|a, b| a.name.cmp(&b.name));
    ClientList { clients }
}

fn client_info(core: &Core, session: &Arc<Session>) -> ClientInfo {
    let Counters { r_frames, r_bytes, w_frames, w_bytes, dropped } = of_client(session);
    ClientInfo {
        name: session.name().to_owned(),
        kind: session.identity.kind,
        source: session.identity.peer.map(|peer| peer.to_string()),
        port: session.identity.port.as_deref().map(str::to_owned),
        r_frames,
        r_bytes,
        w_frames,
        w_bytes,
        queue: session.outbox.load().frames,
        instances: 1 + core.registry.secondaries(session.name()),
        dropped,
        state: match session.outbox.state() {
            ReceiverState::KeepingUp => ClientState::Ok,
            ReceiverState::Lagging => ClientState::Lagging,
            ReceiverState::Stuck => ClientState::Stuck,
        },
        held_senders: session.outbox.held_senders(),
    }
}

fn broker_info(core: &Core) -> ClientInfo {
    let Counters { r_frames, r_bytes, w_frames, w_bytes, .. } = core.counters.own_counters();
    ClientInfo {
        name: BROKER_NAME.to_owned(),
        kind: ClientKind::Internal,
        source: None,
        port: None,
        r_frames,
        r_bytes,
        w_frames,
        w_bytes,
        queue: 0,
        instances: 1,
        dropped: 0,
        state: ClientState::Ok,
        held_senders: 0,
    }
}

/// Answers requests until the channel is closed.
pub(super) fn answer_all(core: &Weak<Core>, requests: &Receiver<Request>) {
    let mut filters = Filters::default();
    while let Ok(Request { question, answer }) = requests.recv() {
        let Some(core) = core.upgrade() else { return };
        let result = match question {
            Question::Stats => pack(&stats::totals(&core)),
            Question::Clients { filter: None } => pack(&clients(&core, |_| true)),
            Question::Clients { filter: Some(text) } => {
                filters.compiled(&text).and_then(|filter| pack(&clients(&core, |name| filter.is_match(name))))
            }
        };
        // The client that asked may have left.
        let _ = answer.send(result);
    }
}

/// Packs a result as MessagePack.
pub(super) fn pack(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    rmp_serde::to_vec_named(value).map_err(|e| (rpc::CODE_INTERNAL, e.to_string()))
}

/// Compiled filters, the latest last.
#[derive(Default)]
struct Filters(Vec<(String, Regex)>);

impl Filters {
    fn compiled(&mut self, text: &str) -> Result<&Regex, Failure> {
        match self.0.iter().position(|(known, _)| known == text) {
            Some(at) => {
                let known = self.0.remove(at);
                self.0.push(known);
            }
            None => {
                let filter = compile(text)?;
                if self.0.len() >= FILTERS {
                    self.0.remove(0);
                }
                self.0.push((text.to_owned(), filter));
            }
        }
        let latest = self.0.last().map(|(_, filter)| filter);
        latest.ok_or_else(|| (rpc::CODE_INTERNAL, "the filter is missing".to_owned()))
    }
}

fn compile(text: &str) -> Result<Regex, Failure> {
    if text.len() > FILTER_LEN {
        return Err((rpc::CODE_INVALID_PARAMS, format!("the filter is longer than {FILTER_LEN} bytes")));
    }
    RegexBuilder::new(text)
        .size_limit(FILTER_BYTES)
        .dfa_size_limit(MATCH_BYTES)
        .nest_limit(FILTER_NESTING)
        .build()
        .map_err(|e| match e {
            regex::Error::CompiledTooBig(limit) => (
                rpc::CODE_INVALID_PARAMS,
                format!("the filter is too large: it would take more than {limit} bytes when compiled"),
            ),
            other => (rpc::CODE_PARSE, other.to_string()),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_bounded() {
        for small in [r"^plant\.", r"\w+", r"sensor\d{1,3}$", r"(a|b)*c", r"[\w.]+-\d+"] {
            assert!(compile(small).is_ok(), "{small}");
        }
        for large in [r"\w{200}", r"(\w{50}){50}", r"(((a{9}){9}){9}){9}", &"x".repeat(FILTER_LEN + 1)] {
            assert_eq!(compile(large).unwrap_err().0, rpc::CODE_INVALID_PARAMS, "{large}");
        }
        for broken in ["(", "[", "a{2,1}", "*"] {
            assert_eq!(compile(broken).unwrap_err().0, rpc::CODE_PARSE, "{broken}");
        }
    }

    #[test]
    fn the_latest_filters_are_kept() {
        let mut filters = Filters::default();
        for number in 0..FILTERS + 5 {
            assert!(filters.compiled(&format!("a{number}")).is_ok());
            assert!(filters.compiled("b").is_ok());
        }
        assert_eq!(filters.0.len(), FILTERS);
        assert_eq!(filters.0.last().unwrap().0, "b");
    }
}
