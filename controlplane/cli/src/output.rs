//! What is printed on standard output: a table for people, JSON or YAML for programs, all from the same
//! value. Tables have neither borders nor colour, so that they read the same in a pipe.

use std::io::{ErrorKind, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::problem::Problem;

/// Spaces between columns.
const GAP: &str = "  ";
/// Spaces of one level in YAML.
const INDENT: usize = 2;

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    Table,
    /// One JSON value
    Json,
    /// One YAML document
    Yaml,
}

/// Prints results in one form.
#[derive(Debug)]
pub struct Output {
    format: Format,
}

impl Output {
    /// Prints in this form.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// Prints a value, as a table when that is the form.
    ///
    /// # Errors
    /// Standard output fails.
    pub fn show<T: Serialize>(
        &self,
        value: &T,
        table: impl Fn(&T) -> Table,
    ) -> Result<(), Problem> {
        let unfit = |e: serde_json::Error| Problem::local(format!("formatting: {e}"));
        match self.format {
            Format::Table => self.text(&table(value).render()),
            Format::Json => {
                let json = serde_json::to_string_pretty(value).map_err(unfit)?;
                self.text(&format!("{json}\n"))
            }
            Format::Yaml => self.text(&yaml(&serde_json::to_value(value).map_err(unfit)?)),
        }
    }

    /// Prints text as it is.
    ///
    /// # Errors
    /// Standard output fails.
    pub fn text(&self, text: &str) -> Result<(), Problem> {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // The reader has seen enough.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(|e| Problem::local(format!("standard output: {e}"))),
        }
    }
}

/// Rows of cells under headers, or plain lines.
#[derive(Debug, Default)]
pub struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these headers.
    pub fn new(headers: &[&'static str]) -> Self {
        Self { headers: headers.to_vec(), rows: Vec::new() }
    }

    /// Lines without headers.
    pub fn lines(lines: Vec<String>) -> Self {
        Self { headers: Vec::new(), rows: lines.into_iter().map(|line| vec![line]).collect() }
    }

    /// Names and values, one pair a line.
    pub fn pairs(pairs: Vec<(&'static str, String)>) -> Self {
        let rows = pairs.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
        Self { headers: Vec::new(), rows: rows.collect() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn render(&self) -> String {
        let headers: Vec<String> = self.headers.iter().map(|h| h.to_uppercase()).collect();
        let all: Vec<&Vec<String>> =
            (!headers.is_empty()).then_some(&headers).into_iter().chain(&self.rows).collect();
        let columns = all.iter().map(|row| row.len()).max().unwrap_or(0);
        let width = |column: usize| {
            all.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in all {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            text.push_str(cells.join(GAP).trim_end());
            text.push('\n');
        }
        text
    }
}

/// A value as a YAML document. Strings stand in double quotes, as JSON writes them: every one of them
/// is then a string in YAML as well.
fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write_yaml(&mut text, value, 0);
    text
}

fn write_yaml(text: &mut String, value: &Value, level: usize) {
    let indent = " ".repeat(level * INDENT);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                text.push_str(&format!("{indent}{key}:"));
                write_yaml_after(text, value, level + 1);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                text.push_str(&format!("{indent}-"));
                write_yaml_after(text, item, level + 1);
            }
        }
        // An empty list or map, and scalars: JSON's form is YAML's too.
        scalar => text.push_str(&format!("{indent}{scalar}\n")),
    }
}

fn write_yaml_after(text: &mut String, value: &Value, level: usize) {
    let is_block = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if is_block {
        text.push('\n');
        write_yaml(text, value, level);
    } else {
        text.push_str(&format!(" {value}\n"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_line_up_without_borders() {
        let mut table = Table::new(&["id", "state"]);
        table.row(vec!["a".into(), "running".into()]);
        table.row(vec!["long".into(), String::new()]);
        assert_eq!(table.render(), "ID    STATE\na     running\nlong\n");
        assert_eq!(Table::lines(vec!["x".into()]).render(), "x\n");
        assert_eq!(Table::new(&[]).render(), "");
    }

    #[test]
    fn yaml_nests_by_indentation_and_quotes_strings() {
        let value = json!({
            "jobs": [{"id": "no", "n": 1}, {"id": "a: b\n", "n": null}],
            "empty": [],
            "map": {"x": true},
        });
        let expected = "empty: []\njobs:\n  -\n    id: \"no\"\n    n: 1\n  -\n    id: \"a: b\\n\"\n    n: null\nmap:\n  x: true\n";
        assert_eq!(yaml(&value), expected);
        assert_eq!(yaml(&json!([])), "[]\n");
    }
}
