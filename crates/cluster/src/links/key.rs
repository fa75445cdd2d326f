//! The key that a member proves: an Ed25519 secret in a file that only its owner may read, and a certificate around it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::failure::StartError;
use crate::raft::MemberKey;

/// Longest key file, bytes; a key has fewer than a hundred.
const FILE_BYTES: u64 = 1_024;
/// Bits that let others than the owner at the file.
const OTHERS: u32 = 0o077;

/// A member's key pair.
pub struct NodeKey {
    pair: KeyPair,
    public: MemberKey,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeKey({})", self.public)
    }
}

impl NodeKey {
    /// A new one.
    ///
    /// # Errors
    /// Where the system has no randomness.
    pub fn generate() -> Result<Self, StartError> {
        Self::of(KeyPair::generate_for(&PKCS_ED25519).map_err(|error| StartError::Key(error.to_string()))?)
    }

    /// The key in the file; a new one, durably, where there is no file.
    ///
    /// # Errors
    /// [`StartError::Key`] where others than its owner may read the file, or it holds no key; those of the disk.
    pub fn load_or_make(path: &Path) -> Result<Self, StartError> {
        match OpenOptions::new().read(true).open(path) {
            Ok(file) => {
                let mode = file.metadata()?.mode();
                if mode & OTHERS != 0 {
                    let path = path.display();
                    return Err(StartError::Key(format!(
                        "others may read the key file {path}, so it is no secret any more: chmod 600 {path} if nobody has, or \
                         remove it and join the cluster anew"
                    )));
                }
                let mut der = Vec::new();
                file.take(FILE_BYTES).read_to_end(&mut der)?;
                let no_key = || StartError::Key(format!("{} holds no Ed25519 key", path.display()));
                let pair = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_ED25519);
                Self::of(pair.map_err(|_| no_key())?)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key = Self::generate()?;
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
                file.write_all(key.pair.serialized_der())?;
                file.sync_all()?;
                if let Some(folder) = path.parent() {
                    OpenOptions::new().read(true).open(folder)?.sync_all()?;
                }
                Ok(key)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn of(pair: KeyPair) -> Result<Self, StartError> {
        let public = pair.der_bytes().try_into().map_err(|_| StartError::Key("a key has 32 bytes".to_owned()))?;
        Ok(Self { pair, public: MemberKey(public) })
    }

    /// What others know it by.
    #[must_use]
    pub fn public(&self) -> MemberKey {
        self.public
    }

    /// A certificate that says nothing but the key, and the secret.
    pub(crate) fn certificate(&self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), StartError> {
        let broken = |error: rcgen::Error| StartError::Key(error.to_string());
        let parameters = CertificateParams::new(vec![super::verify::SERVER_NAME.to_owned()]).map_err(broken)?;
        let certificate = parameters.self_signed(&self.pair).map_err(broken)?;
        let secret = PrivatePkcs8KeyDer::from(self.pair.serialized_der().to_vec());
        Ok((certificate.der().clone(), secret.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn t04_a_key_is_kept_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = NodeKey::load_or_make(&path).unwrap().public();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(NodeKey::load_or_make(&path).unwrap().public(), key);
        for mode in [0o640, 0o604, 0o666] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = NodeKey::load_or_make(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
        fs::write(&path, b"no key").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(NodeKey::load_or_make(&path).unwrap_err().to_string().contains("no Ed25519 key"));
    }
}
