//! The broker's own client, `.broker`: RPC methods and announcements (PROTOCOL.md section 9).

use super::Core;
use super::session::{ClientKind, Session};
use crate::proto::op::{TOPIC_INFO, TOPIC_WARN};
use crate::proto::rpc::{self, Envelope};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

/// What `stats` answers: counters over all clients, those that have gone included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStats {
    /// Seconds since the broker began.
    pub uptime: u64,
    /// Frames read from clients, pings not counted.
    pub r_frames: u64,
    /// Bytes of their bodies.
    pub r_bytes: u64,
    /// Frames queued for clients; an acknowledgement counts as one.
    pub w_frames: u64,
    /// Bytes of their bodies; an acknowledgement counts as 6.
    pub w_bytes: u64,
    /// Frames refused or dropped because their receiver was stuck.
    #[serde(default)]
    pub dropped: u64,
    /// Clients registered now, secondaries included.
    #[serde(default)]
    pub clients: u64,
}

/// What `info` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerInfo {
    /// Who made the broker.
    pub author: String,
    /// Its version.
    pub version: String,
}

/// One line of `client.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    /// The primary name.
    pub name: String,
    /// How it is connected.
    pub kind: ClientKind,
    /// Its address; `None` if it is on this machine.
    pub source: Option<String>,
    /// What it connected to, as given to the broker; `None` for internal clients, empty for
    /// connections handed in.
    pub port: Option<String>,
    /// Frames read from it, pings not counted.
    pub r_frames: u64,
    /// Bytes of their bodies.
    pub r_bytes: u64,
    /// Frames queued for it; an acknowledgement counts as one.
    pub w_frames: u64,
    /// Bytes of their bodies.
    pub w_bytes: u64,
    /// Frames that wait for it now.
    pub queue: usize,
    /// 1 and its secondaries.
    pub instances: usize,
    /// Frames it did not get because it was stuck.
    #[serde(default)]
    pub dropped: u64,
}

/// What `client.list` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientList {
    /// Primaries, sorted by name.
    pub clients: Vec<ClientInfo>,
}

#[derive(Serialize)]
struct Announcement<'a> {
    s: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<&'a str>,
    t: u64,
}

/// The counters of the broker's own client, and of those that have gone.
#[derive(Debug, Default)]
pub(super) struct Admin {
    r_frames: AtomicU64,
    r_bytes: AtomicU64,
    w_frames: AtomicU64,
    w_bytes: AtomicU64,
    gone: [AtomicU64; 5],
}

impl Admin {
    pub(super) fn count_read(&self, payload: &[u8]) {
        self.r_frames.fetch_add(1, Relaxed);
        self.r_bytes.fetch_add(payload.len() as u64, Relaxed);
    }

    fn count_written(&self, payload: &[u8]) {
        self.w_frames.fetch_add(1, Relaxed);
        self.w_bytes.fetch_add(payload.len() as u64, Relaxed);
    }

    /// Keeps the counters of a client that has gone.
    pub(super) fn bury(&self, session: &Session) {
        for (total, n) in self.gone.iter().zip(counters(session)) {
            total.fetch_add(n, Relaxed);
        }
    }
}

fn counters(session: &Session) -> [u64; 5] {
    let t = &session.traffic;
    let (w_frames, w_bytes) = session.written();
    [t.r_frames.get(), t.r_bytes.get(), w_frames, w_bytes, t.dropped.load(Relaxed)]
}

/// The totals over all clients.
pub(super) fn stats(core: &Core) -> BrokerStats {
    let mut totals: [u64; 5] = std::array::from_fn(|i| core.admin.gone[i].load(Relaxed));
    let sessions = core.registry.sessions();
    for session in &sessions {
        for (total, n) in totals.iter_mut().zip(counters(session)) {
            *total += n;
        }
    }
    let [r_frames, r_bytes, w_frames, w_bytes, dropped] = totals;
    let clients = sessions.len() as u64;
    BrokerStats {
        uptime: core.started.elapsed().as_secs(),
        r_frames,
        r_bytes,
        w_frames,
        w_bytes,
        dropped,
        clients,
    }
}

/// The primaries whose name `filter` accepts, the broker's own client among them.
pub(super) fn clients(core: &Core, filter: impl Fn(&str) -> bool) -> ClientList {
    let mut clients: Vec<ClientInfo> = core
        .registry
        .sessions()
        .iter()
        .filter(|session| !session.is_secondary() && filter(session.name()))
        .map(|session| client_info(core, session))
        .collect();
    let own = crate::proto::op::BROKER_NAME;
    if filter(own) {
        let admin = &core.admin;
        clients.push(ClientInfo {
            name: own.to_owned(),
            kind: ClientKind::Internal,
            source: None,
            port: None,
            r_frames: admin.w_frames.load(Relaxed),
            r_bytes: admin.w_bytes.load(Relaxed),
            w_frames: admin.r_frames.load(Relaxed),
            w_bytes: admin.r_bytes.load(Relaxed),
            queue: 0,
            instances: 1,
            dropped: 0,
        });
    }
    clients.sort_by(|a, b| a.name.cmp(&b.name));
    ClientList { clients }
}

fn client_info(core: &Core, session: &Arc<Session>) -> ClientInfo {
    let [r_frames, r_bytes, w_frames, w_bytes, dropped] = counters(session);
    ClientInfo {
        name: session.name().to_owned(),
        kind: session.identity.kind,
        source: session.identity.peer.map(|peer| peer.to_string()),
        port: session.identity.port.as_deref().map(str::to_owned),
        r_frames,
        r_bytes,
        w_frames,
        w_bytes,
        queue: session.queued(),
        instances: 1 + core.registry.secondaries(session.name()),
        dropped,
    }
}

#[derive(Deserialize, Default)]
struct ListParams {
    filter: Option<String>,
}

struct Failure(i16, String);

/// Answers what a client asked `.broker`; `None` when no answer is wanted.
pub(super) fn answer(core: &Core, payload: &[u8]) -> Option<Vec<u8>> {
    let (id, result) = match Envelope::parse(payload) {
        Ok(Envelope::Request { id, method, params }) => (id, call(core, method, params)),
        Ok(_) => return None,
        Err(e) => {
            log::debug!("a message to the broker is no RPC frame: {e}");
            return None;
        }
    };
    if id == 0 {
        return None;
    }
    let answer = match result {
        Ok(result) => [&rpc::reply_header(id)[..], &result].concat(),
        Err(Failure(code, why)) => [&rpc::error_header(id, code)[..], why.as_bytes()].concat(),
    };
    core.admin.count_written(&answer);
    Some(answer)
}

fn call(core: &Core, method: &[u8], params: &[u8]) -> Result<Vec<u8>, Failure> {
    let Ok(method) = std::str::from_utf8(method) else {
        let code = crate::ErrorKind::Data.rpc_code();
        return Err(Failure(code, "the method's name is not UTF-8".into()));
    };
    let without_params = || match params {
        [] => Ok(()),
        _ => Err(Failure(rpc::CODE_INVALID_PARAMS, format!("{method} takes no parameters"))),
    };
    match method {
        "test" => {
            without_params()?;
            #[derive(Serialize)]
            struct Ok {
                ok: bool,
            }
            pack(&Ok { ok: true })
        }
        "info" => {
            without_params()?;
            pack(&BrokerInfo {
                author: "the BUS/RT project".into(),
                version: env!("CARGO_PKG_VERSION").into(),
            })
        }
        "stats" => {
            without_params()?;
            pack(&stats(core))
        }
        "client.list" => pack(&list(core, params)?),
        "benchmark.test" => Ok(params.to_vec()),
        _ => Err(Failure(rpc::CODE_METHOD_NOT_FOUND, format!("the broker has no method {method:?}"))),
    }
}

fn list(core: &Core, params: &[u8]) -> Result<ClientList, Failure> {
    let unreadable = |e: &dyn std::fmt::Display| Failure(rpc::CODE_PARSE, e.to_string());
    let params: ListParams = match params {
        [] => ListParams::default(),
        bytes => rmp_serde::from_slice(bytes).map_err(|e| unreadable(&e))?,
    };
    let Some(filter) = params.filter else { return Ok(clients(core, |_| true)) };
    let filter = regex::Regex::new(&filter).map_err(|e| unreadable(&e))?;
    Ok(clients(core, |name| filter.is_match(name)))
}

fn pack(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    rmp_serde::to_vec_named(value).map_err(|e| Failure(rpc::CODE_INTERNAL, e.to_string()))
}

/// Announces on `.broker/info` that a primary client came (`reg`) or went (`unreg`).
pub(super) fn announce_client(core: &Core, subject: &str, name: &str) {
    announce(core, TOPIC_INFO, subject, Some(name));
}

/// Announces on `.broker/warn` that the broker is about to go.
pub(super) fn announce_shutdown(core: &Core) {
    announce(core, TOPIC_WARN, "shutdown", None);
}

fn announce(core: &Core, topic: &str, subject: &str, data: Option<&str>) {
    let t = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    match rmp_serde::to_vec_named(&Announcement { s: subject, d: data, t }) {
        Ok(payload) => {
            core.admin.count_written(&payload);
            core.publish(topic, &payload);
        }
        Err(e) => log::error!("an announcement could not be packed: {e}"),
    }
}
