//! Encryption on the way to the database, with the words that PostgreSQL's own client knows for it: `sslmode` is
//! `disable`, `prefer` (default: encrypted if the server can, unverified), `require` (encrypted, unverified unless
//! `sslrootcert` names a file), `verify-ca` and `verify-full` (both check certificate and host name here, against
//! `sslrootcert` or the system's authorities).

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Error, Result};

/// What a URL says about encryption beyond what the driver understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tls {
    verified: bool,
    root_certificates: Option<String>,
}

impl Tls {
    /// Takes our part out of a URL and leaves one that the driver can read.
    pub(super) fn from_url(url: &str) -> Result<(String, Self)> {
        let mut tls = Self { verified: false, root_certificates: None };
        let Some((base, query)) = url.split_once('?') else { return Ok((url.to_owned(), tls)) };
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", "verify-ca" | "verify-full")) => {
                    tls.verified = true;
                    kept.push("sslmode=require");
                }
                Some(("sslrootcert", "system")) => tls.verified = true,
                Some(("sslrootcert", path)) => {
                    tls.verified = true;
                    tls.root_certificates = Some(unescape(path).ok_or_else(|| Error::internal("sslrootcert is no text"))?);
                }
                _ => kept.push(pair),
            }
        }
        let url = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        Ok((url, tls))
    }

    /// What makes the encrypted connections.
    pub(super) fn connector(&self) -> Result<MakeRustlsConnect> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Internal(Box::new(e)))?;
        let config = if self.verified {
            builder.with_root_certificates(self.roots()?).with_no_client_auth()
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider))).with_no_client_auth()
        };
        Ok(MakeRustlsConnect::new(config))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        match &self.root_certificates {
            Some(path) => {
                let certificates = CertificateDer::pem_file_iter(path).map_err(|e| Error::internal(format!("sslrootcert {path}: {e}")))?;
                for certificate in certificates {
                    let certificate = certificate.map_err(|e| Error::internal(format!("sslrootcert {path}: {e}")))?;
                    roots.add(certificate).map_err(|e| Error::Internal(Box::new(e)))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err(Error::internal("no certificate authority to check the database's certificate against: set sslrootcert"));
        }
        Ok(roots)
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Takes any certificate: against listeners on the wire, not against impostors. That is what `prefer` and `require`
/// mean to every PostgreSQL client.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_words_are_taken_out_of_the_url() {
        let (url, tls) = Tls::from_url("postgres://a@b/c?sslmode=verify-full&sslrootcert=/etc/my%20ca.pem&application_name=x").unwrap();
        assert_eq!(url, "postgres://a@b/c?sslmode=require&application_name=x");
        assert_eq!(tls, Tls { verified: true, root_certificates: Some("/etc/my ca.pem".into()) });
        let plain = "postgres://a@b/c?sslmode=prefer";
        assert_eq!(Tls::from_url(plain).unwrap(), (plain.to_owned(), Tls { verified: false, root_certificates: None }));
        assert_eq!(Tls::from_url("postgres://a@b/c").unwrap().0, "postgres://a@b/c");
        assert!(Tls::from_url("postgres://a@b/c?sslrootcert=%f").is_err());
    }

    #[test]
    fn a_missing_certificate_file_is_refused() {
        let (_, tls) = Tls::from_url("postgres://a@b/c?sslrootcert=/nowhere/ca.pem").unwrap();
        assert!(matches!(tls.connector(), Err(Error::Internal(_))));
    }
}
