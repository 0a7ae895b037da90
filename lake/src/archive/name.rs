//! What a file's name tells: `BTCUSDT-trades-2024-03-09.zip` is of one symbol and one kind.

use domain::Symbol;

use super::Content;

/// The lengths of klines that Binance gives; only those of a minute are read.
const INTERVALS: [&str; 16] =
    ["1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1mo"];

/// What a name tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) symbol: Option<Symbol>,
    pub(super) content: Option<Content>,
    /// The length of its klines, where that is another than a minute.
    pub(super) other_interval: Option<&'static str>,
}

impl Named {
    pub(super) fn read(name: &str) -> Self {
        let stem = name.split('.').next().unwrap_or_default();
        let parts: Vec<&str> = stem.split('-').collect();
        let hyphenated = (parts.len() > 1).then(|| format!("{}-{}", parts[0], parts[1]));
        let symbol = Symbol::from_venue(parts[0]).or_else(|| Symbol::parse(&hyphenated?).ok());
        let interval = parts.iter().skip(1).find_map(|part| INTERVALS.into_iter().find(|known| known == part));
        let content = if parts.contains(&"trades") {
            Some(Content::Trades)
        } else if parts.contains(&"aggTrades") {
            Some(Content::AggTrades)
        } else {
            interval.map(|_| Content::Klines)
        };
        let other_interval = interval.filter(|interval| content == Some(Content::Klines) && *interval != "1m");
        Self { symbol, content, other_interval }
    }

    /// The same, with the only symbol that is wanted where the name tells none.
    pub(super) fn or_only(mut self, wanted: &[Symbol]) -> Self {
        if let ([only], None) = (wanted, self.symbol) {
            self.symbol = Some(*only);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("BTCUSDT-trades-2024-03-09.zip", Some("BTC-USDT"), Some(Content::Trades), None)]
    #[case("BTC-USDT-aggTrades-2024-03.csv", Some("BTC-USDT"), Some(Content::AggTrades), None)]
    #[case("ETHBTC-1m-2024-03-09.csv", Some("ETH-BTC"), Some(Content::Klines), None)]
    #[case("ETHBTC-1h-2024-03-09.csv", Some("ETH-BTC"), Some(Content::Klines), Some("1h"))]
    #[case("my trades.csv", None, None, None)]
    fn a_name_tells_symbol_and_kind(
        #[case] name: &str,
        #[case] symbol: Option<&str>,
        #[case] content: Option<Content>,
        #[case] other_interval: Option<&'static str>,
    ) {
        let symbol = symbol.map(|text| Symbol::parse(text).unwrap());
        assert_eq!(Named::read(name), Named { symbol, content, other_interval });
    }
}
