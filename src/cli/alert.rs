//! The flags of `sentinel alert`.

use clap::{Args, Subcommand};
use domain::{AlertId, AlertType, Severity, Symbol};
use jobs::alerts::AlertVerdict;

use super::{OutputArgs, TimeRangeArgs};

/// `sentinel alert`
#[derive(Clone, Debug, Subcommand)]
pub enum AlertCommand {
    /// List alerts, the last raised first
    #[command(after_help = "\
Examples:
  sentinel alert list
  sentinel alert list --symbol BTC-USDT --from 2024-03-09 --to 2024-03-10 --json
  sentinel alert list --severity critical --open")]
    List(AlertListArgs),
    /// Show an alert and what there is to look at before a verdict
    #[command(after_help = "Example:\n  sentinel alert show 2:10451 --json")]
    Show {
        /// Its id
        #[arg(value_name = "ID")]
        alert: AlertId,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Say that an alert was seen
    #[command(after_help = "Example:\n  sentinel alert ack 2:10451 --note 'asked the venue'")]
    Ack {
        /// Its id
        #[arg(value_name = "ID")]
        alert: AlertId,
        /// What there is to say about it
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
    /// Say what an alert was; the newest verdict counts
    #[command(after_help = "\
Example:
  sentinel alert verdict 2:10451 false_positive --note 'a test of the venue'

`sentinel evaluate` measures by verdicts where events have no labels of their own.
No model learns from them.")]
    Verdict {
        /// Its id
        #[arg(value_name = "ID")]
        alert: AlertId,
        /// What it was
        #[arg(value_name = "VERDICT", help = "true_positive, false_positive or unclear", value_parser = parse_verdict)]
        verdict: AlertVerdict,
        /// Why, for the history
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
}

/// `sentinel alert list`
#[derive(Args, Clone, Debug)]
pub struct AlertListArgs {
    /// Only this symbol
    #[arg(long, value_name = "S")]
    pub symbol: Option<Symbol>,
    /// Only this kind
    #[arg(long = "type", value_name = "TYPE", help = "Only this kind, such as PRICE_SPIKE", value_parser = parse_type)]
    pub alert_type: Option<AlertType>,
    /// Only those of this severity at least: notice, warning, high, critical
    #[arg(long, value_name = "SEVERITY", default_value = Severity::LEAST_SHOWN.as_str(), value_parser = parse_severity)]
    pub severity: Severity,
    #[command(flatten)]
    pub range: TimeRangeArgs,
    /// Only those that nobody has acknowledged
    #[arg(long)]
    pub open: bool,
    /// Only those that this is the newest verdict on
    #[arg(long, value_name = "VERDICT", value_parser = parse_verdict)]
    pub verdict: Option<AlertVerdict>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub limit: u16,
    #[command(flatten)]
    pub output: OutputArgs,
}

fn parse_type(text: &str) -> Result<AlertType, String> {
    AlertType::from_name(text).ok_or_else(|| there_are(&AlertType::ALL.map(AlertType::as_str)))
}

fn parse_severity(text: &str) -> Result<Severity, String> {
    Severity::from_name(text).ok_or_else(|| there_are(&Severity::ALL.map(Severity::as_str)))
}

fn parse_verdict(text: &str) -> Result<AlertVerdict, String> {
    AlertVerdict::from_name(text).ok_or_else(|| there_are(&AlertVerdict::ALL.map(AlertVerdict::as_str)))
}

fn there_are(names: &[&str]) -> String {
    format!("there are {}", names.join(", "))
}
