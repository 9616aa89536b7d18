//! A request that is built once and of which only the running number, or the key made from it, is written anew.

use crate::http;

/// Which idempotency keys requests carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Keys {
    /// `order-` and a running number of ten digits, as most callers make them.
    Sequential,
    /// Random, in the form of a UUIDv4.
    Random,
    /// None at all.
    Absent,
}

/// Stands for the running number.
pub(crate) const NUMBER: &str = "##########";
/// Stands for a random key.
const RANDOM: &str = "????????????????????????????????????";
/// The text that messages say.
pub(crate) const TEXT: &str = "Hi Ada, your order #AC-1042 is on its way.";
/// Whom they reach.
pub(crate) const RECIPIENT: &str = "+254722000000";
/// Numbers begin here, so that they sort as they count.
pub(crate) const FIRST_NUMBER: u64 = 1_000_000_000;

/// The request.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    numbers: Vec<usize>,
    random: Vec<usize>,
}

impl Template {
    /// `POST /v1/messages` with this API key. `text` may contain [`NUMBER`].
    pub(crate) fn message(api_key: &str, text: &str, keys: Keys) -> Self {
        let claim = match keys {
            Keys::Sequential => format!(",\"idempotencyKey\":\"order-{NUMBER}\""),
            Keys::Random => format!(",\"idempotencyKey\":\"{RANDOM}\""),
            Keys::Absent => String::new(),
        };
        let body = format!("{{\"channel\":\"sms\",\"to\":\"{RECIPIENT}\",\"body\":\"{text}\"{claim}}}");
        Self::of(http::request("POST", "/v1/messages", &[("x-raven-key", api_key)], &body))
    }

    /// Africa's Talking tells at this path that a message was delivered; the number is that of its id.
    pub(crate) fn delivery_report(path: &str) -> Self {
        let body = format!("id=ATXid_{NUMBER}&status=Success&phoneNumber=%2B254722000000&networkCode=63902&retryCount=0");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Self::of((head + &body).into_bytes())
    }

    /// Any request or answer.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        let find = |what: &str| (0..bytes.len()).filter(|at| bytes[*at..].starts_with(what.as_bytes())).collect();
        Self { numbers: find(NUMBER), random: find(RANDOM), bytes }
    }

    /// A copy to be written into and sent.
    pub(crate) fn copy(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// Writes a number, and the random key that belongs to it, into a copy.
    pub(crate) fn write(&self, copy: &mut [u8], number: u64) {
        for at in &self.numbers {
            let mut rest = number;
            for digit in copy[*at..at + NUMBER.len()].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        for at in &self.random {
            copy[*at..at + RANDOM.len()].copy_from_slice(random_key(number).as_bytes());
        }
    }
}

/// The random key of a number: always the same for one number, and without any order.
pub(crate) fn random_key(number: u64) -> String {
    let bits = u128::from(scatter(number)) << 64 | u128::from(scatter(!number));
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().hyphenated().to_string()
}

/// The finaliser of splitmix64: neighbours end far apart.
const fn scatter(number: u64) -> u64 {
    let n = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(template: &Template, number: u64) -> serde_json::Value {
        let mut copy = template.copy();
        template.write(&mut copy, number);
        let head = http::head(&copy).expect("a template is a whole request");
        assert_eq!(head.total(), copy.len());
        serde_json::from_slice(&copy[head.len..]).expect("its body is JSON")
    }

    #[test]
    fn sequential_keys_count_and_sort() {
        let template = Template::message("rk_live_x", TEXT, Keys::Sequential);
        let (a, b) = (body(&template, FIRST_NUMBER + 9), body(&template, FIRST_NUMBER + 10));
        assert_eq!(a["idempotencyKey"], "order-1000000009");
        assert!(a["idempotencyKey"].as_str() < b["idempotencyKey"].as_str());
        assert_eq!(a["body"], TEXT);
    }

    #[test]
    fn random_keys_are_uuids_and_each_belongs_to_its_number() {
        let template = Template::message("rk_live_x", TEXT, Keys::Random);
        let keys: std::collections::BTreeSet<String> =
            (0..1000).map(|n| body(&template, n)["idempotencyKey"].as_str().unwrap_or_default().to_owned()).collect();
        assert_eq!(keys.len(), 1000);
        assert!(keys.contains(&random_key(7)));
        assert!(keys.iter().all(|k| uuid::Uuid::parse_str(k).is_ok_and(|u| u.get_version_num() == 4)));
    }

    #[test]
    fn a_delivery_report_is_whole_and_names_the_message() {
        let template = Template::delivery_report("/v1/webhooks/sms/africas_talking/a/b/c");
        let mut copy = template.copy();
        template.write(&mut copy, 7);
        let head = http::head(&copy).expect("a template is a whole request");
        assert_eq!(head.total(), copy.len());
        assert!(copy[head.len..].starts_with(b"id=ATXid_0000000007&status=Success&"));
    }

    #[test]
    fn a_text_may_carry_the_number_too_and_keys_may_be_absent() {
        let template = Template::message("rk_live_x", &format!("mark{NUMBER}"), Keys::Absent);
        let body = body(&template, 42);
        assert_eq!(body["body"], "mark0000000042");
        assert!(body.get("idempotencyKey").is_none());
    }
}
