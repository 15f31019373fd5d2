//! The optional security model: rules for the registration of names, which depend on the peer's address, and rules
//! for the operations of each client (docs/protocol.md section 7, permissions).
//!
//! Without an access list, every client may do everything. With one, a client whose name is not in the list is
//! refused, and each client has masks for what it may send to, broadcast to, publish and subscribe to. Clients within
//! the broker's own process are trusted: the list does not apply to them.

use crate::matching::acl::AllowSet;
use crate::proto::op::primary_name;
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;

/// The rules for one client. Secondary clients have the rules of their primary.
#[derive(Debug, Clone)]
pub struct ClientAccess {
    hosts: Option<Vec<IpNet>>,
    messages: AllowSet,
    broadcasts: AllowSet,
    publications: AllowSet,
    subscriptions: AllowSet,
}

impl ClientAccess {
    /// Rules with which a client may register from any address, but may do nothing else.
    pub fn none() -> Self {
        ClientAccess {
            hosts: None,
            messages: AllowSet::names([""; 0]),
            broadcasts: AllowSet::names([""; 0]),
            publications: AllowSet::topics([""; 0]),
            subscriptions: AllowSet::topics([""; 0]),
        }
    }

    /// Rules with which a client may register from any address and may do everything.
    pub fn all() -> Self {
        ClientAccess::none().messages(["*"]).broadcasts(["*"]).publications(["#"]).subscriptions(["#"])
    }

    /// Sets the networks from which the client may connect, in CIDR notation. They are checked for TCP and WebSocket,
    /// not for UNIX sockets.
    pub fn hosts(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.hosts = Some(networks.into_iter().collect());
        self
    }

    /// Sets the clients to which it may send messages, as name masks. For calls to the broker, a mask must match
    /// `.broker` too.
    pub fn messages<'a>(mut self, masks: impl IntoIterator<Item = &'a str>) -> Self {
        self.messages = AllowSet::names(masks);
        self
    }

    /// Sets the clients to which it may broadcast, as name masks.
    pub fn broadcasts<'a>(mut self, masks: impl IntoIterator<Item = &'a str>) -> Self {
        self.broadcasts = AllowSet::names(masks);
        self
    }

    /// Sets the topics to which it may publish, as topic masks.
    pub fn publications<'a>(mut self, masks: impl IntoIterator<Item = &'a str>) -> Self {
        self.publications = AllowSet::topics(masks);
        self
    }

    /// Sets the topics to which it may subscribe, as topic masks. A subscription is allowed if one of them covers
    /// every topic that the subscription could match.
    pub fn subscriptions<'a>(mut self, masks: impl IntoIterator<Item = &'a str>) -> Self {
        self.subscriptions = AllowSet::topics(masks);
        self
    }

    pub(super) fn may_send_to(&self, target: &str) -> bool {
        self.messages.allows(target)
    }

    pub(super) fn may_broadcast_to(&self, mask: &str) -> bool {
        self.broadcasts.covers(mask)
    }

    pub(super) fn may_publish(&self, topic: &str) -> bool {
        self.publications.allows(topic)
    }

    /// Returns whether a publication of this topic may reach the client through an allowed subscription.
    pub(super) fn may_receive(&self, topic: &str) -> bool {
        self.subscriptions.allows(topic)
    }

    pub(super) fn may_subscribe_to(&self, mask: &str) -> bool {
        self.subscriptions.covers(mask)
    }

    fn admits(&self, peer: Option<IpAddr>) -> bool {
        match (&self.hosts, peer) {
            (Some(networks), Some(ip)) => {
                let ip = ip.to_canonical();
                networks.iter().any(|network| network.contains(&ip))
            }
            _ => true,
        }
    }
}

/// The clients that a broker admits, with their rules, by primary name.
///
/// ```
/// use busrt::broker::{AccessList, ClientAccess};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let list = AccessList::new()
///     .client("plant.sensor", ClientAccess::none().hosts(["10.0.0.0/8".parse()?]).publications(["plant/#"]))
///     .client("operator", ClientAccess::all());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct AccessList {
    clients: HashMap<String, ClientAccess>,
}

impl AccessList {
    /// A list without clients.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a client by its primary name, or replaces its rules.
    pub fn client(mut self, name: impl Into<String>, access: ClientAccess) -> Self {
        self.clients.insert(name.into(), access);
        self
    }

    /// Returns whether a client of that name may connect from that address.
    pub(super) fn admits(&self, name: &str, peer: Option<IpAddr>) -> bool {
        self.rules(name).is_some_and(|rules| rules.admits(peer))
    }

    pub(super) fn rules(&self, name: &str) -> Option<&ClientAccess> {
        self.clients.get(primary_name(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let access = ClientAccess::none().hosts(["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        for (ip, admitted) in
            [("10.1.2.3", true), ("11.0.0.1", false), ("::1", true), ("::ffff:10.0.0.1", true)]
        {
            assert_eq!(access.admits(Some(ip.parse().unwrap())), admitted, "{ip}");
        }
        assert!(access.admits(None), "a peer on a UNIX socket has no IP address");
    }

    #[test]
    fn permissions() {
        let access = ClientAccess::none()
            .messages(["a.b"])
            .subscriptions(["t/+"])
            .broadcasts(["g.*"])
            .publications(["p/#"]);
        assert!(access.may_send_to("a.b") && access.may_send_to("a.b%%1") && !access.may_send_to("a.c"));
        assert!(
            access.may_subscribe_to("t/x")
                && access.may_subscribe_to("t/+")
                && !access.may_subscribe_to("t/#")
        );
        assert!(
            access.may_broadcast_to("g.*")
                && access.may_broadcast_to("g.?.x")
                && !access.may_broadcast_to("*")
        );
        assert!(access.may_publish("p/x/y") && !access.may_publish("p"));
        assert!(ClientAccess::all().may_send_to(".broker"));
    }

    #[test]
    fn secondaries_have_the_rules_of_their_primary() {
        let list = AccessList::new().client("a", ClientAccess::all());
        assert!(list.admits("a%%x", None) && list.admits("a", None) && !list.admits("b", None));
    }
}
