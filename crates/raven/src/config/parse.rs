//! How the text of a value is read. An error is the rest of a sentence that begins with the setting's name, and never
//! quotes the value: the caller does, where the value is no secret.

use std::time::Duration;

use base64::{Engine, alphabet, engine};
use raven_engine::{oidc, vault::SecretKey};
use secrecy::SecretString;
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

/// Why a value can't be used.
pub(crate) type Reason = String;

const LENIENT: engine::GeneralPurposeConfig =
    engine::GeneralPurposeConfig::new().with_decode_padding_mode(engine::DecodePaddingMode::Indifferent);
const STANDARD: engine::GeneralPurpose = engine::GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: engine::GeneralPurpose = engine::GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Bytes that the secret of bearer tokens has at least (RFC 7518 §3.2: the hash's own size).
pub(crate) const JWT_SECRET_MIN: usize = 32;

/// `host:port`
pub(crate) fn listen(text: &str) -> Result<String, Reason> {
    let good = text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok());
    if good { Ok(text.to_owned()) } else { Err("must be an address and a port, for example 127.0.0.1:8080 or [::1]:8080".to_owned()) }
}

/// An `http` or `https` URL without query and fragment; slashes at its end are dropped.
pub(crate) fn url(text: &str) -> Result<String, Reason> {
    let reason = || "must be a URL that begins with http:// or https:// and has no query, for example https://raven.example.com".to_owned();
    let text = text.trim_end_matches('/');
    let host = host_of(text).ok_or_else(reason)?;
    let clean = text.bytes().all(|b| b.is_ascii_graphic() && !b"?#\"<>\\@".contains(&b));
    if clean && !host.is_empty() { Ok(text.to_owned()) } else { Err(reason()) }
}

/// An OIDC issuer's URL. It is compared letter by letter with what tokens carry, so nothing is dropped.
pub(crate) fn oidc_issuer(text: &str) -> Result<String, Reason> {
    if text.contains('?') { Err("must have no query".to_owned()) } else { oidc_url(text) }
}

/// A URL that an issuer's keys may come from.
pub(crate) fn oidc_url(text: &str) -> Result<String, Reason> {
    if oidc::is_trustworthy(text) {
        return Ok(text.to_owned());
    }
    Err("must be a URL that begins with https://, for example https://id.example.com (http:// only with localhost or a private address)"
        .to_owned())
}

/// The host in an `http` or `https` URL, without port and brackets.
pub(crate) fn host_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            port.parse::<u16>().ok()?;
            host
        }
        _ => authority,
    };
    is_host(host).then(|| host.trim_start_matches('[').trim_end_matches(']'))
}

fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-' || b == b'_'),
    }
}

/// A host name or an IP address.
pub(crate) fn hello_name(text: &str) -> Result<String, Reason> {
    let good = text.len() <= 253 && (is_host(text) || text.parse::<std::net::IpAddr>().is_ok());
    if good { Ok(text.to_owned()) } else { Err("must be a host name, for example mail.example.com".to_owned()) }
}

/// A PostgreSQL URL, as far as it can be judged without connecting.
pub(crate) fn database_url(text: &str) -> Result<SecretString, Reason> {
    let good = ["postgres://", "postgresql://"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
    if good { Ok(text.into()) } else { Err("must be a URL of the form postgres://user:password@host:5432/database".to_owned()) }
}

/// The secret of bearer tokens.
pub(crate) fn jwt_secret(text: &str) -> Result<SecretString, Reason> {
    match text.len() {
        JWT_SECRET_MIN.. => Ok(text.into()),
        short => Err(format!("must have at least {JWT_SECRET_MIN} bytes and has {short}")),
    }
}

/// 32 bytes in base64, in either alphabet, padded or not.
pub(crate) fn master_key(text: &str) -> Result<SecretKey, Reason> {
    let bytes = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| "must be base64 of 32 bytes and is no base64".to_owned())?;
    let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| format!("must be base64 of 32 bytes and is one of {}", bytes.len()))?;
    Ok(SecretKey::new(key))
}

/// The token of the metrics.
pub(crate) fn metrics_token(text: &str) -> Result<SecretString, Reason> {
    let good = text.len() >= 16 && text.bytes().all(|b| b.is_ascii_graphic());
    if good { Ok(text.into()) } else { Err("must have at least 16 characters, all of them printable ASCII without spaces".to_owned()) }
}

/// A number of reverse proxies.
pub(crate) fn proxies(text: &str) -> Result<usize, Reason> {
    text.parse().ok().filter(|n| *n <= 16).ok_or_else(|| "must be a number from 0 to 16".into())
}

/// Words with commas between them.
pub(crate) fn words(text: &str) -> Result<Vec<String>, Reason> {
    let words: Vec<String> = text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() || words.iter().any(|word| word.chars().count() > 50) {
        return Err("must be words with commas between them, each of at most 50 characters".into());
    }
    Ok(words)
}

/// A whole number within these bounds.
pub(crate) fn number(least: u16, most: u16) -> impl Fn(&str) -> Result<u16, Reason> {
    move |text| {
        let found = text.parse().ok().filter(|n| (least..=most).contains(n));
        found.ok_or_else(|| format!("must be a whole number from {least} to {most}"))
    }
}

/// A number of days.
pub(crate) fn days(text: &str) -> Result<Duration, Reason> {
    let days = text.parse::<u64>().ok().filter(|n| (1..=3650).contains(n));
    days.map(|n| Duration::from_secs(n * 24 * 3600)).ok_or_else(|| "must be a whole number from 1 to 3650".to_owned())
}

/// A node's name.
pub(crate) fn node_id(text: &str) -> Result<String, Reason> {
    let good = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if good { Ok(text.to_owned()) } else { Err("must be 1 to 64 letters, digits, '-', '_' and '.'".to_owned()) }
}

/// Yes or no.
pub(crate) fn boolean(text: &str) -> Result<bool, Reason> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// One of a few words.
pub(crate) fn one_of<T: Copy>(choices: &[(&str, T)]) -> impl Fn(&str) -> Result<T, Reason> {
    move |text| match choices.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => Err(format!("must be {}", choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or "))),
    }
}

/// A log filter; checked here, made again where it is used.
pub(crate) fn log_filter(text: &str) -> Result<String, Reason> {
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("must be a level (error, warn, info, debug, trace) or a list such as info,raven_engine=debug".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["127.0.0.1:8080", "localhost:0", "[::1]:80", "0.0.0.0:65535", "raven.internal:1"] {
            assert!(listen(good).is_ok(), "{good}");
        }
        for bad in ["", "8080", ":8080", "127.0.0.1", "127.0.0.1:65536", "::1:x", "[::1]", "a b:1", "http://x:1", "[zz]:1"] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn urls_lose_their_last_slash_and_have_a_host() {
        assert_eq!(url("https://raven.example.com/"), Ok("https://raven.example.com".to_owned()));
        assert_eq!(url("http://127.0.0.1:9901/version1"), Ok("http://127.0.0.1:9901/version1".to_owned()));
        for bad in [
            "",
            "http://",
            "https:///x",
            "ftp://x",
            "raven.example.com",
            "http://x:99999",
            "http://x?y",
            "http://a b",
            "http://u:p@x",
            "http://x#y",
            "http://x/\n",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
        assert_eq!(host_of("http://[::1]:80/x"), Some("::1"));
        assert_eq!(host_of("http://[::1]"), Some("::1"));
        assert_eq!(host_of("https://a.example/x:y"), Some("a.example"));
    }

    #[test]
    fn issuers_are_kept_letter_by_letter() {
        for good in ["https://id.example.com/", "https://id.example.com/realms/Main", "http://127.0.0.1:9000", "http://localhost/x/"] {
            assert_eq!(oidc_issuer(good), Ok(good.to_owned()));
        }
        for bad in
            ["", "id.example.com", "http://id.example.com", "https://u:p@id.example.com", "https://id.example.com/?a=b", "https://x/#y"]
        {
            assert!(oidc_issuer(bad).is_err(), "{bad}");
        }
        assert!(oidc_url("https://id.example.com/keys?policy=a").is_ok() && oidc_url("http://id.example.com/keys").is_err());
    }

    #[test]
    fn a_master_key_is_32_bytes_in_either_alphabet() {
        let bytes = [0xfb; 32];
        for text in [STANDARD.encode(bytes), URL_SAFE.encode(bytes), STANDARD.encode(bytes).trim_end_matches('=').to_owned()] {
            assert!(master_key(&text).is_ok(), "{text}");
        }
        for bad in ["", "no base64!", &STANDARD.encode([1; 31]), &STANDARD.encode([1; 33])] {
            let reason = master_key(bad).unwrap_err();
            assert!(bad.is_empty() || !reason.contains(bad), "{reason}");
        }
    }

    #[test]
    fn short_secrets_are_refused_without_being_quoted() {
        assert!(jwt_secret(&"x".repeat(31)).unwrap_err().contains("31"));
        assert_eq!(jwt_secret(&"x".repeat(32)).unwrap().expose_secret().len(), 32);
        assert!(days("0").is_err() && days("1.5").is_err() && days("3651").is_err());
        assert_eq!(days("30"), Ok(Duration::from_secs(2_592_000)));
        assert!(metrics_token("short").is_err() && metrics_token("has a space, though long").is_err());
    }

    #[test]
    fn booleans_words_and_filters_are_checked() {
        assert_eq!((boolean("TRUE"), boolean("off")), (Ok(true), Ok(false)));
        assert!(boolean("maybe").is_err() && boolean("").is_err());
        assert_eq!(one_of(&[("api", 1), ("worker", 2)])("worker"), Ok(2));
        assert_eq!(one_of(&[("api", 1), ("worker", 2)])("both"), Err("must be api or worker".to_owned()));
        assert!(log_filter("info,raven_engine=debug").is_ok() && log_filter("raven=loudly").is_err());
        assert!(node_id("web-1.eu_west").is_ok() && node_id("").is_err() && node_id("a b").is_err());
    }
}
