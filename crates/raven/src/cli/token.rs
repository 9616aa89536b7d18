//! `raven token`: a bearer token, for development.

use std::time::Duration;

use raven_core::{Clock, UserId, address::Email};
use raven_engine::{
    SystemClock,
    token::{Claims, Tokens},
};

use crate::{
    cli::{Around, span},
    config::{self, Flags},
    failure::Failure,
    operator,
};

/// The human that quickstart makes the owner of the demo tenant.
pub(crate) const DEMO_EMAIL: &str = "demo@example.com";

/// Mint a bearer token, for development.
///
/// Signs with RAVEN_JWT_SECRET, or with the secret that quickstart generated in the data directory, and names
/// RAVEN_JWT_ISSUER and RAVEN_JWT_AUDIENCE where they are set. Prints the token and nothing else. In production, tokens come from single sign-on.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The human's address; by default that of the demo tenant's owner
    #[arg(long, value_name = "ADDRESS", default_value = DEMO_EMAIL)]
    email: String,
    /// The human's name
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// The human's id; by default one made from the address, always the same
    #[arg(long, value_name = "UUID", value_parser = user)]
    user: Option<UserId>,
    /// How long it is good for: seconds, or 15m, 1h, 7d
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = span::parse)]
    expires_in: Duration,
    #[command(flatten)]
    settings: Flags<false>,
}

fn user(text: &str) -> Result<UserId, String> {
    UserId::parse(text).ok_or_else(|| "must be a UUID".to_owned())
}

pub(crate) fn run(arguments: Arguments, around: Around) -> Result<(), Failure> {
    let config = around.config(config::SIGNER, &arguments.settings)?;
    let Some(secret) = &config.jwt_secret else { return Err(anyhow::anyhow!("there is no secret to sign with").into()) };
    if Email::parse(&arguments.email).is_err() {
        return Err(Failure::Usage(format!("--email: {:?} is no email address", arguments.email)));
    }
    let now = SystemClock.now();
    let claims = Claims {
        sub: arguments.user.unwrap_or_else(|| operator::user_of(&arguments.email)),
        name: arguments.name.or_else(|| (arguments.email == DEMO_EMAIL).then(|| "Demo".to_owned())),
        email: arguments.email,
        email_verified: Some(true),
        picture: None,
        exp: now.after(arguments.expires_in).seconds(),
        iat: now.seconds(),
        nbf: None,
    };
    let tokens = Tokens::new(secret, config.jwt_issuer.as_deref(), config.jwt_audience.as_deref());
    let token = tokens.mint(&claims).map_err(anyhow::Error::from)?;
    // A token that this installation would refuse helps nobody.
    tokens.verify_shared(&token, now).map_err(|e| anyhow::anyhow!("no good token can be made of this: {e}"))?;
    Ok(around.output.line(token)?)
}
