//! Secrets made through the API, encrypted at rest: AES-256-GCM under the store key (NIST SP 800-38D).
//!
//! The key is the operator's: `[storage] key`. Where a SQLite hub names none, one is made beside the file at
//! its first use. The first key seals; every key opens, so that one can be rotated.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use mailspan_connectors::signature::{hex, hmac_sha256, sha256};
use mailspan_core::{Name, Secret};
use mailspan_store::{SealedRow, SealedWrite};

use crate::hub::Storage;
use crate::runtime;

/// Why a secret cannot be sealed or opened, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error(
        "no store key is set: write [storage] key = {{ env = \"MAILSPAN_STORE_KEY\" }} (`mailspan keys secret` makes one)"
    )]
    NoKey,
    #[error("`{0}` was sealed under a store key that is not set now: put it into [storage] old_keys")]
    OtherKey(String),
    #[error("`{0}` cannot be opened: it was changed, or moved from another row")]
    Broken(String),
    #[error("the store key beside the database cannot be read or made: {0}")]
    File(String),
}

/// Keys with the names by which rows know them.
pub struct Seals(Vec<(String, LessSafeKey)>);

impl Seals {
    /// The keys of the configuration; for a SQLite file without one the key beside it, made where it is
    /// missing (0600).
    pub fn of(storage: &Storage, keys: &[Secret]) -> Result<Seals, SealError> {
        let beside;
        let keys = match (storage, keys) {
            (Storage::Sqlite { path }, []) => {
                beside = [key_file(path)?];
                &beside[..]
            }
            (_, keys) => keys,
        };
        Ok(Seals(keys.iter().filter_map(derived).collect()))
    }

    /// The row to be written. `about` is bound into it: a row that is moved does not open.
    pub fn seal(&self, tenant: &Name, about: &str, secret: &Secret) -> Result<SealedWrite, SealError> {
        let (key_id, key) = self.0.first().ok_or(SealError::NoKey)?;
        let random = runtime::random_u128().to_be_bytes();
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&random[..NONCE_LEN]);
        let mut sealed = secret.expose().as_bytes().to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound(tenant, about), &mut sealed)
            .map_err(|_| SealError::Broken(about.to_owned()))?;
        Ok(SealedWrite {
            tenant: tenant.clone(),
            about: about.to_owned(),
            key_id: key_id.clone(),
            sealed: [&nonce[..], &sealed].concat(),
            at: runtime::now(),
        })
    }

    pub fn open(&self, row: &SealedRow) -> Result<Secret, SealError> {
        let about = || row.about.clone();
        let key = self.0.iter().find(|(id, _)| *id == row.key_id);
        let (_, key) = key.ok_or_else(|| SealError::OtherKey(about()))?;
        let (nonce, sealed) =
            row.sealed.split_at_checked(NONCE_LEN).ok_or_else(|| SealError::Broken(about()))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Broken(about()))?;
        let mut sealed = sealed.to_vec();
        let opened = key.open_in_place(nonce, bound(&row.tenant, &row.about), &mut sealed);
        let opened = opened.map_err(|_| SealError::Broken(about()))?;
        let text = std::str::from_utf8(opened).map_err(|_| SealError::Broken(about()))?;
        Ok(Secret::new(text.to_owned()))
    }

    /// True where the row was sealed under another key than the first.
    pub fn is_old(&self, row: &SealedRow) -> bool {
        self.0.first().is_none_or(|(id, _)| *id != row.key_id)
    }
}

fn bound(tenant: &Name, about: &str) -> Aad<Vec<u8>> {
    Aad::from(format!("{tenant}\0{about}").into_bytes())
}

/// The key of a secret of any length, and its name: eight bytes that tell nothing of it.
fn derived(secret: &Secret) -> Option<(String, LessSafeKey)> {
    let key = hmac_sha256(secret.expose().as_bytes(), b"mailspan store key");
    let id = hex(&sha256(&key)[..8]);
    Some((id, LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).ok()?)))
}

/// `FILE.key`, readable by its owner alone.
fn key_file(database: &Path) -> Result<Secret, SealError> {
    let mut path = database.as_os_str().to_owned();
    path.push(".key");
    let path = PathBuf::from(path);
    let broken = |error: std::io::Error| SealError::File(format!("{}: {error}", path.display()));
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim().to_owned())),
        Ok(_) => return Err(SealError::File(format!("{} is empty", path.display()))),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(broken(error)),
        Err(_) => {}
    }
    let text = crate::http::v1::keys::new_secret("");
    let mut file =
        std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(broken)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(broken)?;
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use mailspan_core::Millis;

    use super::*;

    fn row(write: SealedWrite) -> SealedRow {
        let SealedWrite { tenant, about, key_id, sealed, at } = write;
        SealedRow { id: 1, tenant, about, key_id, sealed, made_at: at }
    }

    fn seals(keys: &[&str]) -> Seals {
        let keys: Vec<Secret> = keys.iter().map(|key| Secret::new((*key).to_owned())).collect();
        let storage =
            Storage::Postgres { url: Secret::new(String::new()), folder: std::path::PathBuf::new() };
        Seals::of(&storage, &keys).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_under_its_key_and_in_its_place_alone() {
        let (one, both, other) = (seals(&["one"]), seals(&["two", "one"]), seals(&["two"]));
        let tenant = Name::new("acme");
        let secret = Secret::new("whsec_x".to_owned());
        let sealed = row(one.seal(&tenant, "endpoint/1", &secret).unwrap());
        assert!(!String::from_utf8_lossy(&sealed.sealed).contains("whsec"));
        assert_eq!(one.open(&sealed).unwrap().expose(), "whsec_x");
        assert_eq!(both.open(&sealed).unwrap().expose(), "whsec_x");
        assert!(both.is_old(&sealed) && !one.is_old(&sealed));
        assert_eq!(other.open(&sealed).err(), Some(SealError::OtherKey("endpoint/1".to_owned())));
        for moved in [
            SealedRow { about: "endpoint/2".to_owned(), ..sealed.clone() },
            SealedRow { tenant: Name::new("b"), ..sealed.clone() },
            SealedRow { sealed: sealed.sealed[..20].to_vec(), ..sealed.clone() },
            SealedRow { made_at: Millis(1), sealed: Vec::new(), ..sealed.clone() },
        ] {
            assert!(one.open(&moved).is_err());
        }
        assert_eq!(seals(&[]).seal(&tenant, "x", &secret).err(), Some(SealError::NoKey));
    }

    #[test]
    fn a_file_without_a_key_gets_one_beside_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::Sqlite { path: folder.path().join("hub.db") };
        let sealed =
            Seals::of(&storage, &[]).unwrap().seal(&Name::new("a"), "x", &Secret::new("s".to_owned()));
        let again = Seals::of(&storage, &[]).unwrap();
        assert_eq!(again.open(&row(sealed.unwrap())).unwrap().expose(), "s");
        let mode = std::fs::metadata(folder.path().join("hub.db.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
