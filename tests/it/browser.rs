//! A real browser without a window: Chromium, driven by its protocol for developers, and what a person does in it.
//!
//! Whatever is waited for is waited for until it is so. What pages write to the console as errors is kept.

use std::{
    ffi::OsStr,
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use headless_chrome::{
    Browser as Chromium, LaunchOptions, Tab,
    protocol::cdp::{
        Browser::{SetDownloadBehavior, SetDownloadBehaviorBehaviorOption},
        Emulation, Input, Log, Page, Runtime,
        types::Event,
    },
};
use serde_json::{Value, json};

use crate::harness::PATIENCE;

/// A browser with one window, which end with it.
pub struct Browser {
    tab: Arc<Tab>,
    errors: Arc<Mutex<Vec<String>>>,
    downloads: tempfile::TempDir,
    _chromium: Chromium,
}

impl Browser {
    /// Opens a window of this size, in CSS pixels.
    pub fn open(chromium: PathBuf, width: u32, height: u32) -> Self {
        let options = LaunchOptions {
            path: Some(chromium),
            window_size: Some((width, height)),
            // A container gives Chromium no sandbox of its own; it opens pages of this machine only.
            sandbox: false,
            // However long nobody says anything to it.
            idle_browser_timeout: Duration::from_hours(24),
            args: ["--hide-scrollbars", "--enable-precise-memory-info", "--js-flags=--expose-gc"]
                .map(OsStr::new)
                .to_vec(),
            ..LaunchOptions::default()
        };
        let chromium = Chromium::new(options).unwrap();
        let tab = chromium.new_tab().unwrap();
        tab.set_default_timeout(PATIENCE);
        tab.enable_runtime().unwrap().enable_log().unwrap();
        let errors = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&errors);
        let keep = move |event: &Event| {
            if let Some(error) = error_of(event) {
                kept.lock().unwrap().push(error);
            }
        };
        tab.add_event_listener(Arc::new(keep)).unwrap();
        let downloads = tempfile::tempdir().unwrap();
        tab.call_method(SetDownloadBehavior {
            behavior: SetDownloadBehaviorBehaviorOption::Allow,
            browser_context_id: None,
            download_path: Some(downloads.path().display().to_string()),
            events_enabled: None,
        })
        .unwrap();
        Self { tab, errors, downloads, _chromium: chromium }
    }

    /// Opens an address; another one of the page that is open does not load it again.
    pub fn go(&self, url: &str) {
        self.tab.navigate_to(url).unwrap();
    }

    /// Makes the window as wide and high as this, in CSS pixels, as a phone has it where it is narrow.
    pub fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        let metrics: Emulation::SetDeviceMetricsOverride = serde_json::from_value(metrics).unwrap();
        self.tab.call_method(metrics).unwrap();
    }

    /// The value of an expression of the page, of a promise what comes of it.
    pub fn value(&self, expression: &str) -> Value {
        let text = format!("Promise.resolve({expression}).then((value) => JSON.stringify(value ?? null))");
        let answer = self.tab.evaluate(&text, true).unwrap();
        assert!(answer.value.is_some(), "{expression}: {:?}", answer.description);
        serde_json::from_str(answer.value.unwrap().as_str().unwrap()).unwrap()
    }

    /// The value of an expression once it is as wanted.
    pub fn value_when(&self, expression: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let wanted = || Some(self.value(expression)).filter(|value| is_wanted(value));
        until(expression, wanted, || (self.value(expression), self.value("document.body.innerText")))
    }

    /// Waits until an expression of the page is true.
    pub fn wait_until(&self, expression: &str) {
        self.value_when(expression, |value| value == &Value::Bool(true));
    }

    /// Waits until an element is there and shows a text that contains this one; the whole text.
    pub fn text_with(&self, selector: &str, wanted: &str) -> String {
        let text = format!("document.querySelector({})?.innerText ?? ''", json!(selector));
        let value = self.value_when(&text, |value| value.as_str().is_some_and(|text| text.contains(wanted)));
        value.as_str().unwrap().to_owned()
    }

    /// Clicks on an element once it is there and nothing lies over it. The look and the click are one step of the page, so that
    /// nothing is drawn between them.
    pub fn click(&self, selector: &str) {
        let click = format!(
            "(() => {{ const element = document.querySelector({}); if (!element) return 'not there'; \
             if (element.disabled) return 'disabled'; element.scrollIntoView({{ block: 'center' }}); \
             const box = element.getBoundingClientRect(); \
             const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2); \
             if (!element.contains(top)) return 'under ' + top?.outerHTML.slice(0, 500); element.click(); return 'clicked'; }})()",
            json!(selector)
        );
        self.value_when(&click, |said| said == &json!("clicked"));
    }

    /// Moves the pointer to the middle of an element.
    pub fn hover(&self, selector: &str) {
        self.mouse("mouseMoved", self.place(selector, 0.5), false);
    }

    /// Draws the pointer across an element, between two parts of its width.
    pub fn drag(&self, selector: &str, from: f64, to: f64) {
        let ((x, y), (end, _)) = (self.place(selector, from), self.place(selector, to));
        self.mouse("mouseMoved", (x, y), false);
        self.mouse("mousePressed", (x, y), true);
        for step in 1..=10 {
            self.mouse("mouseMoved", (x + (end - x) * f64::from(step) / 10.0, y), true);
        }
        self.mouse("mouseReleased", (end, y), true);
    }

    /// Where in the window a part of an element's width is, halfway down, once it is there; it is scrolled into sight.
    fn place(&self, selector: &str, part: f64) -> (f64, f64) {
        let place = format!(
            "(() => {{ const element = document.querySelector({}); element?.scrollIntoView({{ block: 'center' }}); \
             const box = element?.getBoundingClientRect(); return box && [box.x + box.width * {part}, box.y + box.height / 2]; }})()",
            json!(selector)
        );
        let place = self.value_when(&place, Value::is_array);
        (place[0].as_f64().unwrap(), place[1].as_f64().unwrap())
    }

    /// Lets the pointer do something, with its left button or with none.
    fn mouse(&self, kind: &str, (x, y): (f64, f64), is_left: bool) {
        let (button, clicks) = if is_left { ("left", 1) } else { ("none", 0) };
        let event = json!({ "type": kind, "x": x, "y": y, "button": button, "buttons": clicks, "clickCount": clicks });
        let event: Input::DispatchMouseEvent = serde_json::from_value(event).unwrap();
        self.tab.call_method(event).unwrap();
    }

    /// Chooses an entry of a list by its value, once it is there.
    pub fn choose(&self, selector: &str, value: &str) {
        self.wait_until(&format!(
            "[...(document.querySelector({})?.options ?? [])].some((one) => one.value === {})",
            json!(selector),
            json!(value)
        ));
        self.set(selector, value);
    }

    /// Puts a value into a field, as typing it and leaving the field does.
    pub fn set(&self, selector: &str, value: &str) {
        let there = format!("Boolean(document.querySelector({}))", json!(selector));
        self.wait_until(&there);
        self.value(&format!(
            "(() => {{ const field = document.querySelector({}); field.value = {}; \
             for (const name of ['input', 'change']) field.dispatchEvent(new Event(name, {{ bubbles: true }})); }})()",
            json!(selector),
            json!(value)
        ));
    }

    /// Takes a picture of what the window shows.
    pub fn picture(&self, path: &Path) {
        let format = Page::CaptureScreenshotFormatOption::Png;
        fs::write(path, self.tab.capture_screenshot(format, None, None, true).unwrap()).unwrap();
    }

    /// The file that was saved under a name that ends so, once it is whole.
    pub fn saved(&self, name_ends_with: &str) -> PathBuf {
        let files = || {
            let entries = fs::read_dir(self.downloads.path()).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
        };
        let saved = || files().into_iter().find(|path| path.to_string_lossy().ends_with(name_ends_with));
        until(name_ends_with, saved, files)
    }

    /// What pages wrote to the console as errors since it was last asked.
    pub fn errors(&self) -> Vec<String> {
        std::mem::take(&mut self.errors.lock().unwrap())
    }
}

fn until<T, W: Debug>(what: &str, is_so: impl Fn() -> Option<T>, instead: impl Fn() -> W) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(so) = is_so() {
            return so;
        }
        assert!(Instant::now() < end, "{what}: {:?}", instead());
        thread::sleep(Duration::from_millis(50));
    }
}

/// What an event tells of an error of the page.
fn error_of(event: &Event) -> Option<String> {
    match event {
        Event::RuntimeExceptionThrown(thrown) => Some(format!("{:?}", thrown.params.exception_details)),
        Event::LogEntryAdded(added) => {
            let entry = &added.params.entry;
            let is_error = entry.level == Log::LogEntryLevel::Error;
            is_error.then(|| format!("{} {}", entry.text, entry.url.as_deref().unwrap_or_default()))
        }
        Event::RuntimeConsoleAPICalled(called) => {
            let is_error = called.params.Type == Runtime::ConsoleAPICalledEventTypeOption::Error;
            is_error.then(|| format!("{:?}", called.params.args))
        }
        _ => None,
    }
}
