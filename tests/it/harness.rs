//! The program as a user runs it: a data folder, commands as processes, tables read back as text.

use std::{
    path::Path,
    process::{Command, ExitStatus, Output},
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
