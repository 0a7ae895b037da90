//! API keys: who may ask the service for what, and until when.
//!
//! Of a key's secret only the digest is here; what a key looks like and who checks it is decided elsewhere. A key is
//! never changed: it is revoked, by an appended row, and another is made.

use std::fmt;

use domain::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;

use super::{Registry, json_text};
use crate::Error;

/// The length of a digest in bytes.
pub const DIGEST_BYTES: usize = 32;

/// What a key lets its holder do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Ask what is stored, what happens and how the program is.
    Read,
    /// Have feature vectors judged.
    Predict,
    /// Append events to the log.
    Ingest,
    /// Change models, schedules and runs, and everything that the other scopes allow.
    Admin,
}

impl Scope {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Read, Self::Predict, Self::Ingest, Self::Admin];

    /// The name in the registry, in answers and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Predict => "predict",
            Self::Ingest => "ingest",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of scopes, at least one; as text `read,predict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// The set of these; `None` where there are none.
    #[must_use]
    pub fn of(scopes: &[Scope]) -> Option<Self> {
        let bits = scopes.iter().fold(0, |bits, scope| bits | scope.bit());
        (bits != 0).then_some(Self(bits))
    }

    /// Whether they let their holder do what needs `scope`: it is among them, or [`Scope::Admin`] is.
    #[must_use]
    pub const fn allow(self, scope: Scope) -> bool {
        self.0 & (scope.bit() | Scope::Admin.bit()) != 0
    }

    /// Those that are in the set, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & scope.bit() != 0)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Scope::as_str).collect();
        f.write_str(&names.join(","))
    }
}

/// A key as it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Who holds it, for people. Several may have one name, such as a key and its successor.
    pub name: String,
    /// What it allows.
    pub scopes: Scopes,
    /// The SHA-256 of its secret.
    pub digest: [u8; DIGEST_BYTES],
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is not valid any more; `None`: for good.
    pub expires: Option<Timestamp>,
}

/// A key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Given by the registry: 1, 2, 3...
    pub id: i64,
    /// What was made.
    pub key: NewKey,
    /// When it was revoked; `None`: it was not.
    pub revoked: Option<Timestamp>,
}

/// How many keys there are and how many are revoked: whoever knows the keys of equal counts knows all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyCounts {
    made: i64,
    revoked: i64,
}

impl Registry {
    /// Keeps a key under the next id, which it returns.
    ///
    /// # Errors
    /// [`Error::Registry`].
    pub async fn add_key(&self, key: &NewKey) -> Result<i64, Error> {
        const ACTION: &str = "keep an API key";
        let scopes = json_text("the scopes", &key.scopes.iter().collect::<Vec<_>>())?;
        let mut transaction = self.begin(ACTION).await?;
        let id: i64 = sqlx::query_scalar("SELECT coalesce(max(id), 0) + 1 FROM keys")
            .fetch_one(&mut *transaction)
            .await
            .map_err(self.failed(ACTION))?;
        sqlx::query("INSERT INTO keys (id, name, scopes, digest, created_us, expires_us) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(id)
            .bind(&key.name)
            .bind(scopes)
            .bind(key.digest.as_slice())
            .bind(key.created.micros())
            .bind(key.expires.map(Timestamp::micros))
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(ACTION))?;
        transaction.commit().await.map_err(self.failed(ACTION))?;
        Ok(id)
    }

    /// Revokes a key for good; false where it was revoked before.
    ///
    /// # Errors
    /// [`Error::NoKey`] where there is none with this id; [`Error::Registry`].
    pub async fn revoke_key(&self, id: i64, at: Timestamp) -> Result<bool, Error> {
        const ACTION: &str = "revoke an API key";
        let mut transaction = self.begin(ACTION).await?;
        let revoked = sqlx::query_scalar(
            "SELECT key_revocations.id IS NOT NULL
             FROM keys LEFT JOIN key_revocations ON key_id = keys.id WHERE keys.id = ?",
        );
        let revoked: Option<bool> =
            revoked.bind(id).fetch_optional(&mut *transaction).await.map_err(self.failed(ACTION))?;
        if revoked.ok_or(Error::NoKey { id })? {
            return Ok(false);
        }
        let insert = sqlx::query("INSERT INTO key_revocations (key_id, at_us) VALUES (?, ?)");
        let insert = insert.bind(id).bind(at.micros()).execute(&mut *transaction);
        insert.await.map_err(self.failed(ACTION))?;
        transaction.commit().await.map_err(self.failed(ACTION))?;
        Ok(true)
    }

    /// All keys, also those that are not valid any more, oldest first.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn keys(&self) -> Result<Vec<KeyRecord>, Error> {
        let rows = sqlx::query(
            "SELECT keys.*, key_revocations.at_us AS revoked_us
             FROM keys LEFT JOIN key_revocations ON key_id = keys.id ORDER BY keys.id",
        );
        let rows = rows.fetch_all(&self.readers).await.map_err(self.failed("list the API keys"))?;
        rows.iter().map(|row| self.key_record(row)).collect()
    }

    /// By what a change of the keys is noticed.
    ///
    /// # Errors
    /// [`Error::Registry`].
    pub async fn key_counts(&self) -> Result<KeyCounts, Error> {
        let counts = sqlx::query_as::<_, (i64, i64)>(
            "SELECT (SELECT count(*) FROM keys), (SELECT count(*) FROM key_revocations)",
        );
        let counts = counts.fetch_one(&self.readers).await;
        let (made, revoked) = counts.map_err(self.failed("look at the API keys"))?;
        Ok(KeyCounts { made, revoked })
    }

    fn key_record(&self, row: &SqliteRow) -> Result<KeyRecord, Error> {
        let id: i64 = self.column(row, "id", "an API key")?;
        let of = format!("API key {id}");
        let scopes: Vec<Scope> = self.json(row, "scopes", &of)?;
        let digest: Vec<u8> = self.column(row, "digest", &of)?;
        let expires: Option<i64> = self.column(row, "expires_us", &of)?;
        let revoked: Option<i64> = self.column(row, "revoked_us", &of)?;
        let key = NewKey {
            name: self.column(row, "name", &of)?,
            scopes: Scopes::of(&scopes).ok_or_else(|| self.unreadable(format!("scopes of {of}")))?,
            digest: digest.try_into().map_err(|_| self.unreadable(format!("digest of {of}")))?,
            created: self.instant(row, "created_us", &of)?,
            expires: expires.map(Timestamp::from_micros),
        };
        Ok(KeyRecord { id, key, revoked: revoked.map(Timestamp::from_micros) })
    }
}

#[cfg(test)]
mod tests {
    use domain::ErrorKind;
    use rstest::rstest;

    use super::*;
    use crate::registry::tests::registry;

    const NOON: Timestamp = Timestamp::from_seconds(1_710_000_000);
    const EVENING: Timestamp = Timestamp::from_seconds(1_710_020_000);

    fn key(scopes: &[Scope], expires: Option<Timestamp>) -> NewKey {
        NewKey {
            name: "grafana".to_owned(),
            scopes: Scopes::of(scopes).unwrap(),
            digest: [7; DIGEST_BYTES],
            created: NOON,
            expires,
        }
    }

    #[rstest]
    #[case(&[Scope::Read], &[Scope::Read], "read")]
    #[case(&[Scope::Predict, Scope::Read, Scope::Read], &[Scope::Read, Scope::Predict], "read,predict")]
    #[case(&[Scope::Admin, Scope::Ingest], &[Scope::Ingest, Scope::Admin], "ingest,admin")]
    fn scopes_are_a_set(#[case] given: &[Scope], #[case] expected: &[Scope], #[case] shown: &str) {
        let scopes = Scopes::of(given).unwrap();
        assert_eq!(scopes.iter().collect::<Vec<_>>(), expected);
        assert_eq!(scopes.to_string(), shown);
    }

    #[test]
    fn no_scopes_are_no_set() {
        assert_eq!(Scopes::of(&[]), None);
    }

    #[test]
    fn admin_allows_everything_and_no_other_scope_allows_another() {
        for scope in Scope::ALL {
            let scopes = Scopes::of(&[scope]).unwrap();
            for asked in Scope::ALL {
                assert_eq!(scopes.allow(asked), scope == asked || scope == Scope::Admin, "{scope:?} {asked:?}");
            }
        }
    }

    #[tokio::test]
    async fn keys_are_read_back_and_revoked_once() {
        let (_folder, registry) = registry().await;
        let none = registry.key_counts().await.unwrap();
        let (first, second) = (key(&[Scope::Read, Scope::Predict], None), key(&[Scope::Admin], Some(EVENING)));
        assert_eq!(registry.add_key(&first).await.unwrap(), 1);
        assert_eq!(registry.add_key(&second).await.unwrap(), 2);
        let made = registry.key_counts().await.unwrap();
        assert!(registry.revoke_key(1, EVENING).await.unwrap());
        assert!(!registry.revoke_key(1, NOON).await.unwrap(), "it was revoked before");
        let revoked = registry.key_counts().await.unwrap();
        assert!(none != made && made != revoked);
        let expected =
            [KeyRecord { id: 1, key: first, revoked: Some(EVENING) }, KeyRecord { id: 2, key: second, revoked: None }];
        assert_eq!(registry.keys().await.unwrap(), expected);
        assert_eq!(registry.revoke_key(3, NOON).await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn nothing_of_a_key_is_changed_or_deleted() {
        let (_folder, registry) = registry().await;
        registry.add_key(&key(&[Scope::Read], None)).await.unwrap();
        registry.revoke_key(1, NOON).await.unwrap();
        for statement in [
            "UPDATE keys SET expires_us = NULL",
            "DELETE FROM keys",
            "INSERT OR REPLACE INTO keys (id, name, scopes, digest, created_us)
             VALUES (1, 'x', '[\"admin\"]', zeroblob(32), 0)",
            "INSERT INTO keys (id, name, scopes, digest, created_us) VALUES (2, 'x', '[]', zeroblob(32), 0)",
            "INSERT INTO keys (id, name, scopes, digest, created_us) VALUES (2, 'x', '[\"read\"]', zeroblob(31), 0)",
            "INSERT INTO keys (id, name, scopes, digest, created_us, expires_us)
             VALUES (2, 'x', '[\"read\"]', zeroblob(32), 7, 7)",
            "UPDATE key_revocations SET at_us = 0",
            "DELETE FROM key_revocations",
            "INSERT OR REPLACE INTO key_revocations (id, key_id, at_us) VALUES (1, 1, 0)",
            "INSERT OR REPLACE INTO key_revocations (key_id, at_us) VALUES (1, 0)",
        ] {
            assert!(sqlx::query(statement).execute(&registry.writer).await.is_err(), "{statement}");
        }
    }
}
