//! The fields of a request: either spelling, each at most once, none unknown, and every problem noted so that the caller
//! sees all of them at once.

use std::borrow::Cow;

use raven_core::{Problems, json::Json};

use crate::problem::{Problem, Result};

/// Reads the members of an object one by one.
pub struct Fields<'a> {
    members: Vec<(Cow<'a, str>, Json<'a>)>,
    /// What is wrong with names.
    unknown: Problems,
    problems: Problems,
    /// What stands before a name in a report (`to.keys.`).
    path: Cow<'static, str>,
    fingerprint: [u8; 16],
}

/// A value that a field can have.
pub trait Value<'a>: Sized {
    /// Reads it; the error says what it must be.
    ///
    /// # Errors
    /// What the value must be instead.
    fn read(json: Json<'a>) -> std::result::Result<Self, &'static str>;
}

impl<'a> Value<'a> for Cow<'a, str> {
    fn read(json: Json<'a>) -> std::result::Result<Self, &'static str> {
        match json {
            Json::String(s) if s.contains('\0') => Err("must not contain the character U+0000"),
            Json::String(s) => Ok(s),
            _ => Err("must be a string"),
        }
    }
}

impl<'a> Value<'a> for bool {
    fn read(json: Json<'a>) -> std::result::Result<Self, &'static str> {
        if let Json::Bool(b) = json { Ok(b) } else { Err("must be true or false") }
    }
}

impl<'a> Value<'a> for i64 {
    #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and within 2^53")]
    fn read(json: Json<'a>) -> std::result::Result<Self, &'static str> {
        match json {
            Json::Number(n) if n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_992.0 => Ok(n as Self),
            _ => Err("must be a whole number"),
        }
    }
}

impl<'a> Value<'a> for Json<'a> {
    fn read(json: Json<'a>) -> std::result::Result<Self, &'static str> {
        if has_nul(&json) { Err("must not contain the character U+0000") } else { Ok(json) }
    }
}

impl<'a, T: Value<'a>> Value<'a> for Vec<T> {
    fn read(json: Json<'a>) -> std::result::Result<Self, &'static str> {
        match json {
            Json::Array(items) => {
                items.into_iter().map(T::read).collect::<std::result::Result<_, _>>().map_err(|_| "must be an array of strings")
            }
            _ => Err("must be an array"),
        }
    }
}

fn has_nul(json: &Json<'_>) -> bool {
    match json {
        Json::String(s) => s.contains('\0'),
        Json::Array(items) => items.iter().any(has_nul),
        Json::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

impl<'a> Fields<'a> {
    /// The members of a request's body. Names are turned to camelCase; those not in `known` are noted.
    #[must_use]
    pub fn new(members: Vec<(Cow<'a, str>, Json<'a>)>, known: &'static [&'static str]) -> Self {
        let mut fields = Self::nested(members, known, "");
        for (name, value) in &mut fields.members {
            if SPELLED.contains(&name.as_ref()) {
                respell(value);
            }
        }
        let print = fields.members.iter().map(|(name, value)| (name.as_ref(), value)).filter(|(name, _)| *name != IDEMPOTENCY_KEY);
        fields.fingerprint = raven_core::json::fingerprint(print);
        fields
    }

    /// The members of an object within a request; `path` stands before names in reports.
    #[must_use]
    pub fn nested(mut members: Vec<(Cow<'a, str>, Json<'a>)>, known: &'static [&'static str], path: impl Into<Cow<'static, str>>) -> Self {
        let path = path.into();
        let mut unknown = Problems::default();
        for i in 0..members.len() {
            if members[i].0.contains('_') {
                members[i].0 = Cow::Owned(camel_case(&members[i].0));
            }
            let name = &members[i].0;
            if members[..i].iter().any(|(other, _)| other == name) {
                unknown.add(format!("{path}{name}"), "is given in both spellings: send one of them");
            } else if !known.contains(&name.as_ref()) {
                unknown.add(format!("{path}{}", shown(name)), unknown_text(name, known));
            }
        }
        Self { members, unknown, problems: Problems::default(), path, fingerprint: [0; 16] }
    }

    /// The fingerprint of the payload: all members but the idempotency key, names in one spelling.
    #[must_use]
    pub const fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// Takes a field's value; absent and `null` are the same. A wrong type is noted.
    pub fn take<T: Value<'a>>(&mut self, name: &'static str) -> Option<T> {
        let at = self.members.iter().position(|(n, _)| n == name)?;
        let json = std::mem::replace(&mut self.members[at].1, Json::Null);
        if json == Json::Null {
            return None;
        }
        T::read(json).map_err(|message| self.note(name, message)).ok()
    }

    /// Is the field given as `null`? For changes, where that takes a value away and absence leaves it.
    #[must_use]
    pub fn is_null(&self, name: &str) -> bool {
        self.members.iter().any(|(n, value)| n == name && *value == Json::Null)
    }

    /// Notes a problem with a field.
    pub fn note(&mut self, name: &str, message: impl Into<String>) {
        self.problems.add(format!("{}{name}", self.path), message);
    }

    /// Notes that a field is required, unless what is wrong with it was noted already.
    pub fn require(&mut self, name: &str, message: &str) {
        let noted = |p: &Problems| p.iter().any(|p| p.field == format!("{}{name}", self.path));
        if !noted(&self.problems) && !noted(&self.unknown) {
            self.note(name, message);
        }
    }

    /// Keeps a value, or notes why there is none.
    pub fn check<T>(&mut self, name: &str, value: std::result::Result<T, impl std::fmt::Display>) -> Option<T> {
        value.map_err(|e| self.note(name, e.to_string())).ok()
    }

    /// A text of `min` to `max` characters without control characters, if it is given.
    pub fn line(&mut self, name: &'static str, min: usize, max: usize) -> Option<Cow<'a, str>> {
        let text: Cow<'a, str> = self.take(name)?;
        self.check(name, line(&text, min, max))?;
        Some(text)
    }

    /// Takes over the problems of an object within.
    pub fn absorb(&mut self, inner: Fields<'_>) {
        self.unknown.append(inner.unknown);
        self.problems.append(inner.problems);
    }

    /// Notes problems found elsewhere.
    pub fn add_all(&mut self, problems: Problems) {
        self.problems.append(problems);
    }

    /// The end of reading.
    ///
    /// # Errors
    /// All that was noted.
    pub fn finish(self) -> Result<()> {
        Problem::of_request(self.unknown, self.problems)
    }
}

/// Fields whose objects have names of ours, which come in either spelling.
const SPELLED: &[&str] = &["attachments", "whatsappTemplate", "to", "address"];

/// Turns the names within to camelCase. A name that stands there in both spellings stays twice, and is noted when it is read.
fn respell(json: &mut Json<'_>) {
    match json {
        Json::Array(items) => items.iter_mut().for_each(respell),
        Json::Object(members) => {
            for (name, value) in members {
                if name.contains('_') {
                    *name = Cow::Owned(camel_case(name));
                }
                respell(value);
            }
        }
        _ => {}
    }
}

/// The field that carries an idempotency key.
pub const IDEMPOTENCY_KEY: &str = "idempotencyKey";

/// Checks a one-line text: `min` to `max` characters, none of them a control character.
///
/// # Errors
/// What it must be instead.
pub fn line(text: &str, min: usize, max: usize) -> std::result::Result<(), String> {
    let length = text.chars().count();
    if text.chars().any(char::is_control) {
        Err("must not contain line breaks or other control characters".to_owned())
    } else if !(min..=max).contains(&length) {
        Err(format!("must be {min} to {max} characters long, and is {length}"))
    } else {
        Ok(())
    }
}

/// What to say of a name that is not known.
pub(crate) fn unknown_text(name: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|k| (strsim::damerau_levenshtein(&name.to_lowercase(), &k.to_lowercase()), k)).min();
    match nearest {
        Some((distance, known)) if distance <= 3.max(known.len() / 3) => format!("is not known here; did you mean {known}?"),
        _ if known.is_empty() => "is not known here; this takes none".to_owned(),
        _ => format!("is not known here; known are {}", known.join(", ")),
    }
}

/// A name as a report shows it: a caller's own text, so cut.
pub(crate) fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// `external_id` → `externalId`. A name that is not snake_case stays as it is.
pub(crate) fn camel_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut up = false;
    for c in name.chars() {
        match c {
            '_' if !out.is_empty() => up = true,
            c if up => {
                out.extend(c.to_uppercase());
                up = false;
            }
            c => out.push(c),
        }
    }
    if up {
        out.push('_');
    }
    out
}

/// Declares a request: its fields as they come, all optional, with their names on the wire. One list serves reading,
/// the unknown-field check and the OpenAPI document. There a field may be `null` or absent unless it says
/// `#[schema(required)]`; one with a `value_type` says `required = false` then.
macro_rules! request {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* $field:ident: $ty:ty = $wire:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default, utoipa::ToSchema)]
        pub struct $name<'a> {
            $($(#[$fmeta])* #[schema(rename = $wire)] pub $field: Option<$ty>,)*
        }

        impl<'a> $name<'a> {
            /// The names that the request may have.
            pub const FIELDS: &'static [&'static str] = &[$($wire,)*];

            /// Takes all fields; wrong types are noted.
            pub fn read(fields: &mut $crate::fields::Fields<'a>) -> Self {
                Self { $($field: fields.take($wire),)* }
            }
        }
    };
}
pub(crate) use request;

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields<'_> {
        let Json::Object(members) = serde_json::from_str(text).unwrap() else { panic!("an object") };
        Fields::new(members, &["externalId", "body", "idempotencyKey"])
    }

    fn problems(f: Fields<'_>) -> Vec<(String, String)> {
        f.finish().unwrap_err().errors.into_iter().map(|e| (e.field, e.message)).collect()
    }

    #[test]
    fn both_spellings_are_read_and_have_one_fingerprint() {
        let mut snake = fields(r#"{"external_id":"x","body":"y","idempotency_key":"1"}"#);
        let camel = fields(r#"{"body":"y","externalId":"x","idempotencyKey":"2"}"#);
        assert_eq!(snake.fingerprint(), camel.fingerprint());
        assert_eq!(snake.take::<Cow<'_, str>>("externalId").as_deref(), Some("x"));
        assert!(snake.finish().is_ok());
        assert_ne!(fields(r#"{"body":"z","externalId":"x"}"#).fingerprint(), camel.fingerprint());
    }

    #[test]
    fn unknown_fields_are_named_with_the_nearest_known_one() {
        assert_eq!(
            problems(fields(r#"{"extrenalId":"x"}"#)),
            [("extrenalId".to_owned(), "is not known here; did you mean externalId?".to_owned())]
        );
        assert_eq!(problems(fields(r#"{"zzzzzzzzzzzzzz":1}"#))[0].1, "is not known here; known are externalId, body, idempotencyKey");
        assert_eq!(problems(fields(r#"{"externalId":"x","external_id":"x"}"#))[0].1, "is given in both spellings: send one of them");
    }

    #[test]
    fn wrong_types_are_noted_and_null_is_absent() {
        let mut f = fields(r#"{"externalId":1,"body":null}"#);
        assert_eq!(f.take::<Cow<'_, str>>("body"), None);
        assert_eq!(f.take::<Cow<'_, str>>("externalId"), None);
        assert_eq!(problems(f), [("externalId".to_owned(), "must be a string".to_owned())]);
    }

    #[test]
    fn names_turn_to_camel_case() {
        for (from, to) in
            [("external_id", "externalId"), ("body", "body"), ("_body", "_body"), ("body_", "body_"), ("a__b", "aB"), ("", "")]
        {
            assert_eq!(camel_case(from), to);
        }
    }
}
