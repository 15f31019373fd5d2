//! A client that goes in good order.

use super::{Client, Link};
use std::time::Duration;
use tokio::time::timeout;

impl Client {
    /// Goes in good order, within `bound`: takes nothing more in, lets RPC handlers finish what has been
    /// received, writes what was sent, and disconnects as [`disconnect`](Client::disconnect). Whether it was
    /// done in time; if not, the connection is being ended all the same, and handlers are not stopped.
    ///
    /// Meanwhile this client can send and call. Frames that come are dropped and counted; requests are
    /// answered at the end, with -32113, as if the client were gone already. [`Frames`](super::Frames) yield
    /// what waits, then end: they are not waited for. A request that comes while the connection is being ended
    /// gets no answer, as with every client that goes. A handler must not wait for this.
    pub async fn drain(&self, bound: Duration) -> bool {
        if self.check_process().is_err() {
            return false;
        }
        let done = timeout(bound, self.drain_unbounded()).await.is_ok();
        if !done {
            self.give_up_drain();
        }
        done
    }

    /// As [`drain`](Client::drain), without a bound and for any executor.
    pub(crate) async fn drain_unbounded(&self) {
        let inbox = &self.0.inbox;
        inbox.seal();
        #[cfg(feature = "rpc")]
        {
            inbox.work.done().await;
            crate::rpc::refuse(self, inbox.take_late()).await;
        }
        self.disconnect().await;
    }

    /// Ends a client that could not be drained in time.
    pub(crate) fn give_up_drain(&self) {
        self.begin_close("drained by this client, not in time");
    }

    /// Ends the connection without waiting.
    fn begin_close(&self, why: &'static str) {
        match &self.0.link {
            Link::Wire(connection) => connection.begin_close(why),
            Link::Durable(durable) => durable.begin_close(why),
            #[cfg(feature = "broker")]
            Link::Local(local) => local.disconnect(),
        }
    }
}

#[cfg(feature = "rpc")]
pub(crate) mod rpc {
    //! What an RPC server declares.

    use super::super::Client;
    use super::super::inbox::Inbox;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    /// How many tasks handle what was received.
    #[derive(Debug, Default)]
    pub(crate) struct Work {
        count: AtomicUsize,
        done: Notify,
    }

    impl Work {
        fn begin(&self) {
            self.count.fetch_add(1, Ordering::SeqCst);
        }

        fn end(&self) {
            if self.count.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.done.notify_waiters();
            }
        }

        pub(crate) async fn done(&self) {
            loop {
                let done = self.done.notified();
                tokio::pin!(done);
                done.as_mut().enable();
                if self.count.load(Ordering::SeqCst) == 0 {
                    return;
                }
                done.await;
            }
        }
    }

    /// Work under way, until the value is dropped.
    #[derive(Debug)]
    pub(crate) struct Working(Arc<Inbox>);

    impl Client {
        pub(crate) fn working(&self) -> Working {
            Working::new(self.0.inbox.clone())
        }
    }

    impl Working {
        fn new(inbox: Arc<Inbox>) -> Working {
            inbox.work.begin();
            Working(inbox)
        }

        /// Whether this process is a child of the one that does the work.
        pub(crate) fn is_inherited(&self) -> bool {
            self.0.is_inherited()
        }
    }

    impl Clone for Working {
        fn clone(&self) -> Working {
            Working::new(self.0.clone())
        }
    }

    impl Drop for Working {
        fn drop(&mut self) {
            if self.is_inherited() {
                self.0.process().leak_if_inherited(&self.0);
            } else {
                self.0.work.end();
            }
        }
    }
}
