//! Spoiled files by a seeded generator: reading never panics, never hangs, and a problem always has a place.

use crate::parse;

/// Files tried in one run.
const CASES: usize = 400;

/// SplitMix64: small, and the same on every machine.
struct Dice(u64);

impl Dice {
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

fn spoil(text: &str, dice: &mut Dice) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..=dice.below(6) {
        let (at, other) = (dice.below(lines.len()), dice.below(lines.len()));
        match dice.below(6) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(other, lines[at].clone()),
            2 => lines.swap(at, other),
            3 => lines[at] = format!("{}{}", " ".repeat(dice.below(5)), lines[at].trim_start()),
            _ => {
                let line = &lines[at];
                let cuts: Vec<usize> = line.char_indices().map(|(index, _)| index).chain([line.len()]).collect();
                let (from, to) = (cuts[dice.below(cuts.len())], cuts[dice.below(cuts.len())]);
                let (from, to) = if dice.below(2) == 0 { (from, from) } else { (from.min(to), from.max(to)) };
                lines[at] = format!("{}{}{}", &line[..from], PIECES[dice.below(PIECES.len())], &line[to..]);
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
    let mut dice = Dice(1);
    let (mut right, mut wrong) = (0, 0);
    for _ in 0..CASES {
        let text = spoil(full, &mut dice);
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
