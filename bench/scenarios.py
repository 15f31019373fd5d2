"""The measurements: the load generator's scenarios, and the rows of the table that they produce."""

from __future__ import annotations

from dataclasses import dataclass

OURS, BASE, REFERENCE, NATS, REDIS, MOSQUITTO, FLOOR = (
    "ours", "base", "reference", "nats", "redis", "mosquitto", "floor",
)  # fmt: skip
BROKERS = (OURS, BASE, REFERENCE, NATS, REDIS, MOSQUITTO)
ALL = BROKERS + (FLOOR,)

# A NATS server treats subscriptions of one connection with the same id as one: the others would never be served.
ONE_SID = "the load generator gives all subscriptions of a NATS client the same id, of which NATS keeps the first"
NO_FLOOR = "the floor does not support this"
NO_ECHO = "in Redis' protocol a client that subscribes cannot publish"


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure of a scenario."""

    name: str
    key: str  # its name in the output of the load generator
    unit: str  # "/s", "us", "s", "B", "KiB" or "lost"
    meaning: str
    more_is_better: bool = False
    not_for: tuple[tuple[str, str], ...] = ()  # (peer, reason why it has no such figure)


@dataclass(frozen=True)
class Scenario:
    """One run of the load generator, against a broker that was started for it."""

    args: str  # {pid} is the broker's process
    quick: str  # arguments for a short run that checks that everything works
    rows: tuple[Row, ...]
    peers: tuple[str, ...] = ALL
    why_not: str = NO_FLOOR  # reason why the other peers are left out
    tcp: bool = False
    timeout: int = 60  # seconds
    options: tuple[str, ...] = ()  # further options for the broker
    cli: bool = False  # true if the load comes from the broker's own command line client


def rate(name: str, key: str, meaning: str) -> Row:
    return Row(name, key, "/s", meaning, more_is_better=True)


def p2p(name: str, args: str, quick: str, meaning: str, **more) -> Scenario:
    row = rate(name, "msgs_per_s", meaning)
    return Scenario("p2p " + args, "p2p " + quick, (row,), **more)


def stage(name: str, key: str, meaning: str) -> Row:
    return rate(f"cli_{name}", key, f"command line clients: {meaning}")


# Above 8,192 messages that wait for a client, the reference's broker refuses messages or disconnects the client.
LONG_QUEUE = ("--queue-size", "1000000")

SCENARIOS = (
    p2p("p2p4", "n=1000000 pairs=4", "n=100000 pairs=4",
        "four senders, each to its own receiver, 100 bytes, at most 4096 messages in flight per pair"),
    p2p("p2p4_tcp", "n=1000000 pairs=4", "n=100000 pairs=4",
        "the same over TCP on the loopback interface, for every broker",
        tcp=True, peers=BROKERS, why_not="the floor has no TCP"),
    p2p("p2p1", "n=600000 pairs=1", "n=60000 pairs=1", "one sender, one receiver, 100 bytes"),
    p2p("p2p_1k", "n=300000 pairs=2 size=1024 window=2048", "n=30000 pairs=2 size=1024 window=2048",
        "two pairs, 1 KiB"),
    p2p("p2p_64k", "n=10000 pairs=2 size=65536 window=64", "n=1000 pairs=2 size=65536 window=64",
        "two pairs, 64 KiB"),
    p2p("p2p_1m", "n=1000 pairs=1 size=1048576 window=8", "n=100 pairs=1 size=1048576 window=8",
        "one pair, 1 MiB"),
    p2p("p2p4idle", "n=1000000 pairs=4 idle=10000", "n=100000 pairs=4 idle=1000",
        "p2p4 with 10,000 further clients that are connected and silent: compare it with p2p4"),
    Scenario("fanout n=10000 subs=100", "fanout n=1000 subs=100",
             (rate("fan100", "deliveries_per_s", "one publisher, 100 subscribers of its topic: deliveries"),)),
    Scenario("fanout n=1000 subs=1000", "fanout n=100 subs=1000",
             (rate("fan1000", "deliveries_per_s", "the same with 1,000 subscribers"),)),
    Scenario("pingpong n=20000", "pingpong n=2000", (
        Row("ping_p50", "p50_us", "us", "round trip through the broker, one message in flight, realtime if "
            "the protocol supports it: median"),
        Row("ping_p99", "p99_us", "us", "the same: 99th percentile"),
    ), peers=(OURS, BASE, REFERENCE, NATS, MOSQUITTO, FLOOR),
        why_not=NO_ECHO),
    Scenario("echo n=300000", "echo n=30000", (
        rate("echo8", "echoes_per_s", "eight clients in one thread, each with one message to itself in flight, "
             "realtime if the protocol supports it: round trips"),
    ), peers=(OURS, BASE, REFERENCE, NATS, MOSQUITTO, FLOOR), why_not=NO_ECHO),
    Scenario("ack n=40000 depth=1", "ack n=4000 depth=1", (
        rate("ack1", "acks_per_s", "messages that the broker acknowledges, each awaited before the next"),
    ), peers=(OURS, BASE, REFERENCE), why_not="acknowledged one-to-one messages are measured for this protocol only"),
    Scenario("ack n=300000 depth=64", "ack n=30000 depth=64", (
        rate("ack64", "acks_per_s", "the same, 64 in flight"),
    ), peers=(OURS, BASE, REFERENCE), why_not="acknowledged one-to-one messages are measured for this protocol only",
        options=LONG_QUEUE),
    Scenario("subs n=100000 conns=100 topics=1000 pid={pid}", "subs n=10000 conns=100 topics=100 pid={pid}", (
        Row("subs100k", "pubs_per_s", "/s", "100 clients with 1,000 topics each and one with a mask that "
            "matches all: publications, each with two receivers", more_is_better=True, not_for=((NATS, ONE_SID),)),
        Row("subscribe_secs", "subscribe_secs", "s", "making these subscriptions, each awaited before the next",
            not_for=((NATS, "NATS does not confirm subscriptions"),)),
        Row("sub_bytes", "bytes_per_sub", "B", "growth of the broker's memory per subscription (including its clients)",
            not_for=((NATS, ONE_SID),)),
    ), peers=BROKERS, timeout=180),
    Scenario("idle conns=5000 pid={pid}", "idle conns=500 pid={pid}", (
        Row("idle_kb", "kb_per_conn", "KiB", "growth of the broker's memory per client, with 5,000 connected "
            "clients that hold one subscription each"),
    ), peers=BROKERS),
    Scenario("flood n=1000000", "flood n=100000", (
        Row("flood", "lost", "lost", "a sender that never waits, one receiver that reads as fast as it can, 100 "
            "bytes: the share of messages that did not arrive, and whether a client was disconnected"),
    ), peers=BROKERS),
    Scenario("benchmark -w 8", "benchmark -w 8 -i 20000", (
        stage("send", "send.qos.no", "messages to an unknown name, not acknowledged"),
        stage("send_ack", "send.qos.processed", "the same, acknowledged"),
        stage("echo", "send+recv.qos.no", "messages to themselves, not acknowledged"),
        stage("echo_ack", "send+recv.qos.processed", "the same, acknowledged"),
        stage("call", "rpc.call", "RPC calls that the broker answers"),
        stage("call_handle", "rpc.call+handle", "RPC calls that the clients answer themselves"),
        stage("call0", "rpc.call0", "RPC calls without reply to an unknown name, acknowledged"),
    ), peers=(OURS, BASE, REFERENCE), why_not="it has no comparable client", cli=True, timeout=300,
        options=LONG_QUEUE),
)

ROWS = tuple(row for scenario in SCENARIOS for row in scenario.rows)


def absence(scenario: Scenario, row: Row, peer: str) -> str | None:
    """Returns the reason why a peer has no figure in a row; None if it has one."""
    if peer not in scenario.peers:
        return NO_FLOOR if peer == FLOOR and not (scenario.tcp or scenario.cli) else scenario.why_not
    return dict(row.not_for).get(peer)


def runs_on(scenario: Scenario, peer: str) -> bool:
    """Returns whether a peer has any figure in a scenario."""
    return any(absence(scenario, row, peer) is None for row in scenario.rows)


def select(names: str | None) -> tuple[Scenario, ...]:
    """Returns the scenarios that produce these rows, separated by commas; all scenarios for None."""
    if names is None:
        return SCENARIOS
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    unknown = wanted - {row.name for row in ROWS}
    if unknown or not wanted:
        known = ", ".join(row.name for row in ROWS)
        raise ValueError(f"no such scenario: {', '.join(sorted(unknown))}; there are {known}")
    return tuple(s for s in SCENARIOS if any(row.name in wanted for row in s.rows))
