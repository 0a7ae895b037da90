//! Answers on standard output: JSON, or tables for people. A reader that leaves early is no error.

use std::io::{self, Write};

use serde::Serialize;

/// Writes a line; a closed pipe ends the answer in silence.
pub fn line(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Writes a value as indented JSON.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Writes rows under a heading, columns aligned, numbers to the right.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> anyhow::Result<()> {
    let numeric = |column: usize| rows.iter().all(|row| is_number(&row[column]));
    let columns = heading.iter().enumerate().map(|(column, name)| ((*name).to_owned(), numeric(column)));
    Aligned::new(columns.collect()).print(rows).map(|_| ())
}

/// A table that is printed piece by piece: a column widens where a later piece needs it.
pub struct Aligned {
    heading: Vec<String>,
    widths: Vec<usize>,
    numeric: Vec<bool>,
    has_heading: bool,
}

impl Aligned {
    /// A table with these columns, each with whether its cells are numbers.
    pub fn new(columns: Vec<(String, bool)>) -> Self {
        let (heading, numeric): (Vec<String>, Vec<bool>) = columns.into_iter().unzip();
        let widths = heading.iter().map(|name| name.chars().count()).collect();
        Self { heading, widths, numeric, has_heading: false }
    }

    /// Writes rows, the first time under the heading; false where nobody reads any more.
    pub fn print(&mut self, rows: &[Vec<String>]) -> anyhow::Result<bool> {
        for (column, width) in self.widths.iter_mut().enumerate() {
            let widest = rows.iter().map(|row| row[column].chars().count()).max();
            *width = widest.unwrap_or(0).max(*width);
        }
        let heading = (!self.has_heading).then_some(&self.heading);
        self.has_heading = true;
        let mut text = String::new();
        for row in heading.into_iter().chain(rows) {
            let cells = row.iter().zip(&self.widths).zip(&self.numeric).map(|((cell, &width), &numeric)| {
                if numeric { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        match io::stdout().lock().write_all(text.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }
}

fn is_number(cell: &str) -> bool {
    !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit() || b".-".contains(&byte))
}
