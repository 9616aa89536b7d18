//! The table of error codes: name, status, what it means and what to do. The OpenAPI document's closed list and
//! `docs/errors.md` are made of it.

use http::StatusCode;

/// An error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// `code` in the body.
    pub name: &'static str,
    /// The status it comes with.
    pub status: StatusCode,
    /// What happened and what to do: for the docs, and the message where nothing more exact is known.
    pub text: &'static str,
}

macro_rules! codes {
    ($($constant:ident = $status:ident $name:literal $text:literal;)*) => {
        $(
            #[doc = $text]
            pub const $constant: Code = Code { name: $name, status: StatusCode::$status, text: $text };
        )*
        /// All codes, in the order of the table.
        pub const ALL: &[Code] = &[$($constant,)*];
    };
}

codes! {
    VALIDATION_FAILED = BAD_REQUEST "validation_failed" "Some fields are not acceptable: `errors` names each of them. Correct them and send the request again.";
    UNKNOWN_FIELD = BAD_REQUEST "unknown_field" "The request has a field or query parameter that this endpoint does not know: `errors` names it, and the nearest known one.";
    INVALID_JSON = BAD_REQUEST "invalid_json" "The body is not a JSON object in UTF-8.";
    INVALID_CURSOR = BAD_REQUEST "invalid_cursor" "The cursor was not made by this endpoint with these filters. Begin again without a cursor.";
    NO_PROVIDER_FOR_CHANNEL = BAD_REQUEST "no_provider_for_channel" "No provider is configured for the channel. Add one with POST /v1/admin/providers, or use a test key.";
    UNSUPPORTED_FEATURE = BAD_REQUEST "unsupported_feature" "The channel's provider can't carry some fields of the message: `errors` names each. Leave them out, or configure a provider that carries them (GET /v1/admin/providers/catalog tells which).";
    MISSING_CREDENTIALS = UNAUTHORIZED "missing_credentials" "The request carries no credentials. Send X-Raven-Key, or for the admin endpoints Authorization: Bearer.";
    INVALID_API_KEY = UNAUTHORIZED "invalid_api_key" "Invalid API key";
    INVALID_TOKEN = UNAUTHORIZED "invalid_token" "The bearer token is not valid. Sign in again.";
    UNPROVEN_CALLBACK = UNAUTHORIZED "unproven_callback" "Nothing proves that the callback is the provider's: its signature does not fit the config's settings, or the token is missing or wrong. callbackUrl of the provider config is the whole URL to give to the provider. Nothing was stored.";
    INSUFFICIENT_ROLE = FORBIDDEN "insufficient_role" "Your role in this tenant does not allow this. Ask an admin or owner.";
    INSUFFICIENT_SCOPE = FORBIDDEN "insufficient_scope" "The API key has not the scope that this needs. Create a key with it.";
    TENANT_SUSPENDED = FORBIDDEN "tenant_suspended" "The tenant is suspended: nothing can be sent or changed until it is reactivated.";
    TENANT_ARCHIVED = FORBIDDEN "tenant_archived" "The tenant is archived. An owner can restore it for 30 days with POST /v1/admin/tenant/restore; then it is deleted.";
    EMAIL_NOT_VERIFIED = FORBIDDEN "email_not_verified" "Your token does not say that your address is verified (email_verified). Verify it with your identity provider and sign in again.";
    NOT_A_MEMBER = FORBIDDEN "not_a_member" "You are not a member of the tenant that X-Tenant-Slug names, or the header is missing.";
    NOT_FOUND = NOT_FOUND "not_found" "There is no such resource here.";
    METHOD_NOT_ALLOWED = METHOD_NOT_ALLOWED "method_not_allowed" "The path exists, but not with this method.";
    BODY_TOO_LARGE = PAYLOAD_TOO_LARGE "body_too_large" "The body is larger than this endpoint takes.";
    UNSUPPORTED_MEDIA_TYPE = UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "The body must be JSON: send Content-Type: application/json.";
    REQUEST_TIMEOUT = REQUEST_TIMEOUT "request_timeout" "The body did not arrive in time.";
    SLUG_TAKEN = CONFLICT "slug_taken" "Another tenant has this slug. Choose another, or leave it out and one is made from the name.";
    IDEMPOTENCY_KEY_REUSED = CONFLICT "idempotency_key_reused" "The idempotency key was used before with another payload. Use a new key for a new request.";
    ALREADY_SUPPRESSED = CONFLICT "already_suppressed" "The address is suppressed already for this channel and environment. Delete that suppression first to list it with another reason.";
    RECIPIENT_SUPPRESSED = CONFLICT "recipient_suppressed" "The recipient is suppressed, so no test is sent to it. Use another address, or take this one off the list first (GET and DELETE /v1/admin/suppressions).";
    INVALID_STATE = CONFLICT "invalid_state" "The resource's state does not allow this: the message tells its state and what it would have to be.";
    LAST_OWNER = CONFLICT "last_owner" "A tenant always keeps one owner. Make somebody else an owner first.";
    ALREADY_MEMBER = CONFLICT "already_member" "You belong to this tenant already.";
    ALREADY_INVITED = CONFLICT "already_invited" "The address has an open invitation. Revoke that one first, or wait for its answer.";
    RATE_LIMITED = TOO_MANY_REQUESTS "rate_limited" "Too many requests. Wait for the number of seconds in Retry-After; RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset tell the limit.";
    DAILY_QUOTA_EXCEEDED = TOO_MANY_REQUESTS "daily_quota_exceeded" "The tenant's messages of the day (UTC) are used up. Retry-After tells when the next day begins; the operator can change the plan.";
    OVERLOADED = SERVICE_UNAVAILABLE "overloaded" "Raven can't take the request now. Try again after the number of seconds in Retry-After, with the same idempotency key.";
    INTERNAL = INTERNAL_SERVER_ERROR "internal" "Something failed on our side, and nothing was half done. The request id finds it in the log.";
}
