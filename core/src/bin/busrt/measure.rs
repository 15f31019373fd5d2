//! The measurements of a benchmark: times of operations, and their report.

use crate::failure::{Failure, Result, may_colour};
use crate::output::Output;
use crate::table::Item;
use crate::text::grouped;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;
use std::time::Duration;

/// Longer times count as this, in ns.
const LONGEST: u64 = 100_000_000_000;
const DIGITS: u8 = 3;
/// Number of operations after which a worker reports its progress.
const STRIDE: u64 = 128;

/// The times of one worker. Recording an operation shares nothing with others.
pub(crate) struct Meter {
    times: Histogram<u64>,
    count: u64,
    bar: ProgressBar,
}

impl Meter {
    pub(crate) fn new(bar: ProgressBar) -> Result<Meter> {
        let times =
            Histogram::new_with_bounds(1, LONGEST, DIGITS).map_err(|e| Failure::Other(e.to_string()))?;
        Ok(Meter { times, count: 0, bar })
    }

    /// Records a completed operation that took this long.
    pub(crate) fn record(&mut self, took: Duration) {
        self.record_ns(took.as_nanos() as u64);
    }

    /// Does the same as [`record`](Meter::record), in ns.
    pub(crate) fn record_ns(&mut self, took: u64) {
        self.times.saturating_record(took.max(1));
        self.count();
    }

    /// Counts a completed operation without its time.
    pub(crate) fn count(&mut self) {
        self.count += 1;
        if self.count.is_multiple_of(STRIDE) {
            self.bar.inc(STRIDE);
        }
    }

    /// Returns the number of completed operations.
    pub(crate) fn ops(&self) -> u64 {
        self.count
    }

    /// Adds the measurements of another worker.
    pub(crate) fn merge(&mut self, other: &Meter) -> Result<()> {
        self.count += other.count;
        self.times.add(&other.times).map_err(|e| Failure::Other(e.to_string()))
    }

    pub(crate) fn report(&self, name: &'static str, elapsed: Duration) -> Stage {
        let seconds = elapsed.as_secs_f64();
        Stage {
            name,
            ops: self.count,
            seconds,
            ops_per_second: if seconds > 0.0 { self.count as f64 / seconds } else { 0.0 },
            latency_ns: self.latency(),
        }
    }

    /// Returns the times, if there are any.
    pub(crate) fn latency(&self) -> Option<Latency> {
        let at = |quantile| self.times.value_at_quantile(quantile);
        (!self.times.is_empty()).then(|| Latency {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.times.max(),
        })
    }
}

/// The outcome of one stage.
#[derive(Debug, Serialize)]
pub(crate) struct Stage {
    name: &'static str,
    ops: u64,
    seconds: f64,
    ops_per_second: f64,
    latency_ns: Option<Latency>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    #[serde(rename = "p99.9")]
    p999: u64,
    max: u64,
}

impl Latency {
    fn row(self) -> [Item; 5] {
        let all = [self.p50, self.p90, self.p99, self.p999, self.max];
        all.map(|ns| Item::number(format!("{:.1}", ns as f64 / 1000.0)))
    }
}

/// The outcome of all stages.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) workers: u32,
    pub(crate) payload_size: u32,
    pub(crate) iters: u64,
    pub(crate) stages: Vec<Stage>,
}

const HEADER: [&str; 9] =
    ["STAGE", "OPS", "SECONDS", "OPS/S", "p50, µs", "p90, µs", "p99, µs", "p99.9, µs", "max, µs"];

impl Report {
    pub(crate) fn show(&self, out: &mut Output) -> Result<()> {
        out.result(self, &HEADER, || self.stages.iter().map(Stage::row).collect())
    }
}

impl Stage {
    fn row(&self) -> Vec<Item> {
        let mut row = vec![
            Item::text(self.name),
            Item::number(self.ops),
            Item::number(format!("{:.3}", self.seconds)),
            Item::number(format!("{:.0}", self.ops_per_second)),
        ];
        row.extend(self.latency_ns.into_iter().flat_map(Latency::row));
        row
    }
}

/// The outcome of one stage in an open loop.
#[derive(Debug, Serialize)]
pub(crate) struct OpenStage {
    pub(crate) name: &'static str,
    pub(crate) rate_asked: u64,
    /// The rate at which messages were really sent.
    pub(crate) rate: f64,
    pub(crate) seconds: f64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// Latency from the time at which messages were due.
    pub(crate) latency_ns: Option<Latency>,
    /// Time from when messages were due until they were sent: a part of the latency that the bus does not cause.
    pub(crate) lateness_ns: Option<Latency>,
}

/// The outcome of an open loop.
#[derive(Debug, Serialize)]
pub(crate) struct OpenReport {
    pub(crate) workers: u32,
    pub(crate) payload_size: u32,
    pub(crate) qos: &'static str,
    pub(crate) stages: Vec<OpenStage>,
}

const OPEN_HEADER: [&str; 11] = [
    "STAGE",
    "ASKED/S",
    "SENT/S",
    "SENT",
    "RECEIVED",
    "LOST",
    "p50, µs",
    "p90, µs",
    "p99, µs",
    "p99.9, µs",
    "max, µs",
];

impl OpenReport {
    pub(crate) fn show(&self, out: &mut Output) -> Result<()> {
        out.result(self, &OPEN_HEADER, || self.stages.iter().flat_map(OpenStage::rows).collect())
    }
}

impl OpenStage {
    fn rows(&self) -> [Vec<Item>; 2] {
        let mut row = vec![
            Item::text(self.name),
            Item::number(self.rate_asked),
            Item::number(format!("{:.0}", self.rate)),
            Item::number(self.sent),
            Item::number(self.received),
            Item::number(self.lost),
        ];
        let mut late: Vec<Item> = row.iter().map(|_| Item::text("")).collect();
        late[0] = Item::text("  sent late by");
        row.extend(self.latency_ns.into_iter().flat_map(Latency::row));
        late.extend(self.lateness_ns.into_iter().flat_map(Latency::row));
        [row, late]
    }
}

/// Creates a progress bar, if there is a terminal and the user has not switched it off.
pub(crate) fn progress(name: &'static str, total: u64, out: &Output) -> ProgressBar {
    if out.is_silent() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = if may_colour() { "{wide_bar:.cyan/dim}" } else { "{wide_bar}" };
    let template = format!("{{prefix:24}} {bar} {{human_pos}}/{{human_len}}  {{rate}}  {{eta}}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = style.with_key("rate", |state: &ProgressState, to: &mut dyn std::fmt::Write| {
        // An error cannot be returned here, and the bar works without this text.
        let _ = write!(to, "{}/s", grouped(format!("{:.0}", state.per_sec())));
    });
    ProgressBar::new(total).with_style(style).with_prefix(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meters_add_up() {
        let mut all = Meter::new(ProgressBar::hidden()).unwrap();
        for base in [0, 500] {
            let mut meter = Meter::new(ProgressBar::hidden()).unwrap();
            for us in base + 1..=base + 500 {
                meter.record(Duration::from_micros(us));
            }
            all.merge(&meter).unwrap();
        }
        let stage = all.report("x", Duration::from_secs(2));
        assert_eq!((stage.ops, stage.ops_per_second), (1000, 500.0));
        let near = |ns: u64, us: u64| ns.abs_diff(us * 1000) <= us * 2;
        let times = stage.latency_ns.unwrap();
        assert!(
            near(times.p50, 500) && near(times.p99, 990) && near(times.p999, 999) && near(times.max, 1000)
        );
    }

    #[test]
    fn operations_that_are_only_counted_have_no_times() {
        let mut meter = Meter::new(ProgressBar::hidden()).unwrap();
        meter.count();
        let stage = meter.report("x", Duration::ZERO);
        assert_eq!((stage.ops, stage.latency_ns.is_none()), (1, true));
    }
}
