//! `rpc`: calls and notifications.

use crate::args::{Args, Call, Notification, RpcCommand, usage};
use crate::failure::Result;
use crate::listen;
use crate::output::Output;
use crate::send::{about, from_stdin, payload};
use busrt::QoS;
use busrt::rpc::Caller;
use bytes::Bytes;
use clap::error::ErrorKind;

pub(crate) async fn run(args: &Args, command: &RpcCommand, out: &mut Output) -> Result<()> {
    match command {
        RpcCommand::Listen(what) => listen::run_rpc(args, what, out).await,
        RpcCommand::Notify(notification) => notify(args, notification, out).await,
        RpcCommand::Call0(request) => call0(args, request, out).await,
        RpcCommand::Call(request) => call(args, request, out).await,
    }
}

async fn notify(args: &Args, notification: &Notification, out: &mut Output) -> Result<()> {
    let payload = payload(notification.payload.as_deref(), out)?;
    let caller = Caller::new(crate::connection::connect(args).await?);
    caller
        .notify(&notification.target, payload, QoS::Processed)
        .await
        .map_err(|e| about(&notification.target, e))?;
    caller.client().disconnect().await;
    out.done()
}

async fn call0(args: &Args, call: &Call, out: &mut Output) -> Result<()> {
    let params = params(&call.params, out)?;
    let caller = Caller::new(crate::connection::connect(args).await?);
    caller
        .call0(&call.target, &call.method, params, QoS::Processed)
        .await
        .map_err(|e| about(&call.target, e))?;
    caller.client().disconnect().await;
    out.done()
}

async fn call(args: &Args, call: &Call, out: &mut Output) -> Result<()> {
    let params = params(&call.params, out)?;
    let caller = Caller::new(crate::connection::connect(args).await?);
    let reply = caller.call(&call.target, &call.method, params, QoS::Processed).await?;
    caller.client().disconnect().await;
    out.payload(reply.payload())
}

/// Returns no parameters, the content of the standard input, or a MessagePack map of the words.
fn params(words: &[String], out: &Output) -> Result<Bytes> {
    match words {
        [] => Ok(Bytes::new()),
        [dash] if dash == "-" => from_stdin(out),
        words => match busrt::params::pack(words.iter().map(String::as_str)) {
            Ok(map) => Ok(map.into()),
            Err(e) => Err(usage(ErrorKind::ValueValidation, e.context())),
        },
    }
}
