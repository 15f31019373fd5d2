//! The broker's own client, `.broker`: its RPC methods (docs/protocol.md section 9).

use super::client_list::{answer_all, pack};
use super::core::Core;
use super::questions::{Failure, Question};
use crate::proto::find_nul;
use crate::proto::rpc::{self, Envelope};
use serde::{Deserialize, Serialize};
use std::pin::Pin;
use std::sync::Arc;

/// The answer to `info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerInfo {
    /// The author of the broker software.
    pub author: String,
    /// Version of the broker software.
    pub version: String,
}

/// Maximum nesting depth of parameters.
const MAX_DEPTH: usize = 16;

#[derive(Deserialize, Default)]
struct ListParams {
    filter: Option<String>,
}

/// The answer to a message to the broker: a complete RPC frame.
pub(super) enum Answer {
    /// The request asks for no answer.
    None,
    Ready(Vec<u8>),
    /// The answer takes long to compute. The future returns `None` if the broker ends before that.
    Later(Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>>),
}

/// The result of a method, or a future of it.
enum Called {
    Result(Vec<u8>),
    Later(tokio::sync::oneshot::Receiver<Result<Vec<u8>, Failure>>),
}

/// Maximum length of a method's name, in bytes.
const METHOD_LEN: usize = 1024;
/// Maximum length of the parameters of a method that reads them, in bytes.
const PARAMS_LEN: usize = 64 * 1024;

/// Returns the id of a request whose method name is longer than [`METHOD_LEN`].
fn overlong_request(payload: &[u8]) -> Option<u32> {
    let [rpc::REQUEST, a, b, c, d, rest @ ..] = payload else { return None };
    let begins = rest.get(..=METHOD_LEN)?;
    find_nul(begins).is_none().then_some(u32::from_le_bytes([*a, *b, *c, *d]))
}

/// Answers a message that a client sent to `.broker`.
pub(super) fn answer(core: &Arc<Core>, payload: &[u8]) -> Answer {
    if let Some(id) = overlong_request(payload) {
        let why = format!("the method's name is longer than {METHOD_LEN} bytes");
        return match id {
            0 => Answer::None,
            id => Answer::Ready(reply(core, id, Err((rpc::CODE_METHOD_NOT_FOUND, why)))),
        };
    }
    let (id, called) = match Envelope::parse(payload) {
        // A request without reply has no effect here.
        Ok(Envelope::Request { id: 0, .. }) => return Answer::None,
        Ok(Envelope::Request { id, method, params }) => (id, call(core, method, params)),
        Ok(_) => return Answer::None,
        Err(e) => {
            log::debug!("invalid RPC frame sent to the broker: {e}");
            return Answer::None;
        }
    };
    match called {
        Ok(Called::Result(result)) => Answer::Ready(reply(core, id, Ok(result))),
        Err(failure) => Answer::Ready(reply(core, id, Err(failure))),
        Ok(Called::Later(result)) => {
            let core = core.clone();
            Answer::Later(Box::pin(async move { Some(reply(&core, id, result.await.ok()?)) }))
        }
    }
}

fn reply(core: &Core, id: u32, result: Result<Vec<u8>, Failure>) -> Vec<u8> {
    let answer = match result {
        Ok(result) => [&rpc::reply_header(id)[..], &result].concat(),
        Err((code, why)) => [&rpc::error_header(id, code)[..], why.as_bytes()].concat(),
    };
    core.counters.count_written(&answer);
    answer
}

fn call(core: &Arc<Core>, method: &[u8], params: &[u8]) -> Result<Called, Failure> {
    let Ok(method) = std::str::from_utf8(method) else {
        return Err((crate::ErrorKind::Data.rpc_code(), "the method's name is not UTF-8".into()));
    };
    let without_params = || match params {
        [] => Ok(()),
        _ => Err((rpc::CODE_INVALID_PARAMS, format!("{method} takes no parameters"))),
    };
    let result = match method {
        "test" => {
            without_params()?;
            #[derive(Serialize)]
            struct Ok {
                ok: bool,
            }
            pack(&Ok { ok: true })?
        }
        "info" => {
            without_params()?;
            pack(&BrokerInfo {
                author: "the BUS/RT project".into(),
                version: env!("CARGO_PKG_VERSION").into(),
            })?
        }
        "stats" => {
            without_params()?;
            return ask(core, Question::Stats);
        }
        "client.list" => return ask(core, Question::Clients { filter: filter(params)? }),
        "benchmark.test" => params.to_vec(),
        _ => return Err((rpc::CODE_METHOD_NOT_FOUND, format!("the broker has no method {method:?}"))),
    };
    Ok(Called::Result(result))
}

fn filter(params: &[u8]) -> Result<Option<String>, Failure> {
    let params: ListParams = match params {
        [] => ListParams::default(),
        bytes if bytes.len() > PARAMS_LEN => {
            let why = format!("the parameters are longer than {PARAMS_LEN} bytes");
            return Err((rpc::CODE_INVALID_PARAMS, why));
        }
        bytes => {
            let mut source = rmp_serde::Deserializer::from_read_ref(bytes);
            // Each level takes stack space, also in a field that is ignored.
            source.set_max_depth(MAX_DEPTH);
            ListParams::deserialize(&mut source).map_err(|e| (rpc::CODE_PARSE, e.to_string()))?
        }
    };
    Ok(params.filter)
}

fn ask(core: &Arc<Core>, question: Question) -> Result<Called, Failure> {
    let weak = Arc::downgrade(core);
    let asked = core.questions.ask(question, move |requests| answer_all(&weak, requests));
    asked.map(Called::Later).map_err(|e| (rpc::CODE_INTERNAL, format!("cannot be answered now: {e}")))
}
