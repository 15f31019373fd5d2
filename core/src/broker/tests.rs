//! What a broker does after some time: its own thread does not run, so that each test moves the time.

mod bed;
mod keepalive;
mod slow_receivers;
