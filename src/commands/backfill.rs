//! `sentinel backfill`: history from archives.

use std::{fs, path::Path};

use domain::{Clock, Timestamp};
use jobs::backfill::{
    self, BackfillParts, BackfillRequest, OnError,
    plan::{Action, Plan, PlannedSlice},
    run::{self, FileSpec, RunReport, SliceSpec},
};
use jobs::stream::{self, Until};
use scheduler::{Run, RunId, Slice, Store};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Outcome,
    app::App,
    cli::{BackfillArgs, BackfillCommand, OnErrorArg, PlanArgs, RunArgs, StatusArgs, WhatArgs},
    clock::SystemClock,
    commands::{
        Refused,
        runs::{store, told},
        stream::lock,
    },
    config::Settings,
    locks::{self, Role, RoleLock},
    new_file::NewFile,
    output,
    progress::Progress,
    settings_to_parts,
};

/// Runs that are listed, at most.
const MAX_RUNS: u32 = 100;

/// A plan that was written to a file.
#[derive(Debug, Serialize, Deserialize)]
struct PlanFile {
    request: BackfillRequest,
    digest: String,
    files: Vec<FileSpec>,
    slices: Vec<serde_json::Value>,
}

/// Runs a subcommand; without one, prints the plan.
pub async fn run(args: &BackfillArgs, settings: &Settings, progress: &Progress) -> anyhow::Result<Outcome> {
    match &args.command {
        None => {
            let args = PlanArgs { what: args.what.clone(), file: None, output: args.output };
            plan(&args, settings, progress).await
        }
        Some(BackfillCommand::Plan(args)) => plan(args, settings, progress).await,
        Some(BackfillCommand::Run(args)) => fill(args, settings, progress).await,
        Some(BackfillCommand::Status(args)) => status(args, settings).await,
        Some(BackfillCommand::Resume(args)) => resume(args.run, settings, progress).await,
        Some(BackfillCommand::Cancel(args)) => cancel(args.run, settings).await,
    }
}

async fn plan(args: &PlanArgs, settings: &Settings, progress: &Progress) -> anyhow::Result<Outcome> {
    let request = request(&args.what)?;
    let (app, parts) = open(settings).await?;
    let plan = prepare(&parts, &request, progress).await?;
    show_plan(&plan, &request, args.output.json)?;
    if let Some(path) = &args.file {
        let slices = plan.slices.iter().map(slice_json).collect();
        let file = PlanFile { request, digest: plan.digest(), files: run::files_of(&plan.scan), slices };
        let mut new = NewFile::create(path)?;
        serde_json::to_writer_pretty(&mut new, &file)?;
        new.publish()?;
        output::line(&format!("wrote {}; `sentinel backfill run --plan {0} --execute` does it", path.display()))?;
    }
    app.close().await;
    Ok(Outcome::Fine)
}

async fn fill(args: &RunArgs, settings: &Settings, progress: &Progress) -> anyhow::Result<Outcome> {
    let exported = args.plan.as_deref().map(read_plan).transpose()?;
    let request = match &exported {
        Some(file) => file.request.clone(),
        None => request(&args.what)?,
    };
    let (app, parts) = open(settings).await?;
    let plan = prepare(&parts, &request, progress).await?;
    if let Some(exported) = exported.filter(|exported| exported.digest != plan.digest()) {
        return Err(Refused(format!("the plan has changed since it was exported: {}", change(&exported, &plan))).into());
    }
    if !args.execute {
        show_plan(&plan, &request, args.output.json)?;
        if !args.output.json && plan.due_rows() > 0 {
            output::line("nothing was written: --execute does it")?;
        }
        app.close().await;
        return Ok(Outcome::Fine);
    }
    let refused = refusals(&plan);
    if request.on_error == OnError::Stop && !refused.is_empty() {
        let text = refused.join("\n  ");
        let remedy = "--on-error continue does the other slices";
        return Err(Refused(format!("not everything in the plan can be done; {remedy}\n  {text}")).into());
    }
    for line in &refused {
        tracing::warn!("left out: {line}");
    }
    for slice in plan.slices.iter().filter(|slice| matches!(slice.action, Action::Wait(_))) {
        tracing::warn!("{} waits: {}", slice.name(), slice.reason);
    }
    for sentence in plan.nothing_of(&request) {
        tracing::warn!("{sentence}");
    }
    if plan.due_rows() == 0 {
        output::line(nothing_to_do(&plan))?;
        app.close().await;
        return Ok(if refused.is_empty() { Outcome::Fine } else { Outcome::Difference });
    }
    let id = run::create(&parts, &request, &plan).await?;
    let _lock = RoleLock::acquire(&settings.data.dir, Role::Backfill(id.into()))?;
    tracing::info!(run = %id, slices = plan.slices.iter().filter(|s| s.action.is_due()).count(), rows = plan.due_rows(), "backfill");
    let outcome = execute(&app, &parts, settings, id, &plan, progress).await?;
    app.close().await;
    Ok(if refused.is_empty() { outcome } else { Outcome::Difference })
}

async fn resume(run: i64, settings: &Settings, progress: &Progress) -> anyhow::Result<Outcome> {
    let (app, parts) = open(settings).await?;
    let id = RunId::from(run);
    let spec = run::spec_of(&parts.store, id).await?;
    let plan = prepare(&parts, &spec.request, progress).await?;
    let files = run::files_of(&plan.scan);
    if let Some(changed) = spec.files.iter().find(|file| !files.contains(file)) {
        let path = &changed.path;
        return Err(Refused(format!("`{path}` is not what it was when run {id} was planned: plan it anew")).into());
    }
    let _lock = RoleLock::acquire(&settings.data.dir, Role::Backfill(run))?;
    // Whoever does a run holds its lock: an owner without it is gone.
    parts.store.owner_is_gone(id, app.clock.now()).await?;
    parts.store.reopen(id, app.clock.now()).await?;
    let outcome = execute(&app, &parts, settings, id, &plan, progress).await?;
    app.close().await;
    Ok(outcome)
}

/// Sets the floors, lets the log be taken in and does the slices.
async fn execute(
    app: &App,
    parts: &BackfillParts,
    settings: &Settings,
    id: RunId,
    plan: &Plan,
    progress: &Progress,
) -> anyhow::Result<Outcome> {
    let floors = backfill::settle(parts, plan).await?;
    take_in(app, settings).await?;
    if !backfill::await_settled(parts, &floors, &app.cancel).await? {
        output::line(&format!("interrupted; `sentinel backfill resume {id}` goes on"))?;
        return Ok(Outcome::Fine);
    }
    let task = progress.counted("backfill", "rows", plan.due_rows());
    let owner = format!("process {}", std::process::id());
    let report = run::execute(parts, id, &plan.scan, &owner, &app.cancel, &|rows| task.set(rows)).await?;
    task.finish();
    show_report(id, &report)
}

/// Folds what is in the log, unless another process does.
async fn take_in(app: &App, settings: &Settings) -> anyhow::Result<()> {
    let partitions: Vec<_> = (0..settings.log.partitions).collect();
    let Ok(_locks) = lock(settings, &partitions) else { return Ok(()) };
    let policy = settings_to_parts::flush_policy(&settings.stream);
    stream::run(app.stream_parts(), &partitions, policy, Until::EndOfLog, app.cancel.clone()).await?;
    Ok(())
}

async fn status(args: &StatusArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let (store, now) = (store(settings).await?, SystemClock.now());
    for run in store.runs(Some(backfill::JOB), MAX_RUNS).await? {
        forget_gone_owner(&store, settings, run.id).await?;
    }
    let Some(number) = args.run else {
        let runs = store.runs(Some(backfill::JOB), MAX_RUNS).await?;
        if args.output.json {
            output::json(&runs.iter().map(|run| run_json(run, run.state_at(now))).collect::<Vec<_>>())?;
        } else {
            let row = |run: &Run| {
                let ended = run.ended.map(|at| at.to_string()).unwrap_or_default();
                vec![run.id.to_string(), run.state_at(now).as_str().to_owned(), run.created.to_string(), ended]
            };
            output::table(&["run", "state", "created", "ended"], &runs.iter().map(row).collect::<Vec<_>>())?;
        }
        return Ok(Outcome::Fine);
    };
    let id = RunId::from(number);
    run::spec_of(&store, id).await?;
    let (run, slices) = (store.run(id).await?, store.slices(id).await?);
    if args.output.json {
        let mut shown = run_json(&run, run.state_at(now));
        shown["slices"] = slices.iter().map(stored_slice_json).collect();
        shown["history"] = json!(store.history(id).await?.iter().map(|event| {
            json!({"at": event.at.to_string(), "slice": event.slice, "event": event.event, "detail": event.detail})
        }).collect::<Vec<_>>());
        output::json(&shown)?;
    } else {
        output::line(&format!("run {id} is {}; created {}", run.state_at(now).as_str(), run.created))?;
        let row = |slice: &Slice| {
            let rows = serde_json::from_value::<SliceSpec>(slice.spec.clone()).map_or(0, |spec| spec.rows);
            let told = slice
                .error
                .clone()
                .or_else(|| slice.result.as_ref().map(|result| format!("{} added", result["added"])));
            vec![
                slice.number.to_string(),
                slice.name.clone(),
                slice.state.as_str().to_owned(),
                rows.to_string(),
                told.unwrap_or_default(),
            ]
        };
        output::table(&["slice", "name", "state", "rows", "result"], &slices.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(Outcome::Fine)
}

async fn cancel(run: i64, settings: &Settings) -> anyhow::Result<Outcome> {
    let (store, id) = (store(settings).await?, RunId::from(run));
    run::spec_of(&store, id).await?;
    forget_gone_owner(&store, settings, id).await?;
    output::line(&told(run, store.request_cancel(id, SystemClock.now()).await?))?;
    Ok(Outcome::Fine)
}

/// A run that says it is being done while nobody holds its lock is interrupted.
async fn forget_gone_owner(store: &Store, settings: &Settings, id: RunId) -> anyhow::Result<()> {
    if !locks::is_held(&settings.data.dir, Role::Backfill(id.into()))? {
        store.owner_is_gone(id, SystemClock.now()).await?;
    }
    Ok(())
}

async fn open(settings: &Settings) -> anyhow::Result<(App, BackfillParts)> {
    let app = App::open(settings).await?;
    let parts = BackfillParts {
        lake: app.lake.clone(),
        log: app.log.clone(),
        store: store(settings).await?,
        clock: app.clock.clone(),
        scratch: settings.data.dir.clone(),
    };
    Ok((app, parts))
}

async fn prepare(parts: &BackfillParts, request: &BackfillRequest, progress: &Progress) -> anyhow::Result<Plan> {
    let task = std::sync::OnceLock::new();
    let told =
        |done: u64, total: u64| task.get_or_init(|| progress.counted("reading archives", "bytes", total)).set(done);
    let plan = backfill::prepare(parts, request, &told).await?;
    if let Some(task) = task.into_inner() {
        task.finish();
    }
    Ok(plan)
}

fn request(what: &WhatArgs) -> anyhow::Result<BackfillRequest> {
    if what.archives.is_empty() {
        return Err(Refused("name the archives to fill from: files, folders or Delta tables".to_owned()).into());
    }
    let absolute = |path: &std::path::PathBuf| fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    Ok(BackfillRequest {
        paths: what.archives.iter().map(absolute).collect(),
        symbols: what.symbols.iter().flatten().map(ToString::to_string).collect(),
        from_us: what.range.from.map(Timestamp::micros),
        to_us: what.range.to.map(Timestamp::micros),
        grain_minutes: what.grain,
        gaps: what.gaps,
        max_active: usize::from(what.max_active),
        on_error: match what.on_error {
            OnErrorArg::Stop => OnError::Stop,
            OnErrorArg::Continue => OnError::Continue,
        },
    })
}

fn read_plan(path: &Path) -> anyhow::Result<PlanFile> {
    let text = fs::read(path).map_err(|error| Refused(format!("cannot read `{}`: {error}", path.display())))?;
    let file = serde_json::from_slice(&text);
    file.map_err(|error| Refused(format!("`{}` is no plan of a backfill: {error}", path.display())).into())
}

/// What is another than in an exported plan, as a sentence.
fn change(exported: &PlanFile, plan: &Plan) -> String {
    let files = run::files_of(&plan.scan);
    if let Some(changed) = exported.files.iter().find(|file| !files.contains(file)) {
        return format!("`{}` is not what it was", changed.path);
    }
    if let Some(new) = files.iter().find(|file| !exported.files.contains(file)) {
        return format!("`{}` was not there", new.path);
    }
    let key = |slice: &serde_json::Value| {
        ["slice", "to", "action", "rows", "new_rows", "stored"].map(|name| slice[name].clone())
    };
    let now: Vec<_> = plan.slices.iter().map(slice_json).collect();
    let other = now.iter().find(|slice| !exported.slices.iter().any(|before| key(before) == key(slice)));
    match other {
        Some(slice) => {
            format!("{} would now be: {} ({})", text(&slice["slice"]), text(&slice["action"]), text(&slice["reason"]))
        }
        None => "a slice is no longer part of it".to_owned(),
    }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

const fn nothing_to_do(plan: &Plan) -> &'static str {
    if plan.slices.is_empty() {
        "there is nothing to do: the archives hold nothing of what was asked for"
    } else {
        "there is nothing to do now: see `sentinel backfill plan`"
    }
}

/// What of a plan cannot be done, line by line.
fn refusals(plan: &Plan) -> Vec<String> {
    let slices = plan.slices.iter().filter_map(|slice| match &slice.action {
        Action::Refuse(reason) => Some(format!("{}: {reason}", slice.name())),
        _ => None,
    });
    plan.scan.refused.iter().cloned().chain(slices).collect()
}

fn show_plan(plan: &Plan, request: &BackfillRequest, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(&json!({"digest": plan.digest(), "refused_files": plan.scan.refused,
                                    "nothing_of": plan.nothing_of(request), "slices": plan.slices.iter().map(slice_json).collect::<Vec<_>>()}));
    }
    let row = |slice: &PlannedSlice| {
        let counts = [slice.rows, slice.new_rows, slice.stored, slice.bytes].map(|count| count.to_string());
        let touched: Vec<String> = slice
            .touched
            .iter()
            .map(|(table, touched)| format!("{} v{} ({} files)", table.as_str(), touched.version, touched.files))
            .collect();
        let head = [slice.symbol.to_string(), slice.range.start.to_string(), slice.range.end.to_string()];
        let head = head.into_iter().chain([slice.grade.as_str().to_owned(), slice.action.as_str().to_owned()]);
        head.chain(counts).chain([touched.join(", "), slice.reason.clone()]).collect()
    };
    let heading = ["symbol", "from", "to", "kind", "action", "rows", "new", "stored", "bytes", "replaces", "reason"];
    output::table(&heading, &plan.slices.iter().map(row).collect::<Vec<Vec<String>>>())?;
    for refused in &plan.scan.refused {
        output::line(&format!("refused: {refused}"))?;
    }
    for sentence in plan.nothing_of(request) {
        output::line(&sentence)?;
    }
    Ok(())
}

fn slice_json(slice: &PlannedSlice) -> serde_json::Value {
    let touched = slice.touched.iter().map(|(table, touched)| {
        json!({"table": table.as_str(), "version": touched.version, "files": touched.files, "bytes": touched.bytes})
    });
    json!({"slice": slice.name(), "symbol": slice.symbol.as_str(), "from": slice.range.start.to_string(),
           "to": slice.range.end.to_string(), "kind": slice.grade.as_str(), "action": slice.action.as_str(),
           "reason": slice.reason, "rows": slice.rows, "new_rows": slice.new_rows, "stored": slice.stored,
           "bytes": slice.bytes, "replaces": touched.collect::<Vec<_>>()})
}

fn run_json(run: &Run, state: scheduler::RunState) -> serde_json::Value {
    json!({"run": run.id.to_string(), "state": state.as_str(), "created": run.created.to_string(),
           "ended": run.ended.map(|at| at.to_string()), "error": run.error, "request": run.spec["request"]})
}

fn stored_slice_json(slice: &Slice) -> serde_json::Value {
    json!({"number": slice.number, "name": slice.name, "state": slice.state.as_str(), "spec": slice.spec,
           "result": slice.result, "error": slice.error})
}

fn show_report(id: RunId, report: &RunReport) -> anyhow::Result<Outcome> {
    let RunReport { succeeded, failed, left, added, cancelled, lost } = report;
    for (slice, error) in failed {
        output::line(&format!("failed: {slice}: {error}"))?;
    }
    output::line(&format!(
        "run {id}: {succeeded} slices done, {} failed, {left} left; {added} rows added",
        failed.len()
    ))?;
    if *lost {
        output::line("another process has taken the run over")?;
    } else if *cancelled {
        output::line("it was cancelled")?;
    } else if *left > 0 || !failed.is_empty() {
        output::line(&format!("`sentinel backfill resume {id}` does what is left"))?;
    }
    let ended = *cancelled || *lost || (*left > 0 && failed.is_empty());
    Ok(if failed.is_empty() || ended { Outcome::Fine } else { Outcome::Difference })
}
