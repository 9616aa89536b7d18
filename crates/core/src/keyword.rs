//! What a word alone in an inbound message means: STOP, START, HELP, in the languages in which people are told of them.

use std::fmt;

use crate::message::named;

named! {
    /// What a word alone in an inbound message means.
    Keyword {
        /// No more messages.
        Stop = 1 "stop",
        /// Messages again.
        Start = 2 "start",
        /// How does this work?
        Help = 3 "help",
    }
}

/// The words that are known without any setting. Those of carriers and of the large providers in the US and Canada, France, Spain,
/// Portugal, Italy, Germany; and in Swahili. `YES` and the like mean too many other things.
const STOP: &[&str] = &[
    "stop",
    "stopall",
    "stop all",
    "unsubscribe",
    "cancel",
    "end",
    "quit",
    "revoke",
    "optout",
    "opt out",
    "opt-out",
    "remove",
    "td",
    "arret",
    "arrêt",
    "stopp",
    "baja",
    "alto",
    "sair",
    "parar",
    "acha",
    "simamisha",
    "ondoa",
];
const START: &[&str] = &["start", "unstop", "subscribe", "optin", "opt in", "opt-in", "anza", "jiunge"];
const HELP: &[&str] = &["help", "info", "aide", "ayuda", "msaada"];

/// The words of an installation: those that are known, and the operator's own.
#[derive(Clone, Debug, Default)]
pub struct Keywords {
    stop: Vec<String>,
    start: Vec<String>,
}

impl Keywords {
    /// With further words for `STOP` and `START`.
    #[must_use]
    pub fn with(stop: &[String], start: &[String]) -> Self {
        let plain = |words: &[String]| words.iter().map(|word| bare(word)).filter(|word| !word.is_empty()).collect();
        Self { stop: plain(stop), start: plain(start) }
    }

    /// What a text means, if it is one of the words and nothing else: whatever its case, and the punctuation and spaces around it.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<Keyword> {
        // No word is that long, and a text may be.
        if text.len() > 100 {
            return None;
        }
        let word = bare(text);
        let is_one = |known: &[&str], own: &[String]| known.contains(&word.as_str()) || own.contains(&word);
        if is_one(STOP, &self.stop) {
            Some(Keyword::Stop)
        } else if is_one(START, &self.start) {
            Some(Keyword::Start)
        } else {
            is_one(HELP, &[]).then_some(Keyword::Help)
        }
    }
}

/// The text in lower case without what stands around it, with single spaces.
fn bare(text: &str) -> String {
    let lower = text.to_lowercase();
    let inner = lower.trim_matches(|c: char| !c.is_alphanumeric());
    inner.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_alone_is_known_whatever_is_around_it() {
        let own = Keywords::with(&["TOKA!".to_owned()], &["Rudi".to_owned()]);
        for (text, expected) in [
            ("STOP", Some(Keyword::Stop)),
            (" Stop.\n", Some(Keyword::Stop)),
            ("\"stop!!!\"", Some(Keyword::Stop)),
            ("sToP   aLl", Some(Keyword::Stop)),
            ("Opt-Out", Some(Keyword::Stop)),
            ("ARRÊT", Some(Keyword::Stop)),
            ("Acha", Some(Keyword::Stop)),
            ("toka", Some(Keyword::Stop)),
            ("START", Some(Keyword::Start)),
            ("rudi.", Some(Keyword::Start)),
            ("Help?", Some(Keyword::Help)),
            ("please stop", None),
            ("STOP 36179", None),
            ("yes", None),
            ("", None),
            ("…", None),
            ("🛑", None),
        ] {
            assert_eq!(own.find(text), expected, "{text:?}");
        }
        assert_eq!(Keywords::default().find("toka"), None);
        assert_eq!(Keywords::default().find(&"stop ".repeat(30)), None);
    }
}
