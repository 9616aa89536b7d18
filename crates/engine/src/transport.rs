//! Outgoing HTTP: one keep-alive client for all providers. No redirects are followed, an answer is read up to 64 KiB, and
//! a failure says whether the request can have gone out.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use raven_core::problem::chain;
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// How long one call may take in all: connecting, sending, and reading the answer. With the grace that a node's heartbeat
/// has ([`crate::membership::FRESH`]) it stays below the time after which the node is declared dead.
pub const CALL_CAP: Duration = Duration::from_secs(12);
const CONNECT_CAP: Duration = Duration::from_secs(5);
const ANSWER_MAX: usize = 64 * 1024;
/// Idle connections kept to one host.
const IDLE_PER_HOST: usize = 256;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request did not go out: no connection (refused, no such host, TLS failed).
    #[error("could not connect: {0}")]
    NotSent(String),
    /// It may have gone out: the connection broke, or no whole answer came in time.
    #[error("no answer: {0}")]
    Unknown(String),
}

/// Certificate authorities that the operator trusts beside the public ones.
#[derive(Clone, Debug, Default)]
pub struct ExtraRoots(Vec<CertificateDer<'static>>);

impl ExtraRoots {
    /// Reads a PEM bundle.
    ///
    /// # Errors
    /// A sentence, when the text has no certificate or a damaged one.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        match found {
            Ok(list) if !list.is_empty() => Ok(Self(list)),
            Ok(_) => Err("there is no certificate in it (PEM is expected)".to_owned()),
            Err(e) => Err(format!("a certificate in it can't be read: {e}")),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.0.iter()
    }
}

/// TLS that trusts the public authorities and these.
///
/// # Errors
/// A sentence, when one of the extra certificates is no authority.
pub(crate) fn tls_config(extra: &ExtraRoots) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
    for certificate in extra.iter() {
        roots.add(certificate.clone()).map_err(|e| format!("an extra certificate authority can't be used: {e}"))?;
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The client.
#[derive(Clone, Debug)]
pub struct Transport {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// For requests of version 2, which some providers insist on; over plain TCP with prior knowledge. The others stay with
    /// version 1: there a connection that breaks takes one call with it, not all of them.
    http2: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    cap: Duration,
}

impl Transport {
    /// A client that trusts the public authorities and these, and gives a call so much time (at most [`CALL_CAP`]).
    ///
    /// # Errors
    /// A sentence, when one of the extra certificates is no authority.
    pub fn new(extra: &ExtraRoots, cap: Duration) -> Result<Self, String> {
        let tls = tls_config(extra)?;
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_CAP));
        http.enforce_http(false);
        let https = || hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http();
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(IDLE_PER_HOST).pool_idle_timeout(Duration::from_secs(55)).pool_timer(TokioTimer::new());
        let client = builder.build(https().enable_http1().wrap_connector(http.clone()));
        let http2 = builder.http2_only(true).timer(TokioTimer::new()).build(https().enable_http2().wrap_connector(http));
        Ok(Self { client, http2, cap: cap.min(CALL_CAP) })
    }

    /// How much time a call has in all.
    #[must_use]
    pub const fn cap(&self) -> Duration {
        self.cap
    }

    /// Makes one call. `spent` of its time is over already.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, request: Request<Bytes>, spent: Duration) -> Result<Response<Bytes>, CallError> {
        let rest = self.cap.saturating_sub(spent);
        if rest.is_zero() {
            return Err(CallError::NotSent("no time was left for the call".to_owned()));
        }
        match tokio::time::timeout(rest, self.exchange(request.map(Full::new))).await {
            Ok(result) => result,
            Err(_) => Err(CallError::Unknown(format!("nothing came within {rest:?}"))),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, CallError> {
        let client = if request.version() == Version::HTTP_2 { &self.http2 } else { &self.client };
        let response = client.request(request).await.map_err(|e| {
            let text = chain(&e);
            if e.is_connect() { CallError::NotSent(text) } else { CallError::Unknown(text) }
        })?;
        let (parts, body) = response.into_parts();
        let mut body = Limited::new(body, ANSWER_MAX);
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        read.extend_from_slice(&data);
                    }
                }
                // A body beyond the cap: what was read tells enough. One that broke off: the status line alone can't be trusted.
                Err(e) if e.is::<http_body_util::LengthLimitError>() => break,
                Err(e) => return Err(CallError::Unknown(e.to_string())),
            }
        }
        Ok(Response::from_parts(parts, read.freeze()))
    }
}
