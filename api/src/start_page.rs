//! The page at `/`: what runs here, how it is and where to go on.
//!
//! Self-contained: no script, no image, no other host. While there is no model it reloads itself.

use std::fmt::Write as _;

use domain::{Timestamp, time::MICROS};
use jobs::{
    active::ActiveModel,
    status::{PartStatus, Progress},
};

/// Seconds between two loads while the first model is awaited.
const RELOAD_SECONDS: u32 = 2;

/// The links of the page: path and what is there.
const LINKS: [(&str, &str); 9] = [
    ("/docs", "try every operation in the browser"),
    ("/openapi.json", "the same for machines"),
    ("/health", "whether predictions can be asked for"),
    ("/system-status", "the parts of the program"),
    ("/stats", "counters and distributions"),
    ("/latest-predictions", "what was predicted last"),
    ("/model-info", "the model that answers"),
    ("/readyz", "the probe for load balancers"),
    ("/metrics", "numbers for Prometheus"),
];

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#17202b;--soft:#5b6878;--page:#f4f6f9;--card:#fff;--line:#dfe4ea;--main:#0f6bdc;\
--good:#138a4e;--fair:#b06a00;--bad:#c62f39}\
@media(prefers-color-scheme:dark){:root{--ink:#e8edf3;--soft:#97a4b3;--page:#0e141b;--card:#161e27;--line:#27323e;\
--main:#5ea8ff;--good:#46c486;--fair:#e3a94a;--bad:#ff7b82}}\
*{box-sizing:border-box}\
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif}\
main{max-width:60rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}\
header{display:flex;flex-wrap:wrap;align-items:center;gap:.5rem 1rem}\
h1{font-size:2rem;letter-spacing:-.02em;margin:0}\
h2{font-size:1rem;margin:0 0 .75rem}\
.lead{color:var(--soft);margin:.25rem 0 1.75rem;max-width:42rem}\
.badge{border-radius:99px;padding:.15rem .8rem;font-size:.78rem;font-weight:700;letter-spacing:.06em;color:#fff;\
background:#a8480b}\
.grid{display:grid;gap:1rem;align-items:start;\
grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr))}\
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1.1rem 1.25rem}\
.wide{grid-column:1/-1}\
progress{width:100%;height:.7rem;accent-color:var(--main)}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0;border-top:1px solid var(--line)}\
tr:first-child>*{border-top:0}\
th{font-weight:400;color:var(--soft);white-space:nowrap}\
td{overflow-wrap:break-word}\
.online{color:var(--good)}.degraded{color:var(--fair)}.offline{color:var(--bad)}\
a{color:var(--main);text-decoration:none}a:hover{text-decoration:underline}\
small{color:var(--soft)}";

/// Writes the page.
pub fn render(active: Option<&ActiveModel>, parts: &[PartStatus], progress: &Progress, simulated: bool) -> String {
    let reload = match active {
        Some(_) => String::new(),
        None => format!("<meta http-equiv=\"refresh\" content=\"{RELOAD_SECONDS}\">"),
    };
    let badge = if simulated { "<span class=\"badge\">SIMULATED</span>" } else { "" };
    let origin = if simulated { "The market is simulated: no price here is a real one. " } else { "" };
    let model = active.map_or_else(|| waiting_section(progress), model_section);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">{reload}\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\
         <link rel=\"icon\" href=\"data:,\"><title>Sentinel</title><style>{STYLE}</style></head><body><main>\
         <header><h1>Sentinel</h1>{badge}</header>\
         <p class=\"lead\">Watches crypto markets: every trade is logged, folded into rolling features and judged by \
         an anomaly detector within the second. {origin}</p>\
         <div class=\"grid\">{model}{}{}</div></main></body></html>",
        parts_section(parts),
        links_section(),
    )
}

fn waiting_section(progress: &Progress) -> String {
    let Progress { events_logged, feature_rows, rows_for_first_model, message } = progress;
    let most = (*rows_for_first_model).max(1);
    let value = (*feature_rows).min(most);
    format!(
        "<section class=\"wide\"><h2>Waiting for the first model</h2>\
         <progress max=\"{most}\" value=\"{value}\"></progress>\
         <p>{feature_rows} of {rows_for_first_model} feature rows, {events_logged} events in the log. {}</p>\
         <small>This page reloads every {RELOAD_SECONDS} s until the model is there.</small></section>",
        escaped(message),
    )
}

fn model_section(active: &ActiveModel) -> String {
    let parameters = active.model.parameters();
    let rows = [
        ("Name", escaped(&active.name)),
        ("Version", active.version.to_string()),
        ("Trained", escaped(&to_the_second(active.created).to_string())),
        (
            "Detector",
            format!("Isolation Forest, {} trees of {} rows", parameters.trees, active.model.max_samples_used()),
        ),
        ("Contamination", parameters.contamination.to_string()),
        ("Seed", parameters.seed.to_string()),
        ("Artifact", format!("{} KiB", active.artifact_bytes.div_ceil(1_024))),
    ];
    section("The model", rows.iter().map(|(name, value)| ((*name).to_owned(), value.clone())))
}

fn parts_section(parts: &[PartStatus]) -> String {
    let rows = parts.iter().map(|part| {
        let state = part.state.as_str();
        let details = part.details.as_deref().map(escaped).unwrap_or_default();
        (part.name.as_str().to_owned(), format!("<b class=\"{state}\">{state}</b> <small>{details}</small>"))
    });
    section("The parts", rows)
}

fn links_section() -> String {
    let rows = LINKS.map(|(path, meaning)| (format!("<a href=\"{path}\">{path}</a>"), meaning.to_owned()));
    section("Where to go", rows.into_iter())
}

/// A titled table of names and values, both HTML already.
fn section(title: &str, rows: impl Iterator<Item = (String, String)>) -> String {
    let mut html = format!("<section><h2>{title}</h2><table>");
    for (name, value) in rows {
        // Writing to a String cannot fail.
        let _ = write!(html, "<tr><th>{name}</th><td>{value}</td></tr>");
    }
    html.push_str("</table></section>");
    html
}

fn to_the_second(instant: Timestamp) -> Timestamp {
    Timestamp::from_seconds(instant.span(MICROS))
}

/// The text with what HTML gives a meaning to replaced.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use jobs::status::{Part, PartState};

    use super::*;

    fn progress() -> Progress {
        let message = "reading <prices> & \"volumes\"".to_owned();
        Progress { events_logged: 1_300, feature_rows: 1_234, rows_for_first_model: 5_000, message }
    }

    #[test]
    fn a_page_without_a_model_says_how_far_it_is_and_reloads_itself() {
        let page = render(None, &[], &progress(), false);
        assert!(page.contains("<progress max=\"5000\" value=\"1234\">"));
        assert!(page.contains("http-equiv=\"refresh\" content=\"2\""));
        assert!(!page.contains("SIMULATED"));
    }

    #[test]
    fn texts_of_others_are_escaped() {
        let details = Some("<script>".to_owned());
        let part = PartStatus { name: Part::Log, state: PartState::Degraded, response_time_ms: 0.0, details };
        let page = render(None, &[part], &progress(), true);
        assert!(page.contains("reading &lt;prices&gt; &amp; &quot;volumes&quot;"));
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
        assert!(page.contains(">SIMULATED<"));
    }

    #[test]
    fn the_page_asks_no_other_host_for_anything() {
        let page = render(None, &[], &progress(), true);
        assert!(!page.contains("://") && !page.contains("<script") && !page.contains(" src="));
    }
}
