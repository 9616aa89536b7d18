//! A JSON value that borrows from the bytes it was read from, its canonical form (RFC 8785) and its fingerprint.
//!
//! Why not `serde_json::Value`: requests are read once, strings without escapes stay where they are, and a name that
//! stands twice in an object must be seen to be refused.

use std::{borrow::Cow, fmt};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value. Numbers are IEEE 754 doubles, as RFC 8785 reads them.
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Any number.
    Number(f64),
    /// A string.
    String(Cow<'a, str>),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object, its members in the order they came.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// How deep values may nest: well under what the parser's own stack guard allows.
const MAX_DEPTH: usize = 32;

impl<'a> Json<'a> {
    /// What this is, in words.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// Writes the canonical form (RFC 8785): no white space, names sorted by UTF-16 code units, numbers as ECMAScript
    /// prints them. Members that are `null` are left out: for Raven an absent member and a `null` are the same.
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
            Self::Number(n) => out.extend_from_slice(ryu_js::Buffer::new().format(*n).as_bytes()),
            Self::String(s) => write_string(s, out),
            Self::Array(items) => {
                out.push(b'[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    item.write_canonical(out);
                }
                out.push(b']');
            }
            Self::Object(members) => write_members(members.iter().map(|(k, v)| (k.as_ref(), v)).collect(), out),
        }
    }

    /// An owned copy.
    #[must_use]
    pub fn into_owned(self) -> Json<'static> {
        match self {
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(b),
            Self::Number(n) => Json::Number(n),
            Self::String(s) => Json::String(Cow::Owned(s.into_owned())),
            Self::Array(items) => Json::Array(items.into_iter().map(Json::into_owned).collect()),
            Self::Object(members) => Json::Object(members.into_iter().map(|(k, v)| (Cow::Owned(k.into_owned()), v.into_owned())).collect()),
        }
    }
}

/// The fingerprint that decides whether two requests with one idempotency key are the same: BLAKE3 (128 bits) of the
/// canonical form of the given members. Stable between releases.
#[must_use]
pub fn fingerprint<'m, 'a: 'm>(members: impl Iterator<Item = (&'m str, &'m Json<'a>)>) -> [u8; 16] {
    let mut canonical = Vec::with_capacity(256);
    write_members(members.collect(), &mut canonical);
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(&canonical).as_bytes()[..16]);
    out
}

fn write_members(mut members: Vec<(&str, &Json<'_>)>, out: &mut Vec<u8>) {
    members.retain(|(_, v)| !matches!(v, Json::Null));
    members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    out.push(b'{');
    for (i, (name, value)) in members.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        value.write_canonical(out);
    }
    out.push(b'}');
}

fn write_string(s: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for b in s.bytes() {
        match b {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            0x00..=0x1f => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(b >> 4)]);
                out.push(HEX[usize::from(b & 0xf)]);
            }
            _ => out.push(b),
        }
    }
    out.push(b'"');
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        de::DeserializeSeed::deserialize(Depth(MAX_DEPTH), d)
    }
}

#[derive(Clone, Copy)]
struct Depth(usize);

impl<'de> de::DeserializeSeed<'de> for Depth {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Json<'de>, D::Error> {
        d.deserialize_any(self)
    }
}

impl Depth {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")))
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(b))
    }

    #[expect(clippy::cast_precision_loss, reason = "RFC 8785 reads numbers as doubles")]
    fn visit_i64<E>(self, n: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(n as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "RFC 8785 reads numbers as doubles")]
    fn visit_u64<E>(self, n: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(n as f64))
    }

    fn visit_f64<E>(self, n: f64) -> Result<Json<'de>, E> {
        Ok(Json::Number(n))
    }

    fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Borrowed(s)))
    }

    fn visit_str<E>(self, s: &str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Owned(s.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let deeper = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(deeper)? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let deeper = self.deeper()?;
        let mut members: Vec<(Cow<'de, str>, Json<'de>)> = Vec::with_capacity(8);
        while let Some(Name(name)) = map.next_key()? {
            members.push((name, map.next_value_seed(deeper)?));
        }
        // Few members are compared one with another, many are sorted, so that a large object costs no square.
        let twice = if members.len() <= 16 {
            members
                .iter()
                .enumerate()
                .find(|(i, (name, _))| members[..*i].iter().any(|(other, _)| other == name))
                .map(|(_, (name, _))| name.clone())
        } else {
            let mut names: Vec<&Cow<'de, str>> = members.iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone())
        };
        match twice {
            Some(name) => Err(de::Error::custom(format_args!("the name {name:?} stands twice in one object"))),
            None => Ok(Json::Object(members)),
        }
    }
}

struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(s)))
            }

            fn visit_str<E>(self, s: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(s.to_owned())))
            }
        }
        d.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        let mut out = Vec::new();
        serde_json::from_str::<Json<'_>>(text).unwrap().write_canonical(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_canonical_form_is_that_of_rfc_8785() {
        // RFC 8785 §3.2.2 and §3.2.3.
        let input = r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
            "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        let expected = "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
        assert_eq!(canonical(input), expected);
        let sorted = canonical("{\"\\u20ac\":1,\"\\r\":2,\"\\ufb33\":3,\"1\":4,\"\\ud83d\\ude00\":5,\"\\u0080\":6,\"\\u00f6\":7}");
        assert_eq!(sorted, "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\u{fb33}\":3}");
    }

    #[test]
    fn order_number_form_and_null_members_do_not_matter() {
        assert_eq!(canonical(r#"{"b":1.0,"a":{"y":null,"x":1e0}}"#), canonical(r#"{"a":{"x":1},"b":1}"#));
        assert_ne!(canonical(r#"{"a":[null]}"#), canonical(r#"{"a":[]}"#));
    }

    #[test]
    fn a_name_given_twice_and_a_deep_nest_are_refused() {
        assert!(serde_json::from_str::<Json<'_>>(r#"{"a":1,"\u0061":2}"#).unwrap_err().to_string().contains("stands twice"));
        let many: Vec<String> = (0..40).map(|i| format!("\"k{}\":0", i % 39)).collect();
        assert!(serde_json::from_str::<Json<'_>>(&format!("{{{}}}", many.join(","))).is_err());
        let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
        assert!(serde_json::from_str::<Json<'_>>(&deep).unwrap_err().to_string().contains("nested deeper"));
    }

    #[test]
    fn the_fingerprint_is_stable() {
        let value: Json<'_> = serde_json::from_str(r#"{"to":"+254722000000","channel":"sms","body":"Hi"}"#).unwrap();
        let Json::Object(members) = &value else { panic!("an object") };
        let print = fingerprint(members.iter().map(|(k, v)| (k.as_ref(), v)));
        assert_eq!(print.map(|b| format!("{b:02x}")).concat(), include_str!("../tests/fingerprint.txt").trim());
    }
}
