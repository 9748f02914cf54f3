//! SPEC 9, format 004: the environment alone, and a `.env` beside it.

use crate::jobs::Folder;
use crate::support::client::Client;
use crate::support::proxy::{CHAT, chat, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

struct Started {
    child: Child,
    addr: SocketAddr,
}

impl Started {
    /// The program in this folder, with nothing but this environment.
    fn there(folder: &Folder, env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llmproxy"));
        command.current_dir(&folder.0).env_clear().envs(env.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("the program was built");
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut first).expect("a line");
        let addr = first.trim().rsplit("http://").next().and_then(|addr| addr.parse().ok());
        Self { child, addr: addr.unwrap_or_else(|| panic!("{first}")) }
    }

    fn ask(&self, request: impl AsRef<[u8]>) -> crate::support::client::Answer {
        let mut client = Client::connect(self.addr);
        client.send(request);
        client.answer()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn the_documented_environment_serves_the_documented_requests() {
    // S004-01..04, S004-09, S004-17, S004-18, S004-20
    let (folder, upstream) = (Folder::new(), Upstream::start());
    upstream.always(CHAT, Script::json("{\"choices\":[]}"));
    std::fs::create_dir_all(&folder.0).expect("a folder");
    let text = format!(
        "PORT=0\nOPENAI_API_KEY=your-api-key-here\nOPENAI_API_BASE_URL=http://{}/v1\nMAX_CONCURRENT=2\nAPI_KEY=your-proxy-api-key-here\n",
        upstream.addr()
    );
    std::fs::write(folder.0.join(".env"), text).expect("a file");
    let started = Started::there(&folder, &[]);
    let key = "X-API-Key: your-proxy-api-key-here\r\n";
    let answer = started.ask(post_with(CHAT, key, chat("gpt-3.5-turbo")));
    let told = answer.json();
    assert_eq!((answer.status(), &told["status"]), (202, &"pending".into()));
    assert!(told["queue_position"].is_u64() && told["active_requests"].is_u64(), "{told}");
    let read = format!("GET {CHAT}/{} HTTP/1.1\r\nHost: h\r\n{key}\r\n", told["request_id"].as_str().expect("an id"));
    loop {
        let job = started.ask(&read).json();
        if job["status"] == "completed" {
            assert_eq!(job["response"], serde_json::json!({"choices": []}));
            assert_eq!(job["request"]["model"], "gpt-3.5-turbo");
            break;
        }
        assert!(job["status"] == "pending" || job["status"] == "processing", "{job}");
    }
    let received = upstream.take(CHAT);
    assert_eq!(
        (received.field("authorization"), received.field("x-api-key")),
        (Some("Bearer your-api-key-here"), None)
    );
    assert_eq!(received.text(), chat("gpt-3.5-turbo"), "S004-06: no temperature is made up");
    for wrong in ["", "X-API-Key: other\r\n"] {
        assert_eq!(started.ask(post_with(CHAT, wrong, chat("m"))).status(), 401);
    }
    let health = started.ask("GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(health.status(), 200, "S004-03");
    // H6
    for answer in
        [&answer, &health, &started.ask(post_with(CHAT, "", chat("m"))), &started.ask(post_with(CHAT, key, "{"))]
    {
        let fields = ["x-content-type-options", "x-frame-options"].map(|name| answer.head.all(name));
        assert_eq!(fields, [["nosniff"], ["SAMEORIGIN"]], "{}", answer.text());
    }
    let preflight = format!(
        "OPTIONS {CHAT} HTTP/1.1\r\nHost: h\r\nOrigin: https://x.example\r\nAccess-Control-Request-Method: POST\r\n\r\n"
    );
    let mut client = Client::connect(started.addr);
    client.send(preflight);
    let answer = client.answer_to("OPTIONS");
    assert_eq!((answer.status(), answer.field("access-control-allow-origin")), (204, Some("*")));
    assert_eq!(folder.0.join("data/jobs").read_dir().expect("the folder of jobs").count(), 2, "a job and the lock");
}

#[test]
fn a_variable_that_is_set_wins_over_the_file() {
    let (folder, upstream) = (Folder::new(), Upstream::start());
    upstream.always(CHAT, Script::json("{}"));
    std::fs::create_dir_all(&folder.0).expect("a folder");
    std::fs::write(folder.0.join(".env"), "PORT=1\nOPENAI_API_BASE_URL=http://192.0.2.1/v1\n").expect("a file");
    let url = format!("http://{}/v1", upstream.addr());
    let started = Started::there(&folder, &[("OPENAI_API_BASE_URL", &url), ("PORT", "0")]);
    let answer = started.ask(post_with(CHAT, "Prefer: wait\r\n", chat("m")));
    assert_eq!(answer.status(), 200, "open without API_KEY: {}", answer.text());
}
