//! The dashboard at `/`: the files of the folder `dashboard`, and plotly.js, all of them in the program.
//!
//! They say nothing about what is stored, so that nobody needs a key for them: the page asks the other operations for what
//! it shows, with the key of the person who reads it. A browser is told to ask no other host for anything.

mod asset;

use bytes::Bytes;
use plotly::Plot;
use poem::http::StatusCode;
use poem_openapi::{
    OpenApi,
    param::{Header, Path},
};

use crate::{
    problem::{Problem, Refusals, Refused},
    routes::{Chapter, OfNothing},
};

use asset::{Asset, CSS, Coding, HTML, JAVASCRIPT, MediaTypes, SVG, Served};

/// The files of the folder.
static FILES: &[(&str, &[u8])] = &[
    ("index.html", include_bytes!("../dashboard/index.html")),
    ("style.css", include_bytes!("../dashboard/style.css")),
    ("icon.svg", include_bytes!("../dashboard/icon.svg")),
    ("theme.js", include_bytes!("../dashboard/theme.js")),
    ("app.js", include_bytes!("../dashboard/app.js")),
    ("address.js", include_bytes!("../dashboard/address.js")),
    ("prefs.js", include_bytes!("../dashboard/prefs.js")),
    ("api.js", include_bytes!("../dashboard/api.js")),
    ("stream.js", include_bytes!("../dashboard/stream.js")),
    ("dom.js", include_bytes!("../dashboard/dom.js")),
    ("format.js", include_bytes!("../dashboard/format.js")),
    ("controls.js", include_bytes!("../dashboard/controls.js")),
    ("charts.js", include_bytes!("../dashboard/charts.js")),
    ("table.js", include_bytes!("../dashboard/table.js")),
    ("page-status.js", include_bytes!("../dashboard/page-status.js")),
    ("status-pipeline.js", include_bytes!("../dashboard/status-pipeline.js")),
    ("metrics.js", include_bytes!("../dashboard/metrics.js")),
    ("page-live.js", include_bytes!("../dashboard/page-live.js")),
    ("live-series.js", include_bytes!("../dashboard/live-series.js")),
    ("live-chart.js", include_bytes!("../dashboard/live-chart.js")),
    ("live-alerts.js", include_bytes!("../dashboard/live-alerts.js")),
    ("evidence.js", include_bytes!("../dashboard/evidence.js")),
    ("page-analytics.js", include_bytes!("../dashboard/page-analytics.js")),
    ("analytics-parts.js", include_bytes!("../dashboard/analytics-parts.js")),
    ("analytics-rows.js", include_bytes!("../dashboard/analytics-rows.js")),
    ("page-test.js", include_bytes!("../dashboard/page-test.js")),
    ("test-sliders.js", include_bytes!("../dashboard/test-sliders.js")),
    ("page-models.js", include_bytes!("../dashboard/page-models.js")),
    ("models-parts.js", include_bytes!("../dashboard/models-parts.js")),
    ("page-jobs.js", include_bytes!("../dashboard/page-jobs.js")),
    ("jobs-parts.js", include_bytes!("../dashboard/jobs-parts.js")),
    ("jobs-dialogs.js", include_bytes!("../dashboard/jobs-dialogs.js")),
];

/// The file that is the page.
const PAGE: &str = "index.html";

/// The name of plotly.js, which no other version has.
const PLOTLY: &str = "plotly-3.0.1.min.js";

/// How that version begins.
const BANNER: &str = "/**\n* plotly.js v3.0.1\n";

/// plotly.js, out of a piece of a page with two scripts, which is all that its crate gives. No script in a page can hold
/// what ends it (HTML, 4.12.1.3), so that the first such text is the end of the first one.
fn plotly() -> Bytes {
    let html = Plot::offline_js_sources();
    let scripts = html.strip_prefix("<script type=\"text/javascript\">");
    let (first, _) = scripts.and_then(|scripts| scripts.split_once("</script>")).unwrap_or_default();
    assert!(first.starts_with(BANNER), "the crate gives a plotly.js of the version that is in its name here");
    Bytes::copy_from_slice(first.as_bytes())
}

/// The operations that give the files.
pub struct Dashboard {
    assets: Vec<Asset>,
}

impl Dashboard {
    /// With the files that are in the program.
    pub fn embedded() -> Self {
        let files = FILES.iter().map(|&(name, content)| Asset::embedded(name, content));
        Self { assets: files.chain([Asset::lasting(PLOTLY, plotly)]).collect() }
    }

    fn find(&self, name: &str) -> Result<&Asset, Problem> {
        self.assets.iter().find(|asset| asset.name == name).ok_or_else(|| {
            let detail = "the dashboard has no file of this name; the page at / names those that it has";
            Problem::new(StatusCode::NOT_FOUND, detail)
        })
    }
}

/// The media type of the page.
struct Page;

impl MediaTypes for Page {
    const ALL: &'static [&'static str] = &[HTML];
}

/// The media types of all files.
struct AnyFile;

impl MediaTypes for AnyFile {
    const ALL: &'static [&'static str] = &[JAVASCRIPT, CSS, SVG, HTML];
}

/// Refusals of `/assets/{file}`.
struct OfAsset;

impl Refusals for OfAsset {
    const STATUSES: &'static [(u16, &'static str)] = &[(404, "There is no file of this name.")];
}

#[OpenApi]
impl Dashboard {
    /// The dashboard
    ///
    /// A page for people, which asks the other operations for what it shows; where keys are needed, it asks for one.
    #[oai(path = "/", method = "get", operation_id = "dashboard", tag = "Chapter::Documents")]
    async fn dashboard(
        &self,
        /// The `ETag` of an answer that is there: the same one is not sent again.
        #[oai(name = "If-None-Match")]
        if_none_match: Header<Option<String>>,
        coding: Coding,
    ) -> Result<Served<Page>, Refused<OfNothing>> {
        Ok(self.find(PAGE)?.served(coding, if_none_match.0.as_deref()).await?)
    }

    /// A file of the dashboard
    #[oai(path = "/assets/:file", method = "get", operation_id = "asset", tag = "Chapter::Documents")]
    async fn asset(
        &self,
        /// The name.
        file: Path<String>,
        /// The `ETag` of an answer that is there: the same one is not sent again.
        #[oai(name = "If-None-Match")]
        if_none_match: Header<Option<String>>,
        coding: Coding,
    ) -> Result<Served<AnyFile>, Refused<OfAsset>> {
        Ok(self.find(&file.0)?.served(coding, if_none_match.0.as_deref()).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path};

    use super::*;

    /// What the files may have in bytes as browsers get them, all of them together, and what the scripts of one page may have
    /// as they are written.
    const LIMIT: usize = 100_000;

    fn content(name: &str) -> &'static str {
        let (_, content) = FILES.iter().find(|(file, _)| *file == name).unwrap_or_else(|| panic!("no {name}"));
        str::from_utf8(content).unwrap()
    }

    /// The scripts that a script needs, with itself.
    fn needed_by(name: &str, needed: &mut BTreeSet<String>) {
        if needed.insert(name.to_owned()) {
            for after in content(name).split(" from \"./").skip(1) {
                needed_by(after.split_once('"').unwrap().0, needed);
            }
        }
    }

    #[test]
    fn every_file_of_the_folder_is_in_the_program() {
        let folder = path::Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboard");
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let there: BTreeSet<String> = names.collect();
        let embedded: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(embedded, there);
    }

    #[test]
    fn every_file_has_a_media_type_of_the_document() {
        for asset in Dashboard::embedded().assets {
            assert!(AnyFile::ALL.contains(&asset.media_type), "{}", asset.name);
        }
    }

    #[test]
    fn the_page_is_small() {
        let bytes: usize = FILES.iter().map(|(_, content)| asset::compressed(content).unwrap().len()).sum();
        assert!(bytes < LIMIT, "{bytes} bytes");
        for (page, _) in FILES.iter().filter(|(name, _)| name.starts_with("page-")) {
            let mut needed = BTreeSet::from(["theme.js".to_owned()]);
            needed_by("app.js", &mut needed);
            needed_by(page, &mut needed);
            let bytes: usize = needed.iter().map(|name| content(name).len()).sum();
            assert!(needed.len() > 8 && bytes < LIMIT, "{page}: {bytes} bytes of {needed:?}");
        }
    }

    #[test]
    fn plotly_is_whole_and_of_the_version_in_its_name() {
        let version = PLOTLY.strip_prefix("plotly-").and_then(|rest| rest.strip_suffix(".min.js")).unwrap();
        assert_eq!(BANNER, format!("/**\n* plotly.js v{version}\n"));
        let script = plotly();
        let script = str::from_utf8(&script).unwrap();
        assert!(script.starts_with(BANNER) && script.ends_with("window.Plotly = Plotly;\nreturn Plotly;\n}));"));
        assert!(!script.contains("</script"));
    }
}
