//! What a fake upstream does with one request, step by step. Knows the bytes of HTTP, not sockets.

use super::fact::Latch;

#[derive(Clone)]
pub enum Step {
    /// Written and flushed as it is.
    Bytes(Vec<u8>),
    /// Waits until the test opens it.
    Latch(Latch),
    /// Waits until the peer closes.
    Stall,
    /// FIN.
    Cut,
    /// RST.
    Reset,
    /// The bytes over and over until the peer closes.
    Endless(Vec<u8>),
}

/// A script; each builder appends a step. Without `cut` or `reset` the connection is kept.
#[derive(Clone, Default)]
pub struct Script {
    pub steps: Vec<Step>,
    /// The body of the request is left unread.
    pub early: bool,
}

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    /// A recorded answer, or any bytes that are none.
    pub fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self::new().bytes(bytes)
    }

    /// 200, JSON, sized.
    pub fn json(body: impl AsRef<[u8]>) -> Self {
        Self::answer(200, &[("Content-Type", "application/json")], body)
    }

    /// A sized answer.
    pub fn answer(status: u16, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let length = body.as_ref().len().to_string();
        let mut all = fields.to_vec();
        all.push(("Content-Length", &length));
        Self::head(status, &all).bytes(body)
    }

    /// An error in llama-server's form.
    pub fn error(status: u16, message: &str) -> Self {
        let body = format!(r#"{{"error":{{"code":{status},"message":"{message}","type":"fake"}}}}"#);
        Self::answer(status, &[("Content-Type", "application/json")], body)
    }

    /// The head alone.
    pub fn head(status: u16, fields: &[(&str, &str)]) -> Self {
        let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        Self::raw(format!("HTTP/1.1 {status} {}\r\n{lines}\r\n", reason(status)))
    }

    /// The head of a stream of events, chunked, as llama-server sends it.
    pub fn sse() -> Self {
        let fields = [
            ("Server", "llama.cpp"),
            ("Access-Control-Allow-Origin", ""),
            ("Content-Type", "text/event-stream"),
            ("Transfer-Encoding", "chunked"),
        ];
        Self::head(200, &fields)
    }

    pub fn bytes(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Bytes(bytes.as_ref().to_vec()))
    }

    /// One chunk of a chunked body, in one write.
    pub fn chunk(self, data: impl AsRef<[u8]>) -> Self {
        let data = data.as_ref();
        let mut framed = format!("{:x}\r\n", data.len()).into_bytes();
        framed.extend_from_slice(data);
        framed.extend_from_slice(b"\r\n");
        self.bytes(framed)
    }

    /// The end of a chunked body.
    pub fn end(self) -> Self {
        self.bytes("0\r\n\r\n")
    }

    pub fn latch(self, latch: &Latch) -> Self {
        self.step(Step::Latch(latch.clone()))
    }

    pub fn stall(self) -> Self {
        self.step(Step::Stall)
    }

    pub fn cut(self) -> Self {
        self.step(Step::Cut)
    }

    pub fn reset(self) -> Self {
        self.step(Step::Reset)
    }

    pub fn endless(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Endless(bytes.as_ref().to_vec()))
    }

    /// All steps of another script.
    pub fn then(mut self, other: Script) -> Self {
        self.steps.extend(other.steps);
        self
    }

    /// Says that it closes and does, so that no pool keeps the connection.
    pub fn closing(mut self) -> Self {
        if let Some(Step::Bytes(bytes)) = self.steps.first_mut()
            && bytes.starts_with(b"HTTP/1.1")
            && let Some(at) = bytes.windows(2).position(|two| two == b"\r\n")
        {
            bytes.splice(at + 2..at + 2, *b"Connection: close\r\n");
        }
        self.cut()
    }

    /// Answers when the head is in and leaves the body unread.
    pub fn early(mut self) -> Self {
        self.early = true;
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

/// One event of a chat stream.
pub fn event(token: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{token}\"}}}}]}}\n\n")
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Fake")
}
