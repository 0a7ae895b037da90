//! `sentinel up` on an empty folder, as a process that ends with the benchmark.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Instant,
};

use super::{
    LOOK_EVERY, PATIENCE,
    connection::{Connection, get, post},
    one_thread,
};
use crate::program::kilobytes;

/// The process.
pub struct Server {
    process: Child,
    lines: Receiver<String>,
    /// Where it serves.
    pub address: SocketAddr,
}

impl Server {
    /// Starts it with more arguments and waits until it serves. `frequency`: seconds between two events of a symbol,
    /// otherwise the default. `niceness`: how far it makes way for others, as `nice` has it.
    pub fn start(data: &Path, arguments: &[&str], frequency: Option<&str>, niceness: u8) -> Self {
        let mut command = Command::new("nice");
        command.args(["-n", &niceness.to_string(), env!("CARGO_BIN_EXE_sentinel")]);
        command.env_clear().arg("--data-dir").arg(data).args(["up", "--bind", "127.0.0.1:0"]).args(arguments);
        command.envs(frequency.map(|frequency| ("SENTINEL__SOURCE__EVENT_FREQUENCY_SECONDS", frequency)));
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let printed = BufReader::new(process.stderr.take().unwrap());
        let (sender, lines) = channel();
        // Whoever does not read lets the process wait for its own log.
        thread::spawn(move || {
            for line in printed.lines().map_while(Result::ok) {
                if !line.contains(" INFO ") {
                    eprintln!("{line}");
                }
                let _ = sender.send(line);
            }
        });
        let mut server = Self { process, lines, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let line = server.wait_for_line("serving http://");
        let address = line.split_once("serving http://").and_then(|(_, rest)| rest.split_whitespace().next());
        server.address = address.unwrap().parse().unwrap();
        server
    }

    /// The next line of its log that contains a text.
    pub fn wait_for_line(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("the program never said `{text}`"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Asks for a page until the answer contains a text.
    pub fn wait_for(&self, path: &str, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.answer(path, &get(self.address, path)).contains(text) {
            assert!(Instant::now() < end, "{path} never said {text}");
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Sends a JSON body, which must be answered with 200.
    pub fn post(&self, path: &str, body: &str) {
        self.answer(path, &post(self.address, path, body));
    }

    fn answer(&self, path: &str, request: &[u8]) -> String {
        one_thread().block_on(async {
            let mut connection = Connection::open(self.address).await.unwrap();
            connection.send(request).await.unwrap();
            let answer = connection.answer().await.unwrap();
            let text = String::from_utf8_lossy(answer.body).into_owned();
            assert_eq!(answer.status, 200, "{path}: {text}");
            text
        })
    }

    /// Its resident memory in MB.
    pub fn resident_mb(&self) -> u64 {
        kilobytes(&self.process, "VmRSS:").unwrap() / 1_024
    }

    /// Asks the process to end, as Ctrl-C does, and waits for it: how it ended, and after how many seconds.
    pub fn end(&mut self) -> (ExitStatus, f64) {
        let asked = Instant::now();
        let sent = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success(), "{sent}");
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return (status, asked.elapsed().as_secs_f64());
            }
            assert!(asked.elapsed() < PATIENCE, "the program does not end");
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
