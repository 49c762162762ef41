//! Secrets made through the API, encrypted at rest: AES-256-GCM under the store key (NIST SP 800-38D).
//!
//! The key is the operator's: `[storage] key`. Where a SQLite hub names none, one is made beside the file when that
//! is first opened, and the key of the address hashes is kept under it. The first key seals; every key opens, so
//! that one can be rotated.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use mailspan_connectors::signature::{hex, hmac_sha256, sha256};
use mailspan_core::{Name, Secret};
use mailspan_store::{SealedRow, SealedWrite, StoreKey, StoreKeys};

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
pub struct Seals(Vec<StoreKey>);

impl Seals {
    /// The keys of the configuration; for a SQLite file without one the key beside it, made where it is
    /// missing (0600). One that was made while none was configured still opens.
    pub fn of(storage: &Storage, keys: &[Secret]) -> Result<Seals, SealError> {
        if let (Storage::Sqlite { path }, []) = (storage, keys) {
            make_key(path)?;
        }
        Seals::known(storage, keys)
    }

    /// The same, and none is made.
    fn known(storage: &Storage, keys: &[Secret]) -> Result<Seals, SealError> {
        let mut seals: Vec<StoreKey> = keys.iter().map(derived).collect();
        if let Storage::Sqlite { path } = storage {
            seals.extend(read_key(&key_path(path))?.as_ref().map(derived));
        }
        Ok(Seals(seals))
    }

    /// For the store itself, which keeps the key of its address hashes under them.
    pub fn for_store(storage: &Storage, keys: &[Secret]) -> StoreKeys {
        let (storage, keys) = (storage.clone(), keys.to_vec());
        StoreKeys(Arc::new(move |may_make| {
            let of = if may_make { Seals::of } else { Seals::known };
            of(&storage, &keys).map(|seals| seals.0).map_err(|why| why.to_string())
        }))
    }

    /// What seals; nothing where no key is set.
    pub fn first(&self) -> Option<&StoreKey> {
        self.0.first()
    }

    /// The row to be written. `about` is bound into it: a row that is moved does not open.
    pub fn seal(&self, tenant: &Name, about: &str, secret: &Secret) -> Result<SealedWrite, SealError> {
        let under = self.0.first().ok_or(SealError::NoKey)?;
        let key = cipher(under).ok_or(SealError::NoKey)?;
        let random = runtime::random_u128().to_be_bytes();
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&random[..NONCE_LEN]);
        let mut sealed = secret.expose().as_bytes().to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound(tenant, about), &mut sealed)
            .map_err(|_| SealError::Broken(about.to_owned()))?;
        Ok(SealedWrite {
            tenant: tenant.clone(),
            about: about.to_owned(),
            key_id: under.id.clone(),
            sealed: [&nonce[..], &sealed].concat(),
            at: runtime::now(),
        })
    }

    pub fn open(&self, row: &SealedRow) -> Result<Secret, SealError> {
        let about = || row.about.clone();
        let key = self.0.iter().find(|key| key.id == row.key_id).and_then(cipher);
        let key = key.ok_or_else(|| SealError::OtherKey(about()))?;
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
        self.0.first().is_none_or(|first| first.id != row.key_id)
    }
}

fn bound(tenant: &Name, about: &str) -> Aad<Vec<u8>> {
    Aad::from(format!("{tenant}\0{about}").into_bytes())
}

/// The key of a secret of any length, and its name: eight bytes that tell nothing of it.
fn derived(secret: &Secret) -> StoreKey {
    let key = hmac_sha256(secret.expose().as_bytes(), b"mailspan store key");
    StoreKey { id: hex(&sha256(&key)[..8]), key }
}

fn cipher(key: &StoreKey) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, &key.key).ok().map(LessSafeKey::new)
}

fn key_path(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(".key");
    PathBuf::from(path)
}

/// Nothing where there is no file, or an empty one: its making was cut off, so nothing was sealed under it.
fn read_key(path: &Path) -> Result<Option<Secret>, SealError> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            Ok(Some(text.trim()).filter(|text| !text.is_empty()).map(|text| Secret::new(text.to_owned())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SealError::File(format!("{}: {error}", path.display()))),
    }
}

/// `FILE.key` where there is none, readable by its owner alone. It is on the disk before anything is sealed under it: lost with the
/// power it would take all of that along. Who calls holds the store, so nobody else makes one.
fn make_key(database: &Path) -> Result<(), SealError> {
    let path = key_path(database);
    if read_key(&path)?.is_some() {
        return Ok(());
    }
    let text = crate::http::v1::keys::new_secret("");
    let make = || -> std::io::Result<()> {
        let mut options = std::fs::File::options();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    make().map_err(|error| SealError::File(format!("{}: {error}", path.display())))
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
        let sealed = row(sealed.unwrap());
        let again = Seals::of(&storage, &[]).unwrap();
        assert_eq!(again.open(&sealed).unwrap().expose(), "s");
        // What was sealed before a key was configured opens afterwards, and is old.
        let configured = Seals::of(&storage, &[Secret::new("configured".to_owned())]).unwrap();
        assert_eq!(configured.open(&sealed).unwrap().expose(), "s");
        assert!(configured.is_old(&sealed) && !again.is_old(&sealed));
        let mode = std::fs::metadata(folder.path().join("hub.db.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Cut off while it was made.
        std::fs::write(folder.path().join("hub.db.key"), "").unwrap();
        assert!(Seals::of(&storage, &[]).unwrap().is_old(&sealed));
    }
}
