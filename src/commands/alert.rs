//! `sentinel alert`: alerts, what speaks for them, and what people say about them.

use std::sync::Arc;

use domain::{AlertRow, EventRow, FEATURE_NAMES, Prediction, Side};
use jobs::alerts::{
    Acknowledgement, AlertEntry, AlertFilter, AlertRecord, AlertVerdict, Alerts, Evidence, Explained, GivenVerdict,
    WantedAlerts,
};
use lake::Lake;
use models::{Explanation, explain::ExplainedFeature};
use serde_json::{Value, json};

use crate::{
    Outcome,
    cli::{AlertCommand, AlertListArgs},
    commands::{control, model::WHO},
    config::Settings,
    output,
};

/// Runs a subcommand.
pub async fn run(command: &AlertCommand, settings: &Settings) -> anyhow::Result<Outcome> {
    let control = control(settings).await?;
    let alerts = control.alerts(Arc::new(Lake::open(&settings.data.dir.join("lake")).await?));
    match command {
        AlertCommand::List(args) => list(&alerts, args).await?,
        AlertCommand::Show { alert, output } => show(&alerts.show(*alert).await?, output.json)?,
        AlertCommand::Ack { alert, note } => {
            alerts.acknowledge(*alert, WHO, note).await?;
            output::line(&format!("alert {alert} is acknowledged"))?;
        }
        AlertCommand::Verdict { alert, verdict, note } => {
            alerts.give_verdict(*alert, *verdict, WHO, note).await?;
            output::line(&format!("alert {alert} is {}", verdict.as_str()))?;
        }
    }
    Ok(Outcome::Fine)
}

async fn list(alerts: &Alerts, args: &AlertListArgs) -> anyhow::Result<()> {
    let wanted = WantedAlerts {
        symbol: args.symbol,
        alert_type: args.alert_type,
        severity: Some(args.severity),
        from: args.range.from,
        to: args.range.to,
        before: None,
    };
    let filter = AlertFilter { wanted, is_acknowledged: args.open.then_some(false), verdict: args.verdict };
    let found = alerts.list(&filter, args.limit).await?.alerts;
    if args.output.json {
        return output::json(&found.iter().map(entry_value).collect::<Vec<_>>());
    }
    let heading = ["alert", "symbol", "type", "severity", "raised", "events", "score", "model", "seen", "verdict"];
    output::table(&heading, &found.iter().map(row).collect::<Vec<_>>())
}

fn row(AlertEntry { alert, standing }: &AlertEntry) -> Vec<String> {
    let seen = if standing.is_acknowledged { "yes" } else { "no" };
    vec![
        alert.alert.to_string(),
        alert.symbol.to_string(),
        alert.alert_type.as_str().to_owned(),
        alert.peak.severity.as_str().to_owned(),
        alert.raised_at.to_string(),
        alert.events.to_string(),
        format!("{:.4}", alert.peak.anomaly_score),
        alert.peak.model_version.to_string(),
        seen.to_owned(),
        standing.verdict.map_or("", AlertVerdict::as_str).to_owned(),
    ]
}

fn entry_value(AlertEntry { alert, standing }: &AlertEntry) -> Value {
    let peak = &alert.peak;
    json!({
        "id": alert.alert.to_string(),
        "symbol": alert.symbol.as_str(),
        "alert_type": alert.alert_type.as_str(),
        "severity": peak.severity.as_str(),
        "raised_at": alert.raised_at.to_string(),
        "last_at": alert.last_at.to_string(),
        "events": alert.events,
        "source": alert.source.as_str(),
        "peak": {
            "id": format!("{}:{}", alert.alert.partition, peak.offset),
            "timestamp": peak.timestamp.to_string(),
            "anomaly_score": peak.anomaly_score,
            "model_version": peak.model_version,
            "leading_feature": peak.leading_feature,
            "share": peak.share,
        },
        "acknowledged": standing.is_acknowledged,
        "verdict": standing.verdict.map(AlertVerdict::as_str),
    })
}

fn show(evidence: &Evidence, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(&evidence_value(evidence));
    }
    let AlertRecord { entry, acknowledgements, verdicts } = &evidence.record;
    print_fields(&entry_value(entry))?;
    for Acknowledgement { at, actor, note, .. } in acknowledgements {
        output::line(format!("{at}  {actor}  has seen it  {note}").trim_end())?;
    }
    for GivenVerdict { at, actor, verdict, note, .. } in verdicts {
        output::line(format!("{at}  {actor}  {}  {note}", verdict.as_str()).trim_end())?;
    }
    match &evidence.explained {
        Explained::By(_, explanation) => print_features(explanation)?,
        Explained::Not(reason) => output::line(&format!("\nthe peak cannot be explained: {reason}"))?,
    }
    print_events(&evidence.events)?;
    print_around(&evidence.around.events, evidence.around.is_cut)
}

/// The fields of an alert, those of its peak under a dotted name.
fn print_fields(entry: &Value) -> anyhow::Result<()> {
    for (name, value) in entry.as_object().into_iter().flatten() {
        if let Some(fields) = value.as_object() {
            for (field, value) in fields {
                print_field(&format!("{name}.{field}"), value)?;
            }
        } else {
            print_field(name, value)?;
        }
    }
    Ok(())
}

fn print_field(name: &str, value: &Value) -> anyhow::Result<()> {
    if value.is_null() {
        return Ok(());
    }
    output::line(&format!("{name:<20}  {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
}

fn print_features(explanation: &Explanation) -> anyhow::Result<()> {
    output::line("")?;
    let row = |feature: &ExplainedFeature| {
        vec![
            feature.feature.to_owned(),
            format!("{:.6}", feature.value),
            format!("{:.3}", feature.share),
            format!("{:.6}", feature.expected_low),
            format!("{:.6}", feature.expected_high),
            format!("{:.2}", feature.deviations),
            feature.reach.map_or_else(String::new, |reach| format!("{:.2}", reach.low)),
            feature.reach.map_or_else(String::new, |reach| format!("{:.2}", reach.high)),
            feature.notice_above.map_or_else(String::new, |above| format!("{above:.2}")),
        ]
    };
    let heading = [
        "feature at the peak",
        "value",
        "share",
        "expected from",
        "to",
        "deviations",
        "alert below",
        "or above",
        "notice above",
    ];
    output::table(&heading, &explanation.features.iter().map(row).collect::<Vec<_>>())
}

fn print_events(events: &[AlertRow]) -> anyhow::Result<()> {
    output::line("")?;
    let row = |event: &AlertRow| {
        vec![
            format!("{}:{}", event.partition, event.offset),
            event.timestamp.to_string(),
            event.severity.as_str().to_owned(),
            format!("{:.4}", event.anomaly_score),
            event.leading_feature.to_owned(),
        ]
    };
    let heading = ["event", "time", "severity", "score", "leading feature"];
    output::table(&heading, &events.iter().map(row).collect::<Vec<_>>())
}

fn print_around(events: &[EventRow], is_cut: bool) -> anyhow::Result<()> {
    output::line("")?;
    let row = |row: &EventRow| {
        let EventRow { cause, event, .. } = row;
        vec![
            format!("{}:{}", cause.partition, cause.offset),
            event.timestamp.to_string(),
            event.price.to_string(),
            event.volume.to_string(),
        ]
    };
    let heading = ["around the peak", "time", "price", "volume"];
    output::table(&heading, &events.iter().map(row).collect::<Vec<_>>())?;
    if is_cut {
        output::line("there were more; these are the nearest")?;
    }
    Ok(())
}

fn evidence_value(evidence: &Evidence) -> Value {
    let AlertRecord { entry, acknowledgements, verdicts } = &evidence.record;
    let (explanation, not_explained) = match &evidence.explained {
        Explained::By(_, explanation) => (explanation_value(explanation), Value::Null),
        Explained::Not(reason) => (Value::Null, json!(reason)),
    };
    json!({
        "alert": entry_value(entry),
        "acknowledgements": acknowledgements.iter().map(seen_value).collect::<Vec<_>>(),
        "verdicts": verdicts.iter().map(verdict_value).collect::<Vec<_>>(),
        "events": evidence.events.iter().map(event_value).collect::<Vec<_>>(),
        "prediction": evidence.prediction.as_ref().map(prediction_value),
        "explanation": explanation,
        "not_explained": not_explained,
        "around": evidence.around.events.iter().map(around_value).collect::<Vec<_>>(),
        "around_is_cut": evidence.around.is_cut,
    })
}

fn seen_value(said: &Acknowledgement) -> Value {
    json!({"at": said.at.to_string(), "who": said.actor, "note": said.note})
}

fn verdict_value(said: &GivenVerdict) -> Value {
    json!({"at": said.at.to_string(), "verdict": said.verdict.as_str(), "who": said.actor, "note": said.note})
}

fn event_value(event: &AlertRow) -> Value {
    json!({
        "id": format!("{}:{}", event.partition, event.offset),
        "is_raising": event.is_raising(),
        "timestamp": event.timestamp.to_string(),
        "severity": event.severity.as_str(),
        "anomaly_score": event.anomaly_score,
        "model_version": event.model_version,
        "leading_feature": event.leading_feature,
        "share": event.share,
    })
}

fn prediction_value(prediction: &Prediction) -> Value {
    let mut value = json!({
        "id": format!("{}:{}", prediction.partition, prediction.offset),
        "timestamp": prediction.timestamp.to_string(),
        "anomaly_score": prediction.anomaly_score,
        "is_anomaly": prediction.is_anomaly,
        "model_version": prediction.model_version,
    });
    for (name, feature) in FEATURE_NAMES.into_iter().zip(prediction.features) {
        value[name] = json!(feature);
    }
    value
}

fn explanation_value(explanation: &Explanation) -> Value {
    let feature = |one: &ExplainedFeature| {
        json!({
            "feature": one.feature,
            "value": one.value,
            "contribution": one.contribution,
            "share": one.share,
            "expected_low": one.expected_low,
            "expected_high": one.expected_high,
            "deviations": one.deviations,
            "alert_low": one.reach.map(|reach| reach.low),
            "alert_high": one.reach.map(|reach| reach.high),
            "notice_above": one.notice_above,
        })
    };
    json!({
        "anomaly_score": explanation.verdict.anomaly_score,
        "is_anomaly": explanation.verdict.is_anomaly,
        "features": explanation.features.iter().map(feature).collect::<Vec<_>>(),
    })
}

fn around_value(EventRow { cause, event, .. }: &EventRow) -> Value {
    json!({
        "id": format!("{}:{}", cause.partition, cause.offset),
        "timestamp": event.timestamp.to_string(),
        "price": event.price,
        "volume": event.volume,
        "trade_id": event.trade_id,
        "side": event.side.map(Side::as_str),
        "is_anomaly": event.is_anomaly,
        "anomaly_type": event.anomaly_type.as_deref(),
        "source": event.source.as_str(),
    })
}
