//! The standard output: for people, for programs (`--json`), or only payloads (`-s`).

use crate::failure::{Failure, Result, may_colour};
use crate::payload::{Payload, visible};
use crate::table::{self, Item};
use crate::text::grouped;
use busrt::{Frame, FrameKind};
use bytes::Bytes;
use owo_colors::{OwoColorize, Style};
use serde::Serialize;
use std::io::{BufWriter, IsTerminal, Stdout, Write};

pub(crate) struct Output {
    json: bool,
    silent: bool,
    colour: bool,
    to: BufWriter<Stdout>,
}

/// Something that was received.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    kind: &'static str,
    frame: Frame,
    /// Method and id of an RPC call.
    call: Option<(String, u32)>,
    payload: Bytes,
}

impl Event {
    pub(crate) fn frame(frame: Frame) -> Event {
        let kind = match frame.kind() {
            FrameKind::Publication => "publication",
            FrameKind::Message => "message",
            FrameKind::Broadcast => "broadcast",
        };
        Event { kind, payload: frame.payload_bytes(), frame, call: None }
    }

    pub(crate) fn notification(frame: &Frame, payload: Bytes) -> Event {
        Event { kind: "notification", payload, frame: frame.clone(), call: None }
    }

    pub(crate) fn call(frame: &Frame, method: &str, id: u32, params: Bytes) -> Event {
        Event { kind: "call", payload: params, frame: frame.clone(), call: Some((method.to_owned(), id)) }
    }
}

/// An [`Event`] as a line of JSON.
#[derive(Serialize)]
struct EventLine<'a> {
    kind: &'a str,
    sender: &'a str,
    primary_sender: &'a str,
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    format: &'a str,
    payload: &'a Payload<'a>,
}

#[derive(Serialize)]
struct Done {
    ok: bool,
}

impl Output {
    pub(crate) fn new(json: bool, silent: bool) -> Output {
        let stdout = std::io::stdout();
        let colour = stdout.is_terminal() && may_colour();
        Output { json, silent, colour, to: BufWriter::new(stdout) }
    }

    /// Returns true if the output is for people.
    pub(crate) fn is_for_people(&self) -> bool {
        !self.json && !self.silent
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Reports the success of a command without a result.
    pub(crate) fn done(&mut self) -> Result<()> {
        match (self.json, self.silent) {
            (_, true) => Ok(()),
            (true, false) => self.json_line(&Done { ok: true }),
            (false, false) => {
                let ok = self.paint("OK", Style::new().green());
                self.line(&ok)
            }
        }
    }

    /// Prints a result: `value` for programs, or the table with that header for people.
    pub(crate) fn result(
        &mut self,
        value: &impl Serialize,
        header: &[impl AsRef<str>],
        rows: impl FnOnce() -> Vec<Vec<Item>>,
    ) -> Result<()> {
        if !self.is_for_people() {
            return self.json_line(value);
        }
        for (i, line) in table::lines(header, rows()).iter().enumerate() {
            if i == 0 && !header.is_empty() {
                let line = self.paint(line, Style::new().bold());
                self.line(&line)?;
            } else {
                self.line(line)?;
            }
        }
        Ok(())
    }

    /// Prints the result of a call.
    pub(crate) fn payload(&mut self, bytes: &[u8]) -> Result<()> {
        let payload = Payload::of(bytes);
        if self.json {
            return self.json_line(&payload);
        }
        if self.silent {
            return self.bare(&payload);
        }
        if bytes.is_empty() { self.done() } else { self.line(&payload.pretty()) }
    }

    /// Prints a received frame. It stays in the buffer until [`flush`](Output::flush).
    pub(crate) fn event(&mut self, event: &Event) -> Result<()> {
        let payload = Payload::of(&event.payload);
        match (self.json, self.silent) {
            (true, true) => self.json_line(&payload),
            (true, false) => self.json_line(&EventLine {
                kind: event.kind,
                sender: event.frame.sender(),
                primary_sender: event.frame.primary_sender(),
                topic: event.frame.topic(),
                method: event.call.as_ref().map(|(method, _)| &**method),
                id: event.call.as_ref().map(|(_, id)| *id),
                format: payload.format(),
                payload: &payload,
            }),
            (false, true) => self.bare(&payload),
            (false, false) => self.event_for_people(event, &payload),
        }
    }

    fn event_for_people(&mut self, event: &Event, payload: &Payload<'_>) -> Result<()> {
        let bold = Style::new().bold();
        let mut head = self.paint(event.kind, Style::new().cyan());
        if let Some(topic) = event.frame.topic() {
            head = format!("{head} {}", self.paint(&name(topic), bold));
        }
        if let Some((method, id)) = &event.call {
            head = format!("{head} {}", self.paint(&name(method), bold));
            if *id == 0 {
                head.push_str(" (no reply wanted)");
            }
        }
        let size = match event.payload.len() {
            0 => "empty".to_owned(),
            1 => "1 byte".to_owned(),
            n => format!("{} bytes", grouped(n)),
        };
        let size = self.paint(&format!("({size})"), Style::new().dimmed());
        let sender = self.paint(&name(event.frame.sender()), bold);
        self.line(&format!("{head} from {sender} {size}"))?;
        if event.payload.is_empty() { Ok(()) } else { self.line(&payload.pretty()) }
    }

    /// Prints only the payload: bytes unchanged, everything else as lines.
    fn bare(&mut self, payload: &Payload<'_>) -> Result<()> {
        match payload {
            Payload::Text("") => Ok(()),
            Payload::Bytes(bytes) => self.write(bytes),
            payload => {
                let text = payload.compact();
                self.write(text.as_bytes())?;
                if text.ends_with('\n') { Ok(()) } else { self.write(b"\n") }
            }
        }
    }

    fn json_line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(value).map_err(|e| Failure::Other(e.to_string()))?;
        text.push(b'\n');
        self.write(&text)
    }

    fn line(&mut self, text: &str) -> Result<()> {
        self.write(text.as_bytes())?;
        self.write(b"\n")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(Failure::Output)
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.to.flush().map_err(Failure::Output)
    }

    fn paint(&self, text: &str, style: Style) -> String {
        if self.colour { text.style(style).to_string() } else { text.to_owned() }
    }
}

/// Formats a name or topic that has its own line.
fn name(text: &str) -> String {
    visible(text).replace('\n', "\\n")
}
