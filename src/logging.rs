//! The program's log: one line per happening on standard error, as text or as JSON.
//!
//! Standard output belongs to the answers of commands. Set up once, by `main`; nothing else names a subscriber. Whatever
//! stands in a field, such as what a client sent, cannot begin a line.

use std::{
    io::{self, Write},
    panic::PanicHookInfo,
};

use domain::ErrorKind;
use jobs::spans::SPANS;
use tracing::{Subscriber, debug, error};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{Filtered, LevelFilter},
    fmt::MakeWriter,
    layer::SubscriberExt,
};

use crate::{
    config::{LogFormat, LoggingSettings},
    progress::Progress,
    telemetry::SpanExport,
};

/// The crates that are Sentinel: a bare level is meant for them.
const OWN_CRATES: [&str; 8] = ["sentinel", "domain", "models", "streams", "lake", "scheduler", "jobs", "api"];

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level is neither a level nor a list of directives.
    #[error("{0}")]
    Level(String),
    /// Something set up a log before.
    #[error("a log was set up before: set it up once, in main")]
    SetUpTwice(#[source] tracing::subscriber::SetGlobalDefaultError),
}

impl LoggingError {
    /// What to do about it.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Level(_) => ErrorKind::Invalid,
            Self::SetUpTwice(_) => ErrorKind::Internal,
        }
    }
}

/// Starts logging to standard error for the whole process; lines stand above the bars of `progress`. Where traces are
/// collected, `spans` makes them.
///
/// # Errors
/// [`LoggingError::Level`] for a level that cannot be read, [`LoggingError::SetUpTwice`] the second time.
pub fn init(settings: &LoggingSettings, progress: &Progress, spans: Option<SpanExport>) -> Result<(), LoggingError> {
    let subscriber = subscriber(settings, progress.writer(), progress.has_bars(), spans)?;
    tracing::subscriber::set_global_default(subscriber).map_err(LoggingError::SetUpTwice)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// One line about a panic, which is always a defect; where it leads is decided by whoever catches it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no message");
    // deltalake aborts an upload that has failed, object_store cannot abort what has ended, and deltalake catches that:
    // the failed upload itself is reported.
    if message == "Already shut down" && place.contains("object_store") {
        debug!(place, message, "an upload that had failed could not be aborted");
    } else {
        error!(place, message, "a defect of the program: please report this line and what was being done");
    }
}

/// Libraries, and parts of them, whose every failure comes back as an error, which is told where it is met; by themselves
/// they repeat it each time they try again, and vacuum calls each keeping of a version experimental.
const TOLD_CRATES: [&str; 3] = ["fluvio", "fluvio_socket", "deltalake_core::operations::vacuum"];

/// The filter for `level`: one of `off`, `error`, `warn`, `info`, `debug`, `trace`, meant for Sentinel's own crates
/// (others speak from `warn` on, those in [`TOLD_CRATES`] never), or directives such as `warn,lake=debug` taken as they are.
///
/// # Errors
/// A sentence saying which directive cannot be read. A bare word that is no level is refused, although the filter's
/// own syntax would take it as the name of a module: more often it is a level misspelt.
pub fn filter(level: &str) -> Result<EnvFilter, String> {
    if let Some(level) = bare_level(level) {
        let others = level.min(LevelFilter::WARN);
        let own = OWN_CRATES.map(|name| format!("{name}={level}")).join(",");
        let told = TOLD_CRATES.map(|name| format!("{name}=off")).join(",");
        return parse_directives(&format!("{others},{told},{own}"));
    }
    parse_directives(level)
}

/// A level by its name; the parser's own numbers and its reading of nothing as `error` are left out.
fn bare_level(text: &str) -> Option<LevelFilter> {
    text.trim().parse().ok().filter(|_| text.trim().bytes().any(|byte| byte.is_ascii_alphabetic()))
}

fn parse_directives(text: &str) -> Result<EnvFilter, String> {
    for directive in text.split(',').map(str::trim) {
        if !directive.contains('=') && bare_level(directive).is_none() {
            return Err(format!(
                "`{directive}` is not a level: use off, error, warn, info, debug or trace, or directives such as \
                 warn,lake=debug"
            ));
        }
    }
    // Spans for a collector are for it alone.
    let all = format!("{text},{SPANS}=off");
    EnvFilter::builder().parse(all).map_err(|error| format!("`{text}` is not a list of directives: {error}"))
}

/// Lines of the log, those that the level lets through.
type Lines = Filtered<Box<dyn Layer<Registry> + Send + Sync>, EnvFilter, Registry>;

fn lines<W>(settings: &LoggingSettings, writer: W, is_terminal: bool) -> Result<Lines, LoggingError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = filter(&settings.level).map_err(LoggingError::Level)?;
    let has_colours = is_terminal && settings.format == LogFormat::Text;
    let layer = tracing_subscriber::fmt::layer().with_writer(OneLines { inner: writer, has_colours });
    let layer = match settings.format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        // On a terminal the library decides, so that NO_COLOR is respected.
        LogFormat::Text if is_terminal => layer.boxed(),
        LogFormat::Text => layer.with_ansi(false).boxed(),
    };
    Ok(layer.with_filter(filter))
}

fn subscriber<W>(
    settings: &LoggingSettings,
    writer: W,
    is_terminal: bool,
    spans: Option<SpanExport>,
) -> Result<Box<dyn Subscriber + Send + Sync>, LoggingError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let subscriber = tracing_subscriber::registry().with(lines(settings, writer, is_terminal)?);
    Ok(match spans {
        None => Box::new(subscriber),
        Some(spans) => Box::new(subscriber.with(spans.with_filter(SpanExport::filter()))),
    })
}

/// Makes writers that keep each happening on one line.
struct OneLines<M> {
    inner: M,
    /// Where it has them, the escape character begins one.
    has_colours: bool,
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for OneLines<M> {
    type Writer = OneLine<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLine { inner: self.inner.make_writer(), has_colours: self.has_colours }
    }
}

/// Takes one happening at a time, as the subscriber writes it; control characters in it are written as Rust escapes them.
struct OneLine<W> {
    inner: W,
    has_colours: bool,
}

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, happening: &[u8]) -> io::Result<usize> {
        let text = happening.strip_suffix(b"\n").unwrap_or(happening);
        let is_plain = |byte: &u8| !byte.is_ascii_control() || (self.has_colours && *byte == b'\x1b');
        if text.iter().all(is_plain) {
            return self.inner.write_all(happening).map(|()| happening.len());
        }
        let mut line = Vec::with_capacity(happening.len() + 8);
        for byte in text {
            if is_plain(byte) {
                line.push(*byte);
            } else {
                line.extend(byte.escape_ascii());
            }
        }
        line.extend_from_slice(&happening[text.len()..]);
        self.inner.write_all(&line).map(|()| happening.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rstest::rstest;
    use std::sync::{Arc, Mutex};

    #[rstest]
    #[case("info", &["own info", "own warn", "other warn"])]
    #[case("WARN", &["own warn", "other warn"])]
    #[case("debug", &["own debug", "own info", "own warn", "other warn"])]
    #[case("off", &[])]
    #[case("error,lake=debug", &["own debug", "own info", "own warn", "told error"])]
    #[case("info,lake=off", &["other info", "other warn", "told error"])]
    fn a_level_is_meant_for_our_own_crates_and_directives_are_taken_as_they_are(
        #[case] level: &str,
        #[case] expected: &[&str],
    ) {
        let settings = LoggingSettings { level: level.to_owned(), format: LogFormat::Text };
        let text = logged(&settings, || {
            tracing::debug!(target: "lake::tables", "own debug");
            tracing::info!(target: "lake::tables", "own info");
            tracing::warn!(target: "lake::tables", "own warn");
            tracing::info!(target: "somebody::else", "other info");
            tracing::warn!(target: "somebody::else", "other warn");
            tracing::error!(target: "fluvio_socket::stream", "told error");
        });
        let messages: Vec<&str> = text.lines().filter_map(|line| line.split_once(": ").map(|(_, said)| said)).collect();
        assert_eq!(messages, expected, "{text}");
    }

    #[test]
    fn a_json_line_is_one_object_with_the_fields_beside_the_message() {
        let settings = LoggingSettings { level: "info".to_owned(), format: LogFormat::Json };
        let text = logged(&settings, || tracing::info!(target: "lake", rows = 3, "appended features"));
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "appended features");
        assert_eq!(line["rows"], 3);
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn spans_for_a_collector_are_in_no_line() {
        let settings = LoggingSettings { level: "trace,lake=debug".to_owned(), format: LogFormat::Text };
        let text = logged(&settings, || {
            let span = tracing::info_span!(target: SPANS, "request", route = "/health");
            assert!(span.is_disabled());
            span.in_scope(|| tracing::info!(target: "lake", "said"));
        });
        assert!(text.ends_with(" lake: said\n") && !text.contains("request"), "{text}");
    }

    #[rstest]
    #[case(LogFormat::Text)]
    #[case(LogFormat::Json)]
    fn what_stands_in_a_field_cannot_begin_a_line(#[case] format: LogFormat) {
        let settings = LoggingSettings { level: "info".to_owned(), format };
        let forged = "no such column\r\n2026-11-22T21:13:31Z  INFO api: all is well\n\x1b[2J";
        let error = io::Error::other(forged);
        let text = logged(&settings, || {
            tracing::warn!(target: "api", %error, text = forged, "a request failed");
            tracing::error!(target: "api", error = &error as &(dyn std::error::Error + 'static), "{forged}");
        });
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.ends_with('\n') && !text.contains('\r') && !text.contains('\x1b'), "{text:?}");
        assert_eq!(text.matches("all is well").count(), 4, "{text}");
    }

    #[rstest]
    #[case("inof")]
    #[case("")]
    #[case("warn,debgu")]
    #[case("lake=loud")]
    fn a_misspelt_level_is_refused(#[case] level: &str) {
        let sentence = filter(level).unwrap_err();
        assert!(sentence.contains("is not a"), "{sentence}");
    }

    /// What `work` logs, as text.
    pub(crate) fn logged(settings: &LoggingSettings, work: impl FnOnce()) -> String {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let subscriber = subscriber(settings, move || Sink(Arc::clone(&sink)), false, None).unwrap();
        tracing::subscriber::with_default(subscriber, work);
        String::from_utf8(bytes.lock().unwrap().clone()).unwrap()
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
