//! Access rules of a session: chosen from the input, for the broker and for the model.

use crate::choices::Choices;
use crate::naive::{name_is_allowed, name_mask_is_covered, topic_is_allowed, topic_mask_is_covered};
use busrt::broker::{AccessList, ClientAccess};
use std::collections::BTreeMap;

type Masks = &'static [&'static str];

const NAME_PERMISSIONS: [Masks; 6] =
    [&["*"], &[], &["a", "g.*"], &["?", "a%%1"], &["g.?", "b", ".broker"], &["l", "a%%1", "?.?.?", "?"]];
const TOPIC_PERMISSIONS: [Masks; 7] =
    [&["#"], &[], &["t/#"], &["t/+", "t"], &["+"], &["t/x", "", "/"], &["+", "+/+", "+/+/#"]];

/// The rules for one client.
#[derive(Debug, Clone)]
pub struct Rules {
    messages: Masks,
    broadcasts: Masks,
    publications: Masks,
    subscriptions: Masks,
}

impl Rules {
    pub fn may_send_to(&self, target: &str) -> bool {
        name_is_allowed(self.messages, target)
    }

    pub fn may_broadcast_to(&self, mask: &str) -> bool {
        name_mask_is_covered(self.broadcasts, mask)
    }

    pub fn may_publish(&self, topic: &str) -> bool {
        topic_is_allowed(self.publications, topic)
    }

    pub fn may_subscribe_to(&self, mask: &str) -> bool {
        topic_mask_is_covered(self.subscriptions, mask)
    }
}

/// The rules of all clients, by primary name.
#[derive(Debug, Clone)]
pub struct Access(BTreeMap<String, Rules>);

impl Access {
    /// Chooses rules for some of the clients. `None`: there are no rules.
    pub fn choose(choices: &mut Choices<'_>, names: &[&str]) -> Option<Access> {
        if choices.below(4) == 0 {
            return None;
        }
        let mut clients = BTreeMap::new();
        for name in names {
            // Most clients stay.
            let choice = choices.below(8);
            if choice == 0 {
                continue;
            }
            let (messages, broadcasts) = (choices.of(&NAME_PERMISSIONS), choices.of(&NAME_PERMISSIONS));
            let (publications, subscriptions) =
                (choices.of(&TOPIC_PERMISSIONS), choices.of(&TOPIC_PERMISSIONS));
            clients.insert((*name).to_owned(), Rules { messages, broadcasts, publications, subscriptions });
        }
        Some(Access(clients))
    }

    /// The rules for a client; `None`: it is not let in.
    pub fn rules(&self, primary: &str) -> Option<&Rules> {
        self.0.get(primary)
    }

    /// The same rules for the broker.
    pub fn list(&self) -> AccessList {
        let add = |list: AccessList, (name, rules): (&String, &Rules)| {
            let access = ClientAccess::none()
                .messages(rules.messages.iter().copied())
                .broadcasts(rules.broadcasts.iter().copied())
                .publications(rules.publications.iter().copied())
                .subscriptions(rules.subscriptions.iter().copied());
            list.client(name.clone(), access)
        };
        self.0.iter().fold(AccessList::new(), add)
    }
}
