//! The one verifier of certificates here: a connection is good when it proves a key that is expected, and nothing else
//! about the certificate matters. There is no authority to trust, no name and no date; a member is its key.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::directory::Directory;
use crate::raft::MemberKey;

/// Sent because TLS wants a name; nobody looks at it.
pub(crate) const SERVER_NAME: &str = "member.obt.invalid";
/// What comes before the 32 bytes of an Ed25519 key in a certificate (RFC 8410, section 4).
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Whose key is good.
#[derive(Debug, Clone)]
pub enum Expect {
    /// This one: whoever is called is known.
    Key(MemberKey),
    /// Any member's.
    Members(Arc<Directory>),
    /// Any: for those who want to be let in. What they may ask is another matter.
    Anybody,
}

/// See above.
#[derive(Debug)]
pub struct PinVerifier {
    expect: Expect,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinVerifier {
    /// Accepts what `expect` says.
    #[must_use]
    pub fn new(expect: Expect, provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { expect, algorithms: provider.signature_verification_algorithms })
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let key = key_of(certificate)?;
        let good = match &self.expect {
            Expect::Key(expected) => key == *expected,
            Expect::Members(directory) => directory.by_key(&key).is_some(),
            Expect::Anybody => true,
        };
        if good { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(CertificateError::BadSignature.into());
        }
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

/// The key in a certificate.
pub(crate) fn key_of(certificate: &CertificateDer<'_>) -> Result<MemberKey, Error> {
    let info = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    let key = info.as_ref().strip_prefix(&ED25519_PREFIX).and_then(|key| key.try_into().ok());
    key.map(MemberKey).ok_or_else(|| CertificateError::BadEncoding.into())
}

/// Both traits ask for signatures of TLS 1.2, which neither side offers.
fn no_tls12() -> Error {
    Error::General("members speak TLS 1.3".to_owned())
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for PinVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, date_time_ymd};

    use super::*;
    use crate::directory::Members;
    use crate::raft::Member;

    fn pair() -> (KeyPair, MemberKey) {
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let key = MemberKey(pair.der_bytes().try_into().unwrap());
        (pair, key)
    }

    fn certificate(pair: &KeyPair) -> CertificateDer<'static> {
        CertificateParams::new(vec!["anything.example".to_owned()]).unwrap().self_signed(pair).unwrap().der().clone()
    }

    fn accepts(expect: Expect, certificate: &CertificateDer<'_>) -> bool {
        let verifier = PinVerifier::new(expect, &rustls::crypto::ring::default_provider());
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_790_000_000));
        let name = ServerName::try_from("other.example").unwrap();
        let as_client = verifier.verify_client_cert(certificate, &[], now).is_ok();
        let as_server = verifier.verify_server_cert(certificate, &[], &name, &[], now).is_ok();
        assert_eq!(as_client, as_server);
        as_client
    }

    #[test]
    fn t05_a_connection_is_good_by_its_key_alone() {
        let ((one, one_key), (other, _)) = (pair(), pair());
        assert!(accepts(Expect::Key(one_key), &certificate(&one)));
        assert!(!accepts(Expect::Key(one_key), &certificate(&other)), "another key");

        let mut expired = CertificateParams::new(Vec::<String>::new()).unwrap();
        (expired.not_before, expired.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2001, 1, 2));
        assert!(accepts(Expect::Key(one_key), expired.self_signed(&one).unwrap().der()), "dates do not matter");
    }

    #[test]
    fn n01_only_members_are_let_in_and_only_while_they_are() {
        let ((one, one_key), (other, _)) = (pair(), pair());
        let directory = Arc::new(Directory::default());
        let members = Expect::Members(Arc::clone(&directory));
        assert!(!accepts(members.clone(), &certificate(&one)));
        let member = Member { key: one_key, ..Member::default() };
        directory.set(Members { all: [(1, member)].into(), ..Members::default() });
        assert!(accepts(members.clone(), &certificate(&one)));
        assert!(!accepts(members.clone(), &certificate(&other)));
        directory.set(Members::default());
        assert!(!accepts(members, &certificate(&one)), "it was removed");
    }

    #[test]
    fn keys_of_other_kinds_and_broken_certificates_are_refused() {
        let other_kind = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        assert!(!accepts(Expect::Anybody, &certificate(&other_kind)));
        let good = certificate(&pair().0);
        for cut in [0, 1, 40, good.len() - 1] {
            assert!(!accepts(Expect::Anybody, &CertificateDer::from(good[..cut].to_vec())), "{cut} bytes");
        }
    }
}
