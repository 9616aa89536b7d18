//! Where values come from: flags, the environment, `raven.toml`, and what quickstart generated. Collects the texts and
//! notes what has no place; what the texts mean is for [`super`] to find out.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use raven_engine::plans::Plan;

use super::{
    plans::{self, PLANS},
    settings::{self, BASE_URLS, FOREIGN, PREFIX, Setting},
};

/// The environment, as the process got it.
pub(crate) type Environment = Vec<(OsString, OsString)>;

/// The file in the data directory that holds generated secrets.
pub(crate) const SECRETS_FILE: &str = "secrets.toml";

/// A text, and where it was given.
pub(crate) struct Given {
    pub(crate) text: String,
    pub(crate) place: String,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text may be a secret.
        write!(f, "Given({})", self.place)
    }
}

/// Everything that was given, the strongest source of each.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    values: BTreeMap<&'static str, Given>,
    /// By the provider's id.
    pub(crate) base_urls: BTreeMap<&'static str, Given>,
    /// The operator's own plans.
    pub(crate) plans: Vec<Plan>,
    /// The file of settings, if secrets stand in it.
    pub(crate) secret_file: Option<PathBuf>,
    /// What has no place.
    pub(crate) mistakes: Vec<String>,
}

impl Sources {
    /// Flags, then the environment, then the file that they name (or `raven.toml`, if it is there).
    pub(crate) fn collect(flags: &BTreeMap<&'static str, String>, environment: Environment) -> Self {
        let mut sources = Self::default();
        for setting in settings::ALL {
            if let Some(text) = flags.get(setting.key) {
                sources.put(setting.key, text.clone(), format!("--{}", setting.flag_name()));
            }
        }
        sources.environment(environment);
        let named = sources.values.remove(settings::CONFIG.key);
        let (path, place) = match &named {
            Some(given) => (PathBuf::from(&given.text), Some(given.place.as_str())),
            None => (PathBuf::from("raven.toml"), None),
        };
        sources.file(&path, place);
        sources
    }

    /// What was given for a setting; each can be taken once.
    pub(crate) fn take(&mut self, setting: &Setting) -> Option<Given> {
        self.values.remove(setting.key)
    }

    /// Adds the secrets that quickstart generated, below everything else.
    pub(crate) fn generated(&mut self, data_dir: &Path) {
        let path = data_dir.join(SECRETS_FILE);
        if !path.exists() {
            return;
        }
        let Some(table) = self.read(&path, None) else { return };
        for (key, value) in table {
            match (settings::ALL.iter().find(|s| s.key == key && s.secret), value) {
                (Some(setting), toml::Value::String(text)) => self.put(setting.key, text, format!("{key} in {}", path.display())),
                _ => self.mistakes.push(format!("{key} in {}: does not belong there", path.display())),
            }
        }
    }

    fn put(&mut self, key: &'static str, text: String, place: String) {
        self.values.entry(key).or_insert(Given { text, place });
    }

    fn environment(&mut self, mut environment: Environment) {
        environment.sort();
        for (name, text) in environment {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(PREFIX) || FOREIGN.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            let Ok(text) = text.into_string() else {
                self.mistakes.push(format!("{name}: must be UTF-8"));
                continue;
            };
            let setting = settings::ALL.iter().find(|s| s.variable() == name);
            let provider = settings::with_base_url().find(|p| settings::base_url_variable(p.spec.id) == name);
            match (setting, provider) {
                // Compose files and the like can't unset a variable, only empty it.
                (Some(_), _) | (_, Some(_)) if text.is_empty() => {}
                (Some(setting), _) => self.put(setting.key, text, name),
                (_, Some(provider)) => {
                    self.base_urls.entry(provider.spec.id).or_insert(Given { text, place: name });
                }
                (None, None) => self.mistakes.push(unknown_variable(&name)),
            }
        }
    }

    fn file(&mut self, path: &Path, named_by: Option<&str>) {
        if named_by.is_none() && !path.exists() {
            return;
        }
        let Some(table) = self.read(path, named_by) else { return };
        let file = path.display();
        for (key, value) in table {
            let place = format!("{key} in {file}");
            if key == BASE_URLS {
                self.base_urls_of(value, &place);
                continue;
            }
            if key == PLANS {
                self.plans = plans::read(value, &place, &mut self.mistakes);
                continue;
            }
            let Some(setting) = settings::ALL.iter().find(|s| s.key == key && s.key != settings::CONFIG.key) else {
                let known = settings::ALL.iter().map(|s| s.key).chain([BASE_URLS, PLANS]).filter(|k| *k != settings::CONFIG.key);
                self.mistakes.push(format!("{place}: no such setting{}", suggestion(&key, known.map(str::to_owned))));
                continue;
            };
            if setting.secret {
                self.secret_file = Some(path.to_owned());
            }
            match plain(value) {
                Some(text) => self.put(setting.key, text, place),
                None => self.mistakes.push(format!("{place}: must be a text, a number, true or false")),
            }
        }
    }

    fn base_urls_of(&mut self, value: toml::Value, place: &str) {
        let toml::Value::Table(urls) = value else {
            self.mistakes.push(format!("{place}: must be a table of base URLs by the provider's id"));
            return;
        };
        for (id, value) in urls {
            let place = format!("{id} in {place}");
            match (settings::with_base_url().find(|p| p.spec.id == id), value) {
                (Some(provider), toml::Value::String(text)) => {
                    self.base_urls.entry(provider.spec.id).or_insert(Given { text, place });
                }
                (Some(_), _) => self.mistakes.push(format!("{place}: must be a text")),
                (None, _) => {
                    let known = settings::with_base_url().map(|p| p.spec.id.to_owned());
                    self.mistakes.push(format!("{place}: no provider with a base URL{}", suggestion(&id, known)));
                }
            }
        }
    }

    fn read(&mut self, path: &Path, named_by: Option<&str>) -> Option<toml::Table> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) => {
                let by = named_by.map(|place| format!(" ({place})")).unwrap_or_default();
                self.mistakes.push(format!("{}{by}: can't be read: {e}", path.display()));
                return None;
            }
        };
        match toml::from_str::<toml::Table>(&text) {
            Ok(table) => Some(table),
            Err(e) => {
                // The error's own display quotes the line, which may hold a secret.
                let line = e.span().map_or(1, |span| 1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count());
                self.mistakes.push(format!("{} line {line}: is no TOML", path.display()));
                None
            }
        }
    }
}

fn plain(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Boolean(yes) => Some(yes.to_string()),
        toml::Value::Integer(n) => Some(n.to_string()),
        _ => None,
    }
}

fn unknown_variable(name: &str) -> String {
    let base_urls = settings::with_base_url().map(|p| settings::base_url_variable(p.spec.id));
    let known = settings::ALL.iter().map(|s| s.variable()).chain(base_urls);
    format!("{name}: no such setting{}", suggestion(name, known))
}

/// `; did you mean …?` when a known name is near enough.
fn suggestion(name: &str, known: impl Iterator<Item = String>) -> String {
    // What all names have in common says nothing about likeness.
    let core = |text: &str| text.strip_prefix(PREFIX).unwrap_or(text).to_ascii_lowercase();
    let nearest = known.map(|k| (strsim::normalized_damerau_levenshtein(&core(name), &core(&k)), k)).max_by(|a, b| a.0.total_cmp(&b.0));
    nearest.filter(|(likeness, _)| *likeness >= 0.5).map(|(_, k)| format!("; did you mean {k}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Sources {
        let environment = variables.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let flags = BTreeMap::from([(settings::CONFIG.key, "/dev/null".to_owned())]);
        Sources::collect(&flags, environment)
    }

    #[test]
    fn an_unknown_variable_is_told_with_its_nearest_neighbour() {
        let sources = of(&[("RAVEN_LISTN", "x"), ("RAVEN_PROVIDER_TWILO_BASE_URL", "x"), ("RAVEN_XYZZY_PLUGH", "x")]);
        assert_eq!(
            sources.mistakes,
            [
                "RAVEN_LISTN: no such setting; did you mean RAVEN_LISTEN?",
                "RAVEN_PROVIDER_TWILO_BASE_URL: no such setting; did you mean RAVEN_PROVIDER_TWILIO_BASE_URL?",
                "RAVEN_XYZZY_PLUGH: no such setting"
            ]
        );
    }

    #[test]
    fn what_clusters_inject_is_passed_over_and_empty_counts_as_unset() {
        let mut sources = of(&[
            ("RAVEN_PORT", "tcp://10.0.0.1:80"),
            ("RAVEN_PORT_80_TCP", "x"),
            ("RAVEN_SERVICE_HOST", "x"),
            ("RAVEN_TEST_X", "x"),
            ("PATH", "/"),
            ("RAVEN_LISTEN", ""),
        ]);
        assert!(sources.mistakes.is_empty());
        assert!(sources.take(&settings::LISTEN).is_none());
    }

    #[test]
    fn base_urls_go_by_provider() {
        let sources = of(&[("RAVEN_PROVIDER_AFRICAS_TALKING_BASE_URL", "http://127.0.0.1:9901/version1")]);
        assert_eq!(sources.base_urls["africas_talking"].text, "http://127.0.0.1:9901/version1");
    }

    #[test]
    fn what_is_not_called_by_a_url_has_none() {
        let sources = of(&[("RAVEN_PROVIDER_SMTP_BASE_URL", "http://127.0.0.1:2525"), ("RAVEN_PROVIDER_SMPP_BASE_URL", "x")]);
        assert!(sources.base_urls.is_empty());
        assert_eq!(sources.mistakes.len(), 2);
        assert!(sources.mistakes.iter().all(|mistake| mistake.contains("no such setting")), "{:?}", sources.mistakes);
    }

    #[test]
    fn a_value_is_never_part_of_a_source_shown() {
        let sources = of(&[("RAVEN_JWT_SECRET", "hush-hush-hush")]);
        assert!(!format!("{sources:?}").contains("hush"));
    }
}
