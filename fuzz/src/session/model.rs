//! A model of a broker, as plain as possible: no tries, no caches, no queues.

use super::access::{Access, Rules};
use super::wire::*;
use crate::naive::{name_matches, topic_matches, until_tail};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
struct Client {
    /// True if it is within the broker's process. No rules bind it.
    is_local: bool,
    subscriptions: BTreeSet<String>,
    exclusions: BTreeSet<String>,
}

/// A frame for a receiver.
#[derive(Debug)]
pub struct Delivery {
    pub frame: Vec<u8>,
    /// The index of the acknowledgement that says whether it was delivered; `None`: none says so.
    pub ack: Option<usize>,
}

/// The expected outcome of a stream of operations.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Acknowledgements to the sender.
    pub acks: Vec<(u32, u8)>,
    /// Deliveries by receiver.
    pub deliveries: BTreeMap<String, Vec<Delivery>>,
    /// The stream has something that cannot be read, so that the connection ends.
    pub is_broken: bool,
    /// The stream ends within a frame.
    pub is_incomplete: bool,
}

/// A broker with its default options, or with `force_register`.
#[derive(Debug)]
pub struct Model {
    clients: BTreeMap<String, Client>,
    force_register: bool,
    access: Option<Access>,
}

/// The name before the first `%%`.
fn primary(name: &str) -> &str {
    name.find("%%").map_or(name, |at| &name[..at])
}

/// Splits text from the front of a body, which must have a NUL.
fn text(body: &[u8]) -> Option<(&str, &[u8])> {
    let nul = body.iter().position(|byte| *byte == 0)?;
    Some((std::str::from_utf8(&body[..nul]).ok()?, &body[nul + 1..]))
}

impl Model {
    pub fn new(force_register: bool) -> Self {
        Model { clients: BTreeMap::new(), force_register, access: None }
    }

    /// Returns true if a client of that name is registered.
    pub fn has(&self, name: &str) -> bool {
        self.clients.contains_key(name)
    }

    /// Puts rules in force. Returns the names of the clients that have to go.
    pub fn set_access(&mut self, access: Option<Access>) -> Vec<String> {
        self.access = access;
        let Some(access) = &self.access else { return vec![] };
        let mut gone = vec![];
        self.clients.retain(|name, client| {
            if client.is_local {
                return true;
            }
            let Some(rules) = access.rules(primary(name)) else {
                gone.push(name.clone());
                return false;
            };
            client.subscriptions.retain(|mask| rules.may_subscribe_to(mask));
            true
        });
        gone
    }

    /// Returns whether the rules allow something to a client.
    fn allows(&self, name: &str, is_allowed: impl Fn(&Rules) -> bool) -> bool {
        match (&self.access, self.clients.get(name)) {
            (Some(access), Some(client)) if !client.is_local => {
                access.rules(primary(name)).is_some_and(is_allowed)
            }
            _ => true,
        }
    }

    /// Registers a client within the broker's process.
    pub fn register_local(&mut self, name: &str) {
        self.clients.insert(name.to_owned(), Client { is_local: true, ..Client::default() });
    }

    /// Registers a connection. Returns the result code, and the names of those that have to go.
    pub fn register(&mut self, name: &str) -> (u8, Vec<String>) {
        if name.is_empty() || name.starts_with('.') || name.contains('\0') || name.len() > 1024 {
            return (DATA, vec![]);
        }
        if self.access.as_ref().is_some_and(|access| access.rules(primary(name)).is_none()) {
            return (DENIED, vec![]);
        }
        let mut evicted = vec![];
        if name != primary(name) {
            if !self.has(primary(name)) {
                return (NOT_REGISTERED, vec![]);
            }
            if self.has(name) {
                return (BUSY, vec![]);
            }
        } else if self.has(name) {
            if !self.force_register {
                return (BUSY, vec![]);
            }
            evicted = self.unregister(name);
        }
        self.clients.insert(name.to_owned(), Client::default());
        (OK, evicted)
    }

    /// Unregisters a client, and its secondaries if it is a primary one. Returns their names.
    pub fn unregister(&mut self, name: &str) -> Vec<String> {
        let goes = |other: &String| other == name || name == primary(name) && primary(other) == name;
        let gone: Vec<String> = self.clients.keys().filter(|other| goes(other)).cloned().collect();
        self.clients.retain(|other, _| !goes(other));
        gone
    }

    /// Does all operations of a stream.
    pub fn stream(&mut self, sender: &str, mut stream: &[u8]) -> Outcome {
        let mut outcome = Outcome::default();
        while !stream.is_empty() {
            let Some((header, rest)) = stream.split_at_checked(9) else {
                outcome.is_incomplete = true;
                break;
            };
            let (flags, number) = (header[4], |at| {
                u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
            });
            if flags == NOP {
                stream = rest;
                continue;
            }
            let len = number(5);
            let code = flags & 0x3f;
            if !matches!(code, NOP..=PUBLISH_FOR | MESSAGE | BROADCAST) || len > 256 * 1024 * 1024 {
                outcome.is_broken = true;
                break;
            }
            let Some((body, rest)) = rest.split_at_checked(len as usize) else {
                outcome.is_incomplete = true;
                break;
            };
            stream = rest;
            let Some(result) = self.operation(sender, flags, body, &mut outcome) else {
                outcome.is_broken = true;
                break;
            };
            if flags & 0x40 != 0 && code != NOP {
                outcome.acks.push((number(0), result));
            }
        }
        outcome
    }

    /// Does one operation. `None`: its body cannot be read.
    fn operation(&mut self, sender: &str, flags: u8, body: &[u8], outcome: &mut Outcome) -> Option<u8> {
        let sent_by = sender.as_bytes();
        let (code, realtime) = (flags & 0x3f, flags & 0x80 != 0);
        match code {
            NOP => body.contains(&0).then_some(OK),
            PUBLISH | PUBLISH_FOR => {
                let (topic, mut payload) = text(body)?;
                let mut receiver = None;
                if code == PUBLISH_FOR {
                    let (name, rest) = text(payload)?;
                    (receiver, payload) = (Some(name), rest);
                }
                if topic.starts_with(".broker/") || !self.allows(sender, |rules| rules.may_publish(topic)) {
                    return Some(DENIED);
                }
                let frame = delivery(PUBLISH, realtime, &[sent_by, topic.as_bytes(), payload]);
                for (name, client) in &self.clients {
                    let is_receiver = receiver.is_none_or(|receiver| receiver == primary(name));
                    let any = |masks: &BTreeSet<String>| masks.iter().any(|mask| topic_matches(mask, topic));
                    if is_receiver && any(&client.subscriptions) && !any(&client.exclusions) {
                        outcome.deliver(name, &frame, None);
                    }
                }
                Some(OK)
            }
            MESSAGE => {
                let (target, payload) = text(body)?;
                if !self.allows(sender, |rules| rules.may_send_to(target)) {
                    return Some(DENIED);
                }
                if target == ".broker" {
                    return Some(OK);
                }
                if !self.has(target) {
                    return Some(NOT_REGISTERED);
                }
                let ack = (flags & 0x40 != 0).then_some(outcome.acks.len());
                outcome.deliver(target, &delivery(MESSAGE, realtime, &[sent_by, payload]), ack);
                Some(OK)
            }
            BROADCAST => {
                let (mask, payload) = text(body)?;
                if !self.allows(sender, |rules| rules.may_broadcast_to(mask)) {
                    return Some(DENIED);
                }
                let frame = delivery(BROADCAST, realtime, &[sent_by, payload]);
                for name in self.clients.keys().filter(|name| name_matches(mask, name)) {
                    outcome.deliver(name, &frame, None);
                }
                Some(OK)
            }
            _ => {
                let topics = std::str::from_utf8(body).ok()?;
                let mut result = OK;
                for topic in topics.split('\0').map(until_tail) {
                    if code == SUBSCRIBE && !self.allows(sender, |rules| rules.may_subscribe_to(&topic)) {
                        // The others are subscribed all the same.
                        result = DENIED;
                        continue;
                    }
                    let client = self.clients.get_mut(sender)?;
                    match code {
                        SUBSCRIBE => client.subscriptions.insert(topic),
                        UNSUBSCRIBE => client.subscriptions.remove(&topic),
                        EXCLUDE => client.exclusions.insert(topic),
                        _ => client.exclusions.remove(&topic),
                    };
                }
                Some(result)
            }
        }
    }
}

impl Outcome {
    fn deliver(&mut self, name: &str, frame: &[u8], ack: Option<usize>) {
        let delivery = Delivery { frame: frame.to_owned(), ack };
        self.deliveries.entry(name.to_owned()).or_default().push(delivery);
    }
}
