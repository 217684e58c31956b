//! Bytes from outside, and what must hold whatever they are. A target takes any bytes and panics if
//! something does not hold; `tests/fuzz/README.md` tells how to look for such bytes.
//!
//! Those that are worth keeping stand in `tests/fuzz/corpus`. `cargo test --lib fuzzing` tries them
//! and some thousand changes of them; `INPUTS=1000000` tries so many.

mod answer;
mod bed;
mod config;
mod credentials;
mod feed;
mod request;
mod strict;

/// Tries one input.
pub type Trial = Box<dyn FnMut(&[u8])>;

/// The target of this name.
///
/// # Panics
/// If there is none.
pub fn target(name: &str) -> Trial {
    match name {
        "answer" => answer::target(),
        "config" => config::target(),
        "credentials" => credentials::target(),
        "feed" => feed::target(),
        "request" => request::target(),
        _ => panic!("there is no target {name}"),
    }
}

/// What must not be told of a text in which it stands. No key is spelled so.
const PLANTED: &str = "hunter2hunter2";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
    }

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let entries = fs::read_dir(folder().join("corpus").join(name)).expect("a folder");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
        paths.sort();
        paths.into_iter().map(|path| fs::read(path).expect("readable")).collect()
    }

    /// What the lines of the word list stand for.
    fn words() -> Vec<Vec<u8>> {
        let text = fs::read_to_string(folder().join("words")).expect("readable");
        let quoted = text.lines().filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
        quoted.map(unescape).collect()
    }

    /// As libFuzzer reads a word: `\\`, `\"` and `\x0D`.
    fn unescape(word: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = word.as_bytes();
        while let Some((byte, more)) = rest.split_first() {
            let mut escaped = [0];
            match more {
                [b'x', high, low, after @ ..] if *byte == b'\\' => {
                    hex::decode_to_slice([*high, *low], &mut escaped).expect("two digits");
                    bytes.push(escaped[0]);
                    rest = after;
                }
                [it, after @ ..] if *byte == b'\\' => {
                    bytes.push(*it);
                    rest = after;
                }
                _ => {
                    bytes.push(*byte);
                    rest = more;
                }
            }
        }
        bytes
    }

    /// Tells which input it was.
    struct Tried<'a>(&'a str, &'a [u8]);

    impl Drop for Tried<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("{} breaks at \"{}\"", self.0, self.1.escape_ascii());
            }
        }
    }

    /// Tries what is kept, and changes of it.
    fn run(name: &str) {
        let inputs = std::env::var("INPUTS").map(|it| it.parse().expect("a number"));
        let (kept, words) = (corpus(name), words());
        let mut target = target(name);
        let mut attempt = |input: &[u8]| {
            let _tried = Tried(name, input);
            target(input);
        };
        kept.iter().for_each(|input| attempt(input));
        let mut chance = fastrand::Rng::with_seed(7);
        for _ in 0..inputs.unwrap_or(INPUTS) {
            attempt(&changed(&kept, &words, &mut chance));
        }
    }

    const INPUTS: u32 = 3000;

    /// One that is kept, with some bytes, words and lines put in, taken out or moved.
    fn changed(kept: &[Vec<u8>], words: &[Vec<u8>], chance: &mut fastrand::Rng) -> Vec<u8> {
        let mut pick = |most: usize| chance.usize(..most.max(1));
        let mut input = kept[pick(kept.len())].clone();
        for _ in 0..=pick(4) {
            let at = pick(input.len() + 1);
            let end = (at + 1 + pick(12)).min(input.len());
            match pick(8) {
                0 => drop(input.drain(at..end)),
                1 => drop(input.splice(at..end, words[pick(words.len())].clone())),
                2 => drop(input.splice(at..at, words[pick(words.len())].clone())),
                3 => input.insert(at, b"\r\n\t\0 :,;%./\\\"#?\x7f\xe4"[pick(17)]),
                4 if at < input.len() => input[at] ^= 1 << pick(8),
                5 => drop(input.splice(at..at, input[at..end].to_vec())),
                _ => {
                    let other = &kept[pick(kept.len())];
                    let mut lines: Vec<_> = input.split_inclusive(|it| *it == b'\n').collect();
                    let others: Vec<_> = other.split_inclusive(|it| *it == b'\n').collect();
                    if let (Some(line), true) = (others.get(pick(others.len())), pick(3) > 0) {
                        lines.insert(pick(lines.len() + 1), line);
                    } else if !lines.is_empty() {
                        lines.remove(pick(lines.len()));
                    }
                    input = lines.concat();
                }
            }
        }
        input
    }

    #[test]
    fn an_answer_is_whole_and_its_own_or_visibly_not() {
        run("answer");
    }

    #[test]
    fn a_config_is_refused_or_means_what_is_printed_of_it() {
        run("config");
    }

    #[test]
    fn a_credential_file_is_whole_or_opens_nothing() {
        run("credentials");
    }

    #[test]
    fn a_feed_is_read_as_it_is_written() {
        run("feed");
    }

    #[test]
    fn what_is_forwarded_means_what_was_decided_on() {
        run("request");
    }
}
