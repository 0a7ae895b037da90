//! The name of a market, parsed once at the edge and carried by value from there.

use std::{cmp::Ordering, fmt, hash, str};

use crate::error::ErrorKind;

/// The longest symbol in bytes.
pub const MAX_SYMBOL_BYTES: usize = 31;

/// The quote assets that Binance's spot symbols end with. The longest that fits wins, as `FDUSD` before `USD`.
const QUOTES: [&str; 44] = [
    "USDT", "USDC", "FDUSD", "TUSD", "BUSD", "USDP", "USDS", "USD1", "USDE", "DAI", "PAX", "UST", "VAI", "RLUSD",
    "XUSD", "BTC", "ETH", "BNB", "SOL", "XRP", "TRX", "DOGE", "DOT", "EUR", "EURI", "AEUR", "GBP", "TRY", "BRL", "AUD",
    "JPY", "RUB", "UAH", "NGN", "ZAR", "PLN", "RON", "ARS", "MXN", "COP", "CZK", "IDRT", "BIDR", "USD",
];

/// A market such as `BTC-USDT`: `[A-Z0-9]+-[A-Z0-9]+`, at most [`MAX_SYMBOL_BYTES`] bytes.
///
/// Held inline, so that an event is moved without allocation; safe as a folder name and as a Delta partition value.
#[derive(Clone, Copy)]
pub struct Symbol {
    length: u8,
    bytes: [u8; MAX_SYMBOL_BYTES],
}

/// Why a text is not a symbol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a symbol: use BASE-QUOTE in capital letters and digits, such as BTC-USDT, at most 31 characters"
)]
pub struct SymbolError {
    text: String,
}

impl SymbolError {
    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl Symbol {
    /// Reads a symbol.
    ///
    /// # Errors
    /// [`SymbolError`] where the text has another form or is too long.
    pub fn parse(text: &str) -> Result<Self, SymbolError> {
        let refused = || SymbolError { text: text.chars().take(40).collect() };
        let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        let (base, quote) = text.split_once('-').ok_or_else(refused)?;
        if !part(base) || !part(quote) || text.len() > MAX_SYMBOL_BYTES {
            return Err(refused());
        }
        let mut bytes = [0; MAX_SYMBOL_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "checked against MAX_SYMBOL_BYTES above")]
        Ok(Self { length: text.len() as u8, bytes })
    }

    /// Reads a venue's name without a hyphen, such as `BTCUSDT`: split before the longest known quote asset that
    /// leaves a base. `None` where no quote asset is known.
    #[must_use]
    pub fn from_venue(name: &str) -> Option<Self> {
        let base = |quote: &&str| name.strip_suffix(*quote).filter(|base| !base.is_empty());
        let quote = QUOTES.into_iter().filter(|quote| base(quote).is_some()).max_by_key(|quote| quote.len())?;
        Self::parse(&format!("{}-{quote}", base(&quote)?)).ok()
    }

    /// The symbol as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // ASCII by construction; an empty text here would be a defect that the tests below would show.
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The symbol as ASCII bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl PartialEq for Symbol {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Symbol {}

impl PartialOrd for Symbol {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Symbol {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl hash::Hash for Symbol {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        state.write(self.as_bytes());
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl str::FromStr for Symbol {
    type Err = SymbolError;

    fn from_str(text: &str) -> Result<Self, SymbolError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("BTC-USDT")]
    #[case("1000SATS-USDT")]
    #[case("A-B")]
    fn a_symbol_reads_and_prints_the_same(#[case] text: &str) {
        assert_eq!(Symbol::parse(text).map(|s| s.to_string()), Ok(text.to_owned()));
    }

    #[rstest]
    #[case("BTCUSDT", Some("BTC-USDT"))]
    #[case("BTCFDUSD", Some("BTC-FDUSD"))]
    #[case("BTCTUSD", Some("BTC-TUSD"))]
    #[case("ETHBTC", Some("ETH-BTC"))]
    #[case("BNBETH", Some("BNB-ETH"))]
    #[case("1000SATSTRY", Some("1000SATS-TRY"))]
    #[case("TUSDT", Some("T-USDT"))]
    #[case("USDT", None)]
    #[case("btcusdt", None)]
    #[case("BTCXYZ", None)]
    fn a_venue_symbol_is_split_before_its_quote(#[case] name: &str, #[case] expected: Option<&str>) {
        assert_eq!(Symbol::from_venue(name).map(|symbol| symbol.to_string()).as_deref(), expected);
    }

    #[rstest]
    #[case("")]
    #[case("BTCUSDT")]
    #[case("btc-usdt")]
    #[case("BTC-")]
    #[case("-USDT")]
    #[case("BTC-USDT-PERP")]
    #[case("BTC/USDT")]
    #[case("ÄBC-USDT")]
    #[case("AAAAAAAAAAAAAAAAAAAAAAAAAAA-BBBBB")]
    fn any_other_form_is_refused(#[case] text: &str) {
        assert!(Symbol::parse(text).is_err());
    }
}
