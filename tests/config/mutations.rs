//! Spoiled files by a seeded generator: reading never panics, never hangs, and a problem always has a place.

use crate::parse;
use llmproxy::config::print;

/// Files tried in one run.
const CASES: usize = 400;

/// SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

const PIECES: [&str; 32] = [
    ":",
    "- ",
    "\n",
    "\t",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "&a ",
    "*a",
    "<<: *a\n",
    "!!int ",
    "!x ",
    "${",
    "${KEY}",
    "$$",
    "null",
    "~",
    "1e999",
    "-1",
    "0x10",
    "99999999999999999999999999999999999999999",
    "\u{feff}",
    "\u{7f}",
    "ü😀",
    "|\n",
    ">-\n",
    "---\n",
    "%YAML 1.2\n",
    "? ",
];

fn spoil(text: &str, random: &mut Random) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..=random.below(6) {
        let (at, other) = (random.below(lines.len()), random.below(lines.len()));
        match random.below(6) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(other, lines[at].clone()),
            2 => lines.swap(at, other),
            3 => lines[at] = format!("{}{}", " ".repeat(random.below(5)), lines[at].trim_start()),
            _ => {
                let line = &lines[at];
                let cuts: Vec<usize> = line.char_indices().map(|(index, _)| index).chain([line.len()]).collect();
                let (from, to) = (cuts[random.below(cuts.len())], cuts[random.below(cuts.len())]);
                let (from, to) = if random.below(2) == 0 { (from, from) } else { (from.min(to), from.max(to)) };
                lines[at] = format!("{}{}{}", &line[..from], PIECES[random.below(PIECES.len())], &line[to..]);
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.join("\n")
}

#[test]
fn no_spoiled_file_panics_and_every_problem_is_told_with_its_file() {
    let full = include_str!("../../config/full.yml");
    let mut random = Random(1);
    let (mut right, mut wrong) = (0, 0);
    for _ in 0..CASES {
        let text = spoil(full, &mut random);
        match parse(&text) {
            Ok(_) => right += 1,
            Err(problems) => {
                wrong += 1;
                assert!(!problems.is_empty() && problems.len() <= 51, "{text}");
                for problem in problems {
                    assert!(problem.place.starts_with("f.yml:"), "{problem}\n{text}");
                    assert!(!problem.text.is_empty() && !problem.to_string().contains("canary"), "{problem}\n{text}");
                }
            }
        }
    }
    assert_eq!(right + wrong, CASES);
    assert!(right > 20 && wrong > 100, "{right} right, {wrong} wrong");
}

/// A secret in every place for one, each in the shape of a key.
const SECRETS: &str = r#"
endpoints:
  - name: cloud
    url: https://h/v1
    apiKeys:
      - sk-canary-0123456789abcdef
      - "sk-canary-1123456789abcdef"
    headers:
      - {op: insert, key: x-api-key, value: sk-canary-2123456789abcdef}
      - op: replace
        key: cookie
        value: session=sk-canary-3123456789abcdef
    proxy: http://user:sk-canary-4123456789abcdef@h:1
  - name: basic
    address: h
    port: 2
    auth:
      type: basic
      username: me
      password: sk-canary-5123456789abcdef
  - {name: header, address: h, port: 3, apiKey: "${KEY}", auth: {type: header, name: x-key}}
auth:
  keys:
    - name: laptop
      key: sk-canary-6123456789abcdef
      admin: true
    - {name: phone, keyFile: key.txt, models: ["a*"], endpoints: [cloud], rateLimit: {perSecond: 1}}
groups:
  - {name: g, endpoints: [{name: cloud}], proxy: "http://user:sk-canary-7123456789abcdef@h:1"}
listeners:
  - {name: lan, port: 3000, group: g, keys: [laptop]}
jobs:
  webhooks:
    secret: sk-canary-8123456789abcdef
admin:
  token: sk-canary-9123456789abcdef
"#;

const OLDER_SECRETS: [&str; 3] = [
    "backends:\n  - name: a\n    url: http://h:1\n    api_key: sk-canary-0123456789abcdef\n    models: [m]\n  - url: http://h:2\n    api_key: \"sk-canary-1123456789abcdef\"\nmode: random\ntimeout: 30s\n",
    "http_server:\n  forwards:\n    - {name: f, port: 3001, upstream_group: g}\nupstreams:\n  - name: u\n    url: http://h:1\n    auth:\n      type: bearer\n      token: sk-canary-0123456789abcdef\n    headers:\n      - op: insert\n        key: x-key\n        value: sk-canary-1123456789abcdef\nupstream_groups:\n  - name: g\n    upstreams:\n      - name: u\n    http_client:\n      proxy:\n        enabled: true\n        url: http://u:sk-canary-2123456789abcdef@h:1\n",
    "{\n\"Models\": {\n\"m\": {\n\"Strategy\": \"Failover\",\n\"Backends\": [\n{\n\"BaseUrl\": \"http://h:1/v1\",\n\"ApiKeys\": [\n\"sk-canary-0123456789abcdef\",\n\"sk-canary-1123456789abcdef\"\n],\n\"Weight\": 1\n}\n]\n}\n}\n}\n",
];

#[test]
fn no_spoiled_file_prints_a_secret_in_a_problem_or_as_a_configuration() {
    // U24
    let mut random = Random(24);
    for text in [SECRETS].into_iter().chain(OLDER_SECRETS.into_iter().filter(|_| cfg!(feature = "admin"))) {
        assert!(parse(text).is_ok(), "{text}\n{:?}", parse(text));
        for _ in 0..4 * CASES {
            let text = spoil(text, &mut random);
            let said = match parse(&text) {
                Ok(config) => print::yaml(&config),
                Err(problems) => problems.iter().map(|problem| format!("{problem}\n")).collect(),
            };
            assert!(!said.contains("canary"), "{text}\n{said}");
        }
    }
}
