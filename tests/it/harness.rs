//! The program as a user runs it: a data folder, commands as processes, tables read back as text.

use std::{
    fmt::Display,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use lake::{Lake, TableName};

/// A data folder that ends with the test.
pub struct Data {
    folder: tempfile::TempDir,
}

impl Data {
    /// An empty one.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// One whose shipped schedules do not come in between.
    pub fn quiet() -> Self {
        let data = Self::new();
        let shipped: Vec<serde_json::Value> = serde_json::from_str(&data.run("schedule list --json")).unwrap();
        let yearly = |schedule: &serde_json::Value| {
            format!("[{}]\njob = {}\ncron = \"@yearly\"\n", schedule["name"].as_str().unwrap(), schedule["job"])
        };
        std::fs::write(data.path().join("quiet.toml"), shipped.iter().map(yearly).collect::<String>()).unwrap();
        data.run("schedule apply quiet.toml");
        data
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The program with this data folder and nothing of the environment's settings.
    pub fn sentinel(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sentinel"));
        command.current_dir(self.path()).env_clear().arg("--data-dir").arg(self.path().join("data"));
        command.args(arguments.split_whitespace());
        command
    }

    /// Runs a command that must succeed; its standard output.
    pub fn run(&self, arguments: &str) -> String {
        let output = self.sentinel(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}\n{}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// Every row of a table in the order of its columns, as text, without the columns named.
    pub fn rows(&self, table: TableName, without: &[&str]) -> Vec<Vec<String>> {
        self.rows_in("lake", table, without)
    }

    /// The same of the tables in another folder of the data.
    pub fn rows_in(&self, folder: &str, table: TableName, without: &[&str]) -> Vec<Vec<String>> {
        let folder = self.path().join("data").join(folder);
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let lake = Lake::open(&folder).await.unwrap();
            let columns: Vec<String> = table
                .schema()
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .filter(|name| !without.contains(&name.as_str()))
                .map(|name| format!("\"{name}\""))
                .collect();
            let sql = format!("SELECT {0} FROM {1} ORDER BY {0}", columns.join(", "), table.as_str());
            lake.pin(table).await.unwrap().texts(&sql).await.unwrap()
        })
    }
}

/// Nothing that is waited for takes longer on any machine.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// `sentinel serve` or `sentinel up` as a process of its own.
pub struct Served {
    process: Child,
    address: String,
}

impl Served {
    /// Starts a command that serves and waits until it does.
    pub fn start(mut command: Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .find_map(|line| {
                let line = line.unwrap();
                Some(line.split_once("serving http://")?.1.split_whitespace().next()?.to_owned())
            })
            .unwrap();
        // Whoever does not read lets the process wait for its own log.
        thread::spawn(move || lines.count());
        Self { process, address }
    }

    /// Asks until the answer holds what is wanted.
    pub fn wait_for(&self, path: &str, wanted: &str) {
        self.wait_until(path, wanted, |answer| answer.contains(wanted));
    }

    /// Asks until the answer is as wanted, which `what` puts into words.
    pub fn wait_until(&self, path: &str, what: &str, is_wanted: impl Fn(&str) -> bool) {
        asked_until(&format!("{path} never said {what}"), || self.answer(path, &[]).1, |answer| is_wanted(answer));
    }

    /// The status of the answer to a request with this key; without one, where it is empty.
    pub fn status(&self, path: &str, key: &str) -> u16 {
        let bearer = format!("Bearer {key}");
        let headers: Vec<_> = (!key.is_empty()).then_some(("authorization", bearer.as_str())).into_iter().collect();
        self.ask(path, &headers)
    }

    /// Asks with this key until the answer has this status.
    pub fn wait_for_status(&self, path: &str, key: &str, wanted: u16) {
        let what = format!("{path} never answered {wanted}");
        asked_until(&what, || self.status(path, key), |status| *status == wanted);
    }

    /// Where a path of it is.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Asks with these headers; the status of the answer.
    pub fn ask(&self, path: &str, headers: &[(&'static str, &str)]) -> u16 {
        self.answer(path, headers).0
    }

    fn answer(&self, path: &str, headers: &[(&'static str, &str)]) -> (u16, String) {
        let mut request = reqwest::Client::new().get(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer_to(request)
    }

    /// The text of an answer, which must be 200.
    pub fn text(&self, path: &str) -> String {
        let (status, text) = self.answer(path, &[]);
        assert_eq!(status, 200, "{path}: {text}");
        text
    }

    /// Sends a JSON body; the text of the answer, which must be 200.
    pub fn posted(&self, path: &str, body: &str) -> String {
        let request = reqwest::Client::new().post(self.url(path)).header("content-type", "application/json");
        let (status, text) = answer_to(request.body(body.to_owned()));
        assert_eq!(status, 200, "{path}: {text}");
        text
    }

    /// Sends a JSON body, which must be answered with this status.
    pub fn post(&self, path: &str, body: &'static str, status: u16) {
        let request = reqwest::Client::new().post(self.url(path));
        let (told, text) = answer_to(request.header("content-type", "application/json").body(body));
        assert_eq!(told, status, "{path}: {text}");
    }

    /// Asks the process to end, as Ctrl-C does, and waits for it.
    pub fn interrupt(mut self) -> ExitStatus {
        interrupt(&self.process);
        self.process.wait().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The status of the answer to a request, and its text.
fn answer_to(request: reqwest::RequestBuilder) -> (u16, String) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    })
}

/// Asks until the answer is as wanted; `never` says what otherwise came never.
fn asked_until<A: Display>(never: &str, ask: impl Fn() -> A, is_wanted: impl Fn(&A) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = ask();
        if is_wanted(&answer) {
            return;
        }
        assert!(Instant::now() < end, "{never}, but {answer}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Asks a process to end, as Ctrl-C does.
pub fn interrupt(process: &Child) {
    let sent = Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap();
    assert!(sent.success(), "{sent}");
}

/// Whether a process was ended by a signal, as an abort ends it.
pub fn was_killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal().is_some()
}

/// What a process printed, for a failure's message.
pub fn printed(output: &Output) -> String {
    format!("{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
