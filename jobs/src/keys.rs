//! API keys: made, listed and revoked by people, checked by the service with every request.
//!
//! A key is `sntl_<id>_<secret>`. The secret is 256 bits of the system's randomness, shown once and kept nowhere: the
//! registry has its SHA-256. That is a fast hash on purpose. Slow ones protect what people think up; nobody finds 256
//! random bits by trying, and a check must cost less than the answer.
//!
//! A check asks the memory alone. [`Keys::follow`] looks every second whether the registry says something new, so that
//! a key works, and a revoked one does not any more, within two seconds, whichever process wrote it.

use std::{
    collections::HashMap,
    fmt::{self, Write},
    path::Path,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use domain::{Clock, Timestamp};
use lake::registry::{
    Registry,
    keys::{DIGEST_BYTES, KeyCounts, NewKey},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// What the crate below calls it; the service knows it by this module.
pub use lake::registry::keys::{KeyRecord, Scope, Scopes};

use crate::{control::REGISTRY, error::Error};

/// How often the registry is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What every key begins with, so that people and scanners know one where they see it.
const PREFIX: &str = "sntl_";

const SECRET_BYTES: usize = 32;

/// The longest name, in characters.
const MAX_NAME: usize = 100;

/// A key as its holder sends it. Its debugging form hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText {
    id: i64,
    secret: [u8; SECRET_BYTES],
}

impl KeyText {
    /// Reads a key; `None` where the text is none. Each key has one text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        if id.starts_with(['0', '+', '-']) {
            return None;
        }
        Some(Self { id: id.parse().ok()?, secret: secret_of(secret)? })
    }

    /// The text, secret included.
    #[must_use]
    pub fn revealed(&self) -> String {
        let mut text = format!("{PREFIX}{}_", self.id);
        for byte in self.secret {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// Its id in the registry.
    #[must_use]
    pub const fn id(&self) -> i64 {
        self.id
    }

    fn digest(&self) -> [u8; DIGEST_BYTES] {
        Sha256::digest(self.secret).into()
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}_...", self.id)
    }
}

/// The bytes of 64 small hexadecimal digits.
fn secret_of(text: &str) -> Option<[u8; SECRET_BYTES]> {
    if text.len() != 2 * SECRET_BYTES {
        return None;
    }
    let mut secret = [0; SECRET_BYTES];
    for (byte, digits) in secret.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = 16 * value_of(digits[0])? + value_of(digits[1])?;
    }
    Some(secret)
}

const fn value_of(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// What the holder of a valid key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The key.
    pub id: i64,
    /// What it allows.
    pub scopes: Scopes,
}

/// Why a key lets nobody in. Only who knows the secret is told more than that it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// It has another form, another secret, or there is none with its id.
    #[error("this is no API key of this service")]
    Unknown,
    /// Somebody revoked it.
    #[error("this API key was revoked")]
    Revoked,
    /// Its time is over.
    #[error("this API key has expired")]
    Expired,
}

/// The keys of a data folder. Clones share what they remember.
#[derive(Clone)]
pub struct Keys {
    registry: Registry,
    clock: Arc<dyn Clock>,
    known: Arc<RwLock<Known>>,
}

/// The clock has no form, and what is known is nobody's business.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// The keys as the registry had them at the newest look.
#[derive(Default)]
struct Known {
    counts: Option<KeyCounts>,
    keys: HashMap<i64, KeyRecord>,
}

impl Keys {
    /// The keys of a registry, read once.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub async fn load(registry: Registry, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let keys = Self { registry, clock, known: Arc::default() };
        keys.refresh().await?;
        Ok(keys)
    }

    /// [`Keys::load`] from the registry of a data folder, made where it is missing.
    ///
    /// # Errors
    /// Where the registry cannot be opened.
    pub async fn open(folder: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Self::load(Registry::open(&folder.join(REGISTRY)).await?, clock).await
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        // What is known is replaced as a whole, so that a poisoned lock is taken over.
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

// For people.
impl Keys {
    /// Makes a key. What it returns is the only copy of its secret.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the name is empty, too long or not printable, or the key would have expired already;
    /// where the registry cannot be written.
    pub async fn create(&self, name: &str, scopes: Scopes, expires: Option<Timestamp>) -> Result<KeyText, Error> {
        let created = self.clock.now();
        let length = name.chars().count();
        if !(1..=MAX_NAME).contains(&length) || name.trim() != name || name.chars().any(char::is_control) {
            let sentence = format!("name the key with 1 to {MAX_NAME} printable characters, such as grafana");
            return Err(Error::Invalid(sentence));
        }
        if expires.is_some_and(|expires| expires <= created) {
            return Err(Error::Invalid("the key would have expired already: name a time to come".to_owned()));
        }
        // Not from a seed as everything else here: what can be repeated is no secret.
        let mut secret = [0_u8; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(Error::NoRandomness)?;
        let mut text = KeyText { id: 0, secret };
        let key = NewKey { name: name.to_owned(), scopes, digest: text.digest(), created, expires };
        text.id = self.registry.add_key(&key).await?;
        self.refresh().await?;
        Ok(text)
    }

    /// All keys, also those that are not valid any more, oldest first, each with why it lets nobody in.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub async fn list(&self) -> Result<Vec<(KeyRecord, Option<KeyRefusal>)>, Error> {
        let now = self.clock.now();
        let with_refusal = |record: KeyRecord| {
            let refusal = validity(&record, now).err();
            (record, refusal)
        };
        Ok(self.registry.keys().await?.into_iter().map(with_refusal).collect())
    }

    /// Revokes a key for good; false where it was revoked before.
    ///
    /// # Errors
    /// Where there is none with this id, or the registry cannot be written.
    pub async fn revoke(&self, id: i64) -> Result<bool, Error> {
        let revoked = self.registry.revoke_key(id, self.clock.now()).await?;
        self.refresh().await?;
        Ok(revoked)
    }
}

// For the service.
impl Keys {
    /// What the sender of a text may do.
    ///
    /// # Errors
    /// [`KeyRefusal`] where it is no valid key.
    pub fn check(&self, text: &str) -> Result<Grant, KeyRefusal> {
        let given = KeyText::parse(text).ok_or(KeyRefusal::Unknown)?;
        let known = self.known();
        let record = known.keys.get(&given.id).ok_or(KeyRefusal::Unknown)?;
        // In a time that does not tell how far the two agree.
        if !bool::from(record.key.digest.as_slice().ct_eq(given.digest().as_slice())) {
            return Err(KeyRefusal::Unknown);
        }
        validity(record, self.clock.now())?;
        Ok(Grant { id: record.id, scopes: record.key.scopes })
    }

    /// Waits until a key is not valid any more, as far as that is known.
    pub async fn until_invalid(&self, grant: Grant) {
        while self.is_valid(grant.id) {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_valid(&self, id: i64) -> bool {
        let now = self.clock.now();
        self.known().keys.get(&id).is_some_and(|record| validity(record, now).is_ok())
    }

    /// Whether there is a valid key.
    #[must_use]
    pub fn any_is_valid(&self) -> bool {
        let now = self.clock.now();
        self.known().keys.values().any(|record| validity(record, now).is_ok())
    }

    /// Looks whether the registry has other keys than are known.
    ///
    /// # Errors
    /// Where the registry cannot be read; what was known stays.
    pub async fn refresh(&self) -> Result<(), Error> {
        // Before the keys: what comes between the two is read once more at the next look.
        let counts = Some(self.registry.key_counts().await?);
        let seen = self.known().counts;
        if seen != counts {
            let keys = self.registry.keys().await?.into_iter().map(|record| (record.id, record)).collect();
            *self.known.write().unwrap_or_else(PoisonError::into_inner) = Known { counts, keys };
        }
        Ok(())
    }

    /// Looks again and again until it is cancelled.
    pub async fn follow(&self, cancel: &CancellationToken) {
        let mut is_told = false;
        while !cancel.is_cancelled() {
            match self.refresh().await {
                Ok(()) => is_told = false,
                Err(error) if !is_told => {
                    warn!(%error, "the API keys cannot be read; those that are known go on until they can");
                    is_told = true;
                }
                Err(_) => {}
            }
            tokio::select! { () = tokio::time::sleep(LOOK) => {}, () = cancel.cancelled() => {} }
        }
    }
}

/// Whether a key is valid at this time. That it was revoked counts for more than that it has expired.
fn validity(record: &KeyRecord, now: Timestamp) -> Result<(), KeyRefusal> {
    if record.revoked.is_some() {
        return Err(KeyRefusal::Revoked);
    }
    match record.key.expires {
        Some(expires) if expires <= now => Err(KeyRefusal::Expired),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use domain::ErrorKind;
    use proptest::prelude::*;
    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;

    const SECRET: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";

    /// A clock that the test sets, in seconds after noon.
    #[derive(Default)]
    struct SetClock(AtomicI64);

    const NOON: i64 = 1_710_000_000;

    impl Clock for SetClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_seconds(NOON + self.0.load(Ordering::Relaxed))
        }
    }

    async fn keys() -> (TempDir, Arc<SetClock>, Keys) {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(SetClock::default()));
        let keys = Keys::open(folder.path(), clock.clone()).await.unwrap();
        (folder, clock, keys)
    }

    fn reading() -> Scopes {
        Scopes::of(&[Scope::Read]).unwrap()
    }

    #[rstest]
    #[case::of_another("sk_1_SECRET")]
    #[case::without_an_id("sntl_SECRET")]
    #[case::without_a_secret("sntl_1")]
    #[case::an_empty_secret("sntl_1_")]
    #[case::a_sign("sntl_+1_SECRET")]
    #[case::a_negative_id("sntl_-1_SECRET")]
    #[case::a_leading_zero("sntl_01_SECRET")]
    #[case::no_key_zero("sntl_0_SECRET")]
    #[case::too_great("sntl_9223372036854775808_SECRET")]
    #[case::too_long("sntl_1_SECRET0")]
    #[case::a_space("sntl_1_SECRET ")]
    fn what_is_no_key_is_not_read(#[case] text: &str) {
        assert_eq!(KeyText::parse(&text.replace("SECRET", SECRET)), None);
        assert_eq!(KeyText::parse(&format!("sntl_1_{}", SECRET.to_ascii_uppercase())), None);
    }

    #[test]
    fn a_key_hides_its_secret_where_it_is_debugged() {
        let text = format!("sntl_7_{SECRET}");
        let key = KeyText::parse(&text).unwrap();
        assert_eq!((key.id(), format!("{key:?}"), key.revealed()), (7, "sntl_7_...".to_owned(), text));
    }

    proptest! {
        #[test]
        fn every_key_is_read_back_from_its_text(id in 1_i64.., secret in any::<[u8; SECRET_BYTES]>()) {
            let key = KeyText { id, secret };
            prop_assert_eq!(KeyText::parse(&key.revealed()), Some(key));
        }

        #[test]
        fn whatever_is_read_as_a_key_is_its_one_text(text in "sntl_[0-9+]{1,4}_[0-9a-f]{64}|\\PC*") {
            if let Some(key) = KeyText::parse(&text) {
                prop_assert_eq!(key.revealed(), text);
            }
        }

        #[test]
        fn a_key_with_another_character_is_another_key_or_none(
            id in 1_i64..1_000,
            secret in any::<[u8; SECRET_BYTES]>(),
            place in any::<prop::sample::Index>(),
            other in "[ -~]",
        ) {
            let key = KeyText { id, secret };
            let mut text = key.revealed();
            let place = place.index(text.len());
            prop_assume!(text[place..=place] != other);
            text.replace_range(place..=place, &other);
            prop_assert_ne!(KeyText::parse(&text), Some(key));
        }
    }

    #[tokio::test]
    async fn a_key_grants_its_scopes_until_it_is_revoked() {
        let (_folder, _clock, keys) = keys().await;
        assert!(!keys.any_is_valid());
        let (first, second) =
            (keys.create("ann", reading(), None).await.unwrap(), keys.create("ann", reading(), None).await.unwrap());
        assert!(keys.any_is_valid() && first.secret != second.secret);
        assert_eq!(keys.check(&first.revealed()), Ok(Grant { id: 1, scopes: reading() }));
        assert!(keys.revoke(1).await.unwrap());
        assert_eq!(keys.check(&first.revealed()), Err(KeyRefusal::Revoked));
        assert_eq!(keys.check(&second.revealed()), Ok(Grant { id: 2, scopes: reading() }));
        assert!(!keys.revoke(1).await.unwrap(), "it was revoked before");
        let swapped = KeyText { id: 2, secret: first.secret };
        let unknown = KeyText { id: 3, secret: first.secret };
        for wrong in [swapped.revealed(), unknown.revealed(), String::new()] {
            assert_eq!(keys.check(&wrong), Err(KeyRefusal::Unknown), "{wrong}");
        }
        assert_eq!(keys.revoke(3).await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_key_is_valid_until_the_moment_that_it_expires() {
        let (_folder, clock, keys) = keys().await;
        let expires = Timestamp::from_seconds(NOON + 60);
        let key = keys.create("ann", reading(), Some(expires)).await.unwrap();
        clock.0.store(59, Ordering::Relaxed);
        assert!(keys.check(&key.revealed()).is_ok() && keys.any_is_valid());
        clock.0.store(60, Ordering::Relaxed);
        assert_eq!(keys.check(&key.revealed()), Err(KeyRefusal::Expired));
        assert!(!keys.any_is_valid());
        let listed = keys.list().await.unwrap();
        assert_eq!((listed[0].0.key.expires, listed[0].1), (Some(expires), Some(KeyRefusal::Expired)));
        assert_eq!(keys.create("ann", reading(), Some(expires)).await.unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[tokio::test]
    async fn what_another_process_wrote_is_known_after_a_look() {
        let (folder, clock, keys) = keys().await;
        let other = Keys::open(folder.path(), clock).await.unwrap();
        let key = other.create("ann", reading(), None).await.unwrap();
        assert_eq!(keys.check(&key.revealed()), Err(KeyRefusal::Unknown));
        keys.refresh().await.unwrap();
        assert!(keys.check(&key.revealed()).is_ok());
        other.revoke(key.id()).await.unwrap();
        assert!(keys.check(&key.revealed()).is_ok());
        keys.refresh().await.unwrap();
        assert_eq!(keys.check(&key.revealed()), Err(KeyRefusal::Revoked));
    }

    #[tokio::test]
    async fn neither_the_secret_nor_its_text_is_in_the_registry() {
        let (folder, _clock, keys) = keys().await;
        let key = keys.create("ann", reading(), None).await.unwrap();
        keys.registry.close().await;
        let files = std::fs::read_dir(folder.path()).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap());
        let bytes: Vec<u8> = files.flatten().collect();
        let has = |wanted: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
        assert!(has(&key.digest()));
        assert!(!has(&key.secret) && !has(&key.revealed().as_bytes()[PREFIX.len() + 2..]));
    }

    #[tokio::test]
    async fn a_name_is_short_and_printable() {
        let (_folder, _clock, keys) = keys().await;
        for name in ["", " ann", "two\nlines", "a".repeat(MAX_NAME + 1).as_str()] {
            assert_eq!(keys.create(name, reading(), None).await.unwrap_err().kind(), ErrorKind::Invalid, "{name}");
        }
        assert_eq!(keys.list().await.unwrap(), []);
        keys.create(&"ä".repeat(MAX_NAME), reading(), None).await.unwrap();
    }
}
